"""Checks of sets of features that are said to be enough for an answer, whoever found them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from xcertify.answers import Answers
from xcertify.bounds import Verifier
from xcertify.inputs import as_arrays, input_shape_of
from xcertify.logits import classes_of
from xcertify.models import channels_last_layer, check_model
from xcertify.perturbation import Perturbation
from xcertify.regions import Region, refuse_other_regions
from xcertify.targets import target_classes

WORDS = {"holds": "proved", "violated": "refuted", "unknown": "undecided"}


@dataclass(frozen=True, eq=False, repr=False)
class Checked:
    """For N sets of features whether they are enough.

    Attributes
    ----------
    status
        (N,) of "proved", "refuted" and "undecided".
    counterexamples
        (N, *input): an input of the region with another answer that differs from the given one only
        outside the set; NaN where there is none.
    seconds
        (N,): from the start of the call until it was decided.
    sizes
        (N,) int: features in each set.
    reason
        (N,) words: by what it was decided ("attack", "bounds", "branch and bound"), or why not
        ("timeout", "nb_branches", "interrupted").

    Guarantee
    ---------
    That of `xcertify.bounds.Decision`. "proved": no input of the region that agrees with the given
    one on the set has another answer, for the network in real arithmetic. "refuted": the
    counterexample is one, both in real arithmetic and as the model itself computes it.
    """

    status: np.ndarray
    counterexamples: np.ndarray
    seconds: np.ndarray
    sizes: np.ndarray
    reason: np.ndarray

    def __len__(self) -> int:
        return len(self.status)

    @property
    def proved(self) -> np.ndarray:
        """(N,) bool."""
        return self.status == "proved"

    @property
    def refuted(self) -> np.ndarray:
        """(N,) bool."""
        return self.status == "refuted"

    @property
    def undecided(self) -> np.ndarray:
        """(N,) bool."""
        return self.status == "undecided"

    def to_dict(self) -> dict[str, Any]:
        """All fields as lists, ready for JSON; None for a missing counterexample."""
        names = ("status", "seconds", "sizes", "reason")
        points = zip(self.counterexamples, self.refuted)
        found = [point.tolist() if is_one else None for point, is_one in points]
        return {name: getattr(self, name).tolist() for name in names} | {"counterexamples": found}

    def __repr__(self) -> str:
        counts = [f"{int((self.status == word).sum())} {word}" for word in WORDS.values()]
        return (
            f"<Checked: {len(self)} sets of {np.mean(self.sizes):.4g} features (mean), "
            f"{', '.join(counts)}, in {np.max(self.seconds):.3g} s>"
        )


def check(
    model: keras.Model,
    inputs: Any,
    sets: Any,
    region: Region | Perturbation,
    targets: Any = None,
    *,
    towards: Any = None,
    class_groups: Any = None,
    delta: Any = None,
    timeout: float | None = 60.0,
    nb_branches: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
    verbose: bool = False,
) -> Checked:
    """Whether sets of features are enough for the model's answers: proved, refuted or undecided.

    While the features of a set keep their values, all others move within the region, all at the
    same time and in all directions. An attack looks for another answer first, then bounds and
    branch and bound prove that there is none, see `Verifier.decide`.

    Parameters
    ----------
    model
        A Keras model that `Verifier` can bound; a softmax or sigmoid at its end is left out.
    inputs
        (N, *shape), as for explainers.
    sets
        The features that are kept, for each input: a mask, True where a feature is kept, or a list
        of indices, flat and row-major. A feature is a pixel (H, W), a variable at a time (T, W) or
        a column (W,); masks (N, *shape) of all entries of the inputs are taken, too.
    region
        A `Ball` or `Box` whose centers are the inputs, or a `Perturbation`.
    targets
        Classes as for explainers, default the predicted ones; with `delta` numbers of outputs.
    towards, class_groups, delta
        What counts as another answer, see `Answers.of`; default: another class.
    timeout
        Seconds that the call may take, about; None: no limit.
    nb_branches, seed, verbose
        As for `Verifier.decide`.
    dtype
        "float32" or "float64", in which bounds are computed: both prove the same, the second one a
        little more, in more time.

    Returns
    -------
    checked
        A `Checked`; that of an interrupted call (Ctrl-C) has what is known by then.

    Raises
    ------
    ValueError
        For sets that do not fit the inputs (the message names the input), a region around other
        inputs, and inputs for which the model does not give the answer in the first place.

    Guarantee
    ---------
    That of `Checked`.

    Examples
    --------
    >>> check(model, images, sets, Perturbation(0.05, clip=(0, 1)))
    <Checked: 92 sets of 225.1 features (mean), 83 proved, 9 refuted, 0 undecided, in 4.1 s>
    """
    check_model(model)
    given, targets = as_arrays(inputs, targets, input_shape_of(model))
    region = region.around(given) if isinstance(region, Perturbation) else region
    _refuse_other_centers(region, given)
    verifier, start = logits_verifier(model, dtype)
    region = region if start is None else _channels_last(region)
    kept, sizes = masks_of(sets, region.center.shape)
    precise, _ = logits_verifier(model, "float64")
    outputs = precise.evaluate(region.center).reshape(len(given), -1)
    answers = Answers.of(
        outputs,
        asked_outputs(model, outputs, targets, delta),
        towards=towards,
        class_groups=class_groups,
        delta=delta,
    )
    answers.check(outputs)
    decision = verifier.decide(
        region.fix(kept),
        *answers.property(),
        timeout=timeout,
        nb_branches=nb_branches,
        seed=seed,
        verbose=verbose,
    )
    status = np.array([WORDS[word] for word in decision.status])
    points = decision.counterexamples
    points = points if start is None else np.moveaxis(points, -1, 1)
    return Checked(status, points, decision.seconds, sizes, decision.reason)


def logits_verifier(model: keras.Model, dtype: str) -> tuple[Verifier, str | None]:
    """A verifier of the logits of a model, and the layer from which on it is looked at.

    That is None, unless the model takes channels first: then regions have them last.
    """
    start = channels_last_layer(model)
    return Verifier(model, dtype=dtype, strip_head=True, start_layer=start), start


def masks_of(sets: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Sets of features in any form as masks of the entries of the inputs.

    Parameters
    ----------
    sets
        As for `check`.
    shape
        Of the inputs, (N, *input), channels last.

    Returns
    -------
    masks
        (N, *input) bool.
    sizes
        (N,) int: features in each set.

    Raises
    ------
    ValueError
        For sets that do not fit; the message names the input.
    """
    known = isinstance(sets, (Sequence, np.ndarray)) and not isinstance(sets, str)
    if not known or len(sets) != shape[0]:
        raise ValueError(
            f"sets must be a mask or a list of indices for each of the {shape[0]} inputs. "
            f"Received: {f'{len(sets)} of them' if known else type(sets).__name__}"
        )
    entries = shape[1:]
    features = entries[:-1] if len(entries) == 3 else entries
    masks = [_mask_of(one, features, entries, number) for number, one in enumerate(sets)]
    # of masks of entries, the features of which any entry is kept
    each = [mask if mask.shape == features else mask.any(axis=-1) for mask in masks]
    sizes = np.array([mask.sum() for mask in each], int)
    whole = [mask if mask.shape == entries else mask[..., None] for mask in masks]
    return np.stack([np.broadcast_to(mask, entries) for mask in whole]), sizes


