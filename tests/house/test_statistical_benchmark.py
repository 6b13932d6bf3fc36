"""The benchmark of certificates from samples stores what it measures, and prints what is stored."""

import json
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import statistical
import statistical_maps
import statistical_noise

ROOT = Path(__file__).parents[2]


@pytest.fixture
def part(monkeypatch):
    """In the place of the part `maps`."""
    module = ModuleType("statistical_maps")
    module.asked = []

    def run(quick):
        module.asked.append(quick)
        yield {"share": np.float32(0.25), "counts": np.arange(3), "name": "one"}

    module.run, module.tables = run, lambda rows: f"| {rows[0]['share']} {rows[0]['counts']} |"
    monkeypatch.setitem(sys.modules, "statistical_maps", module)
    return module


def printed(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["statistical.py", *words])
    statistical.main()
    return capsys.readouterr().out


def test_what_is_stored_is_printed_without_measuring(part, monkeypatch, capsys, tmp_path):
    folder = ("--folder", str(tmp_path))
    first = printed(monkeypatch, capsys, "maps", "--quick", "--save", *folder)
    again = printed(monkeypatch, capsys, "maps", "--tables", *folder)
    assert part.asked == [True]  # once
    assert "| 0.25 [0 1 2] |" in first
    assert first.replace("[0 1 2]", "[0, 1, 2]") == again
    assert "statistical.py maps --quick`, commit " in again
    stored = json.loads((tmp_path / "maps.json").read_text())
    assert stored["rows"] == [{"share": 0.25, "counts": [0, 1, 2], "name": "one"}]
    assert set(stored) == {
        *("quick", "commit", "date", "versions", "processor", "cores", "rows"),
        *("load", "load_at_end", "seconds", "cpu"),
    }
    assert stored["versions"]["numpy"] == np.__version__


def test_without_save_nothing_is_stored(part, monkeypatch, capsys, tmp_path):
    printed(monkeypatch, capsys, "maps", "--folder", str(tmp_path))
    assert part.asked == [False]
    assert not list(tmp_path.iterdir())
    assert "nothing is stored" in printed(
        monkeypatch, capsys, "maps", "--tables", "--folder", str(tmp_path)
    )


def test_an_unknown_part_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        printed(monkeypatch, capsys, "mapps")
    assert "Received: ['mapps']" in capsys.readouterr().err


def test_what_json_does_not_hold_is_refused(tmp_path):
    with pytest.raises(TypeError, match="what JSON holds"):
        statistical.write(tmp_path / "x.json", {"rows": [{"model": object()}]})


@pytest.mark.parametrize("name", statistical.PARTS)
def test_every_part_is_there(name):
    module = statistical.module_of(name)
    assert callable(module.run)
    assert callable(module.tables)
    assert module.__doc__


def test_remembered_asks_for_new_points_alone():
    asked = []

    def explain(inputs, targets):
        asked.append(len(inputs))
        return 2 * inputs + targets[:, None]

    remembered = statistical_maps.Remembered(explain)
    points = np.arange(8.0).reshape(4, 2)
    targets = np.array([0, 1, 2, 3])
    np.testing.assert_array_equal(remembered(points[:2], targets[:2]), [[0, 2], [5, 7]])
    np.testing.assert_array_equal(
        remembered(points[::-1], targets[::-1]), (2 * points + targets[:, None])[::-1]
    )
    remembered(points, targets)
    assert asked == [2, 2]


