"""Rules about the model: it may change, may have a head, and is let go."""

from __future__ import annotations

import weakref

import keras
import numpy as np
from keras import layers

from xcertify.logits import head_of
from xcertify.testing.case import Case
from xcertify.testing.examples import copy_of, is_released


def check_model(case: Case) -> None:
    """Another model, and other weights of the same one, give the maps of a new explainer."""
    pair = case.inputs, case.labels
    other = copy_of(case.model, case.weights_of_another)
    explainer = case.make(other)
    expected = np.array(case.call(explainer.explain, *pair))
    if not case.differs(expected, case.maps):
        case.fail("a model with other weights must have other maps. Received: the same")
    explainer.model = replaced = copy_of(case.model)
    case.agree("after explainer.model = other, explain", case.call(explainer.explain, *pair))
    if explainer.model is not replaced:
        case.fail(f"explainer.model must be the one that was set. Received: {explainer.model}")
    replaced.set_weights(case.weights_of_another)
    changed = case.call(explainer.explain, *pair)
    case.agree("a model whose weights were changed", changed, expected)


def check_logits(case: Case) -> bool:
    """A softmax at the end changes nothing; False for models that have one."""
    if head_of(case.model) is not None:
        return False
    model = copy_of(case.model)
    head = "softmax" if model.output_shape[-1] > 1 else "sigmoid"
    model = keras.Model(model.inputs[0], layers.Activation(head)(model.outputs[0]))
    explainer = case.make(model)
    maps = case.call(explainer.explain, case.inputs, case.labels)
    case.agree(f"a model with a {head} at its end", maps)
    return True


def check_memory(case: Case) -> None:
    """A model is released when it is replaced, and with its explainer."""
    first, second = copy_of(case.model), copy_of(case.model)
    explainer = case.make(first)
    methods = case.methods(explainer)
    results = [case.call(method, case.inputs, case.labels) for method in methods]
    del methods
    earlier, later = weakref.ref(first), weakref.ref(second)
    explainer.model = second
    del first, second
    expected = "a model must be released when it is replaced. Received: one that"
    if not is_released(earlier):
        results.clear()
        if is_released(earlier):
            case.fail(f"{expected} a result keeps alive")
        del explainer
        if is_released(earlier):
            case.fail(f"{expected} the explainer keeps alive")
        case.fail(f"{expected} outlives its explainer, as in a cache of a class or a module")
    del explainer
    if not is_released(later):
        case.fail(
            "a model must be released with its explainer. Received: one that outlives it, as in a "
            "cache of a class or a module"
        )
