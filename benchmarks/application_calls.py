"""One network of keras.applications: each call that is measured, in a process of its own.

`applications.py` runs it, and prints what came of all networks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SIDE = 224
SHARE = 1e-3  # of the range: the radius
NB_MARGINS, NB_CORNERS = 5, 4
SECONDS_OF_INFO, SECONDS_AGAIN = 10, 15

Cell = dict[str, Any]


def main() -> None:
    """Print a line of JSON for each call that ends within its seconds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("network")
    parser.add_argument("--calls", nargs="+", choices=tuple(CALLS), default=tuple(CALLS))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--limit", type=float, default=60)
    arguments = parser.parse_args()
    case = Case(arguments.network, arguments.weights)
    for call in arguments.calls:
        seconds = math.ceil(time.process_time() + arguments.limit)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        print(json.dumps({call: CALLS[call](case)}), flush=True)


class Case:
    """A network and an image."""

    def __init__(self, name: str, weights: Path | None) -> None:
        import keras

        keras.utils.set_random_seed(0)
        build = getattr(keras.applications, name)
        prepared = sys.modules[build.__module__].preprocess_input
        self.model = build(weights=None, input_shape=(SIDE, SIDE, 3))
        images = prepared(smooth_images(9))
        if weights is None:
            randomize(self.model, images[1:])
        else:
            self.model.load_weights(weights)
        self.image = images[:1]
        ends = prepared(smooth_images(2) * 0 + [[[[0.0]]], [[[255.0]]]])
        self.clip = float(ends.min()), float(ends.max())
        self.epsilon = SHARE * (self.clip[1] - self.clip[0])

    @cached_property
    def region(self) -> Any:
        """The ball around the image."""
        from xcertify.regions import Ball

        return Ball(self.image, self.epsilon, clip=self.clip)

    @cached_property
    def latent(self) -> str:
        """The layer that is pooled, or made flat, before the logits."""
        from keras import layers

        ends = (layers.GlobalAveragePooling2D, layers.Flatten)
        last = [layer for layer in self.model.layers if isinstance(layer, ends)][-1]
        return last.input._keras_history.operation.name

    @cached_property
    def values(self) -> Any:
        """Outputs (P, K) at corners and at points that an attack ends at, in float64."""
        import numpy as np
        import tensorflow as tf

        from xcertify.attacks import PGD
        from xcertify.bounds import Verifier
        from xcertify.logits import logits_of

        exact = Verifier(self.model, "ibp", dtype="float64", strip_head=True)
        logits, rows = logits_of(self.model), tf.constant(self.rows)

        def largest(points: Any, _: Any) -> Any:
            return tf.reduce_max(logits(points) @ tf.transpose(rows), axis=1)

        corners = self.region.corners(NB_CORNERS, 0).reshape(-1, *self.region.shape)
        attacked = PGD(objective=largest, steps=10)(self.region).points
        return exact.evaluate(np.concatenate([corners, attacked]).astype(np.float64))

    @cached_property
    def rows(self) -> Any:
        """Margins of the largest logit against the next ones, (S, K)."""
        import numpy as np

        from xcertify.bounds import Verifier

        logits = Verifier(self.model, "ibp", strip_head=True).evaluate(self.image)[0]
        first, *others = np.argsort(-logits)[: NB_MARGINS + 1]
        units = np.eye(len(logits), dtype=np.float32)
        return units[others] - units[first]


def smooth_images(count: int) -> Any:
    """Random images (N, H, W, 3) without edges, of the range [0, 255]."""
    import numpy as np
    import tensorflow as tf

    coarse = np.random.default_rng(0).uniform(0, 255, (count, 8, 8, 3))
    return tf.image.resize(coarse, (SIDE, SIDE)).numpy().astype(np.float32)


def randomize(model: Any, images: Any) -> None:
    """Random scales and shifts of normalizations, and statistics of images."""
    import numpy as np
    from keras import layers

    rng = np.random.default_rng(0)
    normalizations = []
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            normalizations.append((layer, layer.momentum))
            layer.momentum = 0.0
        for variable in layer.weights if not layer._layers else ():
            if variable.path.endswith("/gamma") or type(layer).__name__ == "LayerScale":
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
            elif variable.path.endswith("/beta"):
                variable.assign(rng.normal(0, 0.1, variable.shape))
    if normalizations:
        model(images, training=True)
    for layer, momentum in normalizations:
        layer.momentum = momentum


# --- calls --------------------------------------------------------------------------------------


def timed(function: Callable[[], Any], nb_calls: int = 2) -> tuple[Cell, Any]:
    """Seconds of a processor of each call, by how many GiB memory grew, and what it gave.

    Behind a call of more than `SECONDS_AGAIN` there is no other one.
    """
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # the peak starts from here
    before, seconds = resident("VmRSS"), []
    for _ in range(nb_calls):
        begin = time.process_time()
        found = function()
        seconds.append(time.process_time() - begin)
        if seconds[-1] > SECONDS_AGAIN:
            break
    grown = max(resident("VmHWM") - before, 0) / 2**20
    return {"seconds": [float(f"{s:.2g}") for s in seconds], "GiB": float(f"{grown:.2g}")}, found


