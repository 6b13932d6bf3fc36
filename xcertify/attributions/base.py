"""What all explainers share: the model, the forms of inputs and targets, calling conventions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import keras
import numpy as np

from xcertify.checks import nb_at_once
from xcertify.inputs import as_arrays, input_shape_of
from xcertify.models import channels_last_layer, check_model
from xcertify.settings import Settings


class Explainer(Settings):
    """An explanation method for one Keras model.

    A subclass keeps its arguments as attributes of the same names, does no work in its
    constructor, implements `_explain`, and keeps what it derives by `_derive` (see `Settings`). All
    settings may be assigned at any time.

    Parameters
    ----------
    model
        A built Keras model that classifies. Explanations are of its logits: a softmax or sigmoid
        at its end is left out.
    batch_size
        Most perturbed samples that are held at once; None: all.
    seed
        Makes everything random repeatable, in every call.
    verbose
        Whether to show a progress bar.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        nb_at_once(batch_size)
        check_model(model)
        self.batch_size, self.seed, self.verbose = batch_size, seed, verbose
        self.model = model

    def explain(self, inputs: Any, targets: Any = None) -> np.ndarray:
        """Attribution maps.

        Parameters
        ----------
        inputs
            Images (N, H, W, C), time series (N, T, W) or tabular data (N, W): arrays, tensors, or
            a `tf.data.Dataset` of them, with or without targets.
        targets
            Class of each input: integer labels (N,) or one-hot rows (N, K). None: the class that
            the model predicts.

        Returns
        -------
        explanations
            float32: (N, H, W, 1) for images, else the shape of the inputs.

        Raises
        ------
        ValueError
            For inputs that do not fit the model, targets that are neither, and explanations that
            would be NaN or infinite.
        """
        inputs, targets = self._take(inputs, targets)
        maps = self._explain(inputs, targets).astype(np.float32)
        missing = ~np.isfinite(maps).reshape(len(maps), -1).all(axis=1)
        if missing.any():
            raise ValueError(
                f"the explanation has NaN or infinite values in sample "
                f"{int(np.argmax(missing))}: the model's outputs or gradients are not finite (an "
                f"overflow, the root or logarithm of 0). Look at model(inputs), also of perturbed "
                f"inputs"
            )
        return maps

    def __call__(self, inputs: Any, targets: Any = None) -> np.ndarray:
        """Same as `explain`."""
        return self.explain(inputs, targets)

    def _take(self, inputs: Any, targets: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Inputs and targets as arrays that fit the model; see `as_arrays`."""
        check_model(self.model)  # which may have been given other outputs
        inputs, targets = as_arrays(inputs, targets, input_shape_of(self.model))
        return inputs if self._start is None else np.moveaxis(inputs, 1, -1), targets

    @property
    def _start(self) -> str | None:
        """The layer from which on the model is looked at, if it takes channels first."""
        return self._derive("start", lambda: channels_last_layer(self.model))

    @property
    def _nb_at_once(self) -> int:
        """`batch_size` as a number."""
        return nb_at_once(self.batch_size)

    @abstractmethod
    def _explain(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Maps of float32 inputs (N, *shape) that fit the model."""
