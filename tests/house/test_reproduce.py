"""Results are stored with what they were measured on, and the docs show nothing else."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import ttest_1samp

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import reproduce
from protocol import intervals
from protocol.data import NotAtHand
from protocol.intervals import compare, holm, mean_interval
from protocol.pieces import Piece, Records
from protocol.records import read, write
from protocol.tables import filled, marked, number, table

ROOT = Path(__file__).parents[2]

# --- intervals ------------------------------------------------------------------------------------


def test_the_interval_of_one_network_is_students():
    values = np.random.default_rng(0).normal(1, 2, 30)
    found, expected = mean_interval(values), ttest_1samp(values, 0)  # p is 1e-12 at least
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found, [values.mean(), *interval, expected.pvalue])
    np.testing.assert_allclose(mean_interval(values[None]), found)


@pytest.mark.parametrize(
    ("of_network", "of_image", "rest"),
    [(1, 1, 1), (0.3, 2, 1), (0, 1, 0.1), (2, 0, 0.1), (1, 5, 1)],
)
def test_intervals_hold_the_truth_as_often_as_they_say(of_network, of_image, rest):
    """Three networks and forty images, both drawn anew: about 95 of 100 times, of 4,000."""
    generator = np.random.default_rng(0)
    held = []
    for _ in range(4000):
        values = of_network * generator.standard_normal((3, 1))
        values = values + of_image * generator.standard_normal((1, 40))
        values = values + rest * generator.standard_normal((3, 40))
        held.append(abs(values.mean()) <= intervals._half_of_both(values)(0.05))
    assert np.mean(held) > 0.94


def test_images_alone_would_say_too_much():
    """Intervals over images of networks that differ hold the truth far too seldom."""
    generator = np.random.default_rng(0)
    held = []
    for _ in range(500):
        values = generator.standard_normal((3, 1)) + 0.1 * generator.standard_normal((3, 40))
        _, low, high, _ = mean_interval(values.ravel())
        held.append(low <= 0 <= high)
    assert np.mean(held) < 0.5


def test_paired_values_are_compared_by_their_differences():
    values = np.random.default_rng(0).normal(0, 5, (3, 50))
    found = compare(values + 0.1, values)
    assert found.p_value < 1e-6
    np.testing.assert_allclose(found[:3], 0.1)
    assert compare(values, values).p_value == 1
    with pytest.raises(ValueError, match="same networks and images"):
        compare(values, values[:, :3])


def test_a_method_is_better_only_where_it_is_on_each_network():
    """The probability of three networks is that of the one that tells least, as Student has it."""
    values = np.random.default_rng(0).normal(1, 1, (3, 30)) * [[1.0], [2.0], [3.0]]
    found = compare(values, np.zeros_like(values))
    np.testing.assert_allclose(found.p_value, ttest_1samp(values, 0, axis=1).pvalue.max())
    interval = ttest_1samp(values.mean(0), 0).confidence_interval(0.95)
    np.testing.assert_allclose(found[:3], [values.mean(), *interval])
    values[1] -= 10  # worse there
    assert compare(values, np.zeros_like(values)).p_value == 1


def test_no_difference_on_one_network_is_told_as_seldom_as_the_level_says():
    generator = np.random.default_rng(0)
    better = np.array([[1.0], [1.0], [0.0]])
    told = []
    for _ in range(2000):
        values = better + generator.standard_normal((3, 40))
        told.append(compare(values, np.zeros_like(values)).p_value <= 0.05)
    assert 0.015 < np.mean(told) < 0.035  # half of it: the other networks' sign must be the same


def test_several_hypotheses_share_one_level():
    assert holm([0.01, 0.04, 0.02]) == [True, True, True]
    assert holm([0.01, 0.04, 0.03]) == [True, False, False]
    assert holm([0.06, float("nan")]) == [False, False]
    assert holm([]) == []


# --- pieces ---------------------------------------------------------------------------------------


@pytest.fixture
def paper(monkeypatch):
    """In the place of EVA's: two pieces that run, one that fails, one without its data."""
    module, calls = ModuleType("papers.eva"), []

    def rows(context):
        calls.append(context.quick)
        return [{"share": np.float32(0.5), "many": np.arange(3)}]

    def broken(context):
        raise RuntimeError("broken")

    def without_data(context):
        raise NotAtHand("no faces here")

    runs = {"one": rows, "broken": broken, "no-data": without_data, "two": rows}
    module.calls = calls
    module.pieces = lambda quick: [Piece(name, run, 1) for name, run in runs.items()]
    module.blocks = lambda records: {"all": str(records.names())}
    monkeypatch.setitem(sys.modules, "papers.eva", module)
    return module


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, words)])
    return reproduce.main()


