"""What AttributionBound's study counts and shows, on rows that are made up."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from papers import attribution_bound
from papers.attribution_bound_networks import _measure_statistics
from papers.attribution_bound_tables import MISSING, blocks
from protocol.data import Split
from protocol.pieces import Context, Records
from protocol.records import write

from xcertify.attributions import AttributionBound


@pytest.fixture
def explainer():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(5, "softplus"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    return AttributionBound(model, 0.1, clip=(0, 1))


def test_attacks_of_the_paper_are_counted_apart(explainer):
    inputs = np.random.default_rng(0).random((3, 4, 4, 1), dtype="f4")
    certificate = explainer.certify(inputs)
    attacks = attribution_bound.Attacks(explainer, nb_runs=2)
    points = attacks(certificate, 0.1, 2)
    distances = np.linalg.norm((points - inputs).reshape(4, 3, -1), axis=2)
    assert distances.max() <= 0.1 + 1e-6
    row = attribution_bound.moved(attacks, certificate, points, 0.1, certificate.factor)
    assert (row["attacks"], row["attacks_paper"]) == (4, 2)
    row = attribution_bound.moved(attacks, certificate, points, 1e-6, np.ones(3))  # all beyond
    for kind, nb in {"": 4, "_paper": 2}.items():
        np.testing.assert_array_equal(row[f"beyond{kind}"], [nb] * 3)
    np.testing.assert_array_equal(row["beyond_kept"], row["kept"])


def test_images_of_earlier_runs_are_left_out(monkeypatch, tmp_path):
    images = np.arange(5000, 10000)
    everything = Split(*[(images, images)] * 3)
    monkeypatch.setattr(attribution_bound, "split", lambda name, context: everything)
    context = Context("attribution-bound", Records(tmp_path), tmp_path)
    found, _ = attribution_bound.fresh(context, "mnist", 5000)
    earlier = np.random.default_rng(0).permutation(10000)[:250]
    assert not np.isin(found, earlier).any()
    assert len(found) == 5000 - (earlier >= 5000).sum()


def test_statistics_are_those_of_the_images():
    layers = [keras.layers.BatchNormalization(), keras.layers.BatchNormalization(trainable=False)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    images = np.random.default_rng(0).normal(3, 2, (300, 2)).astype("f4")
    _measure_statistics(model, images)
    np.testing.assert_allclose(layers[0].moving_mean, images.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(layers[1].moving_mean, 0)
    assert layers[0].momentum == 0.99


def made_up(seed, **others):
    row = {"data": "mnist", "seed": seed, "training": "AT", "images": 10, "right": 9}
    row |= {"attribution": "saliency", "norm": "2", "epsilon": 0.05, "whole": True}
    of_each = ("mean", "worst", "estimate", "adapted", "gap", "angle", "kendall", "reached")
    row |= {name: [0.5, 1.5] for name in (*of_each, "corollary")}
    row |= {"angle_estimate": [10, 180], "kept": [2, 3], "attained": [True, False]}
    row |= {"attacks": 3, "attacks_paper": 1, "theorem": [0.4]}
    row |= {"beyond": [1, 0], "beyond_kept": [1, 0], "beyond_paper": [0, 0]}
    row |= {"beyond_adapted": [0, 0], "beyond_adapted_kept": [0, 0], "beyond_adapted_paper": [0, 0]}
    return row | others


def test_tables_are_of_all_networks(tmp_path):
    records = Records(tmp_path)
    assert blocks(records)["l2-mnist"] == MISSING
    for seed in (1, 2):
        for kind in ("l2", "linf"):
            write(records.path(f"mnist-{kind}-{seed}"), {"seconds": 1, "rows": [made_up(seed)]})
    found = blocks(records)
    assert "2 networks of each training, 2 images, 3 attacks" in found["l2-mnist"]
    assert "2 of 12 (16.67 %)" in found["l2-mnist"]
    assert "| 83.3 % | 2 | 0 | 50 % |" in found["l2-mnist-angles"]
    assert "| - (any: 50 %) |" in found["l2-mnist-angles"]
    assert "| all | 24 | 4 (16.667 %) | 0 (0.000 %) | 8 |" in found["totals"]
    assert "| 2 of 2 |" in found["steps"]  # the worst is beyond Theorem 2 and Corollary 1
    assert "| MNIST | 90.0 %, 90.0 % |" in found["accuracy"]
    assert "| here | 1 | 1 [16.67 %] | 1 | 1 |" in found["paper-3"]


def test_rows_that_failed_are_shown(tmp_path):
    records = Records(tmp_path)
    about = {"data": "mnist", "seed": 1, "training": "TRADES", "images": 10, "right": 9}
    failed = about | {"attribution": "saliency", "epsilon": 0.05, "failed": "too large"}
    write(records.path("mnist-linf-1"), {"seconds": 1, "rows": [made_up(1), failed]})
    assert "| TRADES | 0.05 | failed: too large |" in blocks(records)["linf-mnist"]
