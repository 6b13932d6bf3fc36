"""The benchmark of `SufficientReason` sees sets and witnesses that are wrong, and goes on later."""

import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import reason_networks
import sufficient_reason
from reason_checks import Attack, margins_of, wrong_witnesses
from reason_networks import Missing, Network, one_hot_groups

from xcertify.regions import Ball

# f(x) = (4 x_0 + x_1, 2.9) at x = .6: a margin of .1. Within .05, x_0 changes it by .2 and x_1 by
# .05 at most: the one set that is sufficient and minimal is that of x_0.
INPUT = np.full((1, 3), 0.6, np.float32)
REGION = Ball(INPUT, 0.05, clip=(0, 1))


def network():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "relu")])
    model.add(keras.layers.Dense(2))
    weights = [[4, 0], [1, 0], [0, 0]]
    model.set_weights([np.eye(3), np.zeros(3), np.array(weights), np.array([0, 2.9])])
    return model


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.mark.parametrize(
    ("kept", "margin"), [([True, False, False], -0.05), ([False, True, True], 0.1)]
)
@pytest.mark.parametrize("nb_attacks", [1, 40])
def test_an_attack_breaks_what_is_wrong(model, kept, margin, nb_attacks):
    free = REGION.fix(np.array(kept))
    found = Attack(model, nb_attacks, at_once=7)(free.lower[0], free.upper[0], 0)
    assert found.broken == (margin > 0)
    assert found.margin == pytest.approx(margin, abs=1e-5)
    assert found.margin == margins_of(model, found.point[None], 0)[0]
    assert free.lower[0].tolist() <= found.point.tolist()


def certificate(point, kept=(True, False, False)):
    kept = np.array([kept])
    fields = {"needed": kept, "irrelevant": ~kept, "features": np.arange(3)[None]}
    witnesses = [{} if point is None else {0: np.array(point, np.float32)}]
    return SimpleNamespace(**fields, witnesses=witnesses, targets=np.array([0]))


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ((0.56, 0.6, 0.6), None),
        ((0.56, 0.56, 0.62), None),
        ((0.58, 0.6, 0.6), "margin"),
        ((0.5, 0.6, 0.6), "outside the region"),
        ((np.nan, 0.6, 0.6), "outside the region"),
        (None, "1 groups are needed, 0 have a witness"),
    ],
)
def test_a_wrong_witness_is_seen(model, point, words):
    found = wrong_witnesses(model, certificate(point), REGION)
    assert found == [] if words is None else any(words in what for what in found)


def test_a_witness_that_moves_what_is_needed_is_seen(model):
    two = certificate((0.56, 0.58, 0.6), kept=(True, True, False))
    two.witnesses[0][1] = two.witnesses[0][0]
    found = wrong_witnesses(model, two, REGION)
    assert found == [f"group {n}: what is needed has moved, too" for n in (0, 1)]


def test_columns_of_a_question_are_a_group():
    names = ["age", "job: none", "job: other: this", "home: own", "sum"]
    assert one_hot_groups(names).tolist() == [0, 1, 1, 2, 3]


@pytest.fixture
def folder(tmp_path, model):
    """A network and two published sets, of which the second one is wrong."""
    model.save(tmp_path / "net.keras")
    arrays = {"image": np.full((2, 3), 153, np.uint8), "index": [4, 7], "label": [0, 0]}
    arrays |= {"kept": [[True, False, False], [False, True, True]], "fame_size": [1, 2]}
    arrays |= {"fame_total_seconds": [1.5, 2.5], "fame_knapsack_size": [1, 3]}
    arrays |= {"verix_size": [-1, 1], "verix_seconds": [np.nan, 9.0]}
    np.savez(tmp_path / "net.npz", **arrays)
    return tmp_path


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["sufficient_reason.py", *map(str, words)])
    sufficient_reason.main()


def run_fame(monkeypatch, folder, *words):
    output = folder / "fame.json"
    settings = ("--folder", folder, "--networks", "net", "--attacks", 20, "--output", output)
    run(monkeypatch, "fame", *settings, *words)
    return sufficient_reason.stored(output)


def test_published_sets(folder, monkeypatch, capsys):
    output = folder / "check.json"
    settings = ("--folder", folder, "--networks", "net", "--attacks", 20, "--output", output)
    run(monkeypatch, "check", *settings)
    printed = capsys.readouterr().out
    assert "| net | 2 | 1 | 1 | 0 | 1 | 20 | 1 | 0 |" in printed  # no set is proved and broken
    assert "refuted or broken are the images [7]" in printed
    found = sufficient_reason.stored(output)["check/net/7"]
    assert found["counterexample"] > 0
    run(monkeypatch, "check", *settings)
    assert "in 0" not in capsys.readouterr().out  # nothing is asked again


