"""Which inputs of a batch make it fail: they are found, and left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import tensorflow as tf

from xcertify.bounds import UnsupportedLayerError
from xcertify.radii import ContradictionError

Result = TypeVar("Result")

# Not a layer that cannot be bounded, too little memory, a bug: no other input would help.
_OF_INPUTS = (ValueError, ArithmeticError, ContradictionError, tf.errors.InvalidArgumentError)


def message_of(function: Callable[[], object]) -> str | None:
    """What a function says of the input that it was called for; None where it has no complaint.

    Raises
    ------
    Exception
        What has nothing to do with an input.
    """
    try:
        function()
    except UnsupportedLayerError:
        raise
    except _OF_INPUTS as error:
        return str(error)
    return None


def without_failing(
    attempt: Callable[[list[int]], Result],
    check: Callable[[int], object],
    places: Iterable[int],
    others_work: Callable[[], bool],
) -> tuple[Result | None, dict[int, str]]:
    """What `attempt` gives for all places but those that make it fail.

    Parameters
    ----------
    attempt
        A function of some places of a batch.
    check
        Refuses what can be seen of one place at once.
    places
        The places.
    others_work
        Whether it works for any other input; asked when something else fails.

    Returns
    -------
    result, failures
        None if no place is left; and of each place that fails the message.

    Raises
    ------
    Exception
        What `attempt` raises, where that has nothing to do with an input.
    """
    left, failures = list(places), dict[int, str]()
    while left:
        try:
            return attempt(left), failures
        except UnsupportedLayerError:
            raise
        except _OF_INPUTS as error:
            messages = {place: message_of(lambda: check(place)) for place in left}  # noqa: B023
            found = {place: message for place, message in messages.items() if message is not None}
            if not found and not others_work():
                raise
            failures.update(found or _failing(attempt, left, str(error)))
            left = [place for place in left if place not in failures]
    return None, failures


def _failing(attempt: Callable[[list[int]], object], places: list[int], why: str) -> dict[int, str]:
    """The places of `places`, for which `attempt` fails with a message, that fail alone."""
    if len(places) == 1:
        return {places[0]: why}
    middle, found = len(places) // 2, {}
    for half in (places[:middle], places[middle:]):
        message = message_of(lambda: attempt(half))  # noqa: B023
        if message is not None:
            found.update(_failing(attempt, half, message))
    # Where each half works and both together do not, nothing better is known of any of them.
    return found or dict.fromkeys(places, why)
