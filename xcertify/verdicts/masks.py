"""Masks of RelEx: the class of what they keep, bounded again."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xcertify.attacks.on_masks import beside_masks
from xcertify.attributions import RelEx
from xcertify.attributions.mask_radii import proved_radii
from xcertify.bounds import Verifier
from xcertify.certificates import MaskCertificate
from xcertify.masks import kept_region
from xcertify.recheck import domains, upper_bounds
from xcertify.recheck_layers import Network, UnknownLayerError
from xcertify.regions import Ball, Region, valid_range
from xcertify.targets import margin_rows, stays_in_class
from xcertify.verdicts.findings import ABOVE, CHECKER, DECIDED, ENGINE, METHODS, SECONDS, Findings


def check_masks(
    certificate: MaskCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """See `Check`: the class of what masks keep."""
    settings, means = findings.settings, _means(certificate, model, findings)
    origin = certificate.origin
    has_its_own = origin is None or origin.in_words or findings.explainer(RelEx, model) is not None
    if means is None or not has_its_own:
        return
    findings.means[:] = means.words
    neutral = settings.get("neutral_value")
    other = isinstance(neutral, (int, float)) and (certificate.neutral_value != neutral).any()
    findings.doubt(other, "its neutral_value is not that of its settings")
    classes = findings.classes(means.nb_outputs)
    outside = ~((certificate.masks >= 0) & (certificate.masks <= 1))
    findings.doubt(outside.reshape(findings.nb, -1).any(axis=1), "its masks are not within [0, 1]")
    rows = np.asarray(margin_rows(classes, means.nb_outputs))
    steps = _mask_steps(certificate, settings)
    others = np.isnan(steps)
    others[others] = ~_are_decided(certificate, model, others, findings)
    findings.doubt(others, "its radius is none that was tested")
    for sample in map(int, np.flatnonzero(findings.open)):
        where, radius = np.arange(findings.nb) == sample, certificate.certified[sample]
        if radius > 0:
            ball = _ball(certificate, sample, radius)
            upper, unit = means.margin(ball, sample, rows[sample])
            stays = upper < 0
            if not stays:
                stays = _stays(certificate, model, ball, sample, classes[sample], means.nb_outputs)
                findings.means[sample] = DECIDED
            findings.doubt(where & (not stays), "the class is not proved again within its radius")
        if np.isfinite(steps[sample]):
            ball = _ball(certificate, sample, steps[sample])
            upper, unit = means.margin(ball, sample, rows[sample])
            low = upper < -ABOVE * unit
            findings.doubt(where & low, "its radius is not what the method gives: more is proved")
        findings.proved[sample] = radius
    attacked = certificate.attacked
    if attacked is None:
        return
    if attack and origin is None:
        is_said = np.isfinite(attacked) & (attacked > 0)
        findings.doubt(is_said, "no origin says by which attack it attained what it says")
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


def _are_decided(
    certificate: MaskCertificate, model: keras.Model, some: np.ndarray, findings: Findings
) -> np.ndarray:
    """Whether radii are what decisions give once more, for some inputs."""
    explainer = findings.explainer(RelEx, model) if some.any() else None
    if explainer is None:
        return np.zeros(int(some.sum()), bool)
    part = certificate[some]
    attacked = np.asarray(part.attacked)
    ends = np.asarray(np.where(np.isfinite(attacked), attacked, explainer.largest_radius))
    again = proved_radii(
        explainer._verifier,
        part.region,
        part.masks,
        part.neutral_value,
        part.targets,
        ends,
        explainer.nb_halvings,
        {"timeout": SECONDS * len(part), "seed": explainer.seed, "attacked": attacked},
    )
    return np.abs(again - part.certified) <= 1e-9 * again


def _ball(certificate: MaskCertificate, sample: int, radius: float) -> Ball:
    """What one input may become within a radius."""
    region = certificate.region
    clip = None if region.clip is None else valid_range(region.clip, region.shape, np.float32)
    center = region.center[sample : sample + 1].astype(np.float64)
    return Ball(center, radius, region.norm, clip)


class _ByChecker:
    """Bounds of the margins of what a mask keeps, and a unit of their roundings."""

    words = CHECKER

    def __init__(self, certificate: MaskCertificate, model: keras.Model) -> None:
        self._network, self._certificate = Network(model), certificate
        self.nb_outputs = self._network.nb_outputs

    def margin(self, ball: Ball, sample: int, rows: np.ndarray) -> tuple[float, float]:
        """Of rows of the logits of one input."""
        mask, neutral = (
            np.asarray(x, np.float64)
            for x in (self._certificate.masks[sample], self._certificate.neutral_value)
        )
        size = np.abs(neutral) * (1 + mask)
        behind = self._network.behind(mask, neutral - mask * neutral, size)
        (domain,) = domains(ball)
        upper, amount = upper_bounds(behind, domain, rows, method=self._certificate.method)
        return float(upper.max()), 2.0**-24 * float(amount.max())


class _ByEngine:
    """The same by the engine in float64, with all of its methods and layers."""

    words = ENGINE

    def __init__(self, certificate: MaskCertificate, explainer: RelEx) -> None:
        explainer._dtype = "float64"
        self._verifier, self._certificate = explainer._verifier, certificate
        self.nb_outputs = self._verifier.nb_outputs

    def margin(self, ball: Ball, sample: int, rows: np.ndarray) -> tuple[float, float]:
        """Of rows of the logits of one input."""
        kept = _kept(self._certificate, ball, sample)
        _, upper = self._verifier.bound_rows(kept, rows[None])
        size = np.abs(self._verifier.evaluate(kept.center)).max()
        return float(upper.max()), 2.0**-20 * float(size)


def _means(
    certificate: MaskCertificate, model: keras.Model, findings: Findings
) -> _ByChecker | _ByEngine | None:
    """By what bounds are found again: by the checker, where it knows the model and the method."""
    if certificate.method in METHODS:
        try:
            return _ByChecker(certificate, model)
        except UnknownLayerError:
            pass
    explainer = findings.explainer(RelEx, model)
    return None if explainer is None else _ByEngine(certificate, explainer)


def _kept(certificate: MaskCertificate, ball: Ball, sample: int) -> Region:
    """What the mask of one input keeps."""
    masks = certificate.masks[sample : sample + 1]
    return kept_region(ball, masks, certificate.neutral_value)


def _stays(
    certificate: MaskCertificate,
    model: keras.Model,
    ball: Ball,
    sample: int,
    target: int,
    nb_outputs: int,
) -> bool:
    """Whether the class of what a mask keeps is decided to stay."""
    verifier = Verifier(model, dtype="float64", strip_head=True)
    asked = stays_in_class(np.array([target]), nb_outputs)
    kept = _kept(certificate, ball, sample)
    return bool(verifier.decide(kept, *asked, timeout=SECONDS, verbose=False).holds.all())


def _mask_attack(
    certificate: MaskCertificate, model: keras.Model, settings: dict[str, Any]
) -> np.ndarray:
    """The distances that the attack of RelEx finds again, (N,)."""
    explainer = RelEx(model, **settings)
    attack = explainer._attack(certificate.neutral_value)
    region = explainer.perturbation.around(certificate.region.center)
    return attack(beside_masks(region, certificate.masks), certificate.targets).distances
