"""Certificates of sufficient reasons proved once more, with the model that they are for."""

from __future__ import annotations

import keras
import numpy as np

from xcertify.answers import Answers
from xcertify.bounds import Verifier, contains
from xcertify.certificates import ReasonCertificate
from xcertify.inputs import in_batches
from xcertify.logits import logits_of
from xcertify.reasons.check import logits_verifier
from xcertify.reasons.features import Features
from xcertify.reasons.smallest import least_size

_NB_AT_ONCE = 512  # witnesses
_SECONDS = 60.0  # for each input, on average


def recheck_reasons(
    certificate: ReasonCertificate, model: keras.Model, known: np.ndarray | None = None
) -> np.ndarray:
    """Where all that a certificate says is found again, (N,) bool; see `xcertify.verdicts`.

    Parameters
    ----------
    certificate
        Of the model's weights as they are.
    model
        The model that it is for.
    known
        (N,) bool: where the irrelevant features are proved to be so by other means. None: nowhere.

    Returns
    -------
    proved
        True where the model gives the answer at the input; the irrelevant features are proved anew
        to be irrelevant, by bounds in float64 (and branch and bound, a minute an input at most);
        every witness lies in its region, differs from the input only in irrelevant features and in
        its own group, and has another answer by a call of the model; and the witnesses show that
        sufficient sets are not smaller than `smallest`.

    Raises
    ------
    ValueError
        If parts of the certificate contradict each other.
    """
    certificate.check()
    verifier, start = logits_verifier(model, "float64")
    region, answers = certificate.region, certificate.answers
    outputs = verifier.evaluate(region.center).reshape(len(region), -1)
    if outputs.shape[1] != answers.nb_outputs:
        raise ValueError(
            f"the certificate is for {answers.nb_outputs} outputs. Received: a model of "
            f"{outputs.shape[1]}"
        )
    found = answers.stay(outputs)
    if answers.values is not None:
        own = np.take_along_axis(outputs, answers.classes[:, None], axis=1)[:, 0]
        found &= np.isclose(own, answers.values, rtol=1e-9, atol=1e-9)
    found &= _witnessed(certificate, model, verifier, start)
    some = np.flatnonzero(found if known is None else found & ~known)
    if len(some):
        part = region[some].fix(certificate.entries(certificate.kept)[some])
        decision = verifier.decide(
            part, *answers[some].property(), timeout=_SECONDS * len(some), verbose=False
        )
        found[some] = decision.holds
    return found


def _witnessed(
    certificate: ReasonCertificate, model: keras.Model, verifier: Verifier, start: str | None
) -> np.ndarray:
    """Where all witnesses are what they should be, and show `smallest`, (N,) bool."""
    samples = np.array([n for n, own in enumerate(certificate.witnesses) for _ in own], int)
    labels = np.array([label for own in certificate.witnesses for label in own], int)
    good = np.zeros(len(samples), bool)
    features = Features.of(certificate.region.shape, len(certificate.region), certificate.features)
    changed = np.zeros((len(samples), features.nb_groups), bool)
    points = [point for own in certificate.witnesses for point in own.values()]
    for some in in_batches(np.arange(len(samples)), _NB_AT_ONCE):
        found = np.stack([points[number] for number in some]).astype(np.float32)
        inside, changed[some] = _looked_at(
            certificate, features, samples[some], labels[some], found
        )
        some, found = some[inside], found[inside]
        if len(some):
            own = certificate.answers[samples[some]]
            good[some] = _answers_differ(own, model, verifier, start, found)
    proved = np.ones(len(certificate.region), bool)
    np.logical_and.at(proved, samples, good)
    for sample in np.flatnonzero(proved):
        proved[sample] = least_size(changed[samples == sample]) >= certificate.smallest[sample]
    return proved


def _looked_at(
    certificate: ReasonCertificate,
    features: Features,
    samples: np.ndarray,
    labels: np.ndarray,
    points: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether M witnesses lie where they should, (M,), and the groups that they change, (M, G)."""
    region, own = certificate.region[samples], features[samples]
    moved = points != region.center
    changed = own.sums(moved) > 0
    free = own.sums(certificate.irrelevant[samples]) > 0
    free |= own.keys == labels[:, None]
    inside = contains(region, points) & np.isfinite(points).reshape(len(points), -1).all(axis=1)
    return inside & changed.any(axis=1) & ~(changed & ~free).any(axis=1), changed


def _answers_differ(
    answers: Answers,
    model: keras.Model,
    verifier: Verifier,
    start: str | None,
    points: np.ndarray,
) -> np.ndarray:
    """Which of M points have another answer, (M,) bool.

    By a call of the model; where its roundings leave the answer, by its network in float64.
    """
    outputs = np.asarray(logits_of(model, start)(points))
    other = ~answers.stay(outputs) & np.isfinite(outputs).all(axis=1)
    left = np.flatnonzero(~other)
    if len(left):
        precise = verifier.evaluate(points[left]).reshape(len(left), -1)
        other[left] = ~answers[left].stay(precise)
    return other
