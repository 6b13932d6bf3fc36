"""RelEx, the explainers beside it, and the settings of each that validation images choose among.

Every method may try `BUDGET` settings. Those of others are what they explain (the logit, or the
logarithm of the odds of the class), whether the sign of the map counts, and their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xcertify import attributions
from xcertify.attributions import RelEx
from xcertify.masks import with_order
from xcertify.metrics import as_masks

BUDGET = 8
PAPER, DEFAULT, PULL = 'RelEx, start="paper"', "RelEx", 'RelEx, form="pull"'
ONE_COPY, PLAIN = "RelEx, without the batch", "plain cross-entropy, Adam"
_PLAIN = {"optimizer": "adam", "background": 0.0, "sparsity": 0.0, "nb_samples": 1}
# what is tried on validation images; the paper's start beside them is not chosen from
STARTS: dict[str, dict[str, Any]] = {
    **{f"start={start:g}": {"start": start} for start in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)},
    **{f"start={start:g}, Adam": {"start": start, "optimizer": "adam"} for start in (0.1, 0.5)},
}
# what is reported on fresh images
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    PAPER: {"start": "paper"},
    ONE_COPY: {"nb_samples": 1},
    PLAIN: {**_PLAIN, "start": 0.5},
}


class Explained(NamedTuple):
    """What a method gives for inputs.

    Attributes
    ----------
    masks
        (N, *shape) in [0, 1], of which retrieval is.
    maps
        Name -> map, of whose order relevance R is.
    """

    masks: np.ndarray
    maps: Mapping[str, np.ndarray]


Method = Callable[[np.ndarray, np.ndarray], Explained]  # of images and classes


def relex(
    model: keras.Model, name: str, settings: Mapping[str, Any], *, with_pull: bool = False
) -> Method:
    """RelEx, if asked also with what its descent was heading for."""
    explainer = RelEx(model, **settings)

    def explain(images: np.ndarray, classes: np.ndarray) -> Explained:
        masks, pulls = explainer._learn(images, classes)  # both forms of one descent
        maps = {name: with_order(masks, pulls)}
        return Explained(masks, maps | ({PULL: pulls} if with_pull else {}))

    return explain


def other(model: keras.Model, name: str, setting: str) -> Method:
    """Another method by the name of one of its settings."""
    settings, signed = settings_of(name, model)[setting]
    explainer = getattr(attributions, name)(model, **settings)

    def explain(images: np.ndarray, classes: np.ndarray) -> Explained:
        maps = explainer(images, classes)
        maps = maps if signed else np.abs(maps)
        return Explained(as_masks(np.maximum(maps, 0), images), {name: maps})

    return explain


OTHERS = (
    "Saliency",
    "SmoothGrad",
    "IntegratedGradients",
    "GradientInput",
    "Occlusion",
    "GradCAM",
    "Rise",
)


def others(quick: bool) -> tuple[str, ...]:
    """The other methods, of a small run some."""
    return ("Saliency", "IntegratedGradients", "Occlusion") if quick else OTHERS


def settings_of(name: str, model: keras.Model) -> dict[str, tuple[dict[str, Any], bool]]:
    """The settings of a method that are tried, and whether the sign of its maps counts."""
    own: list[dict[str, Any]] = {
        "Saliency": [{"reducer": "max"}, {"reducer": "mean"}],
        "SmoothGrad": [{"noise": 0.1}, {"noise": 0.2}],
        "IntegratedGradients": [{"baseline_value": value, "steps": 100} for value in (0.0, 0.5)],
        "GradientInput": [{}],
        "Occlusion": [{"patch_size": size, "patch_stride": 2} for size in (4, 7)],
        "GradCAM": [{"conv_layer": layer} for layer in _convolutions(model)[-2:]],
        "Rise": [
            {"nb_samples": 1000, "grid_size": cells, "preservation_probability": share}
            for cells in (7, 14)
            for share in (0.25, 0.5)
        ],
    }[name]
    signs = (False,) if name in ("Saliency", "GradCAM") else (True,) if name == "Rise" else (0, 1)
    found = {}
    for settings, score, signed in itertools.product(own, (None, log_odds), signs):
        told = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        words = [told, "odds" if score else "logit", "signed" if signed else "magnitude"]
        found["; ".join(filter(None, words))] = ({**settings, "operator": score}, bool(signed))
    assert len(found) <= BUDGET, name
    return found


def log_odds(model: Callable, inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """log f_c / (1 - f_c) of the class c of one-hot targets, (B,)."""
    logits = tf.cast(model(inputs), tf.float32)
    own = targets > 0.5
    others = tf.reduce_logsumexp(tf.where(own, -np.inf, logits), axis=1)
    return tf.reduce_sum(tf.where(own, logits, 0.0), axis=1) - others


def _convolutions(model: keras.Model) -> list[int]:
    """The numbers of its convolutions, in order; names differ in models that are made again."""
    kind = keras.layers.Conv2D
    return [number for number, layer in enumerate(model.layers) if isinstance(layer, kind)]
