"""Networks with unusual calls are bounded soundly, or refused by the name of the layer."""

import gc

import numpy as np
import pytest
import tensorflow as tf
from call_features import FEATURES, NB_SAMPLES, draw
from rotation import rotating

from xcertify.attributions import EVA
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.keras_graph import layers_of

# Keras finds some of these networks odd, and says so: a mask that is lost, a softmax of one entry.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:keras\.src\..*")

NB_NETWORKS = 400
NB_POINTS = 8


def names_in(model):
    """Names of all layers and operations of a model and of the models in it."""
    found = {layer.name for layer in layers_of(model)}
    for operation in getattr(model, "operations", []):
        found |= {operation.name} | (names_in(operation) if hasattr(operation, "layers") else set())
    return found


def points_of(drawn):
    """Points (P, N, *shape) of the region: random ones, corners, and where gradients lead."""
    generator = np.random.default_rng(0)
    lower, upper = (side.astype("f8") for side in (drawn.region.lower, drawn.region.upper))
    share = generator.random((NB_POINTS, *lower.shape))
    share[::2] = share[::2] < 0.5
    points = [*(lower + share * (upper - lower)), drawn.region.center.astype("f8")]
    for output in range(2):
        ascended = gradient(drawn, drawn.region.center, output)
        points += [np.where(sign * ascended > 0, upper, lower) for sign in (-1, 1)]
    points = np.stack(points)
    points = drawn.region.project(points) if np.isfinite(drawn.region.norm) else points
    return points.clip(lower, upper).astype("f4").clip(drawn.region.lower, drawn.region.upper)


def gradient(drawn, points, output):
    points = tf.constant(points)
    with tf.GradientTape() as tape:
        tape.watch(points)
        outputs = tf.reshape(drawn.call(points, training=False), (NB_SAMPLES, -1))[:, output]
    found = tape.gradient(outputs, points)
    return np.zeros(points.shape) if found is None else found.numpy()


def values_of(drawn, points):
    """What a user sees, (V, N, K): the network called twice, for inference, and one by one."""
    modes = [{"training": False}] if drawn.varies else [{}, {}, {"training": False}]
    found = [np.asarray(drawn.call(some, **mode), "f8") for some in points for mode in modes]
    if not drawn.fixed_batch:
        for some in points[::4]:
            single = [drawn.call(some[i : i + 1], i, **modes[-1]) for i in range(NB_SAMPLES)]
            found.append(np.concatenate([np.asarray(one, "f8") for one in single]))
    return np.stack([values.reshape(NB_SAMPLES, -1) for values in found])


def largest_number(drawn, points):
    """Of all tensors inside of the network: float32 is off by a share of it."""
    return max(np.abs(np.asarray(t, "f8")).max() for some in points for t in drawn.tensors(some))


def in_float32(drawn):
    """Whether the network's own roundings are part of the bounds."""
    return drawn.options.get("arithmetic") == "float32"


def check(seed):
    """The bounds of a network contain all that its user sees, or it is refused by name."""
    drawn = draw(seed)
    with drawn.settings():
        try:
            verifier = Verifier(drawn.model, drawn.method, **drawn.options)
            bounds = verifier.bound_outputs(drawn.region, drawn.constants)
        except UnsupportedLayerError as refusal:
            if not any(f"'{name}'" in str(refusal) for name in names_in(drawn.model)):
                pytest.fail(f"a refusal without a name: {refusal}")
            if drawn.must_be_bounded and not (drawn.half and in_float32(drawn)):
                pytest.fail(f"{drawn.features} must be bounded: {refusal}")
            return
        assert not (drawn.half and in_float32(drawn)), "half precision is taken for float32"
        points = points_of(drawn)
        values = values_of(drawn, points)
        slack = 0 if in_float32(drawn) else 1e-5 * largest_number(drawn, points[::4])
        lower, upper = (side.reshape(NB_SAMPLES, -1) for side in bounds)
        assert np.isfinite(lower).all() and np.isfinite(upper).all()
        assert (lower - slack <= values).all(), f"below by {(lower - values).max()}"
        assert (values <= upper + slack).all(), f"above by {(values - upper).max()}"
        if drawn.plain and not drawn.half:
            check_certificate(drawn, values)


def check_certificate(drawn, values):
    region, mode = drawn.region, "exact" if drawn.method == "ibp" else "one-pass"
    explainer = EVA(drawn.model, region.epsilon, region.norm, mode=mode, method=drawn.method)
    certificate = explainer.certify(region.center)  # without a clip: of a larger region
    changed = (values.argmax(axis=-1) != certificate.targets).any(axis=0)
    assert not (certificate.robust & changed).any()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", rotating(NB_NETWORKS, 24))
def test_network_with_unusual_calls(seed):
    check(seed)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("seed", rotating(NB_NETWORKS, 2))
def test_network_with_unusual_calls_as_compiled(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", range(NB_NETWORKS))
def test_every_network_with_unusual_calls(seed):
    check(seed)
    gc.collect()  # graphs refer to themselves, and hundreds of them take gigabytes


def test_at_least_half_of_the_networks_must_be_bounded():
    """What must be bounded and is refused fails: so many at most are refused in a run."""
    drawn = [draw(seed) for seed in rotating(NB_NETWORKS, 32)]
    certain = [one.must_be_bounded and not (one.half and in_float32(one)) for one in drawn]
    assert np.mean(certain) >= 0.4
    assert len({name for one in drawn for name in one.features}) > 20


@pytest.mark.slow
def test_every_feature_is_drawn_and_most_networks_must_be_bounded():
    drawn = [draw(seed) for seed in range(NB_NETWORKS)]
    assert {name for one in drawn for name in one.features} >= set(FEATURES)
    assert np.mean([one.must_be_bounded for one in drawn]) > 0.5


def test_draws_repeat():
    first, second = draw(5), draw(5)
    assert first.features == second.features and first.options == second.options
    inputs = first.region.center
    np.testing.assert_array_equal(
        first.call(inputs, training=False), second.call(inputs, training=False)
    )
