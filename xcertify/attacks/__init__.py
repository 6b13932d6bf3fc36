"""Attacks: the other side of every certificate, a point that is as bad as could be found."""

from xcertify.attacks.ascent import PGD, AttackResult, pgd
from xcertify.attacks.maps import MapAttackResult, input_gradient
from xcertify.attacks.maps_by_inputs import targeted_map_attack, top_k_attack
from xcertify.attacks.maps_by_weights import weight_attack
from xcertify.attacks.minimal import MinimalPerturbation, MinimalResult, minimal_perturbation
from xcertify.attacks.on_criteria import CriterionAttack, WeightCriterionAttack
from xcertify.attacks.smoothed_cosines import SmoothedCosineAttack
from xcertify.attacks.smoothed_maps import SmoothedMapAttack, SmoothedMapResult
from xcertify.attacks.top_k import MinimalTopK
from xcertify.smoothing import softplus_copy

__all__ = [
    "PGD",
    "AttackResult",
    "CriterionAttack",
    "MapAttackResult",
    "MinimalPerturbation",
    "MinimalResult",
    "MinimalTopK",
    "SmoothedCosineAttack",
    "SmoothedMapAttack",
    "SmoothedMapResult",
    "WeightCriterionAttack",
    "input_gradient",
    "minimal_perturbation",
    "pgd",
    "softplus_copy",
    "targeted_map_attack",
    "top_k_attack",
    "weight_attack",
]
