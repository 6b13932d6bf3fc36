"""Workers of Ray give what one process gives, and one that is killed costs nothing."""

import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_runs import BATCH, NB_INPUTS, SETTINGS, Inputs, content, small_job, small_model

from xcertify import distributed
from xcertify.attributions import EVA
from xcertify.runs import Run, run

# A layer that notes in which process a model is loaded.
LAYER = """
import os
import keras
from xcertify.bounds import register_affine

class Noted(keras.layers.Layer):
    def __init__(self, **config):
        super().__init__(**config)
        with open({path!r}, "a") as file:
            file.write(f"{{os.getpid()}}\\n")

    def call(self, inputs):
        return inputs

register_affine(Noted)
"""


# Ray's own settings, at its import; sockets of its processes, which end when they do.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def ray(monkeypatch):
    found = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), str(tests / "runs")]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return found


def test_two_workers_one_of_which_is_killed(ray, tmp_path, monkeypatch):
    noted, loaded = tmp_path / "noted.py", tmp_path / "loaded"
    noted.write_text(LAYER.format(path=str(loaded)))
    monkeypatch.syspath_prepend(str(tmp_path))
    import noted as module

    model = small_model()
    model = keras.Sequential([*model.layers, module.Noted()])
    model.build((None, 5))
    file = tmp_path / "model.keras"
    model.save(file)
    loaded.unlink()
    bad = {2: np.full(5, np.nan)}
    source = Inputs(bad=bad, dies_at=NB_INPUTS - 1, note=str(tmp_path / "note"))
    context = ray.data.DataContext.get_current()
    level, bars = logging.getLogger("ray").level, context.enable_progress_bars
    job = small_job(tmp_path / "run", str(file), custom=(f"{noted}:Noted",), source=source)
    found = distributed.run(job, workers=2, verbose=False)
    assert (tmp_path / "note").exists()  # one has been killed
    assert not found.missing and found.nb_errors == 1
    pids = Counter(loaded.read_text().split())
    del pids[str(os.getpid())]
    assert len(pids) == 3 and set(pids.values()) == {1}  # one in the place of the killed one
    here = run(small_job(tmp_path / "here", model, source=Inputs(bad=bad)), verbose=False)
    assert content(found) == content(here)
    assert not ray.is_initialized()  # only what was started here has ended
    assert ray.data.DataContext.get_current() is context and context.enable_progress_bars is bars
    assert logging.getLogger("ray").level == level


def arrays():
    return np.stack(Inputs().read(0, NB_INPUTS).inputs)


def certify(explainer, dataset, folder, **settings):
    return distributed.certify(explainer, dataset, folder, batch=BATCH, verbose=False, **settings)


def test_an_array_from_python(tmp_path):
    explainer, inputs = EVA(small_model(), **SETTINGS), arrays()
    found = certify(explainer, inputs, tmp_path / "run")
    here = run(small_job(tmp_path / "here", explainer.model), verbose=False)
    assert content(found) == content(here)
    assert found.settings["model"] == "given in Python"
    assert len(found.source()) == NB_INPUTS
    assert not certify(explainer, inputs, tmp_path / "run", resume=True).missing
    with pytest.raises(ValueError, match="holds other inputs than those that are given"):
        certify(explainer, inputs[::-1], tmp_path / "run", resume=True)
    with pytest.raises(FileExistsError, match="go on with it by resume=True"):
        certify(explainer, inputs, tmp_path / "run")
    maps = distributed.explain(explainer, inputs, tmp_path / "maps", batch=BATCH, verbose=False)
    np.testing.assert_array_equal(maps.maps(), found.maps())


@pytest.mark.parametrize("is_batched", [False, True])
def test_a_data_set_of_tensorflow(tmp_path, is_batched):
    explainer, labels = EVA(small_model(), **SETTINGS), np.arange(NB_INPUTS) % 3
    dataset = tf.data.Dataset.from_tensor_slices((arrays(), labels))
    dataset = dataset.batch(5) if is_batched else dataset
    found = certify(explainer, dataset, tmp_path, maps=False)
    assert found.table()["target"].to_pylist() == labels.tolist()
    with pytest.raises(ValueError, match="never ends"):
        certify(explainer, dataset.repeat(), tmp_path / "other")
    with pytest.raises(ValueError, match="the data set is empty"):
        certify(explainer, dataset.take(0), tmp_path / "other")


