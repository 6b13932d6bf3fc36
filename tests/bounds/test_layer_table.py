"""The pages on the engine: the layer table is current and exercised, the examples run."""

import re
import runpy

import keras
import pytest
from conftest import ROOT
from networks import NETWORKS, NO_NETWORK

from xcertify.bounds import supported_activations, supported_layers, supported_operations


def test_the_page_is_up_to_date():
    generator = runpy.run_path(str(ROOT / "docs" / "generate_layers.py"))
    current = generator["PAGE"].read_text()
    assert current == generator["page"](), "run: python docs/generate_layers.py"


@pytest.fixture(scope="module")
def operations():
    """Every layer and `keras.ops` node of the networks that the soundness tests bound."""

    def inside(model):
        for operation in model.operations if hasattr(model, "operations") else model.layers:
            yield from inside(operation) if isinstance(operation, keras.Model) else [operation]

    return [operation for build in NETWORKS.values() for operation in inside(build())]


def test_every_layer_is_exercised(operations):
    exercised = {type(operation) for operation in operations}
    # Other tests may have registered layers of their own.
    supported = {name for name in supported_layers() if hasattr(keras.layers, name)}
    missing = {name for name in supported if getattr(keras.layers, name) not in exercised}
    assert missing <= NO_NETWORK


def test_every_activation_is_exercised(operations):
    functions = [getattr(operation, "activation", None) for operation in operations]
    exercised = {getattr(function, "__name__", None) for function in functions}
    assert not set(supported_activations()) - exercised


def test_every_function_is_exercised(operations):
    exercised = {type(operation).__name__ for operation in operations}
    assert not set(supported_operations()) - exercised


def test_the_examples_run():
    text = (ROOT / "docs" / "engine.md").read_text()
    namespace = {}
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(example, namespace)
    lower, upper = namespace["lower"], namespace["upper"]
    values = namespace["model"].predict_on_batch(namespace["region"].sample(20)[0])
    assert (lower <= values).all()
    assert (values <= upper).all()
