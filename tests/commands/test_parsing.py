"""What a command is told: words, environment variables, a configuration file, in this order."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from xcertify.attributions import EVA, EVAHybrid, GradCAM
from xcertify.commands.parsing import CommandLine, as_spelled
from xcertify.commands.signatures import settings_of


def read(*words, kind=EVA):
    line = CommandLine("certify", words)
    line.add("model", type=str, needed=True, metavar="MODEL", help="a model")
    line.add("--output", type=str, needed=True, metavar="FOLDER", help="a folder")
    line.add("--columns", type=list[str] | None, metavar="NAME", help="of a table")
    line.subject = kind.__name__
    line.add_settings("settings", settings_of(kind).values())
    return line.read()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--clip 0 1", ["--clip", "[0, 1]"]),
        ("--clip -1 inf m x", ["--clip", "[-1, inf]", "m", "x"]),
        ("--grid_size=7 --grid_size 7", ["--grid-size=7", "--grid-size", "7"]),
        ("m --size 2 3 --a_b c_d", ["m", "--size", "[2, 3]", "--a-b", "c_d"]),
        ("m 1 2", ["m", "1", "2"]),
        ("--attack --norm 2", ["--attack", "--norm", "2"]),
    ],
)
def test_spelling(words, expected):
    assert as_spelled(words.split()) == expected


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("", "epsilon", 0.05),
        ("--epsilon 1e-3", "epsilon", 0.001),
        ("--epsilon 0.1 0.2", "epsilon", [0.1, 0.2]),
        ("--norm inf", "norm", math.inf),
        ("--norm 2", "norm", 2.0),
        ("--clip 0 1", "clip", (0, 1)),
        ("--clip [0,1]", "clip", (0, 1)),
        ("--clip none", "clip", None),
        ("--clip 0 inf", "clip", (0, math.inf)),
        ("--grid-size 7", "grid_size", 7),
        ("--grid_size 7 5", "grid_size", (7, 5)),
        ("--grid-size none", "grid_size", None),
        ("--attack", "attack", True),
        ("--no-attack", "attack", False),
        ("--columns age income", "columns", ["age", "income"]),
        ("--columns [age,income]", "columns", ["age", "income"]),
        ("--columns 0 1", "columns", ["0", "1"]),
    ],
)
def test_values(words, name, value):
    assert getattr(read("m", "--output", "o", *words.split()), name) == value


def test_layers_have_names_or_numbers():
    assert read("m", "--output", "o", "--conv-layer", "-3", kind=GradCAM).conv_layer == -3
    assert read("m", "--output", "o", "--conv-layer", "conv", kind=GradCAM).conv_layer == "conv"


def test_functions_are_no_values():
    """A configuration file must not be able to name code."""
    said = read("m", "--output", "o", "--operator", "os.getcwd", kind=GradCAM)
    assert said.operator == "os.getcwd"


class Noisy:
    """Made of an explainer; by name, of a model.

    Parameters
    ----------
    sigma
        Of the noise.
    """

    def __init__(self, explainer, sigma: float = 0.1, *, model=None):
        pass

    @classmethod
    def of_model(
        cls, model, of: str = "Saliency", of_settings: Mapping[str, Any] | None = None, **settings
    ):
        """Make it.

        Parameters
        ----------
        of
            Name of an explainer.
        of_settings
            Its settings.
        """


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["--of-settings", "{nb_samples: 5, seed: 3}"], {"nb_samples": 5, "seed": 3}),
        (
            ["--of-settings.nb-samples", "5", "--of_settings.grid_size", "2", "3"],
            {"nb_samples": 5, "grid_size": [2, 3]},
        ),
    ],
)
def test_settings_of_an_explainer_that_another_one_is_made_of(words, expected):
    settings = settings_of(Noisy)
    assert [*settings] == ["of", "of_settings", "sigma"]
    assert settings["of"].help == "Name of an explainer."
    said = read("m", "--output", "o", "--of", "SmoothGrad", *words, kind=Noisy)
    assert (said.of, said.of_settings, said.sigma) == ("SmoothGrad", expected, 0.1)
    with pytest.raises(ValueError, match=r"--of-settings takes settings, \{name: value\} or none"):
        read("m", "--output", "o", "--of-settings", "5", kind=Noisy)


@pytest.mark.parametrize("as_file", ["yaml", "json"])
def test_words_go_before_the_environment_and_that_before_the_file(tmp_path, monkeypatch, as_file):
    values = {"model": "a", "output": "b", "epsilon": 0.3, "grid-size": 4, "norm": "inf"}
    values |= {"clip": [0, 1], "attack": True, "columns": ["x", "y"]}
    path = tmp_path / f"settings.{as_file}"
    path.write_text(json.dumps(values))  # which is YAML, too
    said = read("--config", str(path))
    assert (said.model, said.output, said.epsilon, said.grid_size) == ("a", "b", 0.3, 4)
    assert (said.norm, said.clip, said.attack, said.columns) == (math.inf, (0, 1), True, ["x", "y"])
    monkeypatch.setenv("XCERTIFY_CERTIFY_EPSILON", "0.4")
    monkeypatch.setenv("XCERTIFY_CERTIFY_ATTACK", "false")
    monkeypatch.setenv("XCERTIFY_CERTIFY_CLIP", "[0, 2]")
    monkeypatch.setenv("XCERTIFY_CERTIFY_MODEL", "c")
    monkeypatch.setenv("XCERTIFY_EXPLAIN_GRID_SIZE", "9")  # of another command
    said = read("--config", str(path))
    assert (said.model, said.epsilon, said.grid_size) == ("c", 0.4, 4)
    assert (said.clip, said.attack) == ((0, 2), False)
    said = read("--config", str(path), "--epsilon", "0.5", "d")
    assert (said.model, said.epsilon) == ("d", 0.5)
    monkeypatch.setenv("XCERTIFY_CERTIFY_CONFIG", str(path))
    assert read().output == "b"


def test_one_option_is_known_before_all_are(tmp_path, monkeypatch):
    path = tmp_path / "settings.yaml"
    path.write_text("explainer: CORGI\nmetrics: [Deletion, Insertion]\n")
    assert CommandLine("certify", []).said("explainer") is None
    assert CommandLine("certify", ["--explainer=EVA", "m"]).said("explainer") == "EVA"
    line = CommandLine("score", ["--config", str(path)])
    assert line.said("explainer") == "CORGI"
    assert line.said_words("metrics") == ["Deletion", "Insertion"]
    monkeypatch.setenv("XCERTIFY_CERTIFY_EXPLAINER", "RelEx")
    assert CommandLine("certify", ["--config", str(path)]).said("explainer") == "RelEx"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "certify needs MODEL: see xcertify certify --help"),
        ("m", "certify needs --output FOLDER"),
        ("m --output o --norm two", "--norm takes a number. Received: two"),
        ("m --output o --norm true", "--norm takes a number. Received: [Tt]rue"),
        ("m --output o --grid-size a", "--grid-size takes a whole number, 2 values or none.*: a"),
        ("m --output o --grid-size 1 2 3", r"--grid-size takes .* Received: \[1, 2, 3\]"),
        ("m --output o --clip 0", "--clip takes 2 values or none. Received: 0"),
        ("m --output o --batch-size 2.5", "--batch-size takes a whole number or none.*2.5"),
        ("m --output o --epsilon", "argument --epsilon: expected one argument"),
        ("m --output o --epsilom 1", "EVA has no setting --epsilom: see xcertify certify --help"),
        ("m --output o --epsil 1", "EVA has no setting --epsil"),
        ("m --output o x", "certify does not take the words x"),
        ("m --output o --attack true", "--attack takes no true: write --attack or --no-attack"),
    ],
)
def test_errors_are_one_sentence_with_the_words_of_the_command_line(words, message):
    with pytest.raises(ValueError, match=message):
        read(*words.split())


def test_a_setting_without_a_default_is_needed():
    with pytest.raises(ValueError, match="EVAHybrid needs --latent-layer"):
        read("m", "--output", "o", kind=EVAHybrid)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epsilom: 0.3", "the configuration file has the unknown option 'epsilom'"),
        ("norm: two", "--norm takes a number. Received: two"),
        ("[1, 2", "is neither YAML nor JSON"),
        ("3", "must have lines such as epsilon: 0.02. Received: 3"),
        ("- a\n- b", "must have lines such as"),
        ("epsilon: &a [*a]", "it has aliases"),
    ],
)
def test_errors_of_configuration_files(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read("m", "--output", "o", "--config", str(path))


def test_configuration_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no such file: none.yaml"):
        read("--config", "none.yaml")


def test_values_of_another_type_in_the_environment(monkeypatch):
    monkeypatch.setenv("XCERTIFY_CERTIFY_NORM", "two")
    with pytest.raises(ValueError, match="--norm takes a number. Received: two"):
        read("m", "--output", "o")


def test_help_shows_settings_with_hyphens_defaults_and_docstrings(capsys):
    with pytest.raises(SystemExit, match="0"):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--grid-size INT|INT INT|none Cells per side of images" in shown
    assert "--attack, --no-attack Whether `certify` also looks for points" in shown
    assert "--epsilon VALUE Radius of the region" in shown
    assert "(default: 0.05)" in shown
    assert "XCERTIFY_CERTIFY_" in shown
