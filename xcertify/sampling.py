"""The one loop that samples: random numbers for each input of its own, answers in batches.

What is drawn for an input depends on `seed`, on what it is for, and on the input itself: neither on
the inputs beside it, nor on their order, on batches or on workers. So a run in parts, on any number
of machines, finds what one call finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

Draw = Callable[[np.random.Generator, int, int], np.ndarray]
Answer = Callable[[np.ndarray, np.ndarray], np.ndarray]

_NB_WORDS = 4  # of 32 bits, that stand for an input and a purpose


class Streams:
    """Random generators, one for each input.

    Parameters
    ----------
    seed
        A whole number of at least 0.
    inputs
        (N, *shape). Two inputs that are equal have equal draws; those of different inputs are
        independent.
    purpose
        What is drawn, in words: draws of two purposes are independent.

    Examples
    --------
    >>> streams = Streams(0, images, "test")
    >>> streams[2].standard_normal(3)
    """

    def __init__(self, seed: int, inputs: np.ndarray, purpose: str) -> None:
        of_all = [seed, *_words(purpose.encode())]
        self._generators = [
            np.random.default_rng([*of_all, *_words(np.ascontiguousarray(one).tobytes())])
            for one in inputs
        ]

    def __len__(self) -> int:
        return len(self._generators)

    def __getitem__(self, number: int) -> np.random.Generator:
        """The generator of one input; whoever draws from it moves it on."""
        return self._generators[number]


def sampled(
    streams: Streams,
    counts: Any,
    draw: Draw,
    answer: Answer,
    *,
    batch_size: int | None,
    progress: tqdm | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Answers for random draws, inputs in their order, at most `batch_size` draws at a time.

    Called again with the same streams it goes on with the next draws. What has not been asked for
    is not drawn: one may stop at any answer.

    Parameters
    ----------
    streams
        Of N inputs.
    counts
        Draws of each input, (N,) int, or one number for all.
    draw
        (generator, n, count) -> (count, *drawn): the next draws of input n. They must be taken
        from the generator one after the other, so that two calls with 3 and 4 give what one call
        with 7 gives, as those of `normal_draws` are.
    answer
        (draws (B, *drawn), numbers of their inputs (B,)) -> (B, *answer).
    batch_size
        Most draws that are held at once; None: all.
    progress
        A bar of `progress_bar`, moved on by the number of draws.

    Yields
    ------
    which, answers
        Numbers of inputs (B,) int, and the answers (B, *answer).
    """
    counts = np.broadcast_to(np.asarray(counts, int), len(streams))
    last = np.cumsum(counts)  # of each input, in the row of all draws
    first, total = last - counts, int(counts.sum())
    size = max(1, total if batch_size is None else batch_size)
    for begin in range(0, total, size):
        end = min(begin + size, total)
        nb_here = np.clip(np.minimum(last, end) - np.maximum(first, begin), 0, None)
        here = np.flatnonzero(nb_here)
        drawn = [draw(streams[int(n)], int(n), int(nb_here[n])) for n in here]
        which = np.repeat(here, nb_here[here])
        answers = answer(np.concatenate(drawn), which)
        if progress is not None:
            progress.update(len(which))
        yield which, answers


def added_up(answers: Iterator[tuple[np.ndarray, np.ndarray]], nb_inputs: int) -> np.ndarray:
    """Sums of what `sampled` gives over the draws of each input, (N, *answer) float64.

    Parameters
    ----------
    answers
        As `sampled` yields them, at least one.
    nb_inputs
        N.
    """
    sums: np.ndarray | None = None
    for which, values in answers:
        if sums is None:
            sums = np.zeros((nb_inputs, *values.shape[1:]))
        starts = np.flatnonzero(np.diff(which, prepend=-1))  # draws of an input are together
        sums[which[starts]] += np.add.reduceat(values.astype(np.float64), starts, axis=0)
    if sums is None:
        raise ValueError("there must be at least one draw. Received: none")
    return sums


def normal_draws(shape: tuple[int, ...]) -> Draw:
    """Draws for `sampled`: independent standard normal numbers, (count, *shape) float32.

    Parameters
    ----------
    shape
        Of one draw.
    """

    def draw(generator: np.random.Generator, n: int, count: int) -> np.ndarray:
        return generator.standard_normal((count, *shape), np.float32)

    return draw


def ball_draws(shape: tuple[int, ...]) -> Draw:
    """Draws for `sampled`: uniform in the Euclidean ball of radius 1, (count, *shape) float32.

    All but two coordinates of a point that is uniform on the sphere of two dimensions more are
    uniform in the ball (Archimedes; Barthe et al., 2005), so that every draw takes as many numbers.

    Parameters
    ----------
    shape
        Of one draw.
    """
    size = int(np.prod(shape))

    def draw(generator: np.random.Generator, n: int, count: int) -> np.ndarray:
        rows = generator.standard_normal((count, size + 2))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows[:, :size].astype(np.float32).reshape(count, *shape)

    return draw


def _words(data: bytes) -> list[int]:
    """Numbers of 32 bits that stand for bytes."""
    digest = hashlib.blake2b(data, digest_size=4 * _NB_WORDS).digest()
    return np.frombuffer(digest, "<u4").tolist()
