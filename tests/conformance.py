"""What every bound has to pass: independent evaluation in float64, corners, samples and attacks."""

from __future__ import annotations

import json

import keras
import numpy as np
import tensorflow as tf

from xcertify import tracing
from xcertify.bounds import Verifier
from xcertify.bounds.engine import Engine
from xcertify.regions import Region


def without_tracing(monkeypatch) -> None:
    """Have everything computed operation by operation, which saves the time that tracing takes."""

    def no_graph(function, **settings):
        def refuse(*arrays):
            raise tracing.NeedsValues

        return refuse

    monkeypatch.setattr(Engine, "_share", lambda *question: 0.0)
    monkeypatch.setattr(tracing, "graph_of", no_graph)


def with_graphs(monkeypatch) -> None:
    """Have everything that a `Verifier` is asked compiled at the first call."""
    monkeypatch.setattr(Engine, "_share", lambda *question: np.inf)


def config_of(model: keras.Model) -> dict:
    """What a copy is made from. Keras 3.10 lists a single input: its copy would ask for a list."""

    def alone(part: dict) -> dict:
        inputs = part.get("input_layers")
        if keras.__version__.startswith("3.10.") and isinstance(inputs, list) and len(inputs) == 1:
            part["input_layers"] = inputs[0]
        return part

    return json.loads(json.dumps(model.get_config()), object_hook=alone)


def in_float64(model: keras.Model) -> keras.Model:
    """A copy of a model that computes in float64: what the float32 bounds have to contain."""
    config = json.loads(json.dumps(config_of(model)).replace('"float32"', '"float64"'))
    copy = type(model).from_config(config, custom_objects={})
    copy.set_weights(model.get_weights())
    return copy


def logits_of(model: keras.Model) -> keras.Model:
    """The copy of a model that ends before its softmax or sigmoid, by Keras alone."""
    last = model.layers[-1]
    if isinstance(last, keras.layers.Softmax):
        return keras.Model(model.inputs[0], model.layers[-2].output)
    if getattr(last, "activation", None) in (keras.activations.softmax, keras.activations.sigmoid):
        config = config_of(model)
        (own,) = (c for c in config["layers"] if c["config"]["name"] == last.name)
        own["config"]["activation"] = "linear"
        copy = type(model).from_config(config)
        copy.set_weights(model.get_weights())
        return copy
    return model


def adversarial_points(model: keras.Model, region: Region, nb_random: int, seed: int) -> np.ndarray:
    """Points of a region (P, N, *shape) in float64 that push outputs to their extremes.

    For every output, the corner that the gradient at the center points to, the corner after a few
    steps of gradient ascent, and the same for descent; random corners; random inner points.
    """
    generator = np.random.default_rng(seed)
    lower, upper = region.lower.astype("f8"), region.upper.astype("f8")
    center = region.center.astype("f8")
    share = generator.random((nb_random, *center.shape))
    corners = np.where(generator.random((nb_random, *center.shape)) < 0.5, lower, upper)
    points = [lower + share * (upper - lower), corners, center[None], lower[None], upper[None]]
    nb_outputs = min(int(np.prod(model.output_shape[1:])), 6)
    outputs, signs = np.repeat(np.arange(nb_outputs), 2), np.tile([1.0, -1.0], nb_outputs)
    point = np.broadcast_to(center, (len(outputs), *center.shape))  # of each output and sign
    for step in range(3):
        gradient = _gradients(model, point, outputs, signs)
        corner = np.where(gradient > 0, upper, np.where(gradient < 0, lower, point))
        points.append(corner)
        length = 1.0 if step else 0.3
        point = point + length * (corner - point)
        if np.isfinite(region.norm):
            points.append(region.project(center + gradient * np.max(upper - lower) * 10))
    points = np.concatenate(points).clip(lower, upper)
    return region.project(points) if np.isfinite(region.norm) else points


def _gradients(
    model: keras.Model, points: np.ndarray, outputs: np.ndarray, signs: np.ndarray
) -> np.ndarray:
    """Of K outputs (K,), by signs (K,), each at its own points (K, N, *shape)."""
    flat = tf.constant(points.reshape(-1, *points.shape[2:]))
    with tf.GradientTape() as tape:
        tape.watch(flat)
        values = tf.reshape(model(flat, training=False), (*points.shape[:2], -1))
        chosen = tf.gather(values, outputs, axis=2, batch_dims=1) * signs[:, None]
    gradient = tape.gradient(chosen, flat)
    return np.zeros(points.shape) if gradient is None else gradient.numpy().reshape(points.shape)


def _verifier(model: keras.Model, method: str, **options) -> Verifier:
    """One verifier, and so one trace, for all regions of a model within a test."""
    if any(verifier.model is not model for verifier in _VERIFIERS.values()):
        _VERIFIERS.clear()
    key = (method, *sorted(options.items()))
    if key not in _VERIFIERS:
        _VERIFIERS[key] = Verifier(model, method, **options)
    return _VERIFIERS[key]


_VERIFIERS: dict = {}  # emptied after each test


def forget() -> None:
    """Nothing is kept from one test to the next."""
    _VERIFIERS.clear()


def assert_sound(
    model: keras.Model,
    region: Region,
    *methods: str,
    nb_random: int = 20,
    seed: int = 0,
    twin: keras.Model | None = None,
    **options,
) -> tuple[np.ndarray, np.ndarray]:
    """No adversarial point leaves the bounds of outputs and of differences, by any of the methods.

    Returns the bounds of the last method. Behind "ibp" all have to be inside of its bounds.
    `twin` is an equal model that can be evaluated in float64, where the model itself cannot.
    """
    options = {"strip_head": True} | options
    exact = in_float64(logits_of(twin or model) if options["strip_head"] else twin or model)
    points = adversarial_points(exact, region, nb_random, seed)
    flat = points.reshape((-1, *points.shape[2:]))
    values = exact(flat, training=False).numpy().reshape((*points.shape[:2], -1))
    outer = -np.inf, np.inf
    for method in methods:
        lower, upper = _assert_inside(_verifier(model, method, **options), region, values, seed)
        assert (lower >= outer[0] - 1e-5).all() and (upper <= outer[1] + 1e-5).all()
        outer = (lower, upper) if method == "ibp" else outer
    return lower, upper


def _assert_inside(
    verifier: Verifier, region: Region, values: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Values (P, N, K) are inside the bounds, and their differences too.

    Both are asked for at once, as rows; intervals, which cost little, as outputs once more.
    """
    size = values.shape[-1]
    differences = np.random.default_rng(seed).integers(-2, 3, (3, size)).astype("f4")
    rows = np.concatenate([np.eye(size, dtype="f4"), differences])
    lower, upper = verifier.bound_rows(region, rows)
    values = np.concatenate([values, values @ differences.T.astype("f8")], axis=-1)
    assert np.isfinite(lower[:, :size]).all() and np.isfinite(upper[:, :size]).all()
    assert (lower <= values).all(), f"below by {(lower - values).max()}"
    assert (values <= upper).all(), f"above by {(values - upper).max()}"
    lower, upper = lower[:, :size], upper[:, :size]
    if verifier.method == "ibp":
        for found, expected in zip(verifier.bound_outputs(region), (lower, upper)):
            found = found.reshape(len(region), -1)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            assert np.isfinite(found).all()
    return lower, upper
