"""The benchmark of `Verifier.decide` sees wrong answers, and goes on where it stopped."""

import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import decide
from decide_instances import Plain, against_published, contradictions, instances_of

from xcertify.regions import Box

# f(x) = x over [0, 1]^2; violated where x_0 <= .25 and x_1 <= .5, or x_1 <= -1.
ROWS = np.array([[[[1.0, 0], [0, 1]], [[0, 1], [0, 0]]]])
LIMITS = np.array([[[0.25, 0.5], [-1, np.inf]]])
REGION = Box(np.zeros((1, 2)), np.ones((1, 2)))


@pytest.fixture(scope="module")
def plain():
    dense = keras.layers.Dense(2, kernel_initializer="identity")
    return Plain(keras.Sequential([keras.Input((2,)), dense]))


def decision(status, lower, upper, point=(np.nan, np.nan)):
    fields = {"status": status, "lower": lower, "upper": upper, "counterexamples": point}
    return SimpleNamespace(**{name: np.array([value]) for name, value in fields.items()})


def test_a_right_answer_is_confirmed(plain):
    right = decision("violated", -np.inf, 0.0, (0.25, 0.5))
    assert contradictions(plain, REGION, ROWS, LIMITS, right, 0) == []
    unknown = decision("unknown", -0.25, 0.1)
    assert contradictions(plain, REGION, ROWS, LIMITS, unknown, 0) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (decision("violated", -1.0, -0.1, (0.3, 0.4)), "in float64"),
        (decision("violated", -1.0, -0.1, (-0.1, 0.4)), "outside the region in float32"),
        (decision("violated", -1.0, -0.1), "outside the region"),
        (decision("violated", -1.0, 0.1, (0.1, 0.1)), "violated with upper"),
        (decision("holds", 0.1, 1.0), "at a random point"),
        (decision("holds", 0.0, 1.0), "holds with lower"),
        (decision("holds", np.nan, 1.0), "holds with lower"),
        (decision("unknown", 0.1, 0.0), "is above upper"),
        (decision("unknown", np.nan, 0.0), "is above upper"),
    ],
)
def test_a_wrong_answer_is_seen(plain, wrong, words):
    assert any(words in found for found in contradictions(plain, REGION, ROWS, LIMITS, wrong, 0))


def test_published_answers():
    assert against_published("holds", "violated")
    assert against_published("violated", "holds")
    assert not against_published("holds", "disputed")
    assert not against_published("unknown", "holds")


def test_instances_of_files(tmp_path):
    arrays = {"lower": np.zeros((2, 2)), "upper": np.ones((2, 2)), "rows": np.zeros((2, 2, 1, 3))}
    arrays |= {"limit": np.full((2, 2, 1), np.inf), "used": [[True, False], [True, True]]}
    arrays["limit"][:, 0] = 1
    arrays |= {"names": ["a", "b"], "answer": ["holds", "disputed"], "timeout": [5.0, 6.0]}
    arrays |= {"crown_answer": ["unsat", "timeout"], "crown_seconds": [1.0, 2.0]}
    np.savez(tmp_path / "net_1.npz", **arrays)
    first, second = instances_of(tmp_path, "net")
    assert (first.key, first.answer, first.winner) == ("net_1/a", "holds", "holds")
    assert (second.winner, second.timeout) == ("unknown", 6)
    assert first.limits.tolist() == [[[1.0], [-np.inf]]]
    assert second.limits.tolist() == [[[1.0], [np.inf]]]
    with pytest.raises(SystemExit, match=r"no other\*\.npz"):
        instances_of(tmp_path, "other")


@pytest.fixture
def folder(tmp_path):
    """Two networks of three instances each, of which the second one is published wrongly."""
    dense = keras.layers.Dense(2, kernel_initializer="identity")
    for name in ("net_1", "net_2"):
        keras.Sequential([keras.Input((2,)), dense]).save(tmp_path / f"{name}.keras")
        arrays = {"lower": [[0, 0], [0.5, 0.5], [0, 0]], "upper": np.ones((3, 2))}
        arrays |= {"rows": np.repeat(ROWS, 3, axis=0), "limit": np.repeat(LIMITS, 3, axis=0)}
        arrays |= {"used": np.ones((3, 2), bool), "names": ["a", "b", "c"]}
        arrays |= {"answer": ["violated", "violated", "disputed"], "timeout": [5.0, 5.0, 5.0]}
        arrays |= {"crown_answer": ["sat", "sat", "sat"], "crown_seconds": [1.0, 1.0, 1.0]}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    return tmp_path


def run(folder, *settings):
    sys.argv = ["decide.py", "sets", "--folder", str(folder), "--sets", "net"]
    sys.argv += ["--output", str(folder / "answers.json"), *settings]
    decide.main()
    return decide.stored(folder / "answers.json")


def test_a_run_goes_on_where_it_stopped(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    half = run(folder, "--part", "1/2")
    assert list(half) == ["net_1/a", "net_1/c", "net_2/b"]
    capsys.readouterr()
    whole = run(folder)
    printed = capsys.readouterr().out
    assert len(whole) == 6
    assert {key: whole[key] for key in half} == half
    assert [record["status"] for record in whole.values()].count("violated") == 4
    assert "net_1/a: " not in printed
    assert "| net | 6 | 2 | 4 | 0 | 2 |" in printed  # holds, violated, unknown, contradictions
    assert printed.count("CONTRADICTION: published: violated") == 2 + 1  # one is of the first run


def test_errors_are_no_answers(folder, capsys, monkeypatch):
    def fails(*arguments, **settings):
        raise RuntimeError("broken")

    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(decide.Verifier, "decide", fails)
    records = run(folder, "--names", "net_1/a")
    assert records["net_1/a"]["reason"] == "RuntimeError: broken"
    monkeypatch.undo()
    assert run(folder, "--names", "net_1/a")["net_1/a"]["status"] == "unknown"
    assert run(folder, "--names", "net_1/a", "--retry-unknown")["net_1/a"]["status"] == "violated"
