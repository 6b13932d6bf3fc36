"""Explanations as metrics read them: a value for each feature, and the order that they give."""

from __future__ import annotations

from typing import Any

import numpy as np

from xcertify.reasons import Features


def as_explanations(explanations: Any, inputs: np.ndarray) -> np.ndarray:
    """One attribution per feature: (N, H, W) for images, else the shape of the inputs, float64.

    Parameters
    ----------
    explanations
        (N, H, W), (N, H, W, 1) or (N, H, W, C) for images, of which the channels are averaged as
        Xplique does; (N, T, W) for time series; (N, W) for tabular data.
    inputs
        The inputs that they explain.

    Raises
    ------
    ValueError
        For another shape, or values that are NaN or infinite (the first such sample is named).
    """
    explanations = _of_inputs(explanations, inputs).astype(np.float64)
    finite = np.isfinite(explanations).reshape(len(explanations), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"explanations have NaN or infinite values in sample {int(np.argmin(finite))}: a "
            f"score of them would mean nothing; see why the explainer gave them"
        )
    if explanations.ndim == 4:
        explanations = explanations.mean(axis=-1)
    return explanations


def value_of_each_entry(explanations: Any, inputs: np.ndarray) -> np.ndarray:
    """Explanations (N, *shape) float32, of which all channels of a pixel have the value of its map.

    Parameters, and errors of shapes, as for `as_explanations`; channels are left as they are.
    """
    explanations = _of_inputs(explanations, inputs)
    if inputs.ndim == 4 and explanations.ndim == 3:
        explanations = explanations[..., None]
    return np.broadcast_to(explanations, inputs.shape).astype(np.float32)


def importance_ranks(
    explanations: np.ndarray, counts: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each feature, 0 for the most important, and which samples the tie rule decides.

    Equal attributions are ranked in one random order of the features, the same for all samples.

    Parameters
    ----------
    explanations
        (N, *features), without NaN.
    counts
        The numbers of features that the metric cuts the ranks at.
    seed
        Of the random order.

    Returns
    -------
    ranks, tied
        (N, *features) int32, and (N,) bool: True where a cut falls between equal features.
    """
    flat = explanations.reshape(len(explanations), -1)
    nb_features = flat.shape[1]
    shuffled = np.random.default_rng(seed).permutation(nb_features)
    order = shuffled[np.argsort(-flat[:, shuffled], axis=1, kind="stable")]
    ranks = np.empty(flat.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(nb_features, dtype=np.int32)[None], axis=1)

    inner = counts[(counts > 0) & (counts < nb_features)]
    values = np.take_along_axis(flat, order, axis=1)
    tied = (values[:, inner - 1] == values[:, inner]).any(axis=1)
    return ranks.reshape(explanations.shape), tied


def step_counts(nb_features: int, steps: int, max_percentage_perturbed: float = 1.0) -> np.ndarray:
    """Numbers of features at the points of a curve, (steps + 1,), or fewer if there are fewer.

    Parameters
    ----------
    nb_features
        Number of all features.
    steps
        Number of steps, equally long up to rounding; -1 for one feature per step.
    max_percentage_perturbed
        Share of the features at which the curve ends, in ]0, 1].

    Raises
    ------
    ValueError
        For other steps and shares, and a share of less than a feature.
    """
    if not 0 < max_percentage_perturbed <= 1:
        raise ValueError(
            f"max_percentage_perturbed must be a share in ]0, 1]. "
            f"Received: {max_percentage_perturbed!r}"
        )
    last = int(np.floor(nb_features * max_percentage_perturbed))
    if not last:
        raise ValueError(
            f"max_percentage_perturbed={max_percentage_perturbed} of {nb_features} features is "
            f"less than one: give at least {1 / nb_features:.3g}"
        )
    if isinstance(steps, bool) or steps != int(steps) or not (steps == -1 or steps >= 1):
        raise ValueError(
            f"steps must be a whole number of at least 1, or -1 for one feature per step. "
            f"Received: {steps!r}"
        )
    steps = last if steps == -1 else min(int(steps), last)
    return np.linspace(0, last, steps + 1, dtype=np.int32)


def largest_of_groups(features: Features, explanations: np.ndarray) -> np.ndarray:
    """Largest attribution (N, *features) of each group, (N, G); -inf where there is no group."""
    found = np.full(features.keys.shape, -np.inf)
    samples = np.arange(len(features)).reshape(-1, *[1] * (explanations.ndim - 1))
    np.maximum.at(found, (samples, features.places), explanations)
    return found


def _of_inputs(explanations: Any, inputs: np.ndarray) -> np.ndarray:
    """An array of numbers, of a shape that explanations of these inputs may have."""
    explanations = np.asarray(explanations)
    accepted = [inputs.shape]
    if inputs.ndim == 4:
        accepted = [inputs.shape[:-1], (*inputs.shape[:-1], 1), inputs.shape]
    if explanations.shape not in accepted or explanations.dtype.kind not in "fiub":
        wanted = " or ".join(str(shape) for shape in dict.fromkeys(accepted))
        raise ValueError(
            f"explanations must have the shape {wanted}, as the inputs. "
            f"Received: {explanations.shape} of {explanations.dtype}"
        )
    return explanations
