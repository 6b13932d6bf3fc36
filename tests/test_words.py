"""Texts whose words may be others: what the region holds, its parts, and its errors."""

import numpy as np
import pytest

from xcertify.regions import Box, Region
from xcertify.words import Words

VECTORS = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
TOKENS = [[0, 1, 2, 3], [4, 1, 8, 8]]
SYNONYMS = {1: [5, 6, 7], 2: [8], 8: [2, 0]}


@pytest.fixture
def region():
    return Words.of_tokens(TOKENS, SYNONYMS, VECTORS)


def test_choices_are_the_vectors_of_words_and_their_synonyms(region):
    assert region.shape == (4, 3)
    np.testing.assert_array_equal(region.nb_choices, [[1, 4, 2, 1], [1, 4, 3, 3]])
    np.testing.assert_array_equal(region.center, VECTORS[np.array(TOKENS)])
    np.testing.assert_array_equal(region.choices[0, 1], VECTORS[[1, 5, 6, 7]])
    np.testing.assert_array_equal(region.choices[0, 2], VECTORS[[2, 8, 2, 2]])
    np.testing.assert_array_equal(region.lower[0, 1], VECTORS[[1, 5, 6, 7]].min(axis=0))
    np.testing.assert_array_equal(region.upper[0, 0], VECTORS[0])


def test_synonyms_may_be_of_each_position():
    own = np.full((2, 4, 2), -1)
    own[0, 3] = [4, 5]
    region = Words.of_tokens(TOKENS, own, VECTORS)
    np.testing.assert_array_equal(region.nb_choices, [[1, 1, 1, 3], [1, 1, 1, 1]])


def test_points_are_texts_of_the_region(region):
    for few in (region, region.at_most(1)):
        points = np.concatenate([few.sample(20), few.corners(20), few.project(5 * few.sample(9))])
        for text in points:
            assert few.holds(text).all()
        tokens = few.tokens_at(points)
        assert set(tokens[:, 0, 1]) <= {1, 5, 6, 7}
        np.testing.assert_array_equal(VECTORS[tokens], points)
        moved = (points != few.center).any(axis=3).sum(axis=2)
        assert moved.max() == (3 if few is region else 1)


def test_what_is_no_text_is_not_held(region):
    between = (region.choices[:, :, 0] + region.choices[:, :, 1]) / 2
    assert not region.holds(between).any()
    all_changed = region.chosen(np.minimum(1, region.nb_choices - 1))
    assert region.holds(all_changed).all()
    assert not region.at_most(1).holds(all_changed).any()


def test_projection_keeps_the_words_that_are_farthest_from_the_center(region):
    point = region.chosen(np.array([[0, 1, 1, 0], [0, 1, 1, 0]]))
    distance = np.linalg.norm(point - region.center, axis=2)
    kept = (region.at_most(1).project(point) != region.center).any(axis=2)
    np.testing.assert_array_equal(kept.argmax(axis=1), distance.argmax(axis=1))


def test_parts_hold_words_at_the_center(region):
    held = region.fix(np.array([False, True, False, False]))
    np.testing.assert_array_equal(held.nb_choices, [[1, 1, 2, 1], [1, 1, 3, 3]])
    assert (region.at_most(0).nb_choices == 1).all()
    free = region.at_most(0, groups=[0, -1, 1, 1])
    np.testing.assert_array_equal(free.nb_choices, [[1, 4, 1, 1], [1, 4, 1, 1]])
    np.testing.assert_array_equal(region.at_most(1)[1:].nb_choices, region[1:].nb_choices)


def test_regions_are_joined_with_as_many_choices(region):
    other = Words.of_tokens([[1, 1, 1, 1]], {1: [3]}, VECTORS)
    joined = Region.concatenate([other, region])
    np.testing.assert_array_equal(joined.nb_choices[0], [2, 2, 2, 2])
    np.testing.assert_array_equal(joined.nb_choices[1:], region.nb_choices)
    np.testing.assert_array_equal(joined.tokens[1:], region.tokens)
    with pytest.raises(ValueError, match="words of one shape"):
        Region.concatenate([region, Box(region.lower, region.upper)])
    with pytest.raises(ValueError, match="regions must be of one shape"):
        Region.concatenate([Box(region.lower, region.upper), region])


def test_gains_are_the_largest_values_at_each_position(region):
    rows = np.random.default_rng(1).normal(size=(2, 5, 4, 3))
    step = region.choices - region.center[:, :, None]
    expected = (rows[:, :, :, None] * step[:, None]).sum(axis=4).max(axis=3)
    np.testing.assert_allclose(region.gains(rows), expected, atol=1e-6)


def test_boxes_shrink_to_the_texts_inside(region):
    lower, upper = region.sides("float64")
    for found, side in zip(region.hull_within(lower, upper), (lower, upper)):
        np.testing.assert_array_equal(found, side)
    inside = region.chosen(np.array([[0, 2, 1, 0], [0, 3, 0, 1]])).astype(float)
    *hull, empty = region.hull_within(inside, inside)
    np.testing.assert_array_equal(hull, [inside, inside])
    assert not empty.any()
    *_, empty = region.at_most(1).hull_within(inside, inside)
    assert empty.all()
    # one word has changed, so that no other may
    lower[:, 1] = upper[:, 1] = inside[:, 1]
    *hull, empty = region.at_most(1).hull_within(lower, upper)
    assert not empty.any()
    np.testing.assert_array_equal(hull[0][:, 2:], region.center[:, 2:])


def test_it_says_what_it_is(region):
    assert str(region) == "texts with up to 4 words at up to 3 positions"
    assert str(region.at_most(2)).endswith(", at most 2 of which differ")
    assert "2 regions of shape (4, 3)" in repr(region)
    assert np.shape(region.to_dict()["choices"]) == region.choices.shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Words(np.zeros((2, 3)), np.zeros((2, 3, 1, 4))), "center must be"),
        (lambda: Words(np.zeros((2, 3, 4)), np.zeros((2, 3, 1, 5))), "vectors of 4 numbers"),
        (lambda: Words(np.zeros((1, 3, 4)), np.full((1, 3, 1, 4), np.nan)), "others has NaN"),
        (lambda: Words(np.zeros((1, 3, 4)), np.zeros((1, 3, 1, 4)), [[1]]), "allowed must be"),
        (lambda: Words.of_tokens([[0, 9]], {}, VECTORS), "from 0 to 8"),
        (lambda: Words.of_tokens([[0, 1]], {1: [9]}, VECTORS), "from 0 to 8"),
        (lambda: Words.of_tokens([[0.5, 1]], {}, VECTORS), "tokens must be integers"),
        (lambda: Words.of_tokens([[0, 1]], np.zeros((1, 3, 1), int), VECTORS), "synonyms must be"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parts_of_vectors_are_refused(region):
    part = np.zeros((4, 3), bool)
    part[1, 0] = True
    with pytest.raises(ValueError, match="whole words"):
        region.fix(part)
    with pytest.raises(ValueError, match="whole words"):
        region.at_most(1, groups=np.arange(12).reshape(4, 3))
    for part in (region.positive, region.negative, region.one_way):
        with pytest.raises(ValueError, match="positive, negative and one_way are parts of balls"):
            part()
    with pytest.raises(ValueError, match="tokens_at"):
        Words(region.center, region.choices).tokens_at(region.center)
