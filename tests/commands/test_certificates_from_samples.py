"""certify, recheck and score of what is certified from samples: what is printed and written."""

import re
from pathlib import Path

import numpy as np
import pytest

from xcertify.commands import main
from xcertify.runs import Run

CERTIFY = "certify digits.keras digits.npy --clip 0 1 --no-verbose --output run --explainer"
RECHECK = ["recheck", "run", "--model", "digits.keras", "--no-verbose"]


def certify(words):
    assert main([*CERTIFY.split(), *words.split()]) == 0


def test_smoothed_maps(folder, capsys):
    certify(
        "SmoothedAttribution --of Occlusion --of-settings.patch-size 2 "
        "--of_settings.patch_stride 1 --alpha 0.05 --tau 0.6 --report run.html"
    )
    printed = capsys.readouterr().out
    run = Run.open("run")
    (_, certificate), *_ = run.certificates()
    assert run.settings["settings"]["of_settings"]["patch_size"] == 2
    some = int((certificate.certified < 1).sum())
    assert f"sampled: {some} of 3 ({some / 3:.1%}): the answer of some pixels" in printed
    assert re.search(r"^level: +confidence 0.95 of each input$", printed, flags=re.MULTILINE)
    assert f"certified {np.median(certificate.certified):.4g}" in printed
    assert "proved" not in printed
    np.testing.assert_array_equal(run.maps(), certificate.votes.astype(np.float32))
    page = re.sub(r"\s+", " ", Path("run.html").read_text())
    assert "Pixels of the inputs 0, 1, 2, from above" in page
    assert "They are from samples, with confidence 0.95 of each input" in page
    assert "say nothing of the map that is smoothed" in page
    assert "What is random" in page and "No point of the region leaves the bounds" not in page
    assert main(RECHECK) == 0
    assert re.search(r"^confirmed +3$", capsys.readouterr().out, flags=re.MULTILINE)


def test_levels_of_several_inputs(folder, capsys):
    certify("smoothed-attribution --nb-inputs 3 --no-maps")
    assert "confidence 0.999 of 3 inputs together" in capsys.readouterr().out
    (_, certificate), *_ = Run.open("run").certificates()
    assert certificate.level == 0.001 / 3


@pytest.mark.filterwarnings("ignore::xcertify.VacuousWarning")
def test_directions_of_smoothed_maps(folder, capsys):
    certify("uniformly-smoothed-attribution --of GradientInput --nb-samples 50 --noise gaussian")
    printed = capsys.readouterr().out
    assert "sampled: " in printed and "confidence 0.999 of each input" in printed
    run = Run.open("run")
    (_, certificate), *_ = run.certificates()
    np.testing.assert_array_equal(run.maps(), certificate.explanation)
    assert main(RECHECK) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--of Salienzy", "of must be the name of an explainer .* Received: 'Salienzy'"),
        (
            "--of SmoothGrad --of-settings.nb_sample 3",
            "of_settings must be arguments of SmoothGrad",
        ),
        ("--of EVA --of-settings.clip 0 0.5", "noisy points would leave the valid range"),
        ("--nb-inputs none", "nb_inputs=None would share the level.* nb_inputs=3, or 1"),
        ("--of-settings 5", r"--of-settings takes settings, \{name: value\} or none. Received: 5"),
        ("--alpha 2", "alpha must be between 0 and 1. Received: 2"),
    ],
)
def test_errors_say_what_is_wrong_in_one_line(folder, error_of, words, message):
    message_there = error_of(*CERTIFY.split(), "SmoothedAttribution", *words.split())
    assert re.search(message, message_there)


def test_configurations_hold_settings_of_the_explainer(folder):
    words = "SmoothedAttribution --of SmoothGrad --of-settings.nb-samples 3 --nb-samples 40"
    certify(words)
    assert "of_settings:\n  nb_samples: 3\n" in Path("run/config.yaml").read_text()
    assert main(["certify", "--config", "run/config.yaml", "--output", "again"]) == 0
    first, second = Run.open("run"), Run.open("again")
    assert first.settings == second.settings
    np.testing.assert_array_equal(first.maps(), second.maps())


def test_scores_of_smoothed_maps(folder, capsys):
    certify("SmoothedAttribution --nb-samples 40")
    words = "--metrics Stability ProbableSize --radius 5 --epsilon 0.1 --steps 1 --no-verbose"
    assert main(["score", "run", "--model", "digits.keras", *words.split()]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"Stability +\d\.\d{4} +higher is better", printed)
    assert re.search(r"ProbableSize +\d\.\d{4} +lower is better", printed)
