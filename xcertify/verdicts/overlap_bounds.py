"""Bounds of the overlaps of EVA by other means: the checker, or the engine in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xcertify.attributions import EVA
from xcertify.attributions.overlaps import Overlap, with_cells_held
from xcertify.certificates import OverlapCertificate
from xcertify.grid import cells_of_entries
from xcertify.recheck import Domain, domains, upper_bounds
from xcertify.recheck_layers import Network
from xcertify.regions import Ball
from xcertify.verdicts.findings import ABOVE, BELOW, CHECKER, ENGINE, EVALUATED

_LEANS = (1e-5, -1e-5)  # of intervals that float32 may see on the other side of the middle
_TERMS = 16  # how many times the terms of a bound are as large as the bound, about


def overlap_of(certificate: OverlapCertificate, form: str = "margin") -> Overlap:
    """What a certificate bounds, of classes or of a regression."""
    return Overlap(form, certificate.targets, within=certificate.answers)


class ByChecker:
    """Bounds by the checker, in the form in which EVA has them."""

    words = CHECKER

    def __init__(
        self, certificate: OverlapCertificate, model: keras.Model, settings: dict[str, Any]
    ) -> None:
        self.network, self.certificate = Network(model), certificate
        self.nb_outputs = self.network.nb_outputs
        self.is_exact = settings.get("mode") == "exact" or certificate.method == "ibp"
        self.form = settings.get("overlap", "margin")
        self.cells = cells_of_entries(certificate.cells, certificate.region.shape)

    def margins(
        self, point: np.ndarray, rows: np.ndarray, offsets: np.ndarray
    ) -> tuple[float, float, float]:
        """The largest of rows at a point: at least, at most; and what float32 may round."""
        point = np.asarray(point, np.float64)
        domain = Domain(point, point, point)
        upper, amount = upper_bounds(self.network, domain, rows, method="crown-ibp")
        lower, _ = upper_bounds(self.network, domain, -rows, method="crown-ibp")
        rounded = EVALUATED * 2.0**-24 * float(amount.max())
        return float((offsets - lower).max()), float((offsets + upper).max()), rounded

    def bounds(self, sample: int, stated: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Bounds (1 + cells,) of an input, and how far stated ones may be above and below them."""
        first = found = self._bounds(sample, 0.0)
        for lean in _LEANS:
            if ((found[0] <= stated + found[2]) & (stated <= found[0] + found[1])).all():
                return found
            found = self._bounds(sample, lean)
        is_it = ((found[0] <= stated + found[2]) & (stated <= found[0] + found[1])).all()
        return found if is_it else first

    def _bounds(self, sample: int, lean: float) -> tuple[np.ndarray, float, float]:
        region = self.certificate.region[sample : sample + 1]
        network, overlap = self.network, overlap_of(self.certificate)[sample : sample + 1]
        rows = np.asarray(overlap.rows(network.nb_outputs))[0].astype(np.float64)
        own, offsets = None, overlap.offsets
        if self.form == "separate" and network.nb_outputs > 1 and offsets is None:
            rows, own = np.maximum(rows, 0.0), np.minimum(rows[:1], 0.0)  # f_c', and -f_c
        size = len(rows)
        rows = rows if own is None else np.concatenate([rows, own])
        method = self.certificate.method
        if self.is_exact:
            parts = [
                own for _, one in with_cells_held(region, self.cells, 1) for own in domains(one)
            ]
            found = [upper_bounds(network, own, rows, None, method, lean) for own in parts]
            upper = np.stack([bounds for bounds, _ in found], axis=1)
            amount = max(amount.max() for _, amount in found)
        else:
            (domain,) = domains(region)
            upper, amounts = upper_bounds(network, domain, rows, self.cells, method, lean)
            amount = amounts.max()
        if offsets is not None:
            upper = np.nextafter(upper + offsets[0][:, None], np.inf)
        largest = upper[:size].max(axis=0) + (0.0 if own is None else upper[size])
        largest = np.nextafter(largest, np.inf) if own is not None else largest
        unit = 2.0**-24 * float(amount) * (1 if own is None else 2)
        above = ABOVE * unit + 1e-28  # the engine adds 1e-30 where there is nothing to round
        return np.minimum(largest, largest[0]), above, BELOW * unit


class ByEngine:
    """The same by the engine in float64, with all of its methods and layers."""

    words = ENGINE

    def __init__(self, certificate: OverlapCertificate, explainer: EVA) -> None:
        explainer._dtype = "float64"
        self.certificate, self.explainer = certificate, explainer
        self._exact = explainer._verifier_of("ibp")
        self.nb_outputs = self._exact.nb_outputs
        self._known: np.ndarray | None = None

    def margins(
        self, point: np.ndarray, rows: np.ndarray, offsets: np.ndarray
    ) -> tuple[float, float, float]:
        """The largest of rows at a point: at least, at most; and what float32 may round."""
        at_point = Ball(np.asarray(point, np.float64)[None], 0.0)
        lower, upper = self._exact.bound_rows(at_point, rows[None])
        size = float(np.abs(self._exact.evaluate(at_point.center)).max())
        lower, upper = lower + offsets, upper + offsets
        return float(lower.max()), float(upper.max()), EVALUATED * _TERMS * 2.0**-24 * size

    def bounds(self, sample: int, stated: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Bounds (1 + cells,) of an input, and how far stated ones may be above and below them.

        What is bounded less tightly, since slopes were found by other steps, is bounded alone.
        """
        if self._known is None:
            self._known = self._bounds(slice(None), alone=False)
        upper = self._known[sample]
        at_input = self._exact.evaluate(self.certificate.region.center[sample : sample + 1])
        size = max(np.abs(stated).max(), np.abs(at_input).max())
        unit = 2.0**-24 * _TERMS * float(size)
        above, below = ABOVE * unit, BELOW * unit
        if (upper > stated + below).any():
            own = self._bounds(slice(sample, sample + 1), alone=True)[0]
            upper = np.where(upper > stated + below, np.minimum(upper, own), upper)
        return upper, above, below

    def _bounds(self, some: slice, alone: bool) -> np.ndarray:
        """As the certificate has them, or with each part bounded by itself, (M, 1 + cells)."""
        region, explainer = self.certificate.region[some], self.explainer
        overlap = overlap_of(self.certificate, explainer.overlap)[some]
        of_parts = super(EVA, explainer)._overlaps if alone else explainer._overlaps
        full, fixed = of_parts(region, overlap)
        full = np.minimum(full, explainer._bound(region, overlap))  # lines know no intervals
        fixed = np.minimum(fixed, full[:, None])
        return np.concatenate([full[:, None], fixed], axis=1)
