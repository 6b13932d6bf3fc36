"""The study of CertifiedGradient: how settings are chosen, and what tables make of rows."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from papers import certified_gradient as study
from papers import certified_gradient_tables as tables
from papers.certified_gradient_data import TRAININGS
from protocol.pieces import Records
from protocol.records import recorded, write


def stored(folder, pieces):
    records = Records(folder)
    for name, rows in pieces.items():
        write(records.path(name), recorded(lambda rows=rows: rows))
    return records


def tried(training, number, accuracy, certified, change):
    setting = TRAININGS[training][1][number]
    return {
        "training": training,
        "setting": setting,
        "accuracy": accuracy,
        "certified": certified,
        "change": change,
    }


def test_most_explanations_proved_at_little_cost(tmp_path):
    rows = [
        tried("standard", 0, 0.950, 0.0, 9.0),
        tried("adversarial", 0, 0.945, 0.1, 5.0),
        tried("adversarial", 1, 0.942, 0.1, 4.0),
        tried("adversarial", 2, 0.930, 0.9, 1.0),
        tried("Hessian norm", 0, 0.900, 0.0, 5.0),
        tried("Hessian norm", 1, 0.910, 0.0, 9.0),
    ]
    records = stored(tmp_path, {"validation-german": rows})

    def number(training):
        return TRAININGS[training][1].index(study.chosen(records, "german", training))

    assert number("adversarial") == 1  # the last costs too much; the first proves no more
    assert number("Hessian norm") == 1  # all cost too much
    assert number("certified explanations") == 0  # not tried in small runs
    with pytest.raises(Exception, match="validation-adult was not run"):
        study.chosen(records, "adult", "standard")
    assert "**epsilon 0.025, alpha 1: 94.2 %, 10 %, 4**" in tables.settings(records)


def test_every_training_has_as_many_settings():
    assert {len(settings) for _, settings in TRAININGS.values()} == {1, 3}
    assert len(TRAININGS["standard"][1]) == 1


def test_tables_of_rows(tmp_path):
    kinds = [f"{kind} {method}" for kind in tables.KINDS for method in ("ibp", "crown")]
    others = ["right", "stays right ibp", "stays right crown"]
    whats = [*kinds, *others, "inputs attack fails", "weights attack fails"]

    def row(training, seed, bits):
        setting = TRAININGS[training][1][0]
        about = {"training": training, "seed": seed, "setting": setting, "curves": [[0.5] * 3] * 5}
        return about | dict.fromkeys(whats, bits)

    earlier = row("adversarial", 1, "1111") | {"setting": TRAININGS["adversarial"][1][2]}
    records = stored(
        tmp_path,
        {
            "validation-german": [tried("standard", 0, 0.95, 0.0, 9.0)],
        }
        # of a setting that was not chosen: not shown
        | {f"german-robust-{seed}": [earlier] for seed in (1, 2, 3)}
        | {
            f"german-{seed}": [
                row("standard", seed, "0000"),
                row("adversarial", seed, "0010"),
                row("certified explanations", seed, "1111"),
                row("certified predictions", seed, "0110"),
            ]
            for seed in (1, 2, 3)
        }
        | {
            f"bias-{name}": [
                {"training": "standard", "seed": seed, "induced": share, "share": share / 2}
                for seed in (1, 2, 3)
                for share in (0.0, 1.0)
            ]
            for name in ("german", "adult")
        },
    )
    found = tables.blocks(records)
    assert "| standard | 0 / 0 |" in found["explanations-german"]
    assert "| certified explanations | 100 |" in found["predictions"]
    assert "+75 (" in found["differences"]
    assert "German Credit: 100 %, 50 %" in found["paper"]  # ours, and the most of any other
    assert found["bias-german"].splitlines()[-1] == "| standard | 0 | 50 |"
    assert found["explanations-adult"] == tables.NOT_RUN
    tables.figures(records, tmp_path)
    assert (tmp_path / "certified-gradient-german.png").exists()
    assert (tmp_path / "certified-gradient-bias.png").exists()


def test_masks_are_as_long_as_the_explanation():
    original = np.random.default_rng(0).normal(size=(21, 28, 28, 1))
    criterion = study.goal(original, None)
    masks = criterion.target_map
    lengths = [np.linalg.norm(maps.reshape(21, -1), axis=1) for maps in (masks, original)]
    np.testing.assert_allclose(*lengths)
    assert (masks[0] > 0).sum() == 25 and np.array_equal(masks[20] > 0, masks[0] > 0)