def resident(field: str) -> int:
    """Resident memory of this process in KiB, now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def image(case: Case) -> Cell:
    """The network itself."""
    return timed(lambda: case.model.predict(case.image, verbose=0))[0]


def gradient(case: Case) -> Cell:
    """The gradient of a logit."""
    from xcertify.attributions import Saliency

    saliency = Saliency(case.model)
    return timed(lambda: saliency.explain(case.image))[0]


def load(case: Case) -> Cell:
    """The network read as a graph."""
    from xcertify.bounds import Verifier

    return timed(lambda: Verifier(case.model, "ibp").nb_outputs, 1)[0]


def info(case: Case) -> Cell:
    """What is practical."""
    from xcertify.estimates import estimate

    cell, found = timed(lambda: estimate(case.model, input=case.image, seconds=SECONDS_OF_INFO), 1)
    kinds = [cost.practical for cost in found.explainers]
    said = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return cell | {"said": said}


def bounds(method: str) -> Callable[[Case], Cell]:
    """Bounds by a method, and values outside of them."""

    def call(case: Case) -> Cell:
        from xcertify.bounds import Verifier

        rows = None if method == "ibp" else case.rows
        verifier = Verifier(case.model, method, strip_head=True)
        cell, sides = timed(lambda: verifier.bound_rows(case.region, rows))
        return cell | outside(case, rows, *sides)

    return call


def outside(case: Case, rows: Any, lower: Any, upper: Any) -> Cell:
    """How wide bounds are, beside what was attained, and values that lie outside of them."""
    import numpy as np

    values = case.values if rows is None else case.values @ rows.T
    slack = 1e-9 * np.abs(values)
    nb_outside = int(((values < lower - slack) | (values > upper + slack)).sum())
    finite = bool(np.isfinite(lower).all() and np.isfinite(upper).all())
    width = f"{np.mean(upper - lower.astype(np.float64)):.2g}" if finite else "overflows float32"
    attained = f"{np.mean(np.ptp(values, axis=0)):.2g}"
    return {"said": f"{width} ({attained})", "outside": f"{nb_outside} of {values.size}"}


def before(name: str, call: str, settings: Callable[[Case], dict[str, Any]]) -> Any:
    """Until an explainer says that its bounds say nothing."""

    def asked(case: Case) -> Cell:
        from xcertify import attributions
        from xcertify.usefulness import VacuousWarning

        explainer = getattr(attributions, name)(case.model, clip=case.clip, **settings(case))

        def word() -> str:
            with warnings.catch_warnings():
                warnings.simplefilter("error", VacuousWarning)
                try:
                    getattr(explainer, call)(case.image)
                except VacuousWarning as warning:
                    return said_by(str(warning))
                except ValueError as error:
                    return f"refuses: {str(error).partition('. ')[0]}"
            return "gives a result"

        cell, said = timed(word, 1)
        return cell | {"said": said}

    return asked


def said_by(warning: str) -> str:
    """A warning in short."""
    times = re.search(r"([\d.e+]+|inf) times as far", warning)
    if times:
        return f"warns: {times[1]} times"
    return "warns: overflows" if "overflow" in warning else "warns"


def explainer(name: str, settings: Callable[[Case], dict[str, Any]]) -> Callable[[Case], Cell]:
    """An explainer, once to compile and once more."""

    def call(case: Case) -> Cell:
        from xcertify import attributions
        from xcertify.usefulness import VacuousWarning

        made = getattr(attributions, name)(case.model, **settings(case))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", VacuousWarning)
            try:
                cell = timed(lambda: made.explain(case.image))[0]
            except ValueError as error:
                return {"said": f"refuses: {str(error).partition('. ')[0]}"}
        warned = any(issubclass(one.category, VacuousWarning) for one in caught)
        return cell | ({"said": "warns"} if warned else {})

    return call


def attack(case: Case) -> Cell:
    """PGD."""
    from xcertify.attacks import PGD

    pgd = PGD(case.model, steps=10)
    return timed(lambda: pgd(case.region))[0]


def metric(case: Case) -> Cell:
    """Deletion of a random map."""
    import numpy as np

    from xcertify.metrics import Deletion

    deletion = Deletion(case.model, case.image)
    maps = np.random.default_rng(0).random((1, SIDE, SIDE, 1))
    return timed(lambda: deletion.evaluate(maps))[0]


def around(case: Case) -> dict[str, Any]:
    """Radius and range."""
    return {"epsilon": case.epsilon, "clip": case.clip}


CALLS: dict[str, Callable[[Case], Cell]] = {
    "image": image,
    "gradient": gradient,
    "load": load,
    "GradCAM": explainer("GradCAM", lambda case: {}),
    "CORGI": explainer("CORGI", lambda case: {"clip": case.clip}),
    "PGD": attack,
    "Deletion": metric,
    "ibp": bounds("ibp"),
    "before EVA": before("EVA", "explain", lambda case: {"epsilon": case.epsilon, "grid_size": 4}),
    "before CertifiedGradient": before(
        "CertifiedGradient", "certify", lambda case: {"epsilon": case.epsilon}
    ),
    "before CORGI.certify": before("CORGI", "certify", lambda case: {}),
    "before SufficientReason": before(
        "SufficientReason", "explain", lambda case: {"epsilon": case.epsilon, "grid_size": 4}
    ),
    "EVAHybrid": explainer(
        "EVAHybrid",
        lambda case: {"latent_layer": case.latent, "grid_size": 4, "nb_samples": 8} | around(case),
    ),
    "RelEx": explainer(
        "RelEx",
        lambda case: {"nb_samples": 4, "steps": 10, "start": "paper", "clip": case.clip},
    ),
    "crown-ibp": bounds("crown-ibp"),
    "info": info,
}


if __name__ == "__main__":
    main()
