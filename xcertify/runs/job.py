"""A job: what is computed of which inputs, and the folder that it goes to."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from xcertify import attributions
from xcertify.attributions.base import Certifying, Explainer
from xcertify.fingerprints import hash_of
from xcertify.runs.sources import Source

COMMANDS = ("explain", "certify")

# Inputs of a batch, where memory does not make it fewer: few for explainers that take seconds for
# each of them, so that little is lost when a run stops, and many for those that are fast.
_MOST, _NB_INPUTS = (
    256,
    {
        "GreedyAS": 4,
        "SmoothedAttribution": 4,
        "SufficientReason": 4,
        "UniformlySmoothedAttribution": 4,
        "AttributionBound": 16,
        "CORGI": 16,
        "CertifiedGradient": 32,
        "RelEx": 32,
        "EVAHybrid": 64,
        "SampledEVA": 64,
    },
)
_NB_BYTES = 2**26  # of what is held of a batch: inputs, sides of regions, maps, and copies of them
_NB_COPIES = 12


@dataclass(frozen=True)
class Job:
    """What is computed of which inputs, and the folder that it goes to; it can be pickled.

    Attributes
    ----------
    command
        "explain", for maps, or "certify".
    explainer
        Name of a class of `xcertify.attributions`, or a class.
    settings
        Arguments of its constructor but the model, by name.
    model
        Path of a model (see `load_model`), the bytes of a ``.keras`` file, or the model itself.
    source
        The inputs.
    folder
        Where results go.
    custom
        Custom objects of the model: ``"module:Class"`` for `load_model`, or classes by name.
    targets
        (N,) int or (N, K), as for `Explainer.explain`. None: those of the source, and without any
        the classes that the model predicts.
    batch
        Inputs that are computed together, always the same ones: batch k has the inputs from
        ``k * batch`` on. None: by the memory that they take, fewer for slow explainers.
    threads
        Of TensorFlow and of matrix products, in each process: results differ in their last digits
        with this number. None: 2, or as many as TensorFlow has, where it runs already.
    device
        "cpu" or "gpu".
    maps
        Whether `certify` also makes the maps of `explain`; which always does.
    """

    command: str
    explainer: str | type[Explainer]
    settings: Mapping[str, Any]
    model: Any
    source: Source
    folder: str | os.PathLike[str]
    custom: Sequence[str] | Mapping[str, Any] = ()
    targets: np.ndarray | None = field(default=None, repr=False)
    batch: int | None = None
    threads: int | None = None
    device: str = "cpu"
    maps: bool = True

    def __post_init__(self) -> None:
        if self.command not in COMMANDS:
            raise ValueError(f"command must be 'explain' or 'certify'. Received: {self.command!r}")
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number above 0. Received: {value!r}")
        if not (self.maps or self.certifies):
            raise ValueError("maps are what explain makes: maps=False is of certify")
        if not len(self.source):
            raise ValueError("there are no inputs: give at least one")
        if self.settings.get("clip") == "auto":
            raise ValueError(
                "clip='auto' would take another valid range from each batch of inputs: give the "
                "range that they may have, clip=(low, high)"
            )
        nb_inputs, nb_all = self.settings.get("nb_inputs", 1), len(self.source)
        if nb_inputs is None or 1 < nb_inputs < nb_all:
            raise ValueError(
                f"nb_inputs={nb_inputs} would share the level among the inputs of each batch: give "
                f"the number of inputs of the run, nb_inputs={nb_all}, or 1 for a level of each"
            )
        for name in ("epsilon", "gamma"):
            shape = np.shape(self.settings.get(name, 0.0))
            if shape and shape[0] != 1:
                raise ValueError(
                    f"{name} must be one number, or one for each feature, (1, ...), the same for "
                    f"all inputs of a run. Received: shape {shape}"
                )
        if self.targets is not None and len(self.targets) != len(self.source):
            raise ValueError(
                f"targets must be one per input, {len(self.source)} of them. "
                f"Received: {len(self.targets)}"
            )

    @property
    def certifies(self) -> bool:
        """Whether something is proved."""
        return self.command == "certify"

    def explainer_class(self) -> type[Explainer]:
        """The class of the explainer.

        Raises
        ------
        ValueError
            If there is no such one, or if it cannot certify and should.
        """
        kind: Any = self.explainer
        if isinstance(kind, str):
            kind = getattr(attributions, kind, None) if kind in attributions.__all__ else None
        if not (isinstance(kind, type) and issubclass(kind, Explainer)):
            raise ValueError(
                f"explainer must be one of {', '.join(_names())}. Received: {self.explainer!r}"
            )
        if self.certifies and not issubclass(kind, Certifying):
            raise ValueError(
                f"{kind.__name__} proves nothing: explain with it, or certify with one of "
                f"{', '.join(_names(Certifying))}"
            )
        return kind

    def make_explainer(self, model: keras.Model) -> Explainer:
        """The explainer of the model."""
        return self.explainer_class().of_model(model, **self.settings)

    def nb_at_once(self) -> int:
        """`batch` as a number."""
        if self.batch is not None:
            return self.batch
        most = _NB_INPUTS.get(self.explainer_class().__name__, _MOST)
        fitting = _NB_BYTES // (4 * _NB_COPIES * math.prod(self.source.shape))
        return min(most, max(1, fitting))

    def describe_targets(self) -> str:
        """Where targets come from; of given ones a fingerprint."""
        if self.targets is not None:
            return f"given, {hash_of([np.asarray(self.targets)])}"
        return "those of the source, else the predicted class"


def _names(kind: type = Explainer) -> list[str]:
    """Explainers of this package."""
    found = [(name, getattr(attributions, name)) for name in attributions.__all__]
    return [name for name, value in found if isinstance(value, type) and issubclass(value, kind)]
