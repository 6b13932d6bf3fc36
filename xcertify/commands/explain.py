"""``xcertify explain``: one's own model explained on one's own inputs."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from xcertify.commands.explainers import add_explainer_arguments, make_explainer
from xcertify.commands.loading import check_folder_of, load_array, load_model, load_targets

SUMMARY = "explain your own model on your own inputs"
DESCRIPTION = "Explains the inputs of a file with the model of another."
EXAMPLE = "xcertify explain model.keras images.npy --epsilon 0.02 --clip 0 1 --figure maps.png"

MOST_SHOWN = 32  # maps in a picture
ARRAYS = ("overlap", "robust", "cell_overlaps", "cells", "targets")  # saved of a certificate
WORDS = ("region", "method", "arithmetic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files in and out, and the explainer with its settings."""
    parser.add_argument("model", metavar="MODEL", help="a Keras model: .keras or .h5")
    parser.add_argument(
        "inputs", metavar="INPUTS", help="a batch of inputs: .npy, or .npz as FILE or FILE:NAME"
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        metavar="T",
        help="classes to explain: one integer per input, or a file as for INPUTS "
        "(default: what the model predicts)",
    )
    parser.add_argument("--first", type=int, metavar="INT", help="explain the first inputs only")
    parser.add_argument("--output", metavar="NPZ", default="maps.npz", help="maps and certificates")
    parser.add_argument("--figure", metavar="PNG", help="picture of the maps")
    parser.add_argument(
        "--no-certify", dest="certify", action="store_false", help="maps only, no certificates"
    )
    add_explainer_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write maps and certificates, and print what is proved."""
    for path in filter(None, (arguments.output, arguments.figure)):
        check_folder_of(path)
    inputs = load_array(arguments.inputs)[: arguments.first]
    targets = load_targets(arguments.targets)
    targets = None if targets is None else targets[: arguments.first]
    explainer: Any = make_explainer(arguments, load_model(arguments.model))
    maps, titles = explainer.explain(inputs, targets), None
    results = {"explanations": maps}
    if arguments.certify and hasattr(explainer, "certify"):
        certificate = explainer.certify(inputs, targets)
        results |= {name: np.asarray(getattr(certificate, name)) for name in ARRAYS}
        results |= {name: np.asarray(str(getattr(certificate, name))) for name in WORDS}
        proved = ["proved" if robust else "not proved" for robust in certificate.robust]
        titles = [f"class {c}, {how}" for c, how in zip(certificate.targets, proved)]
        print(f"{certificate}\n\ninput   class   overlap at most   class on the whole region")
        rows = zip(certificate.targets, certificate.overlap, proved)
        for index, (target, overlap, how) in enumerate(rows):
            print(f"{index:>5}{target:>8}{overlap:>18.4g}   {how}")
        print()
    with open(arguments.output, "wb") as file:
        np.savez_compressed(file, **results)
    print(f"{arguments.output}: {', '.join(results)}")
    if arguments.figure:
        _draw(arguments.figure, inputs, maps, titles)


def _draw(path: str, inputs: np.ndarray, maps: np.ndarray, titles: list[str] | None) -> None:
    """Write a picture of the first maps, over their images where they have some."""
    from xcertify.plots import plot_attributions

    shown = slice(MOST_SHOWN)
    images = inputs[shown] if inputs.ndim == 4 else None
    titles = None if titles is None else titles[shown]
    plot_attributions(maps[shown], images, titles=titles).savefig(path)
    print(f"{path}: picture of {len(maps[shown])} of {len(maps)} maps")
