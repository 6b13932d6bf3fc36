"""Draws the pictures of the home page and of the gallery, and a small one of each explainer.

    python docs/generate_gallery.py [--data-dir tensorflow_datasets]

The digits and their network are those of `xcertify demo`. The traffic signs are the data set
`gtsrb` in a folder of tensorflow_datasets, their network is the first that `reproduce.py corgi`
measures; without `--data-dir` their picture stays as it is. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xcertify import attributions
from xcertify.commands.demo.demonstration import decided_epsilons, train
from xcertify.commands.images import one_of_each, split_digits
from xcertify.commands.networks import accuracy, predict
from xcertify.plots import draw_attribution, draw_cells, draw_certified_pixels, draw_image

IMAGES = Path(__file__).with_name("images")
CLIP = (0.0, 1.0)
SIGNS = {14: "stop", 17: "no entry", 13: "yield", 12: "priority"}  # class: name


def main() -> None:
    """Draw everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", help="folder of tensorflow_datasets that holds gtsrb")
    data_dir = parser.parse_args().data_dir
    digits, (images, labels) = split_digits(0)
    model = train(*digits, 0)
    known = predict(model, images) == labels
    images = images[known][one_of_each(labels[known], 10)]
    draw_home(model, images[[0, 2, 4, 6]])
    draw_each(model, train_pooled(*digits), images[4:5])
    if data_dir:
        draw_signs(data_dir)


def draw_home(model: keras.Model, digits: np.ndarray) -> None:
    """Four digits, large enough for a phone: how far each is proved, and three explanations."""
    classes = predict(model, digits)
    radii = decided_epsilons(model, digits, classes).certified
    certificate = attributions.CertifiedGradient(model, epsilon=0.003, clip=CLIP).certify(
        digits, classes
    )
    rows = {
        "EVA: pixels that let other digits come closer": attributions.EVA(
            model, epsilon=0.02, clip=CLIP
        )(digits, classes),
        "CertifiedGradient, where its sign is proved": certificate.explanation
        * (certificate.signs != 0),
    }
    figure, (first, *others) = _rows(1.45, 1.25, 1.25)
    parts = first.subplots(1, len(digits))
    first.suptitle("The digit is proved to stay while every pixel moves by", **_LEFT)
    for axes, digit, radius in zip(parts, digits, radii):
        draw_image(axes, digit)
        _plain(axes)
        axes.set_title(f"±{radius:.3f}", fontsize=10, pad=3)
    for part, (name, maps) in zip(others, rows.items()):
        part.suptitle(name, **_LEFT)
        for axes, found, digit in zip(part.subplots(1, len(digits)), maps, digits):
            draw_attribution(axes, found, digit)
            _plain(axes)
    save(figure, "home")
    print(f"home: proved radii {radii}", flush=True)


def draw_each(model: keras.Model, pooled: keras.Model, digit: np.ndarray) -> None:
    """One digit as every explainer shows it; CORGI by a network with global average pooling."""
    gradient = attributions.CertifiedGradient(model, epsilon=0.003, clip=CLIP).certify(digit)
    corgi = attributions.CORGI(pooled, 10, form="map", method="crown-ibp", clip=CLIP)
    explainers = {
        "eva": attributions.EVA(model, epsilon=0.02, clip=CLIP),
        "eva-hybrid": attributions.EVAHybrid(
            model, "flatten", epsilon=0.1, grid_size=14, clip=CLIP
        ),
        "corgi": corgi,
        "attribution-bound": attributions.AttributionBound(model, epsilon=0.5, beta=10.0),
        "relex": attributions.RelEx(model, clip=CLIP),
        "sufficient-reason": attributions.SufficientReason(
            model, epsilon=0.06, grid_size=7, complete=False, clip=CLIP
        ),
        "other": attributions.Saliency(model),
    }
    found = {name: explainer(digit) for name, explainer in explainers.items()}
    found["certified-gradient"] = gradient.explanation * (gradient.signs != 0)
    certificate = corgi.certify(digit)
    for name, maps in found.items():
        figure = Figure(figsize=(1, 1), dpi=160)
        axes = figure.add_axes((0, 0, 1, 1))
        draw_attribution(axes, maps[0], digit[0])
        if name == "corgi":
            draw_cells(axes, certificate.cells[0], certificate.map_shape, digit[0].shape)
        _plain(axes)
        figure.savefig(IMAGES / f"thumbnail-{name}.png")
    smoothed = attributions.SmoothedAttribution(
        attributions.EVA(model, epsilon=0.02), sigma=0.1, tau=0.6, clip=CLIP
    ).certify(digit)
    figure = Figure(figsize=(1, 1), dpi=160)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_certified_pixels(axes, smoothed.certified_in[0], smoothed.certified_out[0])
    _plain(axes)
    figure.savefig(IMAGES / "thumbnail-smoothed.png")
    print(f"thumbnails: {smoothed}")
    print(f"thumbnails: CORGI's radius {certificate.radius}", flush=True)