def test_shares_and_their_tables():
    decided = np.array([[True, False, False, False], [True, True, False, False]])
    out = np.array([[False, True, True, False], [False, False, False, False]])
    found = SimpleNamespace(
        certified_in=decided,
        certified_out=out,
        abstained=~decided & ~out,
        chosen=np.array([[False, False, False, False], [True, True, False, False]]),
        radius=0.2,
        overlap=np.array([0.5, 0.25]),
        expected_overlap=np.array([1.0, 0.25]),  # of an image without a chosen set 1 says nothing
    )
    row = statistical_maps.shares(found, SimpleNamespace(span=2.0))
    assert row == {
        "radius": 0.1,
        "in": 3 / 8,
        "out": 2 / 8,
        "open": 3 / 8,
        "overlap": 0.375,
        "expected": 0.25,
    }
    asked = {"network": "net", "explainer": "Map", "images": 2}
    rows = [asked | {"shape": [4, 4, 1], "cpu": 1.5, "clock": 0.75, "GiB": 0.25}]
    rows += [
        asked | row | {"sigma": sigma, "kept": 0.5, "top": top}
        for sigma in statistical_maps.SIGMAS
        for top in statistical_maps.TOPS
    ]
    text = statistical_maps.tables(rows)
    assert "| net, 4 x 4 x 1 | `Map` | 2 | 1.5 | 0.75 | 256 |" in text
    cell = "37.5 / 25.0 / 37.5 | 0.38 | 0.25"
    assert f"| `Map` | 0.15, 0.100 | {cell} | {cell} | {cell} |" in text
    assert "### K 20%, sigma 0.25" in text
    assert "| `Map` | 37.5 / 25.0 / 37.5 | 0.38 |\n" in text
    assert "keep the class: 50% at 0.15, 50% at 0.25, 50% at 0.33." in text


def test_share_of_noisy_inputs_that_keep_the_class():
    """Of one feature, in the class 1 where it is above 0: Phi(1) and Phi(-.5) at a deviation 1."""
    net = SimpleNamespace(
        model=lambda x: np.concatenate([-x, x], axis=1),
        inputs=np.repeat(np.array([[1.0], [-0.5]], np.float32), 500, axis=0),
        classes=np.repeat([1, 1], 500),
    )
    kept = statistical_maps.share_kept(net, 1.0)
    assert abs(kept - (0.8413 + 0.3085) / 2) < 0.02  # 20,000 draws


def test_a_blur_in_front_of_a_network(monkeypatch):
    """The mean of 5 x 5 pixels, twice, of one that is not 0."""
    keras = statistical_noise.keras
    images = keras.Input((13, 13, 1))
    plain = keras.Model(images, keras.layers.Flatten()(images))
    inputs = np.zeros((1, 13, 13, 1), np.float32)
    inputs[0, 6, 6] = 625.0
    net = statistical_noise.Net("net", plain, inputs, (0.0, 1.0))
    monkeypatch.setattr(statistical_noise, "emotions", lambda nb_images: net)
    found = np.asarray(statistical_noise.blurred(1).model(inputs)).reshape(13, 13)
    triangle = np.convolve(np.ones(5), np.ones(5))
    np.testing.assert_allclose(found[2:11, 2:11], np.outer(triangle, triangle), rtol=1e-5)


def test_a_line_for_each_network_and_deviation():
    row = {"network": "net", "cure": "", "accuracy": None, "images": 3, "sigma": 0.15, "kept": 0.5}
    row |= {"explainer": "Map", "in": 0.1, "out": 0.2, "open": 0.7, "overlap": 0.125}
    cured = row | {"cure": "blur", "accuracy": 0.5, "in": 0.2, "open": 0.6}
    lines = statistical_noise.tables([row, cured]).splitlines()
    assert lines[2:] == [
        "| net |  | 0.15 | 50% | 10.0 / 20.0 / 70.0; 0.12 |",
        "| net, blur | 50.0% | 0.15 | 50% | 20.0 / 20.0 / 60.0; 0.12 |",
    ]


def test_the_page_is_what_is_stored():
    """No number of it is copied by hand."""
    generator = runpy.run_path(str(ROOT / "docs" / "generate_statistical.py"))
    current = generator["PAGE"].read_text()
    assert current == generator["page"](), "run: python docs/generate_statistical.py"
