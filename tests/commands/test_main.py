"""The command line as a whole: its start, its help, its errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import xcertify
from xcertify.commands import COMMANDS, main
from xcertify.commands.old_words import refuse_old_words
from xcertify.commands.parsing import CommandLine

HAS_TENSORFLOW = """
import sys, xcertify.commands as c
try: code = c.main()
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["explayn"],
        *([command, "--help"] for command in COMMANDS),
        ["recheck", "run", "--modell", "model.keras"],
        ["explain", "m.keras", "x.npy", "--figure", "a.png"],
    ],
)
def test_help_and_wrong_words_need_no_tensorflow(tmp_path, arguments):
    shown = run("-c", HAS_TENSORFLOW, *arguments, folder=tmp_path).stdout
    assert shown.endswith("False\n")
    if arguments == ["--version"]:
        assert shown.split() == ["xcertify", xcertify.__version__, "False"]


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_every_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert f"example:\n  xcertify {' '.join(command)}" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_is_understood(command):
    module = COMMANDS[command]
    _, name, *words = module.EXAMPLE.split()
    assert name == command
    refuse_old_words(command, words)
    line = CommandLine(command, words)
    module.add_arguments(line)
    assert line.read()


@pytest.mark.parametrize("command", ["explain", "certify"])
def test_help_of_an_explainer_has_its_settings(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--explainer", "corgi", "--help"])
    shown = capsys.readouterr().out
    assert "settings of CORGI" in shown
    assert "--largest-radius NUMBER" in shown
    assert "--one-hot" in shown


def test_module_is_the_command(tmp_path):
    shown = run("-m", "xcertify", "--version", folder=tmp_path).stdout
    assert shown == f"xcertify {xcertify.__version__}\n"


def test_tensorflow_says_nothing_at_its_start(tmp_path):
    words = ["explain", "none.keras", "none.npy", "--output", "run"]
    result = run("-m", "xcertify", *words, folder=tmp_path)
    assert result.stderr == "xcertify: error: no such file: none.keras\n"
    assert (result.returncode, result.stdout) == (2, "")


def test_traceback_on_request():
    with pytest.raises(FileNotFoundError, match="no such file"):
        main(["--traceback", "explain", "none.keras", "none.npy", "--output", "run"])


def test_unknown_commands(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["explayn"])
    assert "invalid choice: 'explayn'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_options_of_every_command(command, capsys):
    assert main([command, "--colour", "red"]) == 2
    assert "has no setting --colour: see xcertify" in capsys.readouterr().err


def test_methods_are_explainers_of_the_benchmark(capsys):
    assert main(["benchmark", "--methods", "eva"]) == 2
    assert "--methods is no longer an option of benchmark: write --explainers" in (
        capsys.readouterr().err
    )


def test_the_former_place_of_the_command_line_warns():
    with pytest.warns(DeprecationWarning, match=r"Write from xcertify\.commands import main"):
        from xcertify import cli
    assert cli.main is main
