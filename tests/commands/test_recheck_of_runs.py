"""recheck: a table of verdicts, a file of them, and the exit code that they mean."""

from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xcertify import verdicts
from xcertify.attributions import EVA
from xcertify.commands import main
from xcertify.verdicts import Verdict

RECHECK = ["recheck", "run", "--model", "digits.keras", "--no-verbose"]
CERTIFY = "certify digits.keras digits.npy --epsilon 0.001 --clip 0 1 --no-verbose --output run"


@pytest.fixture
def certified(folder):
    assert main([*CERTIFY.split(), "--batch", "1", "--part", "1", "--no-maps"]) == 0


@pytest.fixture
def decided(monkeypatch):
    """A function that says what is found of the inputs to come, in their order."""

    def decide(*status):
        found = iter(status)

        def recheck(certificate, model, *, attack=True):
            words = np.array([next(found) for _ in range(len(certificate.overlap))])
            reason = np.where(words == "confirmed", "", "moved")
            nothing = np.full(len(words), np.nan)
            return Verdict(words, np.full(len(words), "other means"), reason, nothing, nothing)

        monkeypatch.setattr(verdicts, "recheck", recheck)

    return decide


C, R, N = "confirmed", "refuted", "not checked"


@pytest.mark.parametrize(
    ("status", "code"),
    [((C, C, C), 0), ((C, R, C), 1), ((C, N, C), 2), ((N, R, N), 1), ((N, N, N), 2)],
)
def test_exit_code_file_and_table(certified, decided, capsys, status, code):
    decided(*status)
    assert main(RECHECK) == code
    table = pq.read_table("run/recheck.parquet")
    assert table.column_names == ["input", "status", "means", "reason", "proved", "attained"]
    assert table["input"].to_pylist() == [0, 1, 2]
    assert tuple(table["status"].to_pylist()) == status
    shown = capsys.readouterr().out.splitlines()
    for word in (C, R, N):
        assert f"{word:<12}{status.count(word):>10,}" in shown
    listed = [line for line in shown if line.startswith("  input")]
    assert listed == [f"  input {i}: {s}: moved" for i, s in enumerate(status) if s != C]


def test_a_run_that_is_not_finished_is_not_confirmed(certified, decided, capsys):
    decided(C, C)
    next(Path("run/rows").glob("*2-*3.parquet")).unlink()
    assert main(RECHECK) == 2
    assert "The run is not finished" in capsys.readouterr().out


def test_a_run_without_certificates_is_not_confirmed(folder, capsys):
    words = "explain digits.keras digits.npy --explainer Saliency --output run --no-verbose"
    assert main(words.split()) == 0
    assert main(RECHECK) == 2
    assert "There are no certificates: nothing is confirmed" in capsys.readouterr().out


def test_certificates_of_a_run_are_confirmed_and_those_of_another_model_are_not(
    certified, error_of
):
    assert main(RECHECK) == 0
    model = keras.models.load_model("digits.keras")
    model.layers[-1].kernel.assign_add(0.1 * np.ones_like(model.layers[-1].kernel))
    model.save("other.keras")
    message = error_of("recheck", "run", "--model", "other.keras", "--no-verbose")
    assert "weights" in message


def test_a_certificate_in_a_file(folder, decided, capsys):
    model = keras.models.load_model("digits.keras")
    EVA(model, epsilon=0.001).certify(np.load("digits.npy")).save("certificate.npz")
    words = ["recheck", "certificate.npz", "--model", "digits.keras", "--no-verbose"]
    assert main(words) == 0
    assert f"{C:<12}{3:>10}" in capsys.readouterr().out
    decided(C, R, C)
    assert main(words) == 1


@pytest.mark.parametrize("column", ["nominal", "certified", "robust", "looseness", "digest"])
def test_changed_rows_are_an_error_and_earlier_verdicts_go(certified, error_of, column):
    assert main(RECHECK) == 0
    path = sorted(Path("run/rows").iterdir())[1]
    table = pq.read_table(path)
    place = table.column_names.index(column)
    field = table.schema.field(place)
    values = table[column].to_numpy()
    change = {np.dtype(bool): np.logical_not, np.dtype(object): lambda _: [None]}
    moved = pa.array(change.get(values.dtype, lambda v: 0.99 * v)(values), field.type)
    changed = table.set_column(place, field, moved)
    said = {k: v for k, v in pq.read_metadata(path).metadata.items() if k != b"ARROW:schema"}
    pq.write_table(changed.replace_schema_metadata(said), path)
    assert "input 1" in error_of(*RECHECK)
    assert not Path("run/recheck.parquet").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("recheck", "recheck needs CERTIFICATES"),
        ("recheck run", "recheck needs --model MODEL"),
        ("recheck none --model digits.keras", "no such file: none"),
        ("recheck . --model digits.keras", "no run in ."),
        ("recheck digits.npy --model digits.keras", "digits.npy"),
        ("recheck both.npz --model digits.keras", "both.npz"),
        ("recheck run --model none.keras", "no such file: none.keras"),
    ],
)
def test_errors_say_what_is_wrong(certified, error_of, words, message):
    assert message in error_of(*words.split())
