"""The page of RelEx has the tables of what its benchmark has stored."""

import runpy
from pathlib import Path


def test_the_tables_are_what_is_stored():
    """No number of them is copied by hand."""
    generator = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "generate_relex.py"))
    current = generator["PAGE"].read_text()
    assert current == generator["page"](), "run: python docs/generate_relex.py"
