"""How tight the engine's bounds are, and what they cost, beside decomon, auto_LiRPA and attacks.

Means over images: width of the logits' bounds; EVA's overlap max(upper f_c') - lower f_c; the
margin max(f_c' - f_c) bounded as one row. l_inf balls that are not clipped. `attack` is what
projected gradient ascent finds: no sound bound is below it. Times are of `bound_outputs` for all
images, the best of several calls after the first. Rows of auto_LiRPA need it and torch.

*corners*: logits at corners of the box, in float64, beside the bounds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from bounds import Attack, Bound, keras_bound, lirpa_bound
from protocol.data import split
from protocol.networks import SEEDS, digits_network
from protocol.pieces import Context, Piece, Records
from protocol.records import Row, where
from protocol.tables import number, table

from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.regions import Ball

NETS = ("dense", "cnn")
EPSILONS = (0.001, 0.01, 0.05)
SHOWN = 0.01  # of the tables
METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ibp", {}),
    ("crown-ibp", {}),
    ("crown", {}),
    ("crown", {"arithmetic": "float32"}),
    ("crown", {"dtype": "float64"}),
    ("alpha-crown", {}),
    ("decomon:forward-ibp", {}),
    ("decomon:forward-affine", {}),
    ("decomon:crown", {}),
)
PEER = ("IBP", "CROWN-IBP", "CROWN")
CORNER_EPSILONS = (1e-5, 1e-3, 1e-2, 5e-2)
SOUND = ("ibp", "crown-ibp", "crown", "alpha-crown")
NB_RANDOM = 100  # corners, beside two for each logit


def pieces(quick: bool) -> list[Piece]:
    """Each network by itself."""
    found = []
    for net in NETS[:1] if quick else NETS:
        for seed in SEEDS[:1] if quick else SEEDS:
            found.append(Piece(f"tightness-{net}-{seed}", partial(tightness, net, seed), 4))
            found.append(Piece(f"corners-{net}-{seed}", partial(corners, net, seed), 2))
    return found


def blocks(records: Records) -> dict[str, str]:
    """Tables of tightness and of corners."""
    found = {f"tightness-{net}": tightness_table(records, net) for net in NETS}
    return found | {"corners": corners_table(records)}


def images_and_network(net: str, seed: int, context: Context) -> tuple[np.ndarray, keras.Model]:
    """Fresh images, and the network of a seed."""
    data = split("mnist", context)
    nb_images = 2 if context.quick else 20
    return data.fresh[0][:nb_images], digits_network(context, net, seed, data.train)


# --- tightness -----------------------------------------------------------------------------------


def tightness(net: str, seed: int, context: Context) -> list[Row]:
    """Width, overlap and margin of each method and radius, and times."""
    images, model = images_and_network(net, seed, context)
    compiled = tf.function(model)
    forward = best_time(lambda: compiled(tf.constant(images)))[0]
    about: Row = {"network": net, "seed": seed, "images": len(images), "forward": forward}
    rows = [about | {"method": "attack"} | found_of(Attack(model, images), model, images)]
    methods = METHODS[:3] if context.quick else METHODS
    for method, options in context.progress(methods, f"{net}, network {seed}"):
        name = " ".join([f"`{method}`", *(f"{key}={value}" for key, value in options.items())])
        try:
            bound = keras_bound(Verifier(model, method, **options), images)
            found = found_of(bound, model, images) | times(bound)
        except UnsupportedLayerError as error:
            found = {"failed": f"refused: {str(error).splitlines()[0]}"}
        rows.append(about | {"method": name} | found)
    for method in PEER:
        if find_spec("auto_LiRPA") is None or find_spec("torch") is None:
            found = {"failed": "not installed"}
        else:
            bound = lirpa_bound(model, images, method)
            found = found_of(bound, model, images) | times(bound)
            found["version"] = import_module("auto_LiRPA").__version__
        rows.append(about | {"method": f"auto_LiRPA {method}"} | found)
    return rows


def found_of(bound: Bound, model: keras.Model, images: np.ndarray) -> Row:
    """Width, overlap and margin, a value for each radius."""
    logits = model.predict_on_batch(images)
    predicted, units = logits.argmax(axis=1), np.eye(logits.shape[1], dtype="float32")
    rivals = np.array([[k for k in range(len(units)) if k != c] for c in predicted])
    rows = units[rivals] - units[predicted][:, None]
    found: Row = {"width": [], "overlap": [], "margin": []}
    for epsilon in EPSILONS:
        lower, upper = bound(epsilon, None)
        highest = np.take_along_axis(upper, rivals, 1).max(axis=1)
        overlap = highest - np.take_along_axis(lower, predicted[:, None], 1)[:, 0]
        found["width"].append(float(np.mean(upper - lower)))
        found["overlap"].append(float(np.mean(overlap)))
        found["margin"].append(float(np.mean(bound(epsilon, rows)[1].max(axis=1))))
    return found


def times(bound: Bound) -> Row:
    """Milliseconds of bounding the logits, on the clock and of the processor."""
    seconds, use = best_time(lambda: bound(SHOWN, None))
    return {"ms": seconds * 1e3, "cpu_ms": seconds * use * 1e3}


def best_time(call: Callable[[], object], least: float = 0.5) -> tuple[float, float]:
    """Seconds of the fastest call, and how many cores calls used on average."""
    call()
    begin, processed = time.perf_counter(), time.process_time()
    seconds = []
    while len(seconds) < 3 or time.perf_counter() - begin < least:
        clock = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - clock)
    use = (time.process_time() - processed) / (time.perf_counter() - begin)
    return min(seconds), use


# --- corners -------------------------------------------------------------------------------------


def corners(net: str, seed: int, context: Context) -> list[Row]:
    """How many bounds of logits are violated at corners of the box: none may be.

    The corners that the gradient of each logit points to, both ways, and random ones.
    """
    images, model = images_and_network(net, seed, context)
    exact, nb_random = in_float64(model), 10 if context.quick else NB_RANDOM
    center = images.astype(np.float64)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (nb_random, *images.shape))
    steepest = np.sign(gradients(exact, center))
    signs = np.concatenate([signs, steepest, -steepest])
    rows = []
    for method in SOUND[:2] if context.quick else SOUND:
        verifier = Verifier(model, method)
        for epsilon in CORNER_EPSILONS:
            lower, upper = verifier.bound_outputs(Ball(images, epsilon))
            values = np.stack([exact.predict_on_batch(center + epsilon * s) for s in signs])
            gaps = np.minimum(upper - values, values - lower).min(axis=0)
            rows.append(
                {
                    "network": net,
                    "seed": seed,
                    "method": method,
                    "epsilon": epsilon,
                    "pairs": gaps.size,
                    "violated": int(np.sum(gaps < 0)),
                    "least_gap": float(gaps.min()),
                }
            )
    return rows


def gradients(model: keras.Model, points: np.ndarray) -> np.ndarray:
    """Of each output by the inputs, (outputs, N, *input)."""
    points = tf.constant(points)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(points)
        outputs = tf.unstack(model(points, training=False), axis=1)
    return np.stack([tape.gradient(output, points) for output in outputs])


def in_float64(model: keras.Model) -> keras.Model:
    """The same network, computed in float64."""
    config = json.loads(json.dumps(model.get_config()).replace("float32", "float64"))
    exact = type(model).from_config(config)
    exact.set_weights([weights.astype(np.float64) for weights in model.get_weights()])
    return exact


# --- tables --------------------------------------------------------------------------------------


def tightness_table(records: Records, net: str) -> str:
    """Means over networks, at one radius."""
    rows = records.rows(f"tightness-{net}")
    if not rows:
        return "*Not run yet.*"
    place, lines = EPSILONS.index(SHOWN), []
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        own = [row for row in of_method if "failed" not in row]
        if not own:
            lines.append([method, of_method[0]["failed"].partition(":")[0], "", "", "", ""])
            continue
        if len(own) < len(of_method):
            method += f" ({len(own)} of {len(of_method)} networks)"
        cells = [
            number(np.mean([row[name][place] for row in own]), digits)
            for name, digits in (("width", 3), ("overlap", 2), ("margin", 2))
        ]
        if "ms" in own[0]:
            cells.append(number(np.mean([row["cpu_ms"] / row["images"] for row in own]), 2))
            passes = np.mean([row["ms"] / row["forward"] / 1e3 for row in own])
            cells.append(f"{passes:,.0f}")
        else:
            cells += ["", ""]
        lines.append([method, *cells])
    names = records.names(f"tightness-{net}")
    header = ["method", "width", "overlap", "margin", "ms per image", "passes"]
    measured = f"Networks measured: {len(names)} of {len(SEEDS)}. The first: "
    return f"{table(header, lines)}\n\n*{measured}{where(records[names[0]])}.*"


def corners_table(records: Records) -> str:
    """Violated bounds by method and radius."""
    rows = records.rows("corners")
    if not rows:
        return "*Not run yet.*"
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for epsilon in CORNER_EPSILONS:
            own = [r for r in rows if (r["method"], r["epsilon"]) == (method, epsilon)]
            violated, pairs = (sum(r[name] for r in own) for name in ("violated", "pairs"))
            cells.append(f"{violated} of {pairs}, {min(r['least_gap'] for r in own):.1e}")
        lines.append([f"`{method}`", *cells])
    return table(["method", *(f"ε {epsilon:g}" for epsilon in CORNER_EPSILONS)], lines)
