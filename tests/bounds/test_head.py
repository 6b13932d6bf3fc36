"""The softmax or sigmoid at the end of a model: left out, or bounded."""

import keras
import numpy as np
import pytest
from conformance import assert_sound
from networks import NETWORKS, functional, sequential

from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.regions import Ball

L = keras.layers


def regions(model):
    inputs = np.random.default_rng(1).uniform(0, 1, (3, *model.input_shape[1:]))
    return Ball(inputs.astype("float32"), [0.3, 0.02, 0.0])


def sigmoids():
    return sequential((5,), L.Dense(9, "relu"), L.Dense(3, "sigmoid"))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("build", [NETWORKS["softmax_output"], sigmoids])
@pytest.mark.parametrize("strip_head", [True, False])
def test_bounds_of_logits_and_of_probabilities_are_sound(build, strip_head):
    model = build()
    region = regions(model)
    methods = "ibp", "crown-ibp", "crown", "alpha-crown"
    lower, upper = assert_sound(model, region, *methods, strip_head=strip_head)
    values = Verifier(model, strip_head=strip_head).evaluate(region.center)
    assert (lower <= values + 1e-6).all() and (values <= upper + 1e-6).all()
    if not strip_head:
        np.testing.assert_allclose(values, model(region.center), atol=1e-6)
        assert (upper[2] - lower[2] < 1e-5).all()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("build", [NETWORKS["softmax_output"], sigmoids])
def test_gradients_of_probabilities(build):
    model = build()
    region = regions(model)
    for method in ("ibp", "crown"):
        lower, upper = Verifier(model, strip_head=False).bound_gradient(region, method=method)
        for point in (region.center, region.lower, region.upper, *region.sample(10)):
            steps = 1e-3 * np.eye(5, dtype="f4")[:, None]
            ahead, behind = (model(np.reshape(point + s, (-1, 5))) for s in (steps, -steps))
            slopes = (np.reshape(ahead, (5, 3, -1)) - np.reshape(behind, (5, 3, -1))) / 2e-3
            slopes = np.moveaxis(slopes, 0, -1)
            kinked = np.abs(slopes - np.clip(slopes, lower, upper)) > 5e-3
            assert kinked.mean() < 0.02


def test_one_rule_for_all_heads():
    """Without a word said, bounds are of the logits, whatever the model ends with."""
    for build in (NETWORKS["softmax_output"], sigmoids):
        model = build()
        region = regions(model)
        found = Verifier(model, "ibp").bound_outputs(region)
        expected = Verifier(model, "ibp", strip_head=True).bound_outputs(region)
        np.testing.assert_array_equal(found, expected)
        verifier = Verifier(model, "ibp", strip_head=False)
        assert (np.array(verifier.bound_outputs(region)) <= 1 + 1e-6).all()


@pytest.mark.parametrize(("logits", "stripped"), [(True, (True, True)), (False, (True, False))])
def test_the_former_name_means_what_it_meant(logits, stripped):
    for build, strip_head in zip((NETWORKS["softmax_output"], sigmoids), stripped):
        model = build()
        region = regions(model)
        with pytest.warns(DeprecationWarning, match="Write strip_head=True"):
            found = Verifier(model, "ibp", logits=logits).bound_outputs(region)
        expected = Verifier(model, "ibp", strip_head=strip_head).bound_outputs(region)
        np.testing.assert_array_equal(found, expected)


def test_what_strip_head_may_be():
    with pytest.raises(ValueError, match="strip_head must be True or False"):
        Verifier(sigmoids(), strip_head="softmax")


def test_the_loss_of_labels_needs_logits():
    model = sigmoids()
    with pytest.raises(ValueError, match="labels need logits.*before the sigmoid"):
        Verifier(model, strip_head=False).bound_gradient(regions(model), labels=np.zeros(3, int))


def test_decomon_leaves_out_what_the_engine_does():
    model = sigmoids()
    region = regions(model)
    native = Verifier(model, "crown", strip_head=True).bound_outputs(region)
    found = Verifier(model, "decomon:crown", strip_head=True).bound_outputs(region)
    np.testing.assert_allclose(found, native, rtol=1e-4, atol=1e-5)
    found = Verifier(model, "decomon:forward-ibp", strip_head=False).bound_outputs(region)
    assert (np.array(found) >= -1e-6).all() and (np.array(found) <= 1 + 1e-6).all()
    with pytest.raises(UnsupportedLayerError, match="decomon's lines around sigmoid cut it"):
        Verifier(model, "decomon:crown", strip_head=False)
    with pytest.raises(UnsupportedLayerError, match="decomon bounds softmax wrongly"):
        Verifier(NETWORKS["softmax_output"](), "decomon:crown", strip_head=False)
    # Behind a change of shape that is more than a row nothing is a head.
    inputs = keras.Input((4,))
    reshaped = functional(inputs, L.Reshape((2, 2))(L.Dense(4, "softmax")(inputs)))
    with pytest.raises(
        UnsupportedLayerError, match="follows a softmax, which decomon bounds wrong"
    ):
        Verifier(reshaped, "decomon:crown")
