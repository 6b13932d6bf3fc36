"""What the study of CORGI says of linear networks, by hand and against what is certified."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from papers.corgi import explainer_of
from papers.corgi_linear import linear_radii, of_cell, shares
from papers.corgi_tables import blocks, over
from protocol.pieces import Records


@pytest.fixture(scope="module")
def affine():
    """Maps of 9 channels, in which nothing bends, and two images."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(9, 3, padding="same"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3),
    ]
    return keras.Sequential(layers), np.random.default_rng(0).random((2, 8, 8, 1), "float32")


@pytest.mark.parametrize("form", ["per-channel", "map", "pairwise"])
def test_of_a_network_that_is_linear_the_radii_are_those_that_are_certified(affine, form):
    model, images = affine
    explainer = explainer_of(model, form, "crown", None)
    expected = linear_radii(explainer, images, np.array([0, 2]))[form]
    certified = explainer.certify(images, [0, 2]).radius
    assert np.all(certified <= np.multiply(expected, 1.0001))
    assert np.all(certified >= np.multiply(expected, 0.97))


def test_shares_of_two_channels_by_hand():
    gradients = np.array([[1.0, 0, 0], [0, -1.0, 0], [0, 0, 0]])
    ratio, channels, cosine, negative = of_cell(gradients, np.array([1.0, -1.0, 1.0]))
    assert (ratio, channels, cosine, negative) == pytest.approx((1.0, 2.0, 0.0, 0.5))
    ratio, channels, cosine, _ = of_cell(np.array([[2.0, 2.0], [1.0, -1.0]]), np.ones(2))
    assert (ratio, cosine) == pytest.approx((1.5, 0.0))  # 6 / |(3, 1)|
    assert channels == pytest.approx(36 / 20)
    assert of_cell(np.array([[1.0, 2.0], [0, 0]]), np.ones(2))[2] == 1.0  # a single one


def test_shares_go_with_the_ratio(affine):
    model, images = affine
    explainer = explainer_of(model, "map", "crown", None)
    found = shares(explainer, images, np.array([0, 2]))
    assert set(map(len, found.values())) == {2}
    assert np.all(np.array(found["ratio"]) >= 1)
    assert np.all(np.array(found["channels"]) <= 9)


def test_ratios_are_of_the_images_that_both_have():
    ratio = over(np.array([[2.0, 3.0, 4.0]]), np.array([[1.0, 0.0]]))
    assert ratio.tolist() == [[2.0, 3.0 / 1e-7]]


def test_nothing_stored_is_no_table(tmp_path):
    assert blocks(Records(tmp_path)) == {}
