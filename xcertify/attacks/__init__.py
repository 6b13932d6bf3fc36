"""Attacks: the other side of every certificate, a point that is as bad as could be found."""

from xcertify.attacks.maps import (
    MapAttackResult,
    input_gradient,
    softplus_copy,
    targeted_map_attack,
    top_k_attack,
    weight_attack,
)
from xcertify.attacks.minimal import MinimalPerturbation, MinimalResult, minimal_perturbation
from xcertify.attacks.pgd import PGD, AttackResult, pgd

__all__ = [
    "PGD",
    "AttackResult",
    "MapAttackResult",
    "MinimalPerturbation",
    "MinimalResult",
    "input_gradient",
    "minimal_perturbation",
    "pgd",
    "softplus_copy",
    "targeted_map_attack",
    "top_k_attack",
    "weight_attack",
]
