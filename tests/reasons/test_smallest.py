"""least_size: against the smallest hitting set, and against linear programs that are known."""

import itertools

import numpy as np
import pytest
from rotation import rotating

from xcertify.reasons import least_size
from xcertify.reasons.smallest import _disjoint, _weighed


def smallest_that_hits(rows):
    """By trying all sets."""
    for size in range(rows.shape[1] + 1):
        for some in itertools.combinations(range(rows.shape[1]), size):
            if rows[:, list(some)].any(axis=1).all():
                return size
    raise AssertionError


def some_rows(generator, most_rows=12, most_groups=9):
    shape = generator.integers(1, most_rows), generator.integers(1, most_groups)
    rows = generator.random(shape) < generator.random()
    rows[np.arange(len(rows)), generator.integers(shape[1], size=len(rows))] = True
    return rows


def test_never_above_the_smallest_set():
    for seed in rotating(10_000, 150):
        rows = some_rows(np.random.default_rng(seed))
        exact = smallest_that_hits(rows)
        assert least_size(rows) <= exact
        rows = rows[:, rows.any(axis=0)]
        for bound in (_disjoint(rows), _weighed(rows)):  # each of them by itself
            assert 1 <= bound <= exact


def test_mostly_the_smallest_set():
    rows = [some_rows(np.random.default_rng(seed)) for seed in range(50)]
    assert sum(least_size(own) == smallest_that_hits(own) for own in rows) >= 48


def test_weights_find_more_than_disjoint_rows():
    """Lines of the Fano plane: two of them always meet, 1/3 of each is 7/3, 3 points hit all."""
    lines = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]
    rows = np.zeros((7, 7), bool)
    for number, line in enumerate(lines):
        rows[number, list(line)] = True
    assert _disjoint(rows) == 1
    assert _weighed(rows) == least_size(rows) == smallest_that_hits(rows) == 3


def test_odd_circle():
    """Pairs around a circle of 5: half of each is 5/2."""
    rows = np.eye(5, dtype=bool) | np.roll(np.eye(5, dtype=bool), 1, axis=1)
    assert least_size(rows) == _weighed(rows) == 3


def test_parts_are_rounded_up_one_by_one():
    circle = np.eye(5, dtype=bool) | np.roll(np.eye(5, dtype=bool), 1, axis=1)
    rows = np.kron(np.eye(4, dtype=bool), circle)
    assert least_size(rows) == 12  # 10 as one linear program


def test_single_groups_count_one_each_and_once():
    rows = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1]], bool)
    assert least_size(rows) == 2


def test_order_of_witnesses_and_groups_does_not_matter():
    generator = np.random.default_rng(0)
    rows = generator.random((40, 60)) < 0.06
    rows[:, 0] |= ~rows.any(axis=1)
    mixed = rows[generator.permutation(40)][:, generator.permutation(60)]
    assert least_size(rows) == least_size(mixed)


def test_no_witness():
    assert least_size(np.zeros((0, 7), bool)) == 0


def test_refused():
    with pytest.raises(ValueError, match="must change something. Received: nothing in row 1"):
        least_size(np.array([[True, False], [False, False]]))
    with pytest.raises(ValueError, match="must be boolean"):
        least_size(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"must be boolean, \(M, G\)"):
        least_size(np.ones(3, bool))
