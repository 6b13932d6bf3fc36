"""score: metrics of the maps of a run, as Python computes them."""

import re

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
from rotation import rotating

from xcertify.commands import main
from xcertify.commands.score import metrics
from xcertify.metrics import Deletion, MuFidelity, as_masks
from xcertify.runs import Run

QUICK = {
    "MuFidelity": "--nb-samples 5 --grid-size 3",
    "ProbableSize": "--epsilon 0.01 --search sequence --steps 2",
    "RobustnessSr": "--steps 2 --restarts 1 --clip 0 1 --fractions 0.3 0.6",
    "SufficientSize": "--epsilon 0.01 --steps 2 --no-complete",
}
NAMES = sorted(metrics())


@pytest.fixture
def explained(folder):
    """A run of maps of two digits and an input with an error."""
    images = np.load("digits.npy")
    images[1] = np.nan
    np.save("some.npy", images)
    words = "explain digits.keras some.npy --explainer Saliency --output run --no-verbose"
    assert main(words.split()) == 0
    return keras.models.load_model("digits.keras"), images[[0, 2]], Run.open("run").maps()[[0, 2]]


def score(*words):
    assert main(["score", "run", "--model", "digits.keras", "--no-verbose", *words]) == 0
    return pq.read_table("run/scores.parquet")


def check_metric(name, explained):
    model, images, maps = explained
    table = score("--metrics", name, *QUICK.get(name, "").split())
    assert table.column_names == ["input", name]
    assert table["input"].to_pylist() == [0, 2]
    settings = {
        "MuFidelity": {"nb_samples": 5, "grid_size": 3},
        "ProbableSize": {"epsilon": 0.01, "search": "sequence", "steps": 2},
        "RobustnessSr": {"steps": 2, "restarts": 1, "clip": (0, 1), "fractions": [0.3, 0.6]},
        "SufficientSize": {"epsilon": 0.01, "steps": 2, "complete": False},
    }
    classes = model.predict(images, verbose=0).argmax(axis=1)
    metric = metrics()[name](model, images, classes, **settings.get(name, {}))
    taken = as_masks(maps, images) if name == "ClassRetrieval" else maps
    np.testing.assert_allclose(table[name].to_numpy(), metric.evaluate_samples(taken), rtol=1e-5)


@pytest.mark.parametrize("name", [NAMES[place] for place in rotating(len(NAMES), 2)])
def test_some_metrics_have_the_scores_of_python(explained, name):
    check_metric(name, explained)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_metric_has_the_scores_of_python(explained, name):
    check_metric(name, explained)


def test_several_metrics_share_settings_and_means_are_printed(explained, capsys):
    model, images, maps = explained
    table = score("--metrics", "deletion", "mu-fidelity", "--steps", "3", "--nb-samples", "5")
    assert table.column_names == ["input", "Deletion", "MuFidelity"]
    classes = model.predict(images, verbose=0).argmax(axis=1)
    deletion = Deletion(model, images, classes, steps=3).evaluate(maps)
    fidelity = MuFidelity(model, images, classes, nb_samples=5).evaluate(maps)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Deletion", f"{deletion:.4f}", "lower", "is", "better"] in shown
    assert ["MuFidelity", f"{fidelity:.4f}", "higher", "is", "better"] in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run", "score needs --model MODEL"),
        ("none --model digits.keras", "no such folder: none"),
        (". --model digits.keras", "no run in ."),
        ("run --model none.keras", "no such file: none.keras"),
        (
            "run --model digits.keras --metrics Beauty",
            "metrics must be of ClassRetrieval, Deletion",
        ),
        (
            "run --model digits.keras --metrics Deletion --nb-samples 5",
            "Deletion has no setting --nb",
        ),
        ("run --model digits.keras --metrics RobustnessSr --batch 1", "such as --clip 0 1"),
        (
            "run --model digits.keras --metrics ProbableSize --nb-inputs none --batch 1",
            "ProbableSize would share its level among the inputs of each batch: give",
        ),
        (
            "run --model digits.keras --metrics Stability --together all --batch 2",
            "Stability would share its level .* --batch 3",
        ),
        ("run --model digits.keras --steps many", "--steps takes a whole number. Received: many"),
    ],
)
def test_errors_say_what_is_wrong(explained, error_of, words, message):
    assert re.search(message, error_of("score", *words.split()))


def test_runs_without_maps_have_no_scores(folder, error_of):
    words = "certify digits.keras digits.npy --output run --no-maps --no-verbose --clip 0 1"
    assert main(words.split()) == 0
    message = error_of("score", "run", "--model", "digits.keras", "--no-verbose")
    assert "run has no maps: run xcertify explain, or with --maps" in message