def draw_signs(data_dir: str) -> None:
    """Traffic signs in colour: where a class is and for how far that is proved, what is enough."""
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from papers.corgi import trained
    from protocol.data import split
    from protocol.networks import SEEDS
    from protocol.pieces import Context, Records
    from reproduce import FOLDER, MODELS

    context = Context("corgi", Records(FOLDER / "corgi"), MODELS, data_dir)
    learned, _, (images, labels) = split("gtsrb", context)
    model = trained(context, SEEDS[0], learned)
    right = predict(model, images) == labels
    chosen = [np.flatnonzero(right & (labels == sign))[2] for sign in SIGNS]
    signs, classes = images[chosen], labels[chosen]
    corgi = attributions.CORGI(model, 15, form="pairwise", method="crown", clip=CLIP)
    certificate = corgi.certify(signs, classes)
    relex = attributions.RelEx(model, clip=CLIP)
    masks = relex.masks(signs, classes)
    figure, (first, second, third) = _rows(1.45, 1.45, 1.25)
    first.suptitle("Recognised as", **_LEFT)
    second.suptitle("CORGI: the top 15 cells are proved to stay within", **_LEFT)
    third.suptitle("RelEx: what is enough for the class, brightened", **_LEFT)
    grids = [part.subplots(1, len(signs)) for part in (first, second, third)]
    for number, (sign, name) in enumerate(zip(signs, SIGNS.values())):
        top, middle, bottom = (grid[number] for grid in grids)
        draw_image(top, sign)
        top.set_title(name, fontsize=10, pad=3)
        draw_attribution(middle, corgi(signs, classes)[number], sign)
        draw_cells(middle, certificate.cells[number], certificate.map_shape, sign.shape)
        radius = np.format_float_positional(certificate.radius[number], 1, fractional=False)
        middle.set_title(f"±{radius}", fontsize=10, pad=3)
        kept = masks[number] * sign
        draw_image(bottom, kept / kept.max())
        for axes in (top, middle, bottom):
            _plain(axes)
    save(figure, "signs")
    share = accuracy(model, images, labels)
    print(f"signs: {share:.1%} of the test images right; {certificate}", flush=True)


def train_pooled(images: np.ndarray, labels: np.ndarray) -> keras.Model:
    """A network of digits that ends in global average pooling, whose maps CORGI certifies."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    settings = {"padding": "same", "activation": "relu"}
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            layers.Conv2D(8, 5, strides=2, **settings),
            layers.Conv2D(16, 3, **settings),
            layers.Conv2D(32, 3, **settings),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(images, labels, batch_size=64, epochs=12, verbose=0)
    return model


_LEFT = {"x": 0.01, "ha": "left", "fontsize": 10}


def _rows(*heights: float) -> tuple[Figure, Sequence]:
    """A figure that is read on a screen 390 pixels wide, and its rows, so many inches high."""
    figure = Figure(figsize=(4.0, sum(heights)), layout="constrained", dpi=200)
    figure.get_layout_engine().set(h_pad=0.01, w_pad=0.02)
    return figure, figure.subfigures(len(heights), 1, height_ratios=heights)


def _plain(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def save(figure: Figure, name: str) -> None:
    """Write a picture."""
    figure.savefig(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
