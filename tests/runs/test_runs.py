"""Runs: any number of inputs part by part, whatever happens on the way."""

import dataclasses
import errno
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
from networks import sequential
from small_runs import BATCH, NB_INPUTS, SETTINGS, Inputs, content, small_job, small_model

from xcertify.attributions import EVA, SufficientReason
from xcertify.bounds import UnsupportedLayerError
from xcertify.runs import Part, Run, Worker, parts, run, running
from xcertify.runs.failures import without_failing
from xcertify.runs.folder import locked
from xcertify.runs.sources import open_source
from xcertify.runs.warned import Warned
from xcertify.usefulness import VacuousWarning

NAN = np.full(5, np.nan, np.float32)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A run that nothing happened to."""
    return run(small_job(tmp_path_factory.mktemp("whole"), model), verbose=False)


def test_rows_and_certificates_are_those_of_the_explainer(whole, model):
    inputs = np.stack(Inputs().read(0, NB_INPUTS).inputs)
    explainer = EVA(model, **SETTINGS)
    rows = whole.table()
    assert rows["input"].to_pylist() == list(range(NB_INPUTS))
    assert not whole.missing and whole.nb_errors == 0
    found = [*whole.certificates()]
    assert len(found) == NB_INPUTS // BATCH
    for numbers, certificate in found:
        expected = explainer.certify(inputs[numbers])
        np.testing.assert_array_equal(certificate.interval.certified, expected.certified)
        np.testing.assert_array_equal(certificate.cell_overlaps, expected.cell_overlaps)
        some = rows.take(numbers)
        np.testing.assert_array_equal(some["certified"].to_numpy(), expected.certified)
        np.testing.assert_array_equal(some["target"].to_numpy(), expected.targets)
        maps = whole.maps(numbers[0], numbers[-1] + 1)
        np.testing.assert_array_equal(maps, explainer.explain(inputs[numbers]))


def test_the_size_of_parts_changes_nothing(whole, model, tmp_path):
    other = run(small_job(tmp_path, model), part=3 * BATCH, verbose=False)
    assert len(other.parts) == 2 and len(whole.parts) == NB_INPUTS // BATCH
    assert content(other) == content(whole)


def test_a_run_of_one_explainer_is_read_part_by_part(whole, model, tmp_path):
    source = Inputs()
    found = run(small_job(tmp_path, model, source=source), part=NB_INPUTS, verbose=False)
    assert source.largest == BATCH
    (part,) = found.parts
    assert pq.ParquetFile(part.rows(tmp_path)).num_row_groups == NB_INPUTS // BATCH
    assert [len(table) for table in found.tables(["input"])] == [BATCH] * (NB_INPUTS // BATCH)
    assert found.map_of(5).shape == (5,)
    assert "region.center" in found.columns and "region.center" not in found.table().column_names
    with pytest.raises(ValueError, match=r"columns must be some of input, .* Received: nothing"):
        found.table(["nothing"])


def test_bad_inputs_are_rows_with_their_errors(whole, model, tmp_path):
    bad = {1: NAN, 6: np.zeros(4, np.float32), 7: np.full(5, 2, np.float32)}
    bad |= dict.fromkeys(range(8, 12), NAN)  # a batch of them
    targets = whole.table()["target"].to_pylist()
    targets[13] = 7  # of three classes
    source = Inputs(bad=bad, targets=targets)
    found = run(small_job(tmp_path, model, source=source), part=2 * BATCH, verbose=False)
    errors = found.table()["error"].to_pylist()
    assert [n for n, error in enumerate(errors) if error] == sorted({*bad, 13})
    assert found.nb_errors == found.settings["errors"] == len(bad) + 1
    assert "value nan at index 0" in errors[1] and "has the shape (4,)" in errors[6]
    assert "clip=(0.0, 1.0) in input 7" in errors[7] and "7" in errors[13]
    good = np.array([error is None for error in errors])
    np.testing.assert_array_equal(np.isnan(found.maps()).all(axis=1), ~good)
    columns = ["input", "target", "certified", "robust", "digest"]
    kept = found.table(columns).filter(good).to_pylist()
    assert kept == whole.table(columns).filter(good).to_pylist()
    assert sum(len(numbers) for numbers, _ in found.certificates()) == good.sum()
    assert found.map_of(1) is None


def test_what_fails_in_a_batch_is_found_by_halving():
    asked = []

    def attempt(places):
        asked.append(len(places))
        if {3, 9} & set(places):
            raise ValueError(f"one of {places} cannot be")
        return places

    result, failures = without_failing(attempt, lambda place: None, range(16), lambda: True)
    assert result == [n for n in range(16) if n not in (3, 9)]
    assert failures == {3: "one of [3] cannot be", 9: "one of [9] cannot be"}
    assert len(asked) < 20
    with pytest.raises(ValueError, match="cannot be"):  # of no input it would work
        without_failing(attempt, lambda place: None, range(16), lambda: False)
    with pytest.raises(MemoryError):
        without_failing(lambda places: bytes(2**62), lambda place: None, [0], lambda: True)


def test_two_that_fail_together_alone():
    def attempt(places):
        if {3, 9} <= set(places):
            raise ValueError("both")
        return places

    result, failures = without_failing(attempt, lambda place: None, range(16), lambda: True)
    assert result is None and set(failures.values()) == {"both"}


def test_what_concerns_all_inputs_ends_the_run(model, tmp_path):
    job = small_job(tmp_path / "a", model, settings={"epsilon": 0.1, "clip": (5.0, 6.0)})
    with pytest.raises(ValueError, match=r"none of 8 inputs .*, input 0: .*clip=\(5.0, 6.0\)"):
        run(job, verbose=False)
    with pytest.raises(ValueError, match="mode='one-pass' needs"):
        run(small_job(tmp_path / "a", model, settings={"method": "ibp"}), verbose=False)
    assert not (tmp_path / "a").exists()
    inputs = keras.Input((5,))
    odd = keras.Model(inputs, keras.ops.fft2((inputs[:, None], inputs[:, None]))[0][:, 0])
    with pytest.raises(UnsupportedLayerError):
        run(small_job(tmp_path / "b", odd), verbose=False)
    assert not [*(tmp_path / "b" / "rows").glob("part-*")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": "prove"}, "command must be"),
        ({"explainer": "Eva"}, "explainer must be one of .*EVA"),
        ({"explainer": "Saliency", "settings": {}}, "Saliency proves nothing"),
        ({"batch": 0}, "batch must be a whole number"),
        ({"threads": 2.5}, "threads must be a whole number"),
        ({"settings": {"clip": "auto"}}, "clip='auto' would take another"),
        ({"settings": {"epsilon": [0.1] * 24}}, "epsilon must be one number.*shape \\(24,\\)"),
        ({"source": Inputs(0)}, "no inputs"),
        ({"targets": np.zeros(3, int)}, "targets must be one per input, 24"),
        ({"device": "gpu"}, "finds no GPU"),
        ({"command": "explain", "maps": False}, "maps are what explain makes"),
        ({"threads": 77}, "threads=77, and TensorFlow runs with"),
    ],
)
def test_wrong_jobs_are_refused(model, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(small_job(tmp_path, model, **changes), verbose=False)
    assert not [*tmp_path.iterdir()]


# A run in a process of its own, which is killed in the middle of its third part.
SCRIPT = """
import os, sys
sys.path[:0] = {paths}
from small_runs import Inputs, small_job, small_model
from xcertify.runs import run, use_threads
use_threads({threads})
job = small_job({folder!r}, {model!r}, source=Inputs(dies_at=21, note={note!r}))
run(job, part=8, verbose=False)
"""


def test_a_killed_run_goes_on(whole, model, tmp_path):
    folder, file = tmp_path / "run", tmp_path / "model.keras"
    model.save(file)
    tests = Path(__file__).parents[1]
    job = small_job(folder, str(file))
    said = {
        "paths": [str(tests), str(tests / "runs")],
        "threads": job.threads,
        "folder": str(folder),
        "model": str(file),
        "note": str(tmp_path / "note"),
    }
    command = [sys.executable, "-c", SCRIPT.format(**said)]
    assert subprocess.run(command, check=False, timeout=300).returncode == -signal.SIGKILL
    before = Run.open(folder)
    assert before.missing == [(16, NB_INPUTS)]
    drafts = [p for p in (folder / "rows").iterdir() if "unfinished" in p.name]
    assert drafts
    cut_off, kept = (part.rows(folder) for part in before.parts)
    cut_off.write_bytes(cut_off.read_bytes()[:-100])  # as by a machine that goes down
    assert Run.open(folder).missing == [(0, 8), (16, NB_INPUTS)]
    earlier = kept.stat().st_mtime_ns, kept.read_bytes()
    after = run(job, resume=True, verbose=False)
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == earlier
    assert not after.missing and content(after) == content(whole)
    assert not [p for p in (folder / "rows").iterdir() if "unfinished" in p.name]


def test_maps_that_were_cut_off_are_made_again(whole, model, tmp_path):
    job = small_job(tmp_path, model)
    maps = run(job, verbose=False).parts[2].maps(tmp_path)
    maps.write_bytes(maps.read_bytes()[:-4])
    assert Run.open(tmp_path).missing == [(8, 12)]
    assert content(run(job, resume=True, part=12, verbose=False)) == content(whole)
    maps.write_bytes(b"")
    assert Run.open(tmp_path).missing == [(8, 12)]
    maps.unlink()
    assert Run.open(tmp_path).missing == [(8, 12)]


def test_other_jobs_do_not_go_on_with_a_run(whole, model, tmp_path):
    job = small_job(whole.folder, model)
    with pytest.raises(FileExistsError, match=r"go on with it by resume=True"):
        run(job, verbose=False)
    other = dataclasses.replace(job, settings={**SETTINGS, "epsilon": 0.1}, batch=8)
    with pytest.raises(
        ValueError, match=r"differs in settings.epsilon \(there 0.05, here 0.1\); batch \(there 4"
    ):
        run(other, resume=True, verbose=False)
    moved = keras.models.clone_model(model)
    with pytest.raises(ValueError, match="differs in weights"):
        run(dataclasses.replace(job, model=moved), resume=True, verbose=False)
    same = dataclasses.replace(job, batch=None, threads=None)  # those of the run
    assert run(same, resume=True, verbose=False).settings == whole.settings
    stranger = Part(0, 4).rows(tmp_path)
    stranger.parent.mkdir()
    stranger.write_bytes(Part(0, 4).rows(whole.folder).read_bytes())
    with pytest.raises(ValueError, match="is not of this run"):
        run(small_job(tmp_path, model, batch=2), verbose=False)


def test_two_processes_at_once(model, tmp_path):
    with locked(tmp_path), pytest.raises(BlockingIOError, match="another process is working in"):
        run(small_job(tmp_path, model), verbose=False)
    with locked(tmp_path):
        pass


def test_parts_with_inputs_in_common_are_refused(whole, tmp_path):
    for part in (Part(0, 4), Part(2, 6)):
        part.rows(tmp_path).parent.mkdir(exist_ok=True)
        part.rows(tmp_path).write_bytes(Part(0, 4).rows(whole.folder).read_bytes())
        part.maps(tmp_path).parent.mkdir(exist_ok=True)
        part.maps(tmp_path).write_bytes(Part(0, 4).maps(whole.folder).read_bytes())
    with pytest.raises(ValueError, match="have inputs in common"):
        parts.parts_in(tmp_path, whole.settings["run"])


@pytest.mark.parametrize("change", ["order", "twice", "another part"])
def test_rows_that_are_not_those_of_their_part_are_refused(whole, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    path, other = sorted((folder / "rows").iterdir())[:2]
    if change == "another part":
        path.write_bytes(other.read_bytes())
    else:
        table, notes = pq.read_table(path), pq.read_metadata(path).metadata
        places = [*range(len(table))]
        places[:2] = [1, 0] if change == "order" else [0, 0]
        table = table.take(places).replace_schema_metadata({**table.schema.metadata, **notes})
        pq.write_table(table, path)
    for read in (Run.table, lambda run: [*run.certificates()]):
        with pytest.raises(ValueError, match="must have the rows of the inputs 0 to"):
            read(Run.open(folder))


def test_a_changed_byte_is_found(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    path = min((folder / "rows").iterdir())
    content = bytearray(path.read_bytes())
    for place in (40, 300, 900):
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="part-000000000-.* was changed: remove it"):
        Run.open(folder).table()


def test_a_folder_without_what_a_run_says_is_none(whole, tmp_path):
    for text in ("[]", "{}", '{"run": "a", "source": []}', '{"run": "a", "source": {}}', "", "1"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"is not the run.json of a run"):
            Run.open(tmp_path)


def test_parts_of_inputs_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="the run has 6 inputs: remove part-000000004-"):
        parts.missing_from([Part(0, 2), Part(4, 8)], 6)


def test_a_full_disk_is_said(model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts.pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match=r"cannot write to .* \(No space left on device\): free"):
        run(small_job(tmp_path, model), verbose=False)
    assert not [p for p in (tmp_path / "rows").iterdir()]
    monkeypatch.undo()
    assert not run(small_job(tmp_path, model), resume=True, verbose=False).missing


def test_folders_that_cannot_be_written_or_read(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to .*file/run \(Not a directory\)"):
        run(small_job(tmp_path / "file" / "run", model), verbose=False)
    with pytest.raises(FileNotFoundError, match="no run in"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"run": ')
    with pytest.raises(ValueError, match="or it was cut off"):
        Run.open(tmp_path)


def test_the_model_is_loaded_once(model, tmp_path, monkeypatch):
    file, asked = tmp_path / "model.keras", []
    model.save(file)
    load = keras.models.load_model
    monkeypatch.setattr(
        keras.models, "load_model", lambda *a, **k: asked.append(a) or load(*a, **k)
    )
    found = run(small_job(tmp_path / "run", str(file)), verbose=False)
    assert len(asked) == 1 and found.settings["model"] == str(file)


def test_warnings_are_told_once(tmp_path):
    layers = [keras.layers.Dense(12, "relu") for _ in range(8)]
    deep = sequential((5,), *layers, keras.layers.Dense(3))
    settings = {"epsilon": 0.5, "mode": "exact", "method": "ibp"}
    job = small_job(tmp_path, deep, settings=settings)
    with pytest.warns(VacuousWarning) as caught:
        found = run(job, verbose=False)
    words, kept = [str(one.message) for one in caught], found.settings["warnings"]
    assert len(words) == len(kept) == 2  # what is proved; and maps
    assert [one["batches"] for one in kept] == [NB_INPUTS // BATCH] * 2
    assert all(f"(said of {NB_INPUTS // BATCH} batches" in one for one in words)
    assert "at 0.0" in words[1]  # an epsilon that would help, sought once
    with pytest.warns(VacuousWarning) as caught:
        run(job, resume=True, verbose=False)  # nothing is done, and it is still said
    assert [str(one.message) for one in caught] == words


def test_warnings_are_counted_without_their_numbers():
    warned = Warned()
    for words in ("3 of 16 at 1e-3", "5 of 16 at 2.5", "something else"):
        warned.add([{"category": "UserWarning", "message": words, "batches": 2}])
    first, other = warned.as_list()
    assert first == {"category": "UserWarning", "message": "3 of 16 at 1e-3", "batches": 4}
    assert other["batches"] == 2
    with pytest.warns(UserWarning, match="said of") as caught:
        warned.show()
    assert "something else (said of 2 batches" in str(caught[1].message)


def test_explaining(model, tmp_path):
    job = small_job(tmp_path, model, command="explain", explainer="Saliency", settings={})
    found = run(job, verbose=False)
    assert found.columns == ["input", "name", "error", "target", "seconds"]
    assert np.isfinite(found.maps()).all() and not [*found.certificates()]
    pickle.loads(pickle.dumps(dataclasses.replace(job, model="model.keras")))


def test_a_map_of_no_class(model, tmp_path):
    job = small_job(tmp_path, model, command="explain", explainer="RandomMap", settings={})
    assert run(job, verbose=False).table(["target"])["target"].null_count == NB_INPUTS


def test_defaults_are_few_for_slow_explainers(model, tmp_path):
    job = small_job(tmp_path, model, batch=None)
    assert job.nb_at_once() == 256
    assert dataclasses.replace(job, explainer="SufficientReason").nb_at_once() == 4
    job.source.shape = (224, 224, 3)
    assert 1 <= job.nb_at_once() < 16


def test_a_worker_says_what_it_did(model, tmp_path):
    for name in (parts.ROWS, parts.MAPS):
        (tmp_path / name).mkdir()
    worker = Worker(small_job(tmp_path, model))
    assert worker({"first": 8, "last": 12}) == {"first": 8, "last": 12, "errors": 0}


@pytest.mark.parametrize("command", ["explain", "certify"])
def test_sufficient_reasons_and_their_interruption(model, tmp_path, monkeypatch, command):
    settings = {"epsilon": 0.1, "complete": False}
    changes = {"explainer": "SufficientReason", "settings": settings, "command": command}
    job = small_job(tmp_path, model, source=Inputs(2 * BATCH), **changes)
    found = run(job, verbose=False)
    assert found.maps().shape == (2 * BATCH, 5) and np.isfinite(found.maps()).all()
    again = small_job(tmp_path / "again", model, source=job.source, **changes)
    certify = SufficientReason.certify

    def interrupted(self, inputs, targets=None):
        certificate = certify(self, inputs, targets)
        words = np.array(["interrupted"] * len(inputs))
        return dataclasses.replace(certificate, reason=words)

    monkeypatch.setattr(SufficientReason, "certify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(again, verbose=False)
    monkeypatch.undo()
    assert Run.open(tmp_path / "again").missing == [(0, 2 * BATCH)]
    assert content(run(again, resume=True, verbose=False)) == content(found)


def test_inputs_that_have_changed_since(model, tmp_path):
    path = tmp_path / "inputs.npy"
    np.save(path, np.full((4, 5), 0.5))
    job = small_job(tmp_path / "run", model, source=open_source(str(path)), maps=False)
    found = run(job, verbose=False)
    assert len(found.source()) == 4
    np.save(path, np.full((4, 5), 0.25, np.float32))
    with pytest.raises(ValueError, match="the inputs of this run have changed since"):
        found.source()
    with pytest.raises(ValueError, match="differs in source.fingerprint"):
        run(dataclasses.replace(job, source=open_source(str(path))), resume=True, verbose=False)


def test_parts_hold_little_of_slow_explainers():
    sizes = [running._size_of_parts(None, *of) for of in ((4, 10_000), (256, 10_000), (256, 10**6))]
    assert sizes == [64, 256, 4096]
    assert running._size_of_parts(None, 4, 10**7) == 1000
    assert running._size_of_parts(10, 4, 100) == 8
