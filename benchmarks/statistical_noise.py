"""What makes smoothed maps stable: networks that know noise.

The networks of `statistical_maps.py` that were trained, as they are and with a cure: trained anew
with noise of a deviation of .25 on the images, which are cut to [0, 1]; or, where a network cannot
be trained again, a blur in front of it (a mean over 5 x 5 pixels, twice), which makes another model
of which everything is said then. For each deviation of the noise: how many noisy inputs keep the
class of the input, and what `SmoothedAttribution.certify` certifies at its defaults, for the fifth
of the pixels at the top.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import keras
from statistical_maps import EXPLAINERS, SIGMAS, Row, percents, share_kept, shares
from statistical_networks import Net, cifar, digits, emotions

from xcertify import VacuousWarning
from xcertify.attributions import SmoothedAttribution

NAMES = ("Saliency", "IntegratedGradients", "GradCAM")
TRAINED, BLURRED = "trained with noise", "blur in front"
NB_IMAGES = 10
BLUR = 5  # pixels


def blurred(nb_images: int) -> Net:
    """The network of faces behind a blur."""
    net = emotions(nb_images)
    images = blurry = keras.Input(net.inputs.shape[1:])
    for _ in range(2):
        blurry = keras.layers.AveragePooling2D(BLUR, 1, "same")(blurry)
    return replace(net, model=keras.Model(images, net.model(blurry)))


NETWORKS: tuple[tuple[str, str, Callable[[int], Net]], ...] = (
    ("digits", "", digits),
    ("digits", TRAINED, partial(digits, noise=0.25)),
    ("cifar", "", cifar),
    ("cifar", TRAINED, partial(cifar, noise=0.25)),
    ("emotions", "", emotions),
    ("emotions", BLURRED, blurred),
)


def run(quick: bool) -> Iterator[Row]:
    """A row for each network, explainer and deviation."""
    for network, cure, make in NETWORKS:
        try:
            net = make(1 if quick else NB_IMAGES)
        except (ImportError, FileNotFoundError) as missing:
            print(f"{network} is left out: {missing}", file=sys.stderr)
            continue
        asked: Row = {"network": network, "cure": cure, "accuracy": net.accuracy}
        asked["images"] = len(net.inputs)
        for sigma in SIGMAS[:1] if quick else SIGMAS:
            kept = share_kept(net, sigma * net.span)
            for name in NAMES:
                smoothed = SmoothedAttribution(EXPLAINERS[name](net), sigma=sigma * net.span)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", VacuousWarning)  # it stands in the table
                    found = smoothed.certify(net.inputs, net.classes)
                yield asked | {"sigma": sigma, "kept": kept, "explainer": name} | shares(found, net)


def tables(rows: list[Row]) -> str:
    """A line for each network and deviation; percents of pixels."""
    names = list(dict.fromkeys(row["explainer"] for row in rows))
    heads = " | ".join(f"`{name}`: in / out / open; overlap" for name in names)
    lines = [
        f"| network, {rows[0]['images']} images each | accuracy | sigma | class kept | {heads} |",
        "| --- " * (4 + len(names)) + "|",
    ]
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["cure"], row["sigma"]), []).append(row)
    for (network, cure, sigma), group in groups.items():
        accuracy = group[0]["accuracy"]
        cells = [f"{percents(row)}; {row['overlap']:.2f}" for row in group]
        lines.append(
            f"| {network}{', ' if cure else ''}{cure} | "
            f"{'' if accuracy is None else f'{accuracy:.1%}'} | {sigma} | "
            f"{group[0]['kept']:.0%} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)
