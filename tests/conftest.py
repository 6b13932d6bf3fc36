"""Fixtures that several test files use."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def eager(monkeypatch):
    """Bounds computed operation by operation: nothing is traced, which saves most of the time."""
    import tensorflow as tf

    from xcertify.bounds import Verifier

    def without_tracing(verifier, key, function, signature):
        return lambda *arrays: function(*map(tf.convert_to_tensor, arrays))

    monkeypatch.setattr(Verifier, "_compile", without_tracing)


@pytest.fixture(scope="session")
def shared():
    """The folder ``shared`` beside the checkout; a test that needs it is skipped without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real data and reference nets are not part of the repository")
    return folder