def test_inputs_of_other_shapes_are_kept_as_nan(tmp_path):
    dataset = tf.data.Dataset.from_generator(
        lambda: [np.full(5, 0.5), np.zeros(4), np.full(5, 0.25)],
        output_signature=tf.TensorSpec((None,), tf.float32),
    )
    with pytest.warns(UserWarning, match="1 inputs have another shape than the first"):
        found = certify(EVA(small_model(), **SETTINGS), dataset, tmp_path, maps=False)
    errors = found.table()["error"].to_pylist()
    assert errors[0] is None and "finite" in errors[1] and errors[2] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be a whole number above 0"),
        ({"gpus": -1}, "gpus must be a number of at least 0"),
        ({"part": 0}, "part must be a whole number above 0"),
        ({"targets": [1]}, "targets must be one per input"),
    ],
)
def test_wrong_arguments(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        certify(EVA(small_model(), **SETTINGS), arrays(), tmp_path, **settings)


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install xcertify\[ray\]; or give workers=1"):
        certify(EVA(small_model(), **SETTINGS), arrays(), tmp_path, workers=2)


@pytest.mark.slow
def test_a_connection_that_is_there_stays(ray, tmp_path):
    explainer, inputs = EVA(small_model(), **SETTINGS), arrays()
    tests = os.environ["PYTHONPATH"]
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": tests}},
    )
    try:
        here = certify(explainer, inputs, tmp_path / "here")
        there = certify(explainer, inputs, tmp_path / "there", workers=2, part=2 * BATCH)
        assert content(there) == content(here)
        assert ray.is_initialized()
        dataset = ray.data.from_numpy(inputs)
        assert len(certify(explainer, dataset, tmp_path / "data", workers=2)) == NB_INPUTS
        with pytest.raises(ValueError, match="must have one column of inputs, or the columns"):
            certify(explainer, dataset.add_column("b", lambda b: 1), tmp_path / "other")
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_part_at_which_all_workers_die_ends_the_run(ray, tmp_path):
    note = tmp_path / "no such folder" / "note"  # so that none is left, and each one dies
    source = Inputs(dies_at=9, note=str(note))
    file = tmp_path / "model.keras"
    small_model().save(file)
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="3 workers have died, each at the inputs 8 to 11"):
        distributed.run(small_job(folder, str(file), source=source), workers=2, verbose=False)
    done = distributed.run(small_job(folder, str(file)), resume=True, verbose=False)
    assert not done.missing


# A run whose process is killed, with its workers.
SCRIPT = """
import os, sys, threading, time, signal
from pathlib import Path
from small_runs import Inputs, small_job, small_model
from xcertify import distributed
from xcertify.runs import use_threads
use_threads({threads})

def kill():
    while len([*Path({folder!r}, "rows").glob("part-*.parquet")]) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill, daemon=True).start()
job = small_job({folder!r}, {model!r}, source=Inputs())
distributed.run(job, workers=2, verbose=False)
"""


@pytest.mark.slow
def test_a_killed_driver(ray, tmp_path):
    file, folder = tmp_path / "model.keras", tmp_path / "run"
    model = small_model()
    model.save(file)
    job = small_job(folder, str(file))
    script = SCRIPT.format(threads=job.threads, folder=str(folder), model=str(file))
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    before = Run.open(folder)
    times = {part: part.rows(folder).stat().st_mtime_ns for part in before.parts}
    assert len(times) >= 2
    after = distributed.run(job, workers=2, resume=True, verbose=False)
    for part, time in times.items():
        assert part.rows(folder).stat().st_mtime_ns == time
    here = run(small_job(tmp_path / "here", str(file)), verbose=False)
    assert content(after) == content(here)
