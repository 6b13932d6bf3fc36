"""The sampling loop: draws depend on nothing but the input, the seed and the purpose."""

import numpy as np
import pytest

from xcertify.progress import progress_bar
from xcertify.sampling import Streams, added_up, ball_draws, normal_draws, sampled

INPUTS = np.random.default_rng(0).random((5, 2, 3), np.float32)
DRAWS = {"normal": normal_draws((2, 3)), "ball": ball_draws((2, 3))}


def answers_of(inputs, counts, draw, batch_size, seed=0, purpose="test"):
    """All draws of each input, in their order."""
    found = [[] for _ in inputs]
    streams = Streams(seed, inputs, purpose)
    for which, drawn in sampled(streams, counts, draw, lambda d, _: d, batch_size=batch_size):
        assert batch_size is None or len(drawn) <= batch_size
        for n, one in zip(which, drawn):
            found[n].append(one)
    return [np.array(rows) for rows in found]


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("batch_size", [1, 2, 7, 11, None])
def test_draws_depend_neither_on_batches_nor_on_the_inputs_beside(draw, batch_size):
    counts = np.array([3, 0, 8, 1, 5])
    expected = answers_of(INPUTS, counts, draw, 4)
    found = answers_of(INPUTS, counts, draw, batch_size)
    assert [len(rows) for rows in found] == counts.tolist()
    for one, other in zip(expected, found):
        np.testing.assert_array_equal(one, other)
    order = [4, 2, 0]
    for one, n in zip(answers_of(INPUTS[order], counts[order], draw, batch_size), order):
        np.testing.assert_array_equal(one, expected[n])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_second_round_goes_on(draw):
    streams = Streams(3, INPUTS, "test")
    rounds = [
        np.concatenate([d for _, d in sampled(streams, k, draw, lambda d, _: d, batch_size=2)])
        for k in (1, 2)
    ]
    whole = answers_of(INPUTS, 3, draw, None, seed=3)
    np.testing.assert_array_equal(rounds[0], np.stack(whole)[:, 0])
    np.testing.assert_array_equal(rounds[1].reshape(5, 2, 2, 3), np.stack(whole)[:, 1:])


def test_seeds_purposes_and_inputs_tell_draws_apart():
    draw = DRAWS["normal"]
    first = answers_of(INPUTS, 1, draw, None)
    assert len({rows.tobytes() for rows in first}) == len(INPUTS)
    for other in ({"seed": 1}, {"purpose": "choice"}):
        for one, two in zip(first, answers_of(INPUTS, 1, draw, None, **other)):
            assert (one != two).all()
    twice = answers_of(INPUTS[[1, 1]], 2, draw, None)
    np.testing.assert_array_equal(*twice)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_balls_are_filled_uniformly(size):
    """The share within a radius r is r**d: a Kolmogorov-Smirnov distance, and a mean of 0."""
    rows = ball_draws((size,))(np.random.default_rng(0), 0, 20_000).astype(float)
    shares = np.sort(np.linalg.norm(rows, axis=1) ** size)
    assert shares[-1] <= 1 + 1e-6
    distance = np.abs(shares - (np.arange(20_000) + 0.5) / 20_000).max()
    assert distance < 1.95 / np.sqrt(20_000)  # exceeded once in a thousand seeds
    assert np.abs(rows.mean(axis=0)).max() < 4 / np.sqrt(20_000)


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_sums(batch_size):
    counts, seen = np.array([2, 0, 1, 0, 4]), []

    def answer(drawn, which):
        seen.append(len(which))
        return np.stack([which + 1, drawn[:, 0, 0] > 0], axis=1)

    with progress_bar(7, verbose=False) as bar:
        bar.update = seen.append
        found = added_up(
            sampled(
                Streams(0, INPUTS, "test"),
                counts,
                DRAWS["normal"],
                answer,
                batch_size=batch_size,
                progress=bar,
            ),
            5,
        )
    assert sum(seen) == 14
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found[:, 0], counts * np.arange(1, 6))
    drawn = answers_of(INPUTS, counts, DRAWS["normal"], None)
    positive = [(rows[:, 0, 0] > 0).sum() if len(rows) else 0 for rows in drawn]
    np.testing.assert_array_equal(found[:, 1], positive)


def test_nothing_is_drawn_before_it_is_asked_for():
    asked = []
    draws = sampled(
        Streams(0, INPUTS, "test"),
        4,
        lambda generator, n, count: asked.append(count) or generator.random((count, 1)),
        lambda drawn, which: drawn,
        batch_size=2,
    )
    next(draws)
    assert asked == [2]


def test_no_draws_have_no_sum():
    with pytest.raises(ValueError, match="at least one draw"):
        added_up(iter(()), 3)
