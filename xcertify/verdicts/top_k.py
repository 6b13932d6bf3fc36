"""Most important cells of CORGI: their order, proved again within the radius."""

from __future__ import annotations

import math

import keras
import numpy as np

from xcertify.attributions import CORGI
from xcertify.attributions.cell_order import RankedMaps
from xcertify.bounds import Verifier
from xcertify.certificates import TopKCertificate
from xcertify.recheck import domains, upper_bounds
from xcertify.recheck_layers import Network, UnknownLayerError
from xcertify.regions import Ball
from xcertify.targets import margin_rows, stays_in_class
from xcertify.verdicts.findings import CHECKER, DECIDED, ENGINE, SECONDS, Findings

_ENTRIES = 2**24  # of rows of one input, beyond which the engine takes less


def check_top_k(
    certificate: TopKCertificate, model: keras.Model, attack: bool, findings: Findings
) -> None:
    """See `Check`: the order of the cells, the class, and where a cell leaves."""
    explainer = findings.explainer(CORGI, model)
    if explainer is None:
        return
    classes = findings.classes(model.outputs[0].shape[-1])
    region, certified = findings.ball, certificate.certified
    maps = explainer._ranked_maps(region.center, classes)
    names = ("explanation", "form", "method", "k", "k2", "map_shape")
    stated = [getattr(certificate, name) for name in names]
    own = [explainer.kind, explainer.form, explainer.method, maps.k, maps.k2]
    if stated != [*own, explainer._activation.shape[:2]]:
        findings.doubt(True, f"{', '.join(names)} are not those of its settings")
        return
    others = (certificate.cells != maps.ranking[:, : maps.k]).any(axis=1)
    findings.doubt(others, "its cells are not the largest ones at the input")
    findings.compare("gap", certificate.gap, maps.gap, 1e-6 * np.abs(maps.gap) + 1e-12)

    stays = certified == 0
    by_checker = _by_checker(explainer, maps, region, ~stays)
    findings.means[:] = np.where(by_checker | stays, CHECKER, ENGINE)
    stays |= by_checker
    some = np.flatnonzero(~stays)
    if len(some):
        stays[some] = explainer._stay(maps[some], region[some], "float64")
    findings.doubt(~stays, "its cells are not proved again to stay within its radius")
    findings.proved[stays] = certified[stays]
    # nothing is proved by it, but who moved a radius by little is found
    again = explainer._certified_radii(maps, region)
    findings.compare("the radius that the method gives", certified, again, 1e-9 * again)
    _check_prediction(certificate, explainer, classes, findings)
    _check_attack(certificate, explainer, maps, attack, findings)


def _by_checker(explainer: CORGI, maps: RankedMaps, region: Ball, wanted: np.ndarray) -> np.ndarray:
    """Where the checker proves the order of the cells of class activation maps, (N,) bool.

    They are linear in the channels: rows of ``map[j] - map[i]`` are negative for the pairs (i, j)
    that are proved.
    """
    found, activation = np.zeros(len(region), bool), explainer._activation
    k, nb_cells, nb_channels = maps.k, maps.nb_cells, activation.shape[2]
    nb_rows = k * (nb_cells - k)
    if explainer.kind != "cam" or nb_rows * math.prod(activation.shape) > _ENTRIES:
        return found
    try:
        network = Network(explainer.model, activation._channels()._keras_history[0].name)
    except UnknownLayerError:
        return found
    for sample in map(int, np.flatnonzero(wanted)):
        first, last = np.split(np.eye(nb_cells)[maps.ranking[sample]], [k])
        pairs = (last[None] - first[:, None]).reshape(nb_rows, nb_cells, 1)
        rows = pairs * maps.weights[sample].astype(np.float64)
        (domain,) = domains(region[sample : sample + 1])
        upper, _ = upper_bounds(network, domain, rows.reshape(nb_rows, nb_cells * nb_channels))
        proved = (upper < 0).reshape(1, k, nb_cells - k)
        found[sample] = maps[np.array([sample])].stay(proved).all()
    return found


def _check_prediction(
    certificate: TopKCertificate, explainer: CORGI, classes: np.ndarray, findings: Findings
) -> None:
    """The class, proved again within its radius; larger radii may have been decided."""
    radii = certificate.prediction_radius
    if explainer.prediction != (radii is not None):
        findings.doubt(True, "prediction is not that of its settings")
    if radii is None or not explainer.prediction:
        return
    findings.doubt(~((radii >= 0) & np.isfinite(radii)), "its prediction_radius is no radius")
    region = findings.ball.resized(np.where(radii >= 0, np.nan_to_num(radii), 0.0))
    by_bounds = explainer._class_radii(region, classes)
    more = np.flatnonzero(radii > by_bounds * (1 + 1e-9))
    if len(more):  # with complete=True
        about = region[more], classes[more], SECONDS * len(more)
        by_bounds[more] = explainer._decided_class_radii(*about)
    findings.compare("prediction_radius", radii, by_bounds, 1e-9 * by_bounds)
    some = np.flatnonzero(findings.open & (radii > 0))
    if not len(some):
        return
    try:
        network = Network(explainer.model)
        rows = np.asarray(margin_rows(classes, network.nb_outputs), np.float64)
        proved = [
            bool((upper_bounds(network, *pair)[0] < 0).all())
            for pair in zip(domains(region[some]), rows[some])
        ]
    except UnknownLayerError:
        proved = [False] * len(some)
    some = some[~np.array(proved, bool)]
    if len(some):
        verifier = Verifier(explainer.model, dtype="float64", strip_head=True)
        asked = stays_in_class(classes[some], verifier.nb_outputs)
        decided = verifier.decide(region[some], *asked, timeout=SECONDS * len(some), verbose=False)
        where = np.zeros(findings.nb, bool)
        where[some] = ~decided.holds
        findings.doubt(where, "the class is not proved again to stay within prediction_radius")
        findings.means[some] += f"; the class by {DECIDED}"


def _check_attack(
    certificate: TopKCertificate,
    explainer: CORGI,
    maps: RankedMaps,
    attack: bool,
    findings: Findings,
) -> None:
    """Where a cell leaves: not within what is proved, and found again."""
    attacked, certified = certificate.attacked, certificate.certified
    if (attacked is None) != (explainer.attack is None):
        findings.doubt(True, "attack is not that of its settings")
    if attacked is None or explainer.attack is None:
        return
    inside = (attacked <= certified) & (certified > 0)
    findings.refute(inside, "its attack succeeds within the radius that it certifies")
    if attack:
        again = explainer._attacked(explainer.attack, maps, findings.ball)
        findings.attained[:] = again
        findings.compare("attacked", attacked, again, 1e-3 * np.where(again < np.inf, again, 0))
        inside = (again <= certified) & (certified > 0)
        findings.refute(inside, "a cell leaves within the radius that is certified")
