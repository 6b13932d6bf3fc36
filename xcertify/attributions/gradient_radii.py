"""Radii up to which explanations by gradients keep a criterion: proved ones, attacked ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from xcertify.attacks import CriterionAttack, WeightCriterionAttack
from xcertify.attacks.on_criteria import not_proved
from xcertify.attributions.gradient_means import GradientMean, bound_explanations
from xcertify.bounds import Verifier
from xcertify.certificates import describe_weights
from xcertify.criteria import Criterion
from xcertify.radii import RadiusSearch
from xcertify.regions import Ball, Region

VARIED = ("epsilon", "gamma")

SMALLEST = 2.0**-16  # the smallest radius that is tried, as a share of the largest
_NB_ATTACKS = 6


@dataclass(frozen=True, eq=False)
class Claim:
    """That N explanations keep a criterion within a radius: of inputs, or of weights.

    Attributes
    ----------
    criterion
        One of `xcertify.criteria`.
    mean
        The explanation.
    weights
        (N, K) of the logits.
    original
        (N, *shape): the explanations that are defended.
    region
        N balls around the inputs, in which they lie if it is the weights that vary.
    varied
        "epsilon": balls of the radius, with weights as `gamma` says; or "gamma".
    gamma, bias_radius
        As for `Verifier.bound_gradient`.
    largest
        Radius to stop at.
    """

    criterion: Criterion
    mean: GradientMean
    weights: np.ndarray
    original: np.ndarray
    region: Region
    varied: str = "epsilon"
    gamma: Any = 0.0
    bias_radius: float | None = None
    largest: float = 1.0

    def at(self, radii: np.ndarray) -> tuple[Region, Any]:
        """The regions, and the gammas, of radii (N,)."""
        if self.varied == "gamma":
            return self.region, radii
        return self.region.resized(radii), self.gamma

    def describe(self, radii: np.ndarray) -> str:
        """Both in words."""
        region, gamma = self.at(radii)
        return f"{region}{describe_weights(gamma, self.bias_radius)}"


def proved_radii(
    claim: Claim,
    verifier: Verifier,
    *,
    method: str,
    nb_halvings: int = 10,
    batch_size: int | None = None,
    verbose: bool = False,
) -> np.ndarray:
    """The largest radii at which a claim was tested and proved, (N,); 0 where it was at none.

    Settings as for `bound_explanations`. Bisection of the logarithm of the radius, of all inputs at
    once.

    Guarantee
    ---------
    That of `bound_explanations`. Each radius was itself tested.
    """
    search = RadiusSearch(
        np.full(len(claim.region), claim.largest * SMALLEST),
        claim.largest,
        nb_halvings=nb_halvings,
        test_low=True,
        test_high="first",
        whole=True,
    )
    for _, radii in search:
        region, gamma = claim.at(radii)
        sides = bound_explanations(
            verifier,
            claim.mean,
            region,
            claim.weights,
            method=method,
            gamma=gamma,
            bias_radius=claim.bias_radius,
            batch_size=batch_size,
            verbose=verbose,
        )
        search.answer(claim.criterion.holds(*sides, claim.original))
    return search.held


def attacked_radii(
    claim: Claim,
    model: keras.Model,
    exact: Verifier,
    certified: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> np.ndarray:
    """The least radii that were tried and at which an attack refuted a claim, (N,); inf if none.

    Parameters
    ----------
    claim
        Of the model.
    exact
        Bounds the model's logits in float64.
    certified
        (N,): radii that are proved. They are tried first: nothing should be found there.
    steps, seed
        Of `CriterionAttack`, or of `WeightCriterionAttack`.
    batch_size
        About as many gradients are bounded at once, and four times as many are taken.

    No guarantee
    ------------
    An attack that finds nothing proves nothing.
    """
    breaks = attack_of(claim, model, exact, steps=steps, batch_size=batch_size, seed=seed)
    search = attack_search(certified, claim.largest)
    for _, radii in search:
        search.answer(~breaks(radii))
    return search.broken


def attack_search(certified: np.ndarray, largest: float) -> RadiusSearch:
    """Radii at which N claims are attacked, those that are proved (N,) first."""
    return RadiusSearch(
        np.maximum(certified, largest * SMALLEST),
        largest,
        nb_halvings=_NB_ATTACKS - 1,
        test_low=certified > 0,
        test_high="first",
        whole=True,
    )


def attack_of(
    claim: Claim,
    model: keras.Model,
    exact: Verifier,
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> Callable[[np.ndarray], np.ndarray]:
    """The function of radii (N,) that says where an attack refutes a claim, (N,) bool.

    Parameters as for `attacked_radii`.
    """
    settings: dict[str, Any] = {"steps": steps, "seed": seed}
    about = claim.criterion, claim.original, claim.weights
    if claim.varied == "gamma":
        criterion, *others = about
        weight_attack = WeightCriterionAttack(
            model,
            claim.mean.maps,
            criterion,
            claim.region.center,
            *others,
            bias_radius=claim.bias_radius,
            **settings,
        )
        return lambda radii: weight_attack.breaks(weight_attack(radii))
    size = max(1, 4 * batch_size // len(claim.mean))
    attack = CriterionAttack(model, claim.mean.maps, *about, batch_size=size, **settings)
    points = replace(claim.mean, by_pieces=False)

    def breaks(radii: np.ndarray) -> np.ndarray:
        found = attack(claim.region.resized(radii))
        broken = attack.breaks(found)
        some = np.flatnonzero(broken)
        if len(some):  # in float32, which is not enough
            at_points = Ball(found.points[some], 0.0)
            of_some = claim.weights[some]
            sides = bound_explanations(
                exact, points, at_points, of_some, method="ibp", batch_size=batch_size
            )
            broken &= not_proved(claim.criterion, found, some, *sides)
        return broken

    return breaks
