"""Features: labels of users as numbers of groups, and back."""

import numpy as np
import pytest

from xcertify.reasons import Features


def test_every_feature_is_a_group_of_its_own():
    features = Features.of((2, 3, 4), 5)
    assert features.nb_groups == 6 and len(features) == 5
    np.testing.assert_array_equal(features.labels[3], np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(features.numbers[2, ..., 1], np.arange(6).reshape(2, 3))
    assert features.numbers.shape == (5, 2, 3, 4) and features.numbers.dtype == np.int32
    assert features.valid.all() and features.label_of(4, 5) == 5


@pytest.mark.parametrize(
    ("shape", "features"), [((4, 5, 3), (4, 5)), ((6, 2), (6, 2)), ((7,), (7,))]
)
def test_shapes(shape, features):
    found = Features.of(shape, 2)
    assert found.labels.shape == found.places.shape == (2, *features)
    assert found.numbers.shape == (2, *shape)
    assert found.nb_groups == np.prod(features)


def test_grid():
    features = Features.of((4, 4, 3), 1, grid_size=2)
    assert features.nb_groups == 4
    np.testing.assert_array_equal(features.labels[0, [0, 0, 3, 3], [0, 3, 0, 3]], [0, 1, 2, 3])


def test_labels_of_the_user_are_kept():
    labels = np.array([[70, 3, 3, 900], [5, 5, 5, 5]])
    features = Features.of((4,), 2, labels)
    np.testing.assert_array_equal(features.labels, labels)
    np.testing.assert_array_equal(features.places, [[1, 0, 0, 2], [0, 0, 0, 0]])
    np.testing.assert_array_equal(features.keys, [[3, 70, 900], [5, -1, -1]])
    np.testing.assert_array_equal(features.valid, [[True] * 3, [True, False, False]])
    assert features.label_of(0, 2) == 900 and isinstance(features.label_of(0, 2), int)


def test_against_a_loop():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 9, (4, 5, 6)) * 11
    features = Features.of((5, 6, 2), 4, labels)
    values = generator.normal(size=(4, 5, 6, 2))
    masks = generator.random((4, features.nb_groups)) < 0.5
    for n in range(4):
        assert list(features.keys[n][features.valid[n]]) == sorted(set(labels[n].ravel()))
        for g, label in enumerate(features.keys[n]):
            own = labels[n] == label
            assert (features.places[n][own] == g).all()
            assert (features.expand(masks)[n][own] == masks[n, g]).all()
            assert (features.to_inputs(masks)[n][own] == masks[n, g]).all()
            np.testing.assert_allclose(features.sums(values)[n, g], values[n][own].sum())
            np.testing.assert_allclose(
                features.sums(values[..., 0])[n, g], values[n][own][:, 0].sum()
            )


def test_shared_labels_are_those_of_every_input():
    labels = np.array([[2, 2], [0, 7]])
    shared = Features.of((2, 2, 1), 3, labels)
    each = Features.of((2, 2, 1), 3, np.stack([labels] * 3))
    np.testing.assert_array_equal(shared.places, each.places)
    np.testing.assert_array_equal(shared.keys, each.keys)


def test_some_inputs():
    features = Features.of((4,), 2, [[70, 3, 3, 900], [5, 5, 5, 5]])
    some = features[np.array([1, 1, 0])]
    assert len(some) == 3 and some.nb_groups == 3
    np.testing.assert_array_equal(some.keys[0], features.keys[1])
    np.testing.assert_array_equal(features[1:].places, features.places[1:])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            np.zeros((3, 3), int),
            r"labels of the features, \(4, 3\), or for each input, \(2, 4, 3\)",
        ),
        (np.zeros((3, 4, 3), int), r"Received: shape \(3, 4, 3\)"),
        (np.zeros((4, 3, 1), int), r"Received: shape \(4, 3, 1\)"),
        (np.zeros((4, 3)), "must be integer labels. Received: float64"),
        (np.zeros((4, 3), bool), "must be integer labels. Received: bool"),
        (np.stack([np.zeros((4, 3), int), np.full((4, 3), -2)]), "Received: -2 for sample 1"),
    ],
)
def test_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        Features.of((4, 3, 1), 2, groups)


def test_groups_and_a_grid():
    with pytest.raises(ValueError, match="give one of them"):
        Features.of((4, 3, 1), 2, np.zeros((4, 3), int), grid_size=2)