def test_a_run_goes_on_where_it_stopped(folder, monkeypatch, capsys):
    half = run_fame(monkeypatch, folder, "--nb-inputs", 1)
    assert list(half) == ["fame/net/4", "fame/net/1 in one call"]
    record = half["fame/net/4"]
    assert (record["size"], record["kept"], record["proved_again"]) == (1, [0], "proved")
    assert (record["minimal"], record["smallest"], record["nb_witnesses"]) == (True, 1, 1)
    capsys.readouterr()
    whole = run_fame(monkeypatch, folder)
    printed = capsys.readouterr().out
    assert {key: whole[key] for key in half} == half
    assert "fame/net/4: " not in printed
    assert "| net | SufficientReason | 2 | 1.0 | 1 | 0.0 | 100% |" in printed
    assert "| net | VeriX+ | 1 | 1.0 | 1 | - | - | 9 | 9 | 9 |" in printed
    assert "| net | FAME | 2 | 1 | 1 | 0 | -0.5 |" in printed  # smaller, equal, larger
    assert "| net | 2 | 2 | 2 | 2 | 20 | 0 |" in printed  # sets, proved, needed, confirmed, broken
    assert printed.rstrip().endswith("Nothing is wrong.")


def test_what_is_wrong_is_reported(folder, monkeypatch, capsys):
    records = run_fame(monkeypatch, folder, "--nb-inputs", 1)
    records["fame/net/4"] |= {"broken": True, "attacked": 0.5, "proved_again": "refuted"}
    sufficient_reason.store(records, folder / "fame.json")
    capsys.readouterr()
    run(monkeypatch, "report", folder / "fame.json")
    printed = capsys.readouterr().out
    assert "fame/net/4: 1 of 3" in printed
    assert "WRONG: an attack reaches 0.5; WRONG: refuted by check" in printed


def test_errors_are_asked_again(folder, monkeypatch, capsys):
    def fails(*arguments, **settings):
        raise RuntimeError("broken")

    monkeypatch.setattr(sufficient_reason.Asked, "record", fails)
    monkeypatch.setattr(sufficient_reason, "in_one_call", lambda *arguments: {"error": "broken"})
    assert run_fame(monkeypatch, folder)["fame/net/4"]["error"] == "RuntimeError: broken"
    assert "fame/net/4: RuntimeError: broken" in capsys.readouterr().out
    monkeypatch.undo()
    assert run_fame(monkeypatch, folder, "--nb-inputs", 1)["fame/net/4"]["size"] == 1


def test_other_networks_and_orders(folder, monkeypatch, capsys):
    def missing(arguments):
        raise Missing("give --elsewhere FOLDER")

    made = Network(network(), np.repeat(INPUT, 2, axis=0), np.array([0, 1, 1]))
    networks = {"small": (lambda arguments: made, (0.05,)), "other": (missing, (0.1,))}
    monkeypatch.setattr(sufficient_reason, "NETWORKS", networks)
    output = folder / "nets.json"
    run(monkeypatch, "nets", "--output", output, "--nb-inputs", 1, "--attacks", 20)
    printed = capsys.readouterr().out
    assert "other is left out: give --elsewhere FOLDER" in printed
    assert "| small | 0.05 | 1 | 2 | 1.0 (50%) | 1.0 | 0.0% | 100% | 1.0 |" in printed

    orders = {"contribution": None, "given": np.array([0.0, 1, 2])}
    monkeypatch.setattr(sufficient_reason, "orders", lambda model: orders)
    output = folder / "orders.json"
    run(monkeypatch, "orders", "--folder", folder, "--networks", "net", "--output", output)
    assert "| net | contribution | 2 | 1.0 | 1 | 100% |" in capsys.readouterr().out


def test_a_trained_network_is_kept(tmp_path, model, capsys):
    arguments = SimpleNamespace(output=tmp_path / "nets.json")
    test = INPUT, np.array([0])
    first = reason_networks.kept_or_made(arguments, "net", lambda: model, test)
    again = reason_networks.kept_or_made(arguments, "net", lambda: 1 / 0, test)
    assert capsys.readouterr().out == "trained net.keras: 100.0% right\n"
    assert np.array_equal(first.get_weights()[2], again.get_weights()[2])
