"""Which random cases the default run holds: another part of them every day, all of them in turn.

The seed is the day, or the environment variable `XCERTIFY_SEED`, by which a failure of another day
is repeated. pytest prints it at its start; every case has its own number in its test's name.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Any

import pytest

VARIABLE = "XCERTIFY_SEED"


def choose_seed() -> int:
    """The seed of this run, written to the environment so that all processes of a run share it."""
    given = os.environ.setdefault(VARIABLE, str(datetime.date.today().toordinal()))
    if not given.isdecimal():
        raise ValueError(f"{VARIABLE} must be a whole number of at least 0. Received: {given!r}")
    return int(given)


def rotating(nb_cases: int, nb_drawn: int) -> list[int]:
    """`nb_drawn` neighbours among the cases from 0 to `nb_cases` - 1, the next by the next seed."""
    first = choose_seed() * nb_drawn
    return [(first + number) % nb_cases for number in range(nb_drawn)]


def in_turn(cases: Sequence[Any], nb_drawn: int) -> list[Any]:
    """All cases, as `parametrize` takes them; those that are not drawn today are marked slow."""
    drawn = rotating(len(cases), nb_drawn)
    return [
        case
        if number in drawn
        else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.slow)
        for number, case in enumerate(cases)
    ]
