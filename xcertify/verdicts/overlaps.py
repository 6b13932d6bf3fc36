"""Overlaps of EVA: bounded again, decided again, attacked again."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xcertify.attacks import PGD
from xcertify.attributions import EVA
from xcertify.attributions.overlaps import with_cells_held
from xcertify.bounds import Verifier, contains
from xcertify.certificates import OverlapCertificate
from xcertify.grid import cells_of_entries, grid_cells
from xcertify.logits import logits_of
from xcertify.radii import ContradictionError
from xcertify.recheck import Domain, domains, upper_bounds
from xcertify.recheck_layers import Network
from xcertify.targets import margin_rows, stays_in_class
from xcertify.verdicts.findings import ABOVE, BELOW, CHECKER, EVALUATED, Findings

_AGAIN = 4  # and by how much they differ, in other numbers of threads or on other machines
_LEANS = (1e-5, -1e-5)  # of intervals that float32 may see on the other side of the middle
_MOST_PARTS = 16  # of one input that are attacked
_SECONDS = 60.0  # for each input, on average, of decisions


def _margins(network: Network, point: np.ndarray, rows: np.ndarray) -> tuple[float, float, float]:
    """The largest of rows at a point: not less than, not more than; and what float32 may round."""
    point = np.asarray(point, np.float64)
    domain = Domain(point, point, point)
    upper, amount = upper_bounds(network, domain, rows, method="crown-ibp")
    lower, _ = upper_bounds(network, domain, -rows, method="crown-ibp")
    return float(np.max(-lower)), float(upper.max()), EVALUATED * 2.0**-24 * float(amount.max())


def check_overlaps(
    certificate: OverlapCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """See `Check`: bounds of the checker, or of the engine in float64; decisions, and attacks."""
    settings = findings.settings
    explainer = "EVA" if certificate.origin is None else certificate.origin.explainer
    if explainer != "EVA" or certificate.method not in ("crown", "crown-ibp", "ibp"):
        how = f"{explainer}, method={certificate.method!r}"
        findings.doubt(True, f"the checker has no such bounds ({how})")
        return
    findings.means[:] = CHECKER
    region, classes, network = certificate.region, certificate.targets, Network(model)
    cells = grid_cells(region.shape, _as_grid(settings.get("grid_size")))
    known = certificate.origin is None or np.array_equal(cells, certificate.cells)
    findings.doubt(not known, "its cells are not those of grid_size")
    in_class = classes < max(network.nb_outputs, 2)
    findings.doubt(~in_class, "its targets are no classes of the model")
    rows = np.asarray(margin_rows(np.where(in_class, classes, 0), network.nb_outputs))
    stated = np.concatenate([certificate.overlap[:, None], certificate.cell_overlaps], axis=1)
    findings.doubt(~np.isfinite(stated).all(axis=1), "it has bounds that are not finite")
    found = [_margins(network, *pair) for pair in zip(region.center, rows)]
    nominal, rounded = np.array([(low + up) / 2 for low, up, _ in found]), np.array(found)[:, 2]
    findings.compare("nominal", certificate.nominal, nominal, rounded)
    again = _Overlaps(network, certificate, settings)
    for sample in map(int, np.flatnonzero(in_class & np.isfinite(stated).all(axis=1))):
        upper, above, below = again.bounds(sample, stated[sample])
        findings.proved[sample] = upper[0]
        where = np.arange(findings.nb) == sample
        high = upper > stated[sample] + below
        findings.doubt(where & high[0], "the overlap is not bounded so tightly again")
        findings.doubt(where & high[1:].any(), "cell_overlaps are not bounded so tightly again")
        low = stated[sample] > upper + above
        findings.doubt(where & low.any(), "its bounds are not what the method gives")
        is_close = (stated[sample, 0] < 0) & (upper[0] >= 0)
        findings.doubt(where & is_close, "the prediction is not proved again to stay")
        if attack and high.any():
            parts = np.flatnonzero(high)[:_MOST_PARTS]
            shown = _refutes(network, certificate, model, sample, parts, rows[sample])
            findings.refute(where & shown, "a point of the region has a larger overlap")
    if certificate.decision is not None:
        _decisions(certificate, model, network, rows, findings)
    _attained_overlaps(certificate, model, attack, findings, nominal, rounded)


def _as_grid(grid_size: Any) -> Any:
    return tuple(grid_size) if isinstance(grid_size, list) else grid_size


class _Overlaps:
    """Bounds of overlaps by the checker, in the form in which EVA has them."""

    def __init__(
        self, network: Network, certificate: OverlapCertificate, settings: dict[str, Any]
    ) -> None:
        self.network, self.certificate = network, certificate
        self.is_exact = settings.get("mode", "one-pass") == "exact"
        self.form = settings.get("overlap", "margin")
        self.cells = cells_of_entries(certificate.cells, certificate.region.shape)

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
        network, classes = self.network, self.certificate.targets[sample : sample + 1]
        rows = np.asarray(margin_rows(classes, network.nb_outputs))[0].astype(np.float64)
        own = None
        if self.form == "separate" and network.nb_outputs > 1:
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
        largest = upper[:size].max(axis=0) + (0.0 if own is None else upper[size])
        largest = np.nextafter(largest, np.inf) if own is not None else largest
        unit = 2.0**-24 * float(amount) * (1 if own is None else 2)
        return np.minimum(largest, largest[0]), ABOVE * unit, BELOW * unit


def _refutes(
    network: Network,
    certificate: OverlapCertificate,
    model: keras.Model,
    sample: int,
    parts: np.ndarray,
    rows: np.ndarray,
) -> bool:
    """Whether a point is found whose overlap is larger than stated, of one of some parts."""
    cells = cells_of_entries(certificate.cells, certificate.region.shape)
    stated = np.append(certificate.overlap[sample], certificate.cell_overlaps[sample])
    held = np.stack([cells == part - 1 for part in parts])  # -1: none
    region = certificate.region[np.full(len(parts), sample)].fix(held)
    classes = np.full(len(parts), certificate.targets[sample])
    points = PGD(logits_of(model), restarts=2)(region, classes).points.astype(np.float64)
    center = region.center.astype(np.float64)
    points = center + (1 - 2.0**-20) * (
        points - center
    )  # not on the side, which is rounded outward
    inside = contains(region, points)
    found = [_margins(network, point, rows)[0] for point in points]
    return bool((inside & (np.array(found) > stated[parts])).any())


def _decisions(
    certificate: OverlapCertificate,
    model: keras.Model,
    network: Network,
    rows: np.ndarray,
    findings: Findings,
) -> None:
    """What was decided beyond bounds: proved again by branch and bound, or shown again."""
    decision, region = certificate.decision, certificate.region
    assert decision is not None
    by_bounds = certificate.overlap < 0
    findings.doubt(by_bounds & ~decision.holds, "bounds prove what is not said to hold")
    for sample in map(int, np.flatnonzero(decision.violated)):
        where, one = np.arange(findings.nb) == sample, slice(sample, sample + 1)
        point = decision.counterexamples[one]
        is_one = bool(np.isfinite(point).all() and contains(region[one], point).all())
        is_one = is_one and _margins(network, point[0], rows[sample])[1] >= 0
        findings.refute(where & (not is_one), "its counterexample is none")
    left = np.flatnonzero(decision.holds & ~by_bounds & findings.open)
    if len(left):
        verifier = Verifier(model, dtype="float64", strip_head=True)
        asked = stays_in_class(certificate.targets[left], network.nb_outputs)
        timeout = _SECONDS * len(left)
        again = verifier.decide(region[left], *asked, timeout=timeout, verbose=False)
        where = np.zeros((2, findings.nb), bool)
        where[0, left], where[1, left] = again.violated, again.unknown
        findings.refute(where[0], "a point of the region has another class")
        findings.doubt(where[1], "branch and bound does not prove again that the class stays")
        findings.means[left] = f"{CHECKER}; branch and bound of the engine in float64"


def _attained_overlaps(
    certificate: OverlapCertificate,
    model: keras.Model,
    attack: bool,
    findings: Findings,
    nominal: np.ndarray,
    rounded: np.ndarray,
) -> None:
    """What attacks attained: not less than the input itself, not more than is proved, and again."""
    for name, values in (("attained", certificate.attained), ("attacked", certificate.attacked)):
        if values is None:
            continue
        findings.doubt(~(values >= nominal - rounded), f"{name} is less than at the input itself")
        with np.errstate(invalid="ignore"):
            more = values > findings.proved + rounded
        findings.refute(more, f"{name} is more than is proved that any point attains")
    if not attack or findings.certificate.origin is None:
        return
    names = ("epsilon", "in_words")
    own = {n: v for n, v in findings.settings.items() if n not in names}
    own |= {
        "attack": certificate.attacked is not None,
        "epsilon": certificate.region.epsilon,
        "grid_size": _as_grid(own.get("grid_size")),
    }
    try:
        again = EVA(model, **own)._certify(findings.ball, certificate.targets)
    except ContradictionError:  # of the engine itself
        findings.doubt(True, "an attack of the engine contradicts its bounds")
        return
    findings.attained[:] = again.attained
    room = rounded + 1e-3 * np.abs(again.attained - nominal)
    findings.compare("attained", certificate.attained, again.attained, room)
    if certificate.attacked is not None and again.attacked is not None:
        findings.compare("attacked", certificate.attacked, again.attacked, room)
    # the method once more: nothing is proved by it, but who moved a bound by little is found
    sides = [
        np.concatenate([c.overlap[:, None], c.cell_overlaps], axis=1) for c in (certificate, again)
    ]
    differ = np.abs(sides[0] - sides[1]).max(axis=1) > _AGAIN / EVALUATED * rounded
    alike = np.abs(findings.proved - again.overlap) <= ABOVE / EVALUATED * rounded
    findings.doubt(differ & alike, "its bounds are not what the method gives once more")
