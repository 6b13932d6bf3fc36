"""Attacks: the other side of every certificate, a point that is as bad as could be found."""

from xcertify.attacks.minimal import MinimalPerturbation, MinimalResult, minimal_perturbation
from xcertify.attacks.pgd import PGD, AttackResult, pgd

__all__ = [
    "PGD",
    "AttackResult",
    "MinimalPerturbation",
    "MinimalResult",
    "minimal_perturbation",
    "pgd",
]
