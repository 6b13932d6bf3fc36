"""Certificates from samples: the samples drawn again, and others, of another seed, beside them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from xcertify.attributions import SmoothedAttribution, UniformlySmoothedAttribution
from xcertify.certificates import CosineCertificate, SmoothedCertificate
from xcertify.statistics import binomial_tail, vector_mean_error
from xcertify.verdicts.findings import Findings

SAMPLES = "its samples drawn again, and as many others"

# Of float32 on another machine or in another batch: in so many of the samples, 2 or more, a map may
# be another one, or an entry of it on the other side of the border of the top set, for a change in
# the last digits.
_ROUNDED = 0.01
# Level, of all pixels of an input together, at which other samples contradict what is stated.
_LEVEL = 1e-6
# Of what is made of maps of length 1, and of what an attack finds, which climbs by such maps.
_MEANS_ROUNDED, _ATTACKED_ROUNDED = 1e-3, 0.05
_STATED = (
    *("sigma", "tau", "top", "correction", "noise", "noise_radius", "threshold"),
    *("alpha", "nb_samples", "nb_choosing", "seed"),
)  # where a certificate has them


def check_smoothed(
    certificate: SmoothedCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """The decisions follow from the counts (`check`); the counts, from samples drawn again."""
    explainer = _explainer(SmoothedAttribution, certificate, model, findings)
    if explainer is None:
        return
    findings.means[:] = SAMPLES
    explainer.attack = attack and certificate.attacked is not None
    again = _again(explainer, certificate, findings)
    if again is None:
        return
    if again.counts.shape != certificate.counts.shape:
        findings.doubt(True, "its maps are not of the shape that the explainer gives")
        return
    _compare_counts(certificate, again, findings)
    findings.proved[:] = again.certified
    explainer.attack, explainer.seed = False, explainer.seed + 1
    others = _again(explainer, certificate, findings)
    if others is not None:
        _test_shares(certificate, others, findings)
    _check_attack(certificate, again if attack else None, findings)


def check_cosines(
    certificate: CosineCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """What is certified follows from the projections (`check`); these, from samples again."""
    explainer = _explainer(UniformlySmoothedAttribution, certificate, model, findings)
    if explainer is None:
        return
    findings.means[:] = SAMPLES
    explainer.attack = attack and certificate.attacked is not None
    again = _again(explainer, certificate, findings)
    if again is None:
        return
    if again.explanation.shape != certificate.explanation.shape:
        findings.doubt(True, "its maps are not of the shape that the explainer gives")
        return
    most = max(2.0, _ROUNDED * certificate.nb_samples)
    others = np.abs(certificate.projections - again.projections) > _MEANS_ROUNDED
    findings.doubt(others.sum(axis=1) > most, "its projections are not what is found again")
    room = _MEANS_ROUNDED + 2 * most / certificate.nb_samples
    findings.compare("its explanation", certificate.explanation, again.explanation, room)
    findings.proved[:] = again.certified
    explainer.attack, explainer.seed = False, explainer.seed + 1
    independent = _again(explainer, certificate, findings)
    if independent is not None:
        # |h| is at most the length of the mean of n maps and what it is off by
        means = independent.explanation.reshape(findings.nb, -1).astype(np.float64)
        longest = np.linalg.norm(means, axis=1)
        longest += vector_mean_error(certificate.nb_samples, 1.0, _LEVEL)
        short = certificate.length > longest
        findings.refute(short, "other samples show a shorter map than it rests on")
    if attack and certificate.attacked is not None:
        findings.attained[:] = again.attacked
        reached = _ATTACKED_ROUNDED * (1 + certificate.attacked)
        findings.compare("attacked", certificate.attacked, again.attacked, reached)


def _explainer(kind: type, certificate: Any, model: keras.Model, findings: Findings) -> Any:
    """The explainer that its origin names, made again; None, with the reason, without one."""
    origin = certificate.origin
    if origin is None:
        findings.doubt(True, "no origin says by which explainer its samples were drawn")
        return None
    if origin.in_words:
        words = ", ".join(origin.in_words)
        findings.doubt(True, f"settings are told in words only: {words}")
        return None
    settings = findings.settings | {"nb_inputs": certificate.nb_inputs}
    clip = origin.settings.get("clip")
    sides = None if clip is None else np.broadcast_arrays(*(np.asarray(c, float) for c in clip))
    same_clip = (sides is None) == (certificate.clip is None) and (
        sides is None or np.array_equal(sides, certificate.clip)
    )
    findings.doubt(not same_clip, "its clip is not that of its settings")
    stated = origin.settings.get("nb_inputs", certificate.nb_inputs)
    is_same = (
        certificate.nb_inputs >= findings.nb
        if stated is None
        else (stated == certificate.nb_inputs)
    )
    findings.doubt(not is_same, "its nb_inputs is not that of its settings")
    for name in _STATED:
        own = getattr(certificate, name, None)
        findings.doubt(
            own is not None and settings.get(name) != own, f"its {name} is not that of its settings"
        )
    try:
        made: Any = kind
        return made.of_model(model, **settings)
    except (TypeError, ValueError) as error:
        findings.doubt(True, f"its settings make no {kind.__name__}: {error}")
        return None


def _again(explainer: Any, certificate: Any, findings: Findings) -> Any:
    """What the explainer certifies for the same inputs and targets; None, with the reason."""
    region = explainer._region(certificate.region.center)
    other = np.broadcast_to(region.epsilon != certificate.region.epsilon, region.center.shape)
    findings.doubt(_any(other), "its regions are not those of its settings")
    try:
        return explainer._certify(region, certificate.targets)
    except ValueError as error:
        findings.doubt(True, f"its samples cannot be drawn again: {error}")
        return None


def _compare_counts(
    certificate: SmoothedCertificate, again: SmoothedCertificate, findings: Findings
) -> None:
    """The same votes, up to roundings; and the same answers where they are certified."""
    nb_samples = certificate.nb_samples
    rounded = max(2.0, _ROUNDED * nb_samples) / nb_samples
    findings.compare("its counts", certificate.votes, again.votes, rounded + 1e-9)
    decided = ~(certificate.abstained & again.abstained)
    other = decided & (certificate.chosen != again.chosen)
    findings.doubt(_any(other), "the answers that were chosen are not found again")


def _test_shares(
    certificate: SmoothedCertificate, others: SmoothedCertificate, findings: Findings
) -> None:
    """Independent samples must not speak against what is certified."""
    nb_samples, certified = certificate.nb_samples, ~certificate.abstained
    votes = np.where(others.chosen, others.counts, nb_samples - others.counts)
    agreeing = np.where(certificate.certified_in, votes, nb_samples - votes)
    level = _LEVEL / np.maximum(certified.reshape(findings.nb, -1).sum(axis=1), 1)
    level = level.reshape(-1, *[1] * (certified.ndim - 1))
    for share, tell, reason in (
        (certificate.tau, findings.doubt, "other samples show that a certified answer is rarer"),
        (0.5, findings.refute, "other samples show that a certified answer is not the majority's"),
    ):
        # P(Bin(n, share) <= agreeing), as the tail of those that do not agree
        fewest = binomial_tail(nb_samples - agreeing, nb_samples, 1 - share)
        tell(_any(certified & (fewest < level)), reason)


def _check_attack(
    certificate: SmoothedCertificate, again: SmoothedCertificate | None, findings: Findings
) -> None:
    """What an attack is said to have flipped, and what it flips again."""
    if certificate.attacked is None or certificate.flipped is None:
        findings.doubt(certificate.attacked is not None, "it does not say what its attack flipped")
        return
    certified = ~certificate.abstained
    findings.refute(_any(certificate.flipped & certified), "its attack flips certified pixels")
    share = certificate.flipped.reshape(findings.nb, -1).mean(axis=1)
    findings.compare("the share that its attack flipped", certificate.attacked, share, 1e-9)
    if again is None or again.flipped is None:
        return
    findings.attained[:] = again.flipped.reshape(findings.nb, -1).mean(axis=1)
    findings.refute(_any(again.flipped & certified), "an attack flips certified pixels")
    lost = (share > 0) & (findings.attained == 0)
    findings.doubt(lost, "attacked is not attained again")


def _any(flags: np.ndarray) -> np.ndarray:
    """(N,): whether any of the flags (N, ...) is set."""
    return np.any(flags.reshape(len(flags), -1), axis=1)
