"""Settings of classes as options: all of them, with their types, defaults and words of help."""

import inspect
from typing import Any

import numpy as np
import pytest

from xcertify import attributions, metrics
from xcertify.commands.explainers import explainer_named, explainers
from xcertify.commands.score import metric_named
from xcertify.commands.score import metrics as metrics_of_maps
from xcertify.commands.signatures import (
    NOT_SAID,
    Number,
    chosen,
    meaning,
    placeholder,
    settings_of,
)
from xcertify.settings import setting_names

KINDS = [*explainers().values(), *metrics_of_maps().values()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_of_every_class_is_an_option_with_help(kind):
    settings = settings_of(kind)
    names = set(setting_names(kind))
    if "explainer" in names:  # by name here
        names |= {"of", "of_settings"}
    assert set(settings) == names - set(NOT_SAID)
    parameters = inspect.signature(kind).parameters
    for name, setting in settings.items():
        assert setting.help, name
        assert setting.type is bool or placeholder(setting.type)
        assert meaning(setting.type)
        if name in parameters:
            assert setting.default == parameters[name].default
            assert setting.is_required == (name == "latent_layer")


def test_explainers_and_metrics_are_those_of_the_package():
    assert set(explainers()) == set(attributions.__all__) - {"TargetedExplanation"}
    assert set(metrics_of_maps()) == {
        *("ClassRetrieval", "Deletion", "FeatureRelevance", "Insertion", "MuFidelity"),
        *("ProbableSize", "RobustnessSr", "Stability", "SufficientSize"),
    }


@pytest.mark.parametrize("name", ["EVAHybrid", "evahybrid", "eva-hybrid", "EVA_hybrid"])
def test_names_in_capitals_or_not(name):
    assert explainer_named(name) is attributions.EVAHybrid


@pytest.mark.parametrize("name", ["MuFidelity", "mu-fidelity"])
def test_names_of_metrics(name):
    assert metric_named(name) is metrics.MuFidelity


@pytest.mark.parametrize(
    ("kind", "name", "expected", "words"),
    [
        (attributions.EVA, "norm", Number, "a number"),
        (attributions.EVA, "epsilon", Any, "any value"),
        (attributions.EVA, "attack", bool, "true or false"),
        (attributions.EVA, "clip", tuple[Any, Any] | None, "2 values or none"),
        (attributions.GreedyAS, "clip", tuple[Any, Any] | str, "2 values or a word"),
        (attributions.GradCAM, "conv_layer", int | None | str, "a whole number, none or a word"),
        (attributions.GradCAM, "operator", None | str, "none or a word"),  # no functions
        (metrics.RobustnessSr, "fractions", list[Number] | None, "several values or none"),
    ],
)
def test_types_are_those_that_words_can_say(kind, name, expected, words):
    setting = settings_of(kind)[name]
    assert setting.type == expected
    assert meaning(setting.type) == words


def test_arguments_that_are_described_together_have_the_same_help():
    settings = settings_of(attributions.GreedyAS)
    assert settings["share"].help == settings["last_share"].help != ""


def test_arrays_are_given_as_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("groups.npy", np.array([0, 0, 1]))
    settings = settings_of(attributions.SufficientReason)
    said = {name: setting.default for name, setting in settings.items()}
    said |= {"groups": "groups.npy", "method": "x.npy"}
    values = chosen(settings.values(), said)
    assert values["groups"] == [0, 0, 1]
    assert values["method"] == "x.npy"  # takes no array
    assert values["norm"] == np.inf
