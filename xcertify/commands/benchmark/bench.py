"""One network and some images: what an explainer takes, and what all metrics make of its maps."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

from xcertify.commands.benchmark.candidates import GRID
from xcertify.commands.networks import predict
from xcertify.commands.timing import timed
from xcertify.metrics import (
    Deletion,
    Insertion,
    Metric,
    MetricResult,
    MuFidelity,
    RobustnessSr,
    baseline_values,
)

BASELINES = ("random", "black")
NAMED, OTHERS = "Robustness-Sr", "Robustness-Sr of the complement"
HIGHER_IS_BETTER = {
    "Deletion": False,
    "Insertion": True,
    "MuFidelity": True,
    NAMED: False,
    OTHERS: True,
}

Results = dict[str, MetricResult]  # by "metric, baseline"


class Times(NamedTuple):
    """How many images an explainer had, and the seconds of each; why none, where it refused."""

    nb_images: int
    per_image: float
    note: str = ""


class Bench:
    """One network, and the images that are explained for the classes that it predicts.

    Parameters
    ----------
    model, images
        A network and its images, (N, *input).
    seed
        Of the metrics.
    seconds
        Time that one explainer may take.
    """

    def __init__(self, model: keras.Model, images: np.ndarray, seed: int, seconds: float) -> None:
        self.model, self.images, self.seed, self.seconds = model, images, seed, seconds
        self.classes = predict(model, images)
        self._metrics: dict[int, dict[str, Metric]] = {}  # compiled, for so many images

    def explain(self, explainer: Any) -> tuple[np.ndarray, Times]:
        """Maps of as many images as there is time for, and the time."""

        def explain(nb_images: int) -> np.ndarray:
            images, classes = self.images[:nb_images], self.classes[:nb_images]
            return np.asarray(explainer.explain(images, classes))

        explain(1)  # compiles
        maps, taken = timed(explain, 1)
        nb_images = nb_in_time(taken, self.seconds, len(self.images))
        if nb_images > 1:
            maps, taken = timed(explain, nb_images)
        return maps, Times(nb_images, taken / nb_images)

    def evaluate(self, maps: np.ndarray) -> Results:
        """Results of all metrics on the first images, which the maps are of."""
        metrics = self.metrics(len(maps))
        robustness: Any = metrics[NAMED]
        named, others = robustness.evaluate_both(maps)
        found = {n: metric.detailed_evaluate(maps) for n, metric in metrics.items() if n != NAMED}
        return found | {NAMED: named, OTHERS: others}

    def metrics(self, nb_images: int) -> dict[str, Metric]:
        """All metrics on the first images."""
        if nb_images not in self._metrics:
            of = (self.model, self.images[:nb_images], self.classes[:nb_images])
            random = baseline_values("random", self.images, self.seed)[0]  # of all images
            found: dict[str, Metric] = {}
            for name, baseline in zip(BASELINES, (random, 0.0)):
                settings: dict[str, Any] = {"baseline_mode": baseline, "activation": "softmax"}
                settings |= {"seed": self.seed, "batch_size": 2048}
                found[f"Deletion, {name}"] = Deletion(*of, **settings)
                found[f"Insertion, {name}"] = Insertion(*of, **settings)
                found[f"MuFidelity, {name}"] = MuFidelity(*of, grid_size=GRID, **settings)
            found[NAMED] = RobustnessSr(*of, batch_size=1024, seed=self.seed)
            self._metrics[nb_images] = found
        return self._metrics[nb_images]


def nb_in_time(taken: float, seconds: float, nb_images: int) -> int:
    """How many of the images there is time for, if one takes so long; at least 1."""
    return max(1, min(nb_images, int(seconds / taken)))
