"""The start of RelEx's masks is chosen by the rule that its page states."""

import inspect
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from papers.relex import best_settings, blocks, chosen_start
from papers.relex_methods import PAPER, STARTS
from protocol.pieces import Records
from protocol.records import write

from xcertify.attributions import RelEx

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results" / "reproduced" / "relex"


def stored(tmp_path, **data):
    """Records of validation: data -> rows."""
    for name, rows in data.items():
        write(tmp_path / f"validation-{name}.json", {"quick": False, "rows": rows})
    return Records(tmp_path)


def row(setting, kept, size, relevance, method="RelEx", radius="clean"):
    values = {"kept": kept, "size": size, "relevance": relevance}
    return {"method": method, "setting": setting, "radius": radius, **values}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], "b"),  # the smaller masks
        ([row("b", [1, 0], [5, 5], [1, 1])], "a"),  # loses a class elsewhere
        ([row("b", [1, 1], [13, 13], [1, 1])], "a"),  # 1.2 and 1.3 times as large, a 1 and 1.5
        ([row("b", [1, 1], [12, 12], [0, 0])], "b"),  # 1.2 and 1.2
    ],
)
def test_the_start_is_chosen_for_all_data_together(tmp_path, others, expected):
    first = [
        row(PAPER, [1, 1], [8, 12], [0.5, 0.5]),  # not chosen from
        row("a", [1, 1], [10, 10], [0.5, 0.6]),
        row("b", [1, 1], [12, 12], [0.7, 0.6]),
    ]
    second = [
        row(PAPER, [1, 1], [10, 10], [0.3, 0.3]),
        row("a", [1, 1], [15, 15], [0.5, 0.5]),
        *(others or [row("b", [1, 1], [10, 10], [0.5, 0.5])]),
    ]
    assert chosen_start(stored(tmp_path, one=first, two=second)) == expected


def test_no_start_may_be_allowed(tmp_path):
    rows = [row(PAPER, [1], [10], [0.5]), row("a", [0], [10], [0.9])]
    assert chosen_start(stored(tmp_path, one=rows)) == "none"


def test_others_are_at_their_best_for_each_measure(tmp_path):
    rows = [
        row("a", [1, 1], [10, 10], [0.2, 0.9], "Saliency"),
        row("b", [0, 1], [10, 10], [0.6, 0.6], "Saliency"),
    ]
    found = best_settings(stored(tmp_path, one=rows), "one", "Saliency")
    assert found == {"relevance": "b", "kept": "a"}


def test_what_was_not_measured_says_so(tmp_path):
    found = blocks(Records(tmp_path))
    assert found["goals"] == "*Not measured yet: goals.*"
    assert all(text == f"*Not measured yet: {name}.*" for name, text in found.items())


def test_the_default_is_what_was_chosen():
    chosen = chosen_start(Records(FOLDER))
    default = inspect.signature(RelEx).parameters["start"].default
    assert STARTS[chosen] == {"start": default}
