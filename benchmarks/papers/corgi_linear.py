"""What the forms of CORGI would certify if nothing in the network bent, and by which channels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from protocol.records import Row

from xcertify.attributions import CORGI


def linear_radii(explainer: CORGI, inputs: np.ndarray, targets: np.ndarray) -> dict[str, list]:
    """Radii by form, (N,) each, of the networks that are linear with the gradients at the inputs.

    Where no activation bends, bounds are exact but for what a form leaves out, so that the ratios
    of these radii are what forms differ by when nothing is lost inside the network. With gradients
    ``G_k[s]`` of the channels, a cell s moves by the radius times ``sum_k |w_k| ||G_k[s]||_1``
    ("per-channel"), or times ``||sum_k w_k G_k[s]||_1`` ("map").
    """
    found: dict[str, list] = {"per-channel": [], "map": [], "pairwise": []}
    for values, gradients in weighted(explainer, inputs, targets):
        order = np.argsort(-values, kind="stable")
        top, rest = order[: explainer.k], order[explainer.k :]
        gaps = values[top][:, None] - values[rest]
        for form, move in moves(gradients).items():
            found[form].append(float((gaps / (move[top][:, None] + move[rest])).min()))
        of_map = gradients.sum(axis=1)
        pairs = [np.abs(of_map[cell] - of_map[rest]).sum(axis=1) for cell in top]
        found["pairwise"].append(float((gaps / np.array(pairs)).min()))
    return found


def shares(explainer: CORGI, inputs: np.ndarray, targets: np.ndarray) -> Row:
    """How the channels take part in the two cells that are the first to change places, (N,) each.

    They are those of the form "map" in the linear network. With ``v_k = w_k G_k[s]`` of a cell:

    - "ratio": ``sum_k ||v_k||_1 / ||sum_k v_k||_1``, what is lost per channel;
    - "channels": ``(sum_k ||v_k||_1)^2 / sum_k ||v_k||_1^2``, the number of channels if all that
      take part did it alike;
    - "cosine": the mean of ``cos(v_k, v_l)``, weighted by ``|v_k| |v_l|``, for k != l. Where it is
      0 the ratio is about the square root of the number; the larger it is, the smaller the ratio.
      1 where a single channel takes part;
    - "negative": the share of the channels of negative weight in ``sum_k ||v_k||_1``.

    Each is the mean of both cells.
    """
    weights = explainer._activation.target_rows(targets)
    found: Row = {"ratio": [], "channels": [], "cosine": [], "negative": []}
    for (values, gradients), row in zip(weighted(explainer, inputs, targets), weights):
        order = np.argsort(-values, kind="stable")
        top, rest = order[: explainer.k], order[explainer.k :]
        move = moves(gradients)["map"]
        times = (values[top][:, None] - values[rest]) / (move[top][:, None] + move[rest])
        first, second = np.unravel_index(np.argmin(times), times.shape)
        numbers = [of_cell(gradients[cell], row) for cell in (top[first], rest[second])]
        for name, number in zip(found, np.mean(numbers, axis=0)):
            found[name].append(float(number))
    return found


def of_cell(gradients: np.ndarray, weights: np.ndarray) -> tuple[float, float, float, float]:
    """Ratio, number of channels, cosine and negative share of gradients (K, D) with weights."""
    sizes = np.abs(gradients).sum(axis=1)
    lengths = np.linalg.norm(gradients, axis=1)
    alone = (lengths**2).sum()
    among = lengths.sum() ** 2 - alone
    cosine = 1.0  # of a single channel
    if among > 1e-9 * alone:
        cosine = (np.linalg.norm(gradients.sum(axis=0)) ** 2 - alone) / among
    return (
        sizes.sum() / np.abs(gradients.sum(axis=0)).sum(),
        sizes.sum() ** 2 / (sizes**2).sum(),
        cosine,
        sizes[weights < 0].sum() / sizes.sum(),
    )


def moves(gradients: np.ndarray) -> dict[str, np.ndarray]:
    """How far cells move for a radius of 1, (S,) by form."""
    return {
        "per-channel": np.abs(gradients).sum(axis=(1, 2)),
        "map": np.abs(gradients.sum(axis=1)).sum(axis=1),
    }


def weighted(
    explainer: CORGI, inputs: np.ndarray, targets: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values (S,) of the cells and gradients (S, K, D) of the weighted channels, of each input."""
    activation = explainer._activation
    shape = [activation.nb_cells, activation.shape[2]]

    @tf.function
    def channels_and_gradients(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(image)
            channels = tf.reshape(activation.models.body(image, training=False), [-1])
        gradients = tape.jacobian(channels, image)
        return tf.reshape(channels, shape), tf.reshape(gradients, [*shape, -1])

    for image, row in zip(inputs, activation.target_rows(targets)):
        channels, gradients = channels_and_gradients(tf.constant(image[None]))
        yield channels.numpy() @ row, gradients.numpy() * row[:, None]
