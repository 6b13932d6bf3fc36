"""The benchmarks that compare speed, as far as they need no other library and no time."""

import argparse
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import peers
import scaling


@pytest.mark.parametrize("axis", scaling.AXES)
def test_points_of_an_axis(axis, eager):
    value = scaling.AXES[axis].few[0]
    (point,) = scaling.measured(axis, value, ["ibp"], quick=True)
    assert (point.axis, point.value, point.method) == (axis, value, "ibp")
    assert 0 < point.width < np.inf
    assert (point.unstable is not None) == (axis == "unstable")


def test_growth_and_picture(tmp_path):
    points = [scaling.Point("depth", n, "ibp", 1.0 * n**2, 1.0, 2.0 * n, 0.0) for n in (1, 2, 4)]
    points.append(scaling.Point("depth", 8, "ibp"))  # not finished
    assert scaling.growth(points).splitlines()[-1] == "| depth | ibp | 2.0 | 1.0 | - |"
    scaling.drawn(points).savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


class Side:
    """What a library would answer."""

    def __init__(self, name, missing=None, error=None):
        self.name, self.missing, self.error = name, missing, error

    def ask(self, do, **asked):
        if do == "load":
            assert np.load(f"{asked['task'][0]}.npz")["logits"].shape == (2, 10)
            return {"first": 1.0, "found": 3.0}
        return {"error": self.error} if self.error else {"seconds": 0.5}


def table(sides, tmp_path):
    asked = {"nets": ["dense_2"], "methods": ["CROWN"], "nb_images": 2, "nb_threads": 1}
    asked |= {"quick": True, "weights": tmp_path, "reference": None, "data_dir": None}
    return [*peers.table(sides, argparse.Namespace(**asked))]


def test_a_table_beside_a_peer(tmp_path, monkeypatch):
    small = peers.NETS["dense_2"]._replace(build=lambda: peers.dense(4, 4))
    monkeypatch.setitem(peers.NETS, "dense_2", small)
    assert "1.00 | 0.5, 0.5 | 1.00 |" in table([Side("xcertify"), Side("other")], tmp_path)[-2]
    late = Side("other", error="not finished after 1 s")
    assert "not finished after 1 s" in table([Side("xcertify"), late], tmp_path)[-2]
    lines = table([Side("xcertify"), Side("other", "no torch")], tmp_path)
    assert lines[0].startswith("other cannot be imported (no torch)")
    assert lines[-2] == "| dense_2 | CROWN | 3 | 0.5 | 1 | 1 |"


def test_networks_in_words():
    layers, arrays = peers.described(peers.cifar())
    convolutions = ["conv", "relu", "conv", "relu", "pool"]
    kinds = [*convolutions, *convolutions, "flatten", "dense", "relu", "dense"]
    assert [layer["kind"] for layer in layers] == kinds
    assert layers[0]["padding"] == [1, 1] and layers[11]["image"] == (8, 8, 64)
    assert arrays["kernel2"].shape == (3, 3, 32, 32)
    with pytest.raises(ValueError, match="no counterpart"):
        peers.described(keras.Sequential([keras.Input((2,)), keras.layers.LayerNormalization()]))
