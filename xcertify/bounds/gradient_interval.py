"""Interval bounds of gradients and of margins as differentiable functions: what training uses."""

from __future__ import annotations

from typing import Any

import keras

from xcertify.bounds.graph.backpropagation import gradient_graph
from xcertify.bounds.graph.weights import check_weights
from xcertify.bounds.network import Network
from xcertify.bounds.propagation.differentiable import Sides, gradient_sides, upper_rows
from xcertify.keras_graph import layers_of


class GradientInterval:
    """Bounds of the gradient of a model's logits, or of its loss, by its input; differentiable.

    They are those of the method "ibp" of `Verifier.bound_gradient` up to roundings, and cost
    about as much as a few passes of the network.

    Parameters
    ----------
    model
        A built Sequential or functional model; a softmax or sigmoid at its end is left out.
    loss
        "logits": of rows of the logits; "cross-entropy": of the cross-entropy of labels.
    weights_vary
        Whether it is bounded over a region of weights, too.

    Raises
    ------
    UnsupportedLayerError
        For a model, a derivative or weights that cannot be bounded.

    No guarantee
    ------------
    Roundings are not covered.
    """

    def __init__(
        self, model: keras.Model, loss: str = "logits", *, weights_vary: bool = False
    ) -> None:
        network = Network(model).graph()
        if weights_vary:
            check_weights(network, layers_of(model))
        self._graph = gradient_graph(network, loss)

    def __call__(self, lower: Any, upper: Any, rows: Any, gamma: Any = 0.0) -> Sides:
        """Lower and upper gradients over boxes, (N, *input) each, in the type of the boxes.

        Parameters
        ----------
        lower, upper
            Sides of the boxes, (N, *input).
        rows
            (N, K): rows of the logits, or the labels' probabilities.
        gamma
            Relative radius of all weights and biases, a scalar.
        """
        return gradient_sides(self._graph, lower, upper, rows, gamma)


class MarginInterval:
    """Upper bounds of rows of a model's logits, such as margins, over boxes; differentiable.

    They are those of the method "ibp" of `Verifier.bound_rows` up to roundings, where a dense
    layer is the last: it is merged with the rows.

    Parameters
    ----------
    model
        A built Sequential or functional model; a softmax or sigmoid at its end is left out.

    Raises
    ------
    UnsupportedLayerError
        For a model that cannot be bounded.

    No guarantee
    ------------
    Roundings are not covered.
    """

    def __init__(self, model: keras.Model) -> None:
        self._graph = Network(model).graph()

    def __call__(self, lower: Any, upper: Any, rows: Any) -> Any:
        """Upper bounds (N, S) of rows (N, S, K) over boxes with sides (N, *input), in their type.

        Parameters
        ----------
        lower, upper
            Sides of the boxes, (N, *input).
        rows
            (N, S, K): what the logits are weighted with.
        """
        return upper_rows(self._graph, lower, upper, rows)
