"""Sufficient reasons: sets of features that are enough for an answer, and checks of them."""

from xcertify.answers import Answers
from xcertify.reasons.check import Checked, check
from xcertify.reasons.features import Features
from xcertify.reasons.smallest import least_size

__all__ = ["Answers", "Checked", "Features", "check", "least_size"]
