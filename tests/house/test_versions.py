"""The table of supported versions: in order, complete and green."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def protocol(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_rows_are_in_the_order_of_versions_and_name_their_tests(tmp_path):
    from protocol.versions import versions_table

    assert versions_table(tmp_path) == "*Not run yet.*"
    counts = {"tests": 9, "failures": 1, "errors": 2, "skipped": 3, "seconds": 4, "commit": "abc"}
    for python, of in (("3.10.2", "all"), ("3.9.1", "tests/a.py tests/b.py")):
        found = {"python": python, "tensorflow": "2.18.1", "keras": "3.10.0", "numpy": "1.26.4"}
        (tmp_path / f"{python}.json").write_text(json.dumps({**found, **counts, "of": of}))
    *_, first, second, blank, a, b = versions_table(tmp_path).splitlines()
    assert first == "| 3.9.1 | 2.18.1 | 3.10.0 | 1.26.4 | 3 | 3 | 3 | B | abc |"
    assert second == "| 3.10.2 | 2.18.1 | 3.10.0 | 1.26.4 | 3 | 3 | 3 | A | abc |"
    assert (blank, a, b) == ("", "- A: the whole suite", "- B: `tests/a.py`, `tests/b.py`")


def test_every_supported_pair_has_run_and_nothing_failed():
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    (supported,) = (
        ast.literal_eval(part.value)
        for part in tree.body
        if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "SUPPORTED"
    )
    names = {
        f"python{python}-tensorflow{tensorflow}-{age}"
        for tensorflow, pythons in supported.items()
        for python in pythons
        for age in ("oldest", "newest")
    }
    stored = {path.stem: path for path in (ROOT / "benchmarks/results/versions").glob("*.json")}
    assert set(stored) == names
    for path in stored.values():
        found = json.loads(path.read_text())
        assert (found["failures"], found["errors"]) == (0, 0), path.stem
