"""The walk of the inputs: through which functions they go from `certify` to the bound engine.

    python benchmarks/walk.py
    python benchmarks/walk.py --chains   # every walk, function by function

Columns: `stays`, the most functions of the package from `certify` on, itself included, before the
engine is asked; `climbs`, how often a walk goes back up, into a file that it had left for another
one; both for what is proved and, beside it, for attacks that ask the engine whether a point counts.
Functions of the engine, and of what keeps derived objects (`settings.py`), are not counted, nor are
the frames that Python makes for comprehensions.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers as L

import xcertify
from xcertify.attributions import CORGI, EVA, AttributionBound, CertifiedGradient, RelEx
from xcertify.bounds import Verifier
from xcertify.criteria import Within

PACKAGE = Path(xcertify.__file__).parent
NOT_COUNTED = ("bounds/", "settings.py")
COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
QUESTIONS = (
    "bound_outputs",
    "bound_rows",
    "bound_layer",
    "bound_gradient",
    "linear_bounds",
    "linear_bounds_in_parts",
)


class Stay(NamedTuple):
    """A function on the way, and the file of the package that it is in."""

    file: str
    function: str


Chain = tuple[Stay, ...]


def walk(call: Callable[[], Any]) -> list[Chain]:
    """The different ways on which a call reaches the questions of a `Verifier`.

    Parameters
    ----------
    call
        Without arguments, such as ``lambda: explainer.certify(inputs)``.

    Returns
    -------
    chains
        Each once, in the order of their first use: functions from the outermost to the one that
        asks.
    """
    chains: dict[Chain, None] = {}

    def noting(question: Callable) -> Callable:
        def asked(*arguments: Any, **settings: Any) -> Any:
            chain = _stays(sys._getframe(1))
            if chain is not None:
                chains[chain] = None
            return question(*arguments, **settings)

        return asked

    with ExitStack() as stack:
        for name in QUESTIONS:
            patch = mock.patch.object(Verifier, name, noting(getattr(Verifier, name)))
            stack.enter_context(patch)
        call()
    return list(chains)


def _stays(frame: Any) -> Chain | None:
    """The functions on the stack, outermost first; None for what the engine asks itself."""
    stays, first = [], True
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            file = path.relative_to(PACKAGE).as_posix()
            if first and file.startswith("bounds/"):
                return None
            first = False
            name = frame.f_code.co_name
            if not file.startswith(NOT_COUNTED) and name not in COMPREHENSIONS:
                stays.append(Stay(file, name))
        frame = frame.f_back
    return tuple(reversed(stays))


def nb_climbs(chain: Chain) -> int:
    """How often a chain goes into a file that it was in before, and had left for another one."""
    files = [stay.file for stay in chain]
    return sum(
        file != before and file in files[:place]
        for place, (before, file) in enumerate(pairwise(files), start=1)
    )


def is_attack(chain: Chain) -> bool:
    """Whether it is an attack that asks."""
    return any(stay.file.startswith("attacks/") for stay in chain)


def certificates() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Calls of `certify`, and of one search of a radius, by name, on small networks."""
    images = np.random.default_rng(0).uniform(0.1, 0.9, (2, 6, 6, 1)).astype(np.float32)
    rows = np.random.default_rng(0).uniform(0.1, 0.9, (2, 4)).astype(np.float32)
    keras.utils.set_random_seed(0)
    pooled = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            L.Conv2D(3, 3, activation="relu"),
            L.GlobalAveragePooling2D(),
            L.Dense(2),
        ]
    )
    smooth = keras.Sequential([keras.Input((4,)), L.Dense(5, "tanh"), L.Dense(2)])
    yield "EVA", lambda: EVA(pooled, 0.01).certify(images)
    yield "EVA, exact", lambda: EVA(pooled, 0.01, grid_size=2, mode="exact").certify(images)
    yield "CertifiedGradient", lambda: CertifiedGradient(smooth, 0.01).certify(rows)
    yield (
        "CertifiedGradient, radius",
        lambda: CertifiedGradient(smooth, 0.01).radius(
            rows, Within(0.5), nb_halvings=2, attack_steps=2
        ),
    )
    yield "CORGI", lambda: CORGI(pooled, 3, prediction=True, tolerance=0.5).certify(images)
    yield (
        "AttributionBound, proved",
        lambda: AttributionBound(smooth, 0.01, proved=True).certify(rows),
    )
    yield "RelEx", lambda: RelEx(smooth, nb_samples=2, steps=2).certify(rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--chains", action="store_true", help="print every walk")
    arguments = parser.parse_args()
    print("| certify of | stays | climbs | stays of attacks | climbs of attacks |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for name, call in certificates():
        chains = walk(call)
        figures = []
        for attacks in (False, True):
            some = [chain for chain in chains if is_attack(chain) == attacks]
            figures.append(str(max(map(len, some), default="none")))
            figures.append(str(max(map(nb_climbs, some), default="none")))
        print(f"| {name} | {' | '.join(figures)} |", flush=True)
        for chain in chains if arguments.chains else ():
            print("    " + " > ".join(f"{file}:{function}" for file, function in chain))


if __name__ == "__main__":
    main()
