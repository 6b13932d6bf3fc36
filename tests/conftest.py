"""Fixtures that several test files use."""

import gc
import os
import sys
from pathlib import Path

import pytest
from rotation import VARIABLE, choose_seed

gc.disable()  # until all is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
choose_seed()  # before xdist starts its processes, which have to collect the same cases

ROOT = Path(__file__).parents[1]


def pytest_report_header():
    return f"random cases: {VARIABLE}={choose_seed()} repeats the same ones"


def pytest_collection_finish():
    """What has been imported stays: to look for garbage in it would take a sixth of all time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _no_state_between_tests():
    """Whatever the order of tests and the number of processes."""
    yield
    if "conformance" in sys.modules:
        sys.modules["conformance"].forget()


@pytest.fixture
def eager(monkeypatch):
    """Bounds computed operation by operation: nothing is traced, which saves most of the time."""
    from conformance import without_tracing

    without_tracing(monkeypatch)


@pytest.fixture
def compiled(monkeypatch):
    """Bounds computed by graphs from the first call on, as those that are asked again are."""
    from conformance import with_graphs

    with_graphs(monkeypatch)


@pytest.fixture(scope="session")
def shared():
    """The folder ``shared`` beside the checkout; a test that needs it is skipped without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real data and reference nets are not part of the repository")
    return folder
