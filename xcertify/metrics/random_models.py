"""Copies of a model of which some layers have random weights, and explainers of a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from xcertify.keras_graph import layers_of, trained_layers, trained_weights
from xcertify.models import is_graph
from xcertify.smoothing import copy_model

WEIGHTS = ("initial", "permuted")


class RandomModel:
    """A copy of a model, of which layers can be given random weights and their own again.

    Parameters
    ----------
    model
        Built Sequential or functional Keras model; it is not touched.
    weights
        "initial" or "permuted", see `ModelRandomization`.
    seed
        Of the random weights; those of a layer are the same at every call.

    Attributes
    ----------
    model
        The copy.
    names
        Of its layers with weights that training changes, from the inputs on.

    Raises
    ------
    ValueError
        For another model, and one without such layers.
    """

    def __init__(self, model: keras.Model, weights: str = "initial", seed: int = 0) -> None:
        if not is_graph(model):
            raise ValueError(
                f"the model is copied layer by layer, so that it must be a built Sequential or "
                f"functional Keras model: rebuild it as one of these. "
                f"Received: {getattr(model, 'name', model)!r} of class {type(model).__name__}"
            )
        self.model = copy_model(model, stays_sequential=True)
        layers = trained_layers(self.model)
        if not layers:
            raise ValueError(
                f"the model has no layers with weights that training changes, so that nothing can "
                f"be randomised. Received: {model.name!r}"
            )
        self.names = tuple(layers)
        self._weights, self._seed = weights, seed
        self._owned = {name: trained_weights(layer) for name, layer in layers.items()}
        self._own = {
            name: [keras.ops.convert_to_numpy(weight) for _, weight in owned]
            for name, owned in self._owned.items()
        }

    def randomize(self, name: str) -> None:
        """Give a layer random weights."""
        generator = np.random.default_rng([self._seed, self.names.index(name)])
        for (layer, weight), own in zip(self._owned[name], self._own[name]):
            initializer = _initializer(layer, weight) if self._weights == "initial" else None
            if initializer is None:
                values: Any = generator.permutation(own.ravel()).reshape(own.shape)
            else:
                values = _seeded(initializer, generator)(weight.shape, weight.dtype)
            weight.assign(values)

    def restore(self, name: str) -> None:
        """Give a layer its own weights."""
        for (_, weight), own in zip(self._owned[name], self._own[name]):
            weight.assign(own)


def explainer_of(explainer: Any, model: keras.Model) -> Callable:
    """The same explainer of another model, with layers of the same names; the given one is left.

    Parameters
    ----------
    explainer
        Something with an attribute `model`, of which a copy is made; layers of its model among its
        attributes become those of the other one. Or a function model -> explainer.
    model
        The other model: a copy by `copy_model` of the explainer's.

    Raises
    ------
    ValueError
        For anything else.
    """
    if not hasattr(explainer, "model"):
        try:
            made = explainer(model)
        except TypeError:
            made = None
        if not callable(made):
            raise ValueError(
                f"the explainer must have an attribute `model`, in whose place another one can be "
                f"put, or be a function model -> explainer, such as lambda model: "
                f"Saliency(model). Received: {explainer!r}"
            )
        return made
    other = copy.copy(explainer)
    other.model = model
    for name, layer in _layers_among(vars(explainer), explainer.model):
        setattr(other, name, layers_of(model)[layer])
    return other


def _layers_among(attributes: dict[str, Any], model: Any) -> Iterator[tuple[str, int]]:
    """Names of attributes that are layers of a model, but not itself, and which of its layers."""
    layers = layers_of(model) if is_graph(model) else []
    numbers = {id(layer): number for number, layer in enumerate(layers) if layer is not model}
    for name, value in attributes.items():
        if id(value) in numbers:
            yield name, numbers[id(value)]


def _initializer(layer: keras.layers.Layer, weight: keras.Variable) -> Any:
    """What a layer's weight was drawn by, None where that is not known."""
    for name in (weight.name, weight.name.removesuffix("_kernel")):
        found = getattr(layer, f"{name}_initializer", None)
        if isinstance(found, keras.initializers.Initializer):
            return found
    return None


def _seeded(initializer: Any, generator: np.random.Generator) -> Any:
    """The same initializer with a seed of its own, so that Keras' global one is left."""
    config = initializer.get_config()
    if "seed" in config:
        config["seed"] = int(generator.integers(2**31))
    return type(initializer).from_config(config)