def _mask_of(
    one: Any, features: tuple[int, ...], entries: tuple[int, ...], number: int
) -> np.ndarray:
    """A mask (*features) or (*input) of one set."""
    one = np.asarray(sorted(one) if isinstance(one, (set, frozenset)) else one)
    if one.dtype == bool:
        if one.shape not in (features, entries):
            raise ValueError(
                f"a mask of kept features must have the shape {features}, or {entries} of an "
                f"input. Received: {one.shape} for input {number}"
            )
        return one
    if one.ndim != 1 or (one.size and one.dtype.kind not in "iu"):
        raise ValueError(
            f"a set must be a boolean mask {features}, or a list of integer indices. Received: "
            f"{one.dtype} of shape {one.shape} for input {number}"
        )
    size = int(np.prod(features))
    outside = (one < 0) | (one >= size)
    if outside.any():
        raise ValueError(
            f"indices of features must be from 0 to {size - 1}. Received: {one[outside][0]} for "
            f"input {number}"
        )
    mask = np.zeros(size, bool)
    mask[one.astype(int)] = True
    return mask.reshape(features)


def asked_outputs(model: Any, outputs: np.ndarray, targets: Any, delta: Any) -> np.ndarray:
    """The classes, or with `delta` the numbers of outputs, that are asked about, (N,) int."""
    if delta is None:
        return classes_of(model, outputs, targets)
    if targets is not None:
        return target_classes(outputs, None if outputs.shape[1] == 1 else targets)
    if outputs.shape[1] > 1:
        raise ValueError(
            f"targets must name the output that stays within delta, one of {outputs.shape[1]}: "
            f"give integers (N,). Received: None"
        )
    return np.zeros(len(outputs), int)


def _refuse_other_centers(region: Region, inputs: np.ndarray) -> None:
    refuse_other_regions(region)
    if region.center.shape != inputs.shape:
        raise ValueError(
            f"region must be around the inputs, {inputs.shape}. Received: {region.center.shape}"
        )
    other = (region.center != inputs).reshape(len(inputs), -1).any(axis=1)
    if other.any():
        raise ValueError(
            f"region must be around the inputs: Ball(inputs, epsilon), or Perturbation(epsilon). "
            f"Received: another center for input {int(np.argmax(other))}"
        )


def _channels_last(region: Region) -> Region:
    """The same regions of inputs (N, H, W, C)."""
    moved = copy.copy(region)
    for name, value in vars(region).items():
        if isinstance(value, np.ndarray) and value.ndim == region.center.ndim:
            setattr(moved, name, np.moveaxis(value, 1, -1))
    return moved
