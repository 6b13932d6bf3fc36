"""Radii of criteria: what holds within them, proved again by the engine in float64."""

from __future__ import annotations

import keras
import numpy as np

from xcertify.attributions import CertifiedGradient
from xcertify.attributions.gradient_means import bound_explanations
from xcertify.attributions.gradient_radii import Claim, attack_of, attack_search, proved_radii
from xcertify.certificates import RadiusCertificate
from xcertify.certificates.origins import as_json
from xcertify.verdicts.findings import ENGINE, Findings

_NB_ATTACKS = 4


def check_radii(
    certificate: RadiusCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """See `Check`: the criterion within the radius, and where an attack breaks it."""
    explainer = findings.explainer(CertifiedGradient, model)
    claim = None if explainer is None else _claim(certificate, explainer, findings)
    if explainer is None or claim is None:
        return
    findings.means[:] = ENGINE
    certified, attacked = certificate.certified, certificate.attacked
    region, gamma = claim.at(certified)
    exact, size = explainer._verifier("float64"), explainer._nb_at_once
    settings = {"method": explainer.method, "batch_size": size}
    sides = bound_explanations(
        exact,
        claim.mean,
        region,
        claim.weights,
        gamma=gamma,
        bias_radius=claim.bias_radius,
        **settings,
    )
    stays = claim.criterion.holds(*sides, claim.original) | (certified == 0)
    findings.doubt(~stays, "the criterion is not proved again within its radius")
    findings.proved[stays] = certified[stays]
    # nothing is proved by it, but who moved a radius by little is found
    nb_halvings = certificate.search["nb_halvings"]
    again = proved_radii(claim, explainer._verifier("float32"), nb_halvings=nb_halvings, **settings)
    findings.compare("the radius that the method gives", certified, again, 1e-9 * again)
    if attacked is None:
        return
    inside = (attacked <= certified) & (certified > 0)
    findings.refute(inside, "its attack succeeds within the radius that it certifies")
    search = attack_search(certified, claim.largest)
    for _, radii in search:
        search.answer(radii < attacked * (1 - 1e-9))
    findings.compare("attacked", attacked, search.broken, 1e-9 * certified)
    if attack:
        # climbs of float32 depend on how many inputs they are of: a few of them, and longer ones
        steps, succeeds = 2 * certificate.search["attack_steps"], np.zeros(findings.nb, bool)
        radii = np.where(attacked < np.inf, attacked, 0.0)
        for seed in range(explainer.seed, explainer.seed + _NB_ATTACKS):
            breaks = attack_of(claim, model, exact, steps=steps, batch_size=size, seed=seed)
            succeeds |= np.isfinite(attacked) & breaks(radii)
            if succeeds[np.isfinite(attacked)].all():
                break
        findings.attained[succeeds] = attacked[succeeds]
        findings.doubt(np.isfinite(attacked) & ~succeeds, "attacked is not attained again")
        inside = (certified > 0) & breaks(certified)
        findings.refute(inside, "an attack breaks the criterion within the radius")


def _claim(
    certificate: RadiusCertificate, explainer: CertifiedGradient, findings: Findings
) -> Claim | None:
    """What the certificate says, to be proved again; None, with the reason, where it is not."""
    region, weights = findings.ball, certificate.targets
    criterion, why = certificate.question, ""
    sizes = explainer.gamma if certificate.varied == "epsilon" else explainer.epsilon
    if criterion is None:
        why = f"its criterion is told in words only: {certificate.criterion}"
    elif as_json(certificate.settings) != as_json(explainer._settings()):
        why = "its settings are not those of its origin"
    elif np.shape(sizes) not in ((), (findings.nb,)):
        why = "its settings have a radius for each of other inputs"
    elif weights.shape[1] != explainer._verifier("float64").nb_outputs:
        why = "its targets are no weights of the outputs of the model"
    elif certificate.varied == "gamma":
        own = explainer._region(region.center)
        if (np.asarray(region.epsilon) != np.asarray(own.epsilon)).any():
            why = "its regions are not those of its settings"
    if why or criterion is None:
        findings.doubt(True, why)
        return None
    return Claim(
        criterion,
        explainer._mean(region.shape),
        weights,
        original=explainer._of_features(region.center, weights),
        region=region,
        varied=certificate.varied,
        gamma=explainer.gamma,
        bias_radius=explainer.bias_radius,
        largest=certificate.search["largest"],
    )
