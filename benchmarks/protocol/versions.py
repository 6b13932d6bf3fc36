"""Which versions the tests were run with, as nox has stored it."""

from __future__ import annotations

from pathlib import Path

from protocol.records import read
from protocol.tables import table


def versions_table(folder: Path) -> str:
    """A line for each environment: what passed, of which tests."""
    lines = []
    for path in sorted(folder.glob("*.json")):
        found = read(path)
        wrong = found["failures"] + found["errors"]
        passed = found["tests"] - wrong - found["skipped"]
        cells = [found[name] for name in ("python", "tensorflow", "keras", "numpy")]
        lines.append([*cells, passed, wrong, found["skipped"], found["of"], found["commit"]])
    header = ["Python", "TensorFlow", "Keras", "NumPy", "passed", "failed", "skipped"]
    return table([*header, "tests", "commit"], lines) if lines else "*Not run yet.*"
