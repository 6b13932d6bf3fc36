"""The colour network of the protocol: what its seed decides, and what is done to its images."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from protocol.colour_networks import MEANS, NB_CLASSES, SHAPE, augmented, build, train

from xcertify.attacks import MinimalPerturbation
from xcertify.regions import Box


@pytest.fixture
def images():
    return np.random.default_rng(0).random((6, *SHAPE), dtype="f4")


def test_the_seed_decides_the_weights_and_the_training(images):
    models = [build(0), build(0)]
    for model in models:
        train(model, (images, np.arange(6)), seed=0, nb_epochs=1)
    first, second = (model.get_weights() for model in models)
    other = build(1).get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(first, second)) < 1e-4  # sums in any order
    assert max(np.abs(a - b).max() for a, b in zip(first, other)) > 1e-2
    assert models[0](images).shape == (6, NB_CLASSES)
    mean = models[0].layers[1].moving_mean  # of the pixels: it does not learn
    np.testing.assert_allclose(mean, MEANS, rtol=1e-6)


def test_changes_of_the_class_are_proved(images):
    """Sides of a point in real arithmetic are close enough for an attack to count."""
    found = MinimalPerturbation(build(0), steps=5, restarts=1)(
        Box(np.zeros_like(images), np.ones_like(images), images)
    )
    assert found.found.any()


def test_images_are_mirrored_shifted_and_cut(images):
    def with_seed(seed, **settings):
        return augmented(images, np.random.default_rng(seed), **settings)

    np.testing.assert_array_equal(with_seed(1), with_seed(1))
    assert not np.array_equal(with_seed(1), with_seed(2))
    for image, seen in zip(images, with_seed(0, shift=0, hole=0)):
        kept, mirrored = (np.allclose(seen, way, atol=1e-6) for way in (image, image[:, ::-1]))
        assert kept != mirrored
    grey = np.isclose(with_seed(0, shift=0, hole=8), MEANS).all(axis=-1).sum(axis=(1, 2))
    assert ((grey >= 16) & (grey <= 64)).all()  # a corner of the hole is always inside
    moved = np.isclose(with_seed(0, shift=4, hole=0), MEANS).all(axis=-1).sum(axis=(1, 2))
    assert (moved <= 32**2 - 28**2).all() and moved.any()
