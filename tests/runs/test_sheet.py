"""Picture sheets of runs."""

import numpy as np
import pytest
from keras import layers as L
from networks import sequential
from PIL import Image
from pretended import Inputs, Moved, PretendedRun

from xcertify.attributions import EVA, Saliency
from xcertify.runs.sheet import draw_sheet

RANDOM = np.random.default_rng(0)
SHAPES = {"images": (4, 4, 3), "series": (6, 2), "table": (5,)}


def run_of(shape, nb_inputs=6, errors=None, names=None):
    model = sequential(shape, L.Flatten(), L.Dense(3, "tanh"), L.Dense(2))
    inputs = RANDOM.random((nb_inputs, *shape)).astype(np.float32)
    return PretendedRun(EVA(model, epsilon=0.01), Inputs(inputs, names), errors, epsilon=0.01)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", SHAPES)
def test_maps_of_every_kind(kind, tmp_path):
    run = run_of(SHAPES[kind], errors={1: "bad"}, names=["$<漢\x07"] * 6)
    path = tmp_path / "maps.png"
    assert draw_sheet(run, path) == 5
    with Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 100
        colours = picture.convert("RGB").getcolors(2**20)
    assert len(colours) > 20  # something is drawn


def test_only_the_first_ones_are_read(tmp_path):
    values = np.zeros(5_000)
    run = PretendedRun.of_numbers(None, certified=values)
    run._source = counted = Inputs(np.zeros((5_000, 2, 2, 1)))
    read, tables = [], []
    counted.read = lambda first, last: read.append(first) or Inputs.read(counted, first, last)
    whole = run.tables
    run.tables = lambda columns: (tables.append(t) or t for t in whole(columns))
    assert draw_sheet(run, tmp_path / "maps.png", most=6) == 6
    assert read == list(range(6)) and len(run._maps) == 6
    assert sum(map(len, tables)) == 8


def test_moved_data_leaves_the_maps(tmp_path):
    run = PretendedRun.of_numbers(Moved(), certified=[0.0, 1.0])
    assert draw_sheet(run, tmp_path / "maps.png") == 2


@pytest.mark.parametrize("errors", [{}, {0: "bad"}])
def test_nothing_to_draw(errors, tmp_path):
    model = sequential((5,), L.Dense(2))
    source = Inputs(np.zeros((len(errors), 5), np.float32))
    run = PretendedRun(Saliency(model), source, errors, command="explain")
    assert draw_sheet(run, tmp_path / "maps.png") == 0
    assert not (tmp_path / "maps.png").exists()


def test_most_is_a_number(tmp_path):
    with pytest.raises(ValueError, match="most"):
        draw_sheet(PretendedRun.of_numbers(None, certified=[]), tmp_path / "maps.png", most=0)
