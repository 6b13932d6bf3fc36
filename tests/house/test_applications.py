"""The benchmark of keras.applications: results are stored as they come, and printed as tables."""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import application_calls
import applications

CELLS = {
    "image": {"seconds": [0.5, 0.25], "GiB": 0.125},
    "ibp": {"seconds": [2.0], "GiB": 1.5, "said": "overflows float32 (0.5)", "outside": "0 of 9"},
}


def test_what_is_stored_is_not_measured_again(tmp_path, monkeypatch, capsys):
    asked = []

    def run(name, calls, _):
        asked.append((name, calls))
        yield calls[0], CELLS[calls[0]]  # and then it ends: the others are for another process

    monkeypatch.setattr(applications, "run", run)
    arguments = Namespace(save=tmp_path / "new", stored=False, calls=["image", "ibp"])
    assert applications.measured("MobileNet", arguments) == CELLS
    assert asked == [("MobileNet", ["image", "ibp"]), ("MobileNet", ["ibp"])]
    assert "MobileNet: ibp: 2 / 1.5; overflows" in capsys.readouterr().err
    assert applications.measured("MobileNet", arguments) == CELLS and len(asked) == 2
    arguments.stored, arguments.calls = True, ["image", "PGD"]
    assert applications.measured("MobileNet", arguments) == CELLS and len(asked) == 2


def test_a_table_has_a_row_for_each_network_and_a_cell_for_each_call():
    found = applications.table({"MobileNet": CELLS, "VGG16": {}}, ["image", "ibp"])
    assert found.splitlines() == [
        "| network | image | ibp, outside |",
        "| --- | --- | --- |",
        "| MobileNet | 0.5, 0.25 / 0.125 | 2 / 1.5; overflows float32 (0.5); 0 of 9 |",
        "| VGG16 |  |  |",
    ]
    calls = [call for some in applications.TABLES.values() for call in some]
    assert sorted(calls) == sorted(application_calls.CALLS)


def test_warnings_in_short():
    said = application_calls.said_by
    assert said("EVA: ... bounds the margin 1.5e+03 times as far from its value as") == (
        "warns: 1.5e+03 times"
    )
    assert said("EVA: ... bounds the margin inf times as far from its value") == "warns: inf times"
    assert said("EVA: ... numbers overflow on the way") == "warns: overflows"
    assert said("EVA: something else") == "warns"
