"""Inputs of runs: arrays, folders of images, tables and data sets, read a few at a time."""

from xcertify.runs.sources.base import Batch, Source

__all__ = ["Batch", "Source"]
