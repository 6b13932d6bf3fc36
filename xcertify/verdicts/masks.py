"""Masks of RelEx: the class of what they keep, bounded again."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xcertify.attacks.on_masks import beside_masks
from xcertify.attributions import RelEx
from xcertify.certificates import MaskCertificate
from xcertify.recheck import domains, upper_bounds
from xcertify.recheck_layers import Network
from xcertify.regions import Ball, valid_range
from xcertify.targets import margin_rows
from xcertify.verdicts.findings import ABOVE, CHECKER, Findings


def check_masks(
    certificate: MaskCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """See `Check`: the class of what masks keep."""
    findings.means[:] = CHECKER
    method, settings = certificate.method, findings.settings
    if method not in ("crown", "crown-ibp", "ibp"):
        findings.doubt(True, f"the checker has no such bounds (method={method!r})")
        return
    network, classes = Network(model), certificate.targets
    in_class = classes < max(network.nb_outputs, 2)
    findings.doubt(~in_class, "its targets are no classes of the model")
    outside = ~((certificate.masks >= 0) & (certificate.masks <= 1))
    findings.doubt(outside.reshape(findings.nb, -1).any(axis=1), "its masks are not within [0, 1]")
    rows = np.asarray(margin_rows(np.where(in_class, classes, 0), network.nb_outputs))
    steps = _mask_steps(certificate, settings)
    findings.doubt(np.isnan(steps), "its radius is none that was tested")
    for sample in map(int, np.flatnonzero(findings.open)):
        where, radius = np.arange(findings.nb) == sample, certificate.certified[sample]
        if radius > 0:
            upper, unit = _kept_margin(network, certificate, sample, radius, rows[sample])
            findings.doubt(where & (upper >= 0), "the class is not proved again within its radius")
        if np.isfinite(steps[sample]):
            upper, unit = _kept_margin(network, certificate, sample, steps[sample], rows[sample])
            low = upper < -ABOVE * unit
            findings.doubt(where & low, "its radius is not what the method gives: more is proved")
        findings.proved[sample] = radius
    attacked = certificate.attacked
    if attacked is None:
        return
    nearer = attacked < certificate.certified
    findings.refute(nearer, "its attack succeeds within the radius that it certifies")
    if attack and certificate.origin is not None and not outside.any():
        again = _mask_attack(certificate, model, settings)
        findings.attained[:] = again
        finite = np.where(np.isfinite(again), again, 0.0)
        findings.compare("attacked", attacked, again, 1e-3 * finite)
        inside = again < certificate.certified
        findings.refute(inside, "an attack succeeds within the radius that it certifies")


def _mask_steps(certificate: MaskCertificate, settings: dict[str, Any]) -> np.ndarray:
    """The next radius that was tested and not proved, (N,): inf for none, NaN for others' radii."""
    if certificate.attacked is None or "nb_halvings" not in settings:
        return np.full(len(certificate.certified), np.inf)
    attacked = certificate.attacked
    ends = np.where(np.isfinite(attacked), attacked, settings["largest_radius"])
    step = ends / 2.0 ** settings["nb_halvings"]
    number = np.round(
        np.divide(certificate.certified, step, where=step > 0, out=np.zeros(len(step)))
    )
    of_grid = np.abs(number * step - certificate.certified) <= 1e-9 * ends
    following = np.where(certificate.certified >= ends, np.inf, (number + 1) * step)
    return np.where(of_grid, following, np.nan)


def _kept_margin(
    network: Network, certificate: MaskCertificate, sample: int, radius: float, rows: np.ndarray
) -> tuple[float, float]:
    """A bound of the margins of what a mask keeps within a radius, and a unit of its roundings."""
    region, one = certificate.region, slice(sample, sample + 1)
    clip = None if region.clip is None else valid_range(region.clip, region.shape, np.float32)
    ball = Ball(region.center[one].astype(np.float64), radius, region.norm, clip)
    mask, neutral = (
        np.asarray(x, np.float64) for x in (certificate.masks[sample], certificate.neutral_value)
    )
    size = np.abs(neutral) * (1 + mask)
    behind = network.behind(mask, neutral - mask * neutral, size)
    (domain,) = domains(ball)
    upper, amount = upper_bounds(behind, domain, rows, method=certificate.method)
    return float(upper.max()), 2.0**-24 * float(amount.max())


def _mask_attack(
    certificate: MaskCertificate, model: keras.Model, settings: dict[str, Any]
) -> np.ndarray:
    """The distances that the attack of RelEx finds again, (N,)."""
    explainer = RelEx(model, **settings)
    attack = explainer._attack(certificate.neutral_value)
    region = explainer.perturbation.around(certificate.region.center)
    return attack(beside_masks(region, certificate.masks), certificate.targets).distances
