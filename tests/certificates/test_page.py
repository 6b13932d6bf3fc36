"""The page about files names every array and field of every kind."""

import re
from pathlib import Path

import pytest
from some_certificates import KINDS

from xcertify.certificates.stored import KINDS as CLASSES
from xcertify.certificates.stored import stored

PAGE = (Path(__file__).parents[2] / "docs" / "certificates-as-files.md").read_text("utf-8")


def names_of(kind):
    section = PAGE.split(f"**{kind}**", 1)[1].split("\n**", 1)[0].split("\n## ", 1)[0]
    cells = re.findall(r"^\|[^|\n]*\|([^|\n]*)\|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("kind", KINDS)
def test_all_names_of_a_kind_are_in_its_table(kind):
    found = stored(KINDS[kind]())
    general = {"certified", "attacked"}
    own = {name for name in found.rows if not name.startswith("region.")} - general
    own |= {*found.shared, *found.header["fields"]}
    optional = {"answers.towards", "answers.delta", "answers.values", "compared"}
    assert names_of(found.header["kind"]) - optional == own
    assert all(f"| `{name}` |" in PAGE for name in general)


def test_all_kinds_and_the_header():
    assert set(re.findall(r"^\*\*(\w+Certificate)\*\*", PAGE, re.MULTILINE)) == {
        name for name, kind in CLASSES.items() if kind.__module__.startswith("xcertify.")
    }
    section = PAGE.split("## The header", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\|([^|\n]*)\|", section, re.MULTILINE)
    assert [n for cell in cells for n in re.findall(r"`([^`]+)`", cell)] == [
        *stored(KINDS["mask"]()).header
    ]
