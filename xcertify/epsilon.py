"""A radius to start with: where a method proves about half of the predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from xcertify.bounds import Verifier
from xcertify.checks import positive
from xcertify.inputs import as_arrays, input_shape_of
from xcertify.logits import classes_of
from xcertify.models import channels_last_layer, check_model
from xcertify.perturbation import Perturbation
from xcertify.progress import progress_bar
from xcertify.radii import class_margins, keeps_class
from xcertify.regions import Norm, as_norm

_STEP, _NB_STEPS = 4.0, 24  # factor between the first radii that are tried, and how many
_TOLERANCE = 1.05


def suggest_epsilon(
    model: Any,
    inputs: Any,
    targets: Any = None,
    *,
    norm: Norm = np.inf,
    clip: Any = None,
    method: str = "crown",
    share: float = 0.5,
    scale: Any = 1.0,
    verbose: bool = False,
) -> float:
    """The radius up to which a method proves about half of the predictions.

    A good first `epsilon` of `EVA` and the others: much above it bounds say little, much below it
    everything is proved. Some tens of inputs are enough.

    Parameters
    ----------
    model
        Keras classifier that `Verifier` can bound.
    inputs
        (N, *shape), of which all are bounded at some 15 to 20 radii.
    targets
        The classes that are to stay, as for explainers; None: the predicted ones. Inputs of another
        class than the target are never proved.
    norm, clip
        Of the regions, as for `Ball`.
    method
        Of the bounds, a name of `Verifier`.
    share
        Share of the predictions that is to be proved, above 0 and at most 1.
    scale
        Radii are this times epsilon: a number, or an array (*shape) for features in different
        units, with 1 where it does not vary; of models with channels first (H, W, C). Default 1.
    verbose
        Whether to show a progress bar.

    Returns
    -------
    epsilon
        The largest radius found, of two digits, at which at least `share` of the N predictions are
        proved. It was itself tested.

    Raises
    ------
    ValueError
        For arguments that do not fit; and if so many predictions are not proved at any radius.
    UnsupportedLayerError
        For a model that cannot be bounded.

    Guarantee
    ---------
    At the returned radius so many of these predictions are proved to stay, as `Verifier` proves.
    **No guarantee** for other inputs, nor that no larger radius would do.

    Examples
    --------
    >>> epsilon = suggest_epsilon(model, images[:32], clip=(0.0, 1.0))
    >>> EVA(model, epsilon=epsilon, clip=(0.0, 1.0)).explain(images)
    """
    check_model(model)
    if positive("share", share) > 1:
        raise ValueError(f"share must be above 0 and at most 1. Received: {share!r}")
    inputs, targets = as_arrays(inputs, targets, input_shape_of(model))
    start = channels_last_layer(model)
    inputs = inputs if start is None else np.moveaxis(inputs, 1, -1)
    scale = _scale_of(scale, inputs)
    verifier = Verifier(model, method, strip_head=True, start_layer=start)
    logits = verifier.evaluate(inputs)
    logits = logits.reshape(len(logits), -1)
    classes = classes_of(model, logits, targets)
    own = class_margins(logits, classes) < 0
    if own.mean() < share:
        raise ValueError(
            f"share={share} of the predictions cannot be proved, since the model gives "
            f"{int(own.sum())} of {len(own)} inputs the class of their target. Give "
            f"targets=None, or a smaller share (where logits tie, nothing is proved)"
        )

    def proves(radius: float) -> bool:
        region = Perturbation(radius * scale, norm, clip).around(inputs)
        return float(keeps_class(verifier, region, classes).mean()) >= share

    with progress_bar(unit="radius", name="suggest_epsilon", verbose=verbose) as bar:
        widest = (np.ptp(inputs) or 1.0) / scale.max() * inputs[0].size ** (1 / as_norm(norm))
        largest = _rounded(float(widest))
        radius, tried = largest, 0
        while not proves(radius):
            bar.update()
            tried += 1
            if tried == _NB_STEPS:
                raise ValueError(
                    f"method={method!r} proves fewer than {share:.0%} of {len(inputs)} predictions "
                    f"at every radius from {largest:g} to {radius:.2g}. Take a tighter method "
                    f"('crown', 'alpha-crown'), fewer layers (start_layer of Verifier), or an "
                    f"explainer without bounds"
                )
            radius = _rounded(radius / _STEP)
        held, failed = radius, radius * _STEP if tried else radius
        while failed > held * _TOLERANCE:
            middle = _rounded(float(np.sqrt(held * failed)))
            if not held < middle < failed:
                break
            if proves(middle):
                held = middle
            else:
                failed = middle
            bar.update()
    return held


def _scale_of(scale: Any, inputs: np.ndarray) -> np.ndarray:
    """A scale that is right, as `epsilon` for `Ball`: one array of an input has an axis before."""
    scale = np.asarray(scale)
    if scale.ndim and scale.ndim == inputs.ndim - 1:
        scale = scale[None]
    try:
        np.broadcast_to(scale, inputs.shape)
        fits = bool(np.all((scale >= 0) & np.isfinite(scale)) and scale.max() > 0)
    except (ValueError, TypeError):
        fits = False
    if not fits:
        raise ValueError(
            f"scale must be a number above 0, or an array of the shape of one input, "
            f"{inputs.shape[1:]}, of finite numbers of at least 0, not all 0. "
            f"Received: {scale!r}"
        )
    return scale


def _rounded(radius: float) -> float:
    """A radius of two digits."""
    return float(f"{radius:.1e}")
