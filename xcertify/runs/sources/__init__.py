"""Inputs of runs: arrays, folders of images, tables and data sets, read a few at a time."""

from xcertify.runs.sources.base import Batch, Source
from xcertify.runs.sources.opening import open_source, reopened

__all__ = ["Batch", "Source", "open_source", "reopened"]
