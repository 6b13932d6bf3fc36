"""Verified bounds of Keras models over regions of inputs."""

from xcertify.bounds.graph import UnsupportedLayerError
from xcertify.bounds.verifier import LinearBounds, Verifier

__all__ = ["LinearBounds", "UnsupportedLayerError", "Verifier"]
