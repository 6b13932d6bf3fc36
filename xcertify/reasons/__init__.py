"""Sufficient reasons: sets of features that are enough for an answer, and checks of them."""

from xcertify.answers import Answers
from xcertify.reasons.features import Features

__all__ = ["Answers", "Features"]
