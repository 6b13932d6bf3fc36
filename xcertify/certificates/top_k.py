"""Certificates of the most important cells of a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xcertify.certificates.base import Certificate
from xcertify.certificates.forms import FLOATS, INTEGERS, Form, refuse_inputs


@dataclass(frozen=True, repr=False)
class TopKCertificate(Certificate):
    """Radii within which the most important cells of a map stay so (CORGI), one entry per input.

    The true radius of an input, where the first cell leaves, is in `interval`.

    Attributes
    ----------
    explanation
        Which maps these are: "cam" or "grad-cam".
    form
        How maps were bounded, a form of `CORGI`.
    k, k2
        The k largest cells are proved to stay among the k2 largest.
    interval
        The radius, in units of the inputs: `certified` (N,), the largest one that was tested and
        proved, 0 where none was; `attacked` (N,), the distance of the nearest point that was found
        where a cell has left, inf where none was.
    prediction_radius
        (N,): the model is proved to give the target class within it; None if not asked for.
    gap
        (N,): the value of the k-th cell minus that of the next one, at the input.
    cells
        (N, k) int: the top k cells, the largest first, counted row by row through the map.
    map_shape
        (h, w) of the map.
    targets
        (N,) int: the class whose map it is.

    Guarantee
    ---------
    Of `radius` and `prediction_radius`, that of `CORGI`. `attacked` is the distance of a point at
    which the map was evaluated in float64; nearer ones may exist.
    """

    _is_radius: ClassVar[bool] = True

    _rows: ClassVar[dict[str, Form]] = {
        "prediction_radius": Form(FLOATS, values="infinite", optional=True),
        "gap": Form(FLOATS),
        "cells": Form(INTEGERS, ("k",)),
        "targets": Form(INTEGERS),
    }
    _words: ClassVar[dict[str, Any]] = {
        **{"explanation": str, "form": str, "k": int, "k2": int, "map_shape": tuple},
    }

    explanation: str
    form: str
    k: int
    k2: int
    prediction_radius: np.ndarray | None
    gap: np.ndarray
    cells: np.ndarray
    map_shape: tuple[int, int]
    targets: np.ndarray

    def check(self) -> None:
        """Refuse parts that contradict each other, see `Certificate`."""
        super().check()
        sizes = self.map_shape
        if not (len(sizes) == 2 and all(type(size) is int and size > 0 for size in sizes)):
            raise ValueError(f"map_shape must be two whole numbers above 0. Received: {sizes!r}")
        nb_cells = sizes[0] * sizes[1]
        if not self.cells.shape[1] == self.k <= self.k2 <= nb_cells:
            raise ValueError(
                f"k must be the number of cells, {self.cells.shape[1]}, and k2 from k to "
                f"{nb_cells}. Received: {self.k} and {self.k2}"
            )
        outside = (self.cells < 0) | (self.cells >= nb_cells)
        refuse_inputs(outside, f"cells are not from 0 to {nb_cells - 1}")

    @property
    def radius(self) -> np.ndarray:
        """(N,): ``interval.certified``."""
        return self.interval.certified

    @property
    def joint_radius(self) -> np.ndarray:
        """(N,): within it, both the cells and the class are proved."""
        if self.prediction_radius is None:
            raise ValueError("the class was not looked at: ask for it with prediction=True")
        return np.minimum(self.radius, self.prediction_radius)

    def __repr__(self) -> str:
        found = ""
        if self.attacked is not None:
            found = f", attacked at {np.median(self.attacked):.4g}"
        return (
            f"<TopKCertificate: top {self.k} of {len(self.radius)} {self.explanation} maps within "
            f"the top {self.k2}, on {self.region}; median radius "
            f"{np.median(self.radius):.4g}{found}{self._wider}; "
            f"{self.form}, {self._how}>"
        )
