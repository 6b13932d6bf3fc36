"""`reasons.check` against brute force: sets of any tool are proved, refuted, or near ties."""

import keras
import numpy as np
import pytest
from brute_force import Area
from networks import functional
from reasons_asked import CLOSE, Asked
from rotation import rotating
from subsets import beats, label_stays, stays_within
from tiny_networks import ARCHITECTURES, draw_weights, tiny

from xcertify.perturbation import Perturbation
from xcertify.reasons import check
from xcertify.regions import Ball, Box

L = keras.layers
STATUS = {True: "proved", False: "refuted"}


def check_sets(asked, inputs, kept, found):
    """`kept` (N, *features) bool."""
    for sample, status in enumerate(found.status):
        subsets = asked.subsets(sample)
        free = subsets.mask_of(~kept[sample].ravel())
        enough = subsets.enough(free)
        if enough is None or status == "undecided":
            lowest, highest = subsets.worst(free)
            assert lowest < CLOSE and highest > -CLOSE, (status, lowest, highest)
        else:
            assert status == STATUS[enough], (sample, status, subsets.worst(free))
        point = found.counterexamples[sample]
        if status != "refuted":
            assert np.isnan(point).all()
            continue
        held = asked.entries(kept[sample])
        np.testing.assert_array_equal(point[held], inputs[sample][held])
        flat = point.astype("f8").reshape(1, -1)
        assert Area.of(asked.region, sample).contains(flat, 1e-12).all()
        assert asked.answers(sample, point[None])[0] <= 0


def random_sets(generator, shape):
    return generator.random(shape) < generator.random((shape[0], *[1] * (len(shape) - 1)))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", rotating(1000, 1))
@pytest.mark.parametrize("name", ["relu", "max_pooling", "residual", "smooth_residual"])
def test_random_sets(name, seed):
    generator = np.random.default_rng(seed)
    model = tiny(ARCHITECTURES[name], 4, seed)
    inputs = generator.uniform(-1, 1, (10, 4)).astype("f4")
    kept = random_sets(generator, (10, 4))
    for region in (
        Ball(inputs, 0.3),
        Ball(inputs, 0.4, 2, (-1.0, 1.0)),
        Box(inputs - np.float32(0.2), inputs + np.float32(0.4), inputs),
    ):
        found = check(model, inputs, kept, region, timeout=None)
        check_sets(Asked.of(model, region), inputs, kept, found)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", rotating(1000, 1))
def test_every_question(seed):
    generator = np.random.default_rng(seed)
    model = tiny("relu", 4, seed)
    inputs = generator.uniform(-1, 1, (10, 4)).astype("f4")
    kept, region = random_sets(generator, (10, 4)), Ball(inputs, 0.3)
    logits = model.predict_on_batch(inputs)
    classes, towards = logits.argmax(1), logits.argmin(1)
    for settings, ours in (
        ({"towards": towards}, None),
        ({"delta": 0.4}, lambda own, f: stays_within(own, 0.4, f[own], 3)),
        ({"class_groups": [0, 1, 1]}, lambda own, f: label_stays(own, [0, 1, 1])),
    ):
        asked = Asked.of(model, region, None, ours)
        if "towards" in settings:
            own = [beats(int(c), [int(o)], 3) for c, o in zip(classes, towards)]
            asked = Asked(model, asked.net, region, asked.labels, own)
        found = check(model, inputs, kept, region, classes, timeout=None, **settings)
        check_sets(asked, inputs, kept, found)


def test_every_form_of_sets():
    generator = np.random.default_rng(0)
    inputs = keras.Input((2, 3, 2))
    x = L.Dense(6, "relu")(L.Flatten()(inputs))
    model = draw_weights(functional(inputs, L.Dense(3, "softmax")(x)), 1)
    images = generator.uniform(-1, 1, (8, 2, 3, 2)).astype("f4")
    kept = random_sets(generator, (8, 2, 3))
    region = Ball(images, 0.3)
    asked = Asked.of(model, region)
    lists = [np.flatnonzero(one).tolist() for one in kept]
    forms = (kept, [*kept], lists, [set(one) for one in lists], [np.array(o, int) for o in lists])
    for sets in forms:
        found = check(model, images, sets, Perturbation(0.3), timeout=None)
        check_sets(asked, images, kept, found)
        np.testing.assert_array_equal(found.sizes, kept.sum((1, 2)))
    entries = np.broadcast_to(kept[..., None], images.shape)
    check_sets(asked, images, kept, check(model, images, entries, Perturbation(0.3)))


def test_the_last_phase_of_fame():
    """A set of which only moves upwards were proved: downwards the class changes."""
    inputs = keras.Input((4,))
    model = functional(inputs, L.Dense(2)(L.Dense(4, "relu")(inputs)))
    end = np.array([[-5.0, 0], [1, 0], [1, 0], [1, 0]])
    model.set_weights([np.diag([-1, 0.1, 0.1, 0.1]), np.zeros(4), end, np.array([0.3, 0.0])])
    points = np.zeros((3, 4), "f4")
    up = Box(points, points + np.float32(0.1), points)
    sets = [[], [1, 2, 3], [0]]
    assert check(model, points, sets, up).proved.all()
    assert check(model, points, sets, Ball(points, 0.1)).status.tolist() == [
        "refuted",
        "refuted",
        "proved",
    ]
