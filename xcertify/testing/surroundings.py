"""Everything that a call has to leave as it is."""

from __future__ import annotations

import json
import os
import random
import sys
import warnings
from typing import Any

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers
from tensorflow.python.eager import context

from xcertify.keras_graph import global_seed_generator, nb_calls, numbers_in_names

# What has names that users meet: not symbolic tensors and operations, which Keras counts as well.
_NAMED = {"functional", "sequential", "model", *(name.lower() for name in dir(layers))}


def surroundings(model: keras.Model, arrays: list[np.ndarray]) -> dict[str, Any]:
    """Everything that an explainer has to leave as it is, by name."""
    legacy: Any = np.random.get_state()  # noqa: NPY002
    seeds, names = global_seed_generator(), numbers_in_names()
    pyplot = sys.modules.get("matplotlib.pyplot")
    eager = context.context()
    return {
        "Python's random state": random.getstate(),
        "NumPy's random state": (legacy[1].tobytes(), *legacy[2:]),
        "TensorFlow's global seed": context.global_seed(),
        "TensorFlow's random state": getattr(eager, "_rng", random).getstate(),
        "TensorFlow's global generator": tf.random.get_global_generator().state.numpy().tobytes(),
        "Keras's random state": None if seeds is None else np.asarray(seeds.state).tobytes(),
        "the numbers in the names that Keras gives": {
            name: number for name, number in names.items() if name.replace("_", "") in _NAMED
        },
        "eager execution": (tf.executing_eagerly(), tf.config.functions_run_eagerly()),
        "TensorFloat-32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "Keras's floatx": keras.config.floatx(),
        "Keras's epsilon": keras.config.epsilon(),
        "Keras's dtype policy": keras.config.dtype_policy().name,
        "Keras's image data format": keras.config.image_data_format(),
        "NumPy's error handling": np.geterr(),
        "NumPy's print options": np.get_printoptions(),
        "the filters of warnings": list(warnings.filters),
        "environment variables": dict(os.environ),
        "matplotlib's rcParams": {**matplotlib.rcParams.copy(), "backend": None},  # found when used
        "pyplot's figures": [] if pyplot is None else pyplot.get_fignums(),
        "the model's configuration": json.dumps(model.get_config(), default=str),
        "the model's weights": [weight.tobytes() for weight in model.get_weights()],
        "the calls that the model's layers know of": [*map(nb_calls, model.layers)],
        "inputs and targets": [array.tobytes() for array in arrays],
    }
