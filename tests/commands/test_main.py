"""The command line as a whole: its start, its help, its errors, and words that it once had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import xcertify
from xcertify import commands
from xcertify.commands import benchmark, explain, main

HAS_TENSORFLOW = """
import sys, xcertify.commands as c
try: c.main()
finally: print('tensorflow' in sys.modules)
"""


def run(*arguments, folder):
    environment = os.environ | {"PYTHONPATH": str(Path(xcertify.__file__).parents[1])}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )


def parsed(*arguments):
    return commands._parser().parse_args(arguments)


@pytest.mark.parametrize("arguments", [["--version"], ["explain", "--help"]])
def test_version_and_help_need_no_tensorflow(tmp_path, arguments):
    shown = run("-c", HAS_TENSORFLOW, *arguments, folder=tmp_path).stdout
    assert shown.endswith("\nFalse\n")
    if arguments == ["--version"]:
        assert shown.split() == ["xcertify", xcertify.__version__, "False"]


@pytest.mark.parametrize("command", [[], *([c.__name__.split(".")[-1]] for c in commands.COMMANDS)])
def test_every_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert f"example:\n  xcertify {' '.join(command)}" in capsys.readouterr().out


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_example_is_understood(command):
    arguments = parsed(*command.EXAMPLE.split()[1:])
    assert arguments.run is command.run


def test_module_is_the_command(tmp_path):
    shown = run("-m", "xcertify", "--version", folder=tmp_path).stdout
    assert shown == f"xcertify {xcertify.__version__}\n"


def test_tensorflow_says_nothing_at_its_start(tmp_path):
    result = run("-m", "xcertify", "explain", "none.keras", "none.npy", folder=tmp_path)
    assert result.stderr == "xcertify: error: no such file: none.npy\n"
    assert (result.returncode, result.stdout) == (2, "")


def test_traceback_on_request():
    with pytest.raises(FileNotFoundError, match="no such file"):
        main(["--traceback", "explain", "none.keras", "none.npy"])


@pytest.mark.parametrize("name", ["EVAHybrid", "evahybrid", "eva-hybrid", "EVA-Hybrid"])
def test_explainers_have_the_names_of_their_classes(name, capsys):
    files = ["explain", "model.keras", "inputs.npy"]
    assert parsed(*files).explainer == "EVA"
    assert parsed(*files, "--explainer", name).explainer == "EVAHybrid"
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit, match="2"):
        parsed(*files, "--explainer", "lime")
    assert "argument --explainer: must be EVA, EVAHybrid or SufficientReason. Received: lime" in (
        capsys.readouterr().err
    )


def test_method_is_the_bound_method(capsys):
    arguments = parsed("explain", "model.keras", "inputs.npy", "--method", "decomon:crown")
    assert (arguments.explainer, arguments.method) == ("EVA", "decomon:crown")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (explain, "--method eva-hybrid", "--explainer eva-hybrid"),
        (explain, "--verifier ibp", "--method ibp"),
        (explain, "--method eva-hybrid --verifier ibp", "--explainer eva-hybrid --method ibp"),
        (benchmark, "--methods eva saliency", "--explainers eva saliency"),
    ],
)
def test_old_words_are_understood_with_advice(module, old, new, capsys):
    files = ["model.keras", "inputs.npy"] if module is explain else []
    command = [module.__name__.split(".")[-1], *files]
    wanted = parsed(*command, *new.split())
    assert capsys.readouterr().err == ""
    assert parsed(*command, *old.split()) == wanted
    advice = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in advice] == ["xcertify"] * old.count("--")
    for option in (word for word in new.split() if word.startswith("--")):
        assert any(f"Write {option}" in line for line in advice)


def test_the_former_place_of_the_command_line_warns():
    with pytest.warns(DeprecationWarning, match=r"Write from xcertify\.commands import main"):
        from xcertify import cli
    assert cli.main is main
