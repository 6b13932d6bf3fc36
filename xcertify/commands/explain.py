"""``xcertify explain``: one's own model explained on one's own inputs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from xcertify.commands.explainers import add_explainer_arguments, make_explainer
from xcertify.commands.loading import check_folder_of, load_array, load_model, load_targets

if TYPE_CHECKING:
    from xcertify.attributions import SufficientReason

SUMMARY = "explain your own model on your own inputs"
DESCRIPTION = "Explains the inputs of a file with the model of another."
EXAMPLE = "xcertify explain model.keras images.npy --epsilon 0.02 --clip 0 1 --figure maps.png"

MOST_SHOWN = 32  # maps in a picture
ARRAYS = (
    "overlap",
    "robust",
    "cell_overlaps",
    "cells",
    "targets",
)  # saved of the certificates of EVA
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
    titles = None
    if not (arguments.certify and hasattr(explainer, "certify")):
        results = {"explanations": explainer.explain(inputs, targets)}
    elif arguments.explainer == "SufficientReason":
        results, titles = _reasons(explainer, inputs, targets)
    else:
        results, titles = _overlaps(explainer, inputs, targets)
    with open(arguments.output, "wb") as file:
        np.savez_compressed(file, **results)
    print(f"{arguments.output}: {', '.join(results)}")
    if arguments.figure:
        _draw(arguments.figure, inputs, results["explanations"], titles)


def _overlaps(explainer: Any, inputs: np.ndarray, targets: Any) -> tuple[dict, list[str]]:
    """Maps and what is proved of them, which is printed, and titles of the maps."""
    maps, certificate = explainer.explain(inputs, targets), explainer.certify(inputs, targets)
    results = {"explanations": maps}
    results |= {name: np.asarray(getattr(certificate, name)) for name in ARRAYS}
    results |= _words(certificate)
    proved = ["proved" if robust else "not proved" for robust in certificate.robust]
    print(f"{certificate}\n\ninput   class   overlap at most   class on the whole region")
    rows = zip(certificate.targets, certificate.overlap, proved)
    for index, (target, overlap, how) in enumerate(rows):
        print(f"{index:>5}{target:>8}{overlap:>18.4g}   {how}")
    print()
    return results, [f"class {c}, {how}" for c, how in zip(certificate.targets, proved)]


def _reasons(
    explainer: SufficientReason, inputs: np.ndarray, targets: Any
) -> tuple[dict, list[str]]:
    """Of one search maps, the certificate as `ReasonCertificate.load` reads it, and titles."""
    certificate = explainer.certify(inputs, targets)
    results = {"explanations": certificate.maps(ranked=explainer.ranked)}
    results |= certificate.arrays() | _words(certificate)
    print(f"{certificate}\n\ninput   class   enough   needed   unknown   at least   why unknown")
    titles = []
    for index, (target, size, smallest, why) in enumerate(
        zip(certificate.targets, certificate.sizes, certificate.smallest, certificate.reason)
    ):
        nb_needed = len(certificate.witnesses[index])
        counts = f"{size:>9}{nb_needed:>9}{size - nb_needed:>10}{smallest:>11}"
        print(f"{index:>5}{target:>8}{counts}   {why}".rstrip())
        titles.append(f"class {target}, {size} of {certificate.nb_groups[index]}")
    print()
    return results, titles


def _words(certificate: Any) -> dict[str, np.ndarray]:
    """What the numbers of a certificate are about."""
    return {name: np.asarray(str(getattr(certificate, name))) for name in WORDS}


def _draw(path: str, inputs: np.ndarray, maps: np.ndarray, titles: list[str] | None) -> None:
    """Write a picture of the first maps, over their images where they have some."""
    from xcertify.plots import plot_attributions

    shown = slice(MOST_SHOWN)
    images = inputs[shown] if inputs.ndim == 4 else None
    titles = None if titles is None else titles[shown]
    plot_attributions(maps[shown], images, titles=titles).savefig(path)
    print(f"{path}: picture of {len(maps[shown])} of {len(maps)} maps")