def test_a_run_goes_on_where_it_was(paper, monkeypatch, tmp_path, capsys):
    folder = ("--folder", tmp_path)
    assert run(monkeypatch, "eva", "--only", "two", *folder) == 0
    assert run(monkeypatch, "eva", *folder) == 1
    printed = capsys.readouterr()
    assert "eva/two: stored already" in printed.out
    assert "eva/no-data: left out, no faces here" in printed.out
    assert "failed: eva/broken" in printed.err
    assert len(paper.calls) == 2
    assert run(monkeypatch, "eva", "--again", "one", *folder) == 1
    assert len(paper.calls) == 3


def test_tables_come_with_their_pictures(paper, monkeypatch):
    drawn = []
    paper.figures = lambda records, folder: drawn.append(folder)
    monkeypatch.setattr(reproduce, "PAPERS", ("eva",))
    monkeypatch.setattr(reproduce, "pages", dict)
    assert run(monkeypatch, "--tables", "--check") == 0
    assert drawn == []
    assert run(monkeypatch, "--tables") == 0
    assert drawn == [reproduce.DOCS / "images"]


def test_records_tell_what_they_were_measured_on(paper, monkeypatch, tmp_path):
    run(monkeypatch, "eva", "--only", "one", "--quick", "--folder", tmp_path)
    record = Records(tmp_path / "eva")["one"]
    assert record["rows"] == [{"share": 0.5, "many": [0, 1, 2]}]
    assert set(record) == FIELDS
    assert record["versions"]["numpy"] == np.__version__
    assert record["quick"] is True
    assert paper.calls == [True]
    assert (tmp_path / "eva/all.md").read_text() == "['one']\n"


def test_a_record_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "some.json"
    write(path, {"seconds": 1, "rows": [{"a": 1}, {"b": [1, 2]}]})
    assert read(path) == {"seconds": 1, "rows": [{"a": 1}, {"b": [1, 2]}]}
    assert len(path.read_text().splitlines()) == 7  # a row is a line
    with pytest.raises(TypeError, match="what JSON holds"):
        write(path, {"rows": [{"a": object()}]})
    assert read(path)["seconds"] == 1


def test_unknown_papers_are_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "evas")
    assert "papers must be of engine, eva" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(monkeypatch)
    assert "name a paper" in capsys.readouterr().err


def test_a_piece_that_was_not_run_is_named(tmp_path):
    records = Records(tmp_path)
    assert "one" not in records
    assert records.rows("one") == []
    with pytest.raises(KeyError, match="piece 'one' was not run"):
        records["one"]


# --- the docs -------------------------------------------------------------------------------------

FIELDS = {
    *("paper", "piece", "quick", "commit", "date", "versions", "processor", "cores", "rows"),
    *("load", "load_at_end", "seconds", "cpu"),
}


def test_marked_places_are_filled():
    text = (
        "It is <!-- reproduced: a/one -->0<!-- end of reproduced -->.\n\n"
        "<!-- reproduced: a/two -->\n<!-- end of reproduced -->\n"
    )
    found = filled(text, {"a/one": ".5", "a/two": "| x |\n| --- |"})
    assert "<!-- reproduced: a/one -->.5<!-- end of reproduced -->." in found
    assert "<!-- reproduced: a/two -->\n\n| x |\n| --- |\n\n<!-- end" in found
    assert filled(found, {"a/one": ".5", "a/two": "| x |\n| --- |"}) == found
    assert marked(found) == ["a/one", "a/two"]
    with pytest.raises(KeyError, match="no block 'a/one'"):
        filled(text, {})


def test_numbers_and_tables():
    assert number(0.0525) == "0.052"
    assert number(float("nan")) == "-"
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_the_docs_show_what_is_stored():
    """No number is copied by hand: `python benchmarks/reproduce.py --tables` changes nothing."""
    for path, text in reproduce.pages().items():
        assert path.read_text() == text, f"{path.name}: run benchmarks/reproduce.py --tables"


@pytest.mark.parametrize("path", sorted(reproduce.FOLDER.rglob("*.json")), ids=lambda p: p.stem)
def test_stored_results_name_commit_machine_and_versions(path):
    record = read(path)
    assert set(record) == FIELDS
    assert (record["paper"], record["piece"]) == (path.parent.name, path.stem)
    assert record["quick"] is False
    assert "changes" not in record["commit"]  # a result is of a commit
    assert record["commit"] != "unknown"
    assert record["seconds"] > 0
    names = [piece.name for piece in reproduce.module_of(record["paper"]).pieces(quick=False)]
    assert record["piece"] in names


@pytest.mark.slow
@pytest.mark.parametrize("paper", reproduce.PAPERS)
def test_a_small_run_of_each_paper(paper, tmp_path):
    """With no data set at hand but the package's digits."""
    command = [sys.executable, ROOT / "benchmarks/reproduce.py", paper, "--quick"]
    folders = [f"--folder={tmp_path}", f"--models={tmp_path}/models", f"--data-dir={tmp_path}"]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / paper).glob("*.json"))
    assert list((tmp_path / paper).glob("*.md"))
