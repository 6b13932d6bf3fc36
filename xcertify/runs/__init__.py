"""Runs: any number of inputs, part by part, into a folder that says how they were made."""

from xcertify.runs.folder import Run
from xcertify.runs.job import Job
from xcertify.runs.parts import Part
from xcertify.runs.running import run
from xcertify.runs.threads import use_threads
from xcertify.runs.worker import Worker

__all__ = ["Job", "Part", "Run", "Worker", "run", "use_threads"]
