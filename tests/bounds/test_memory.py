"""The memory budget: it is kept whatever the number of classes and images, and changes no bound."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from networks import NETWORKS, sequential
from rotation import in_turn

from xcertify.attributions import EVA
from xcertify.bounds import Verifier, backend
from xcertify.bounds.propagation.budget import batches
from xcertify.regions import Ball
from xcertify.targets import margin_rows

L = keras.layers
BUDGET = 50 * 2**20
linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read as on Linux"
)


def shares(*case):
    """Growth of the resident memory in calls of a fresh process, in units of the budget."""
    command = [sys.executable, str(ROOT / "benchmarks" / "bounds.py"), "--memory-case"]
    options = [str(word) for word in case if str(word).startswith("--")]
    command += [str(word) for word in case if str(word) not in options]
    command += [*options, "--memory-budget", str(BUDGET)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return {row[4]: float(row[6]) for row in rows}


OUTPUTS = ("bound_outputs", "bound_rows", "evaluate")
OTHERS = ("linear_bounds", "bound_layer", "bound_gradient", "EVA.certify")
# Unsplit, gradients of 120 images take four times the budget.
FAST = (*OUTPUTS, "linear_bounds", "bound_layer", "bound_gradient:120", "EVA.certify")


@linux
@pytest.mark.parametrize(
    ("case", "calls"),
    [
        *in_turn(
            [
                (("dense", "crown", 100, 300), FAST),
                (("dense", "crown", 100, 300, "--uncompiled"), FAST),
                (("dense", "crown-ibp", 1000, 40), ["bound_rows", "EVA.certify"]),
            ],
            1,
        ),
        pytest.param(("dense", "crown", 1000, 300), [*OUTPUTS, *OTHERS], marks=pytest.mark.slow),
        pytest.param(("dense", "alpha-crown", 100, 300), OUTPUTS, marks=pytest.mark.slow),
        pytest.param(("CNN", "crown", 100, 300), OUTPUTS, marks=pytest.mark.slow),
        pytest.param(("CNN", "crown-ibp", 100, 300), OTHERS, marks=pytest.mark.slow),
        pytest.param(("CNN", "crown-ibp", 1000, 100), OUTPUTS, marks=pytest.mark.slow),
        pytest.param(("CNN", "crown-ibp", 1000, 20), OTHERS, marks=pytest.mark.slow),
    ],
)
def test_the_budget_is_kept(case, calls):
    found = shares(*case[:4], *calls, *case[4:])
    assert sorted(found) == sorted(call.partition(":")[0] for call in calls)
    for call, share in found.items():
        assert share <= 1.3, call


def test_parts_cover_all_samples_and_rows_once():
    for settings in ((5, 7, 2, 100), (5, 7, 5, 3), (5, 7, 100, 20), (1, 1, 1, 1), (3, 4, 3, 12)):
        nb_samples, nb_rows, samples_at_once, pairs_at_once = settings
        counts = np.zeros((nb_samples, nb_rows), int)
        for samples, rows in batches(*settings):
            counts[samples, rows] += 1
            size = counts[samples, rows].size
            assert size <= max(pairs_at_once, 1)
            assert samples.stop - samples.start <= samples_at_once
        assert (counts == 1).all()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("name", "method"), [("convolutions", "ibp"), ("dense_relu", "crown"), ("dense_relu", "ibp")]
)
def test_parts_change_no_bound(name, method):
    """A budget of some samples and one of a few rows, for all forms of rows."""
    model = NETWORKS[name]()
    generator = np.random.default_rng(0)
    inputs = generator.random((5, *model.input_shape[1:]), dtype="float32")
    region = Ball(inputs, 0.1)
    nb_outputs = model.output_shape[-1]
    rows = [None, generator.normal(size=(7, nb_outputs)).astype("float32")]
    rows += [generator.normal(size=(5, 7, nb_outputs)).astype("float32")]
    rows += [margin_rows(np.arange(5) % nb_outputs, nb_outputs)]
    wide = Verifier(model, method)
    layer = model.layers[-2].name
    for budget in (2_000_000, 5_000):
        narrow = Verifier(model, method, memory_budget=budget)

        def same(ask):
            for one, other in zip(ask(wide), ask(narrow)):  # noqa: B023
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

        for asked in rows:
            same(lambda v: v.bound_rows(region, asked))  # noqa: B023
        same(lambda v: v.bound_layer(region, layer))
        same(lambda v: [v.evaluate(inputs)])
        if method == "crown":
            for asked in rows:
                same(lambda v: v.linear_bounds(region, asked).bounds())  # noqa: B023


def test_rows_of_margins_by_hand():
    rows = margin_rows(np.array([1, 0, 2]), 3)
    expected = [
        [[1, -1, 0], [0, -1, 1]],
        [[-1, 1, 0], [-1, 0, 1]],
        [[1, 0, -1], [0, 1, -1]],
    ]
    assert rows.shape == (3, 2, 3)
    np.testing.assert_array_equal(rows, np.float32(expected))
    np.testing.assert_array_equal(rows[1], expected[1])
    np.testing.assert_array_equal(rows[1:, 1:], np.array(expected)[1:, 1:])
    np.testing.assert_array_equal(rows[np.array([True, False, True])], np.array(expected)[[0, 2]])
    np.testing.assert_array_equal(margin_rows(np.array([1, 0]), 1), [[[-1.0]], [[1.0]]])


@pytest.mark.parametrize("overlap", ["margin", "separate"])
def test_eva_in_parts_of_samples_and_rows(overlap, monkeypatch):
    model = sequential((4, 4, 1), L.Flatten(), L.Dense(6, "relu"), L.Dense(5))
    inputs = np.random.default_rng(0).random((6, 4, 4, 1), dtype="float32")
    explainer = EVA(model, 0.1, overlap=overlap)
    certificate, maps = explainer.certify(inputs), explainer.explain(inputs)
    targeted = explainer.explain_targeted(inputs, (certificate.targets + 1) % 5)
    for budget in (60_000, 3_000):
        narrow = EVA(model, 0.1, overlap=overlap)
        verifier = Verifier(model, "crown", strip_head=True, memory_budget=budget)
        monkeypatch.setattr(EVA, "_verifier", verifier)
        found = narrow.certify(inputs)
        np.testing.assert_allclose(found.overlap, certificate.overlap, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            found.cell_overlaps, certificate.cell_overlaps, rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(narrow.explain(inputs), maps, rtol=1e-4, atol=1e-5)
        again = narrow.explain_targeted(inputs, (certificate.targets + 1) % 5)
        np.testing.assert_allclose(again.positive, targeted.positive, rtol=1e-4, atol=1e-5)


def test_places_worked_on_in_parts_are_put_together_compiled_or_not():
    values = np.random.default_rng(0).random((2, 6, 5, 3))
    places = tf.constant(values[..., 0])

    def function(inputs, output):
        return (inputs[0] * output[..., None], None, -output)

    def parted():
        return backend.by_places(function, (tf.constant(values),), places, 10)

    for found in (parted(), tf.function(parted, autograph=False)()):
        np.testing.assert_array_equal(found[0], values * values[..., :1])
        assert found[1] is None
        np.testing.assert_array_equal(found[2], -values[..., 0])
