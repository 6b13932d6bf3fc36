"""Bounds of the input gradient: never left, exact where they can be, and as tight as the best."""

import gc
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from architectures import draw
from conformance import in_float64, logits_of, without_tracing
from networks import NETWORKS, RESIZED, functional, sequential
from rotation import in_turn, rotating

from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.bounds.graph import relaxations
from xcertify.bounds.propagation.gradient import GRADIENT_METHODS
from xcertify.bounds.rules.registry import ACTIVATIONS
from xcertify.regions import Ball, Box

L = keras.layers
# What TensorFlow evaluates in float64 on a CPU, and what has a derivative everywhere.
NOT_IN_FLOAT64 = ("convolution_3d", "average_pooling_3d", "channels_first")
JUMPS = ("parametric_activations", "function_constants", "function_jumps", "masks")
# Of whose activations there is another network, or nothing else.
COVERED = [f"dense_{n}" for n in ("relu6", "celu", "hard_sigmoid", "hard_silu", "hard_tanh")]
COVERED += ["dense_log_sigmoid", "dense_softsign", "dense_exponential", "dense_relu_as_layers"]
COVERED += ["softmax_layer_output", "identities", "reshape"]
LEFT_OUT = (*NOT_IN_FLOAT64, *JUMPS, *COVERED)
NAMES = [name for name in NETWORKS if not name.startswith(LEFT_OUT)]
SMOOTH = ("dense_tanh", "dense_gelu", "dense_softplus", "softmax_inside", "einsum_dense")


def without_head(model):
    """The copy of a model in float64 that gives its logits."""
    last = model.layers[-1]
    if getattr(last, "activation", None) is keras.activations.sigmoid:
        config = last.get_config() | {"activation": "linear", "name": "logits"}
        head = type(last).from_config(config)
        copy = keras.Model(model.inputs[0], head(last.input))
        head.set_weights(last.get_weights())
        return in_float64(copy)
    return in_float64(logits_of(model))


def gradients(exact, points, rows):
    """Gradients of rows (N, K) or (K,) of logits at points (..., N, *shape), by TensorFlow."""
    shape = exact.input_shape[1:]
    flat = tf.constant(points.reshape(-1, *shape), "float64")
    with tf.GradientTape() as tape:
        tape.watch(flat)
        outputs = tf.reshape(exact(flat, training=False), (*points.shape[: -len(shape)], -1))
        scores = tf.reduce_sum(outputs * rows)
    gradient = tape.gradient(scores, flat)
    return np.zeros(points.shape) if gradient is None else gradient.numpy().reshape(points.shape)


def points_of(region, nb_points, seed):
    """Random inner points and corners of a region, (P, N, *shape), the nominal input first."""
    generator = np.random.default_rng(seed)
    lower, upper = region.lower.astype("f8"), region.upper.astype("f8")
    share = generator.random((nb_points, *lower.shape))
    share[::2] = share[::2] < 0.5
    points = lower + share * (upper - lower)
    points = np.concatenate([region.center.astype("f8")[None], points]).clip(lower, upper)
    return region.project(points) if np.isfinite(region.norm) else points


def entry_attacks(exact, region, rows, nb_steps=4):
    """Points that push single entries of the gradient up and down, by its own gradient."""
    lower, upper = region.lower.astype("f8"), region.upper.astype("f8")
    size = int(np.prod(region.shape))
    for entry, sign in itertools.product(range(min(size, 4)), (-1.0, 1.0)):
        point = region.center.astype("f8")
        for _ in range(nb_steps):
            points = tf.constant(point)
            with tf.GradientTape() as outer:
                outer.watch(points)
                with tf.GradientTape() as inner:
                    inner.watch(points)
                    outputs = tf.reshape(exact(points, training=False), (len(points), -1))
                    scores = tf.reduce_sum(outputs * rows)
                gradient = inner.gradient(scores, points)
                wanted = tf.reduce_sum(tf.reshape(gradient, (len(points), -1))[:, entry])
            step = outer.gradient(wanted, points)
            if step is None:
                return
            point = np.clip(point + 0.6 * (upper - lower) * np.sign(sign * step), lower, upper)
            yield point


def entry_search(exact, region, rows, nb_rounds=3, nb_points=12):
    """The same without a second derivative: change some features at random, keep the best."""
    generator = np.random.default_rng(4)
    lower, upper = region.lower.astype("f8"), region.upper.astype("f8")
    entries = np.arange(min(int(np.prod(region.shape)), 4))
    signs = np.array([-1.0, 1.0]).reshape(2, 1, 1)
    best = np.broadcast_to(region.center.astype("f8"), (2, len(entries), *lower.shape))
    for _ in range(nb_rounds):
        share = generator.random((nb_points, *best.shape))
        share[::2] = share[::2] < 0.5
        moved = generator.random(share.shape) < 0.5
        moved[0] = False
        points = np.where(moved, lower + share * (upper - lower), best).clip(lower, upper)
        found = gradients(exact, points, rows).reshape(*points.shape[:4], -1)
        found = np.take_along_axis(found, entries.reshape(1, 1, -1, 1, 1), axis=-1)[..., 0]
        chosen = np.argmax(signs * found, axis=0)  # (2, entries, N)
        chosen = chosen.reshape(1, *chosen.shape, *[1] * (lower.ndim - 1))
        best = np.take_along_axis(points, chosen, axis=0)[0]
    return best.reshape(-1, *lower.shape)


def assert_contains(bounds, gradient):
    """No gradient (..., N, *shape) leaves bounds (N, *shape)."""
    lower, upper = bounds
    assert np.isfinite(lower).all() and np.isfinite(upper).all()
    assert (lower <= gradient).all(), f"below by {(lower - gradient).max()}"
    assert (gradient <= upper).all(), f"above by {(gradient - upper).max()}"


def regions(shape, seed=0):
    """Five boxes, from a point to a wide one."""
    inputs = np.random.default_rng(seed).uniform(-1, 1, (5, *shape)).astype("f4")
    return Ball(inputs, np.array([0, 1e-5, 0.01, 0.1, 0.4]).reshape(5, *[1] * len(shape)))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", NAMES)
def test_never_left(name):
    model = NETWORKS[name]()
    region = regions(model.input_shape[1:])
    # TensorFlow resizes in float32, in whatever type the copy is.
    arithmetic = "float32" if name in RESIZED else "real"
    verifier = Verifier(model, strip_head=True, arithmetic=arithmetic)
    rows = np.random.default_rng(1).integers(-2, 3, (5, 1, verifier.nb_outputs)).astype("f4")
    rows[:, :, 0] += 3
    methods = GRADIENT_METHODS if name in ("residual", "dense_gelu") else ("ibp", "crown")
    found = [verifier.bound_gradient(region, rows, method=method) for method in methods]
    bounds = [(lower[:, 0], upper[:, 0]) for lower, upper in found]
    exact = without_head(model)
    points = points_of(region, 24, seed=2)
    points = np.concatenate([points, entry_search(exact, region, rows[:, 0])])
    if name in SMOOTH:
        points = np.concatenate([points, [*entry_attacks(exact, region, rows[:, 0])]])
    attained = gradients(exact, points, rows[:, 0])
    for one in bounds:
        assert_contains(one, attained)
    widths = [(upper - lower).mean() for lower, upper in bounds]
    assert widths[-1] <= widths[0] * (1 + 1e-5)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", in_turn(NAMES, 5))
def test_points_in_float64(name):
    """A constant that is held in float32 on the way would show here, and nowhere else."""
    model = NETWORKS[name]()
    region = regions(model.input_shape[1:])[:1]
    verifier = Verifier(model, dtype="float64", strip_head=True)
    rows = np.random.default_rng(1).integers(-2, 3, (1, verifier.nb_outputs)).astype("f8")
    lower, upper = verifier.bound_gradient(region, rows, method="ibp")
    points = region.center.astype("f8")[None]
    assert_contains((lower[:, 0], upper[:, 0]), gradients(without_head(model), points, rows))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["normalizations_by_squares"])
def test_normalizations_at_a_point_in_float64(name):
    test_points_in_float64(name)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", [{"dtype": "float64"}, {"arithmetic": "float32"}])
def test_arithmetic(options):
    model = NETWORKS["branches"]()
    region = regions((6,))
    lower, upper = Verifier(model, **options).bound_gradient(region, [[1.0, -1.0, 0.0]])
    points = points_of(region, 40, seed=3)
    attained = gradients(in_float64(model), points, np.array([1.0, -1.0, 0.0]))
    assert_contains((lower[:, 0], upper[:, 0]), attained)
    if options.get("dtype") == "float64":
        assert (upper - lower)[0].max() < 1e-11 and lower.dtype == np.float64


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("norm", [1, 2])
def test_balls(norm):
    model = NETWORKS["dense_tanh"]()
    inputs = np.random.default_rng(0).uniform(-1, 1, (3, 5)).astype("f4")
    region = Ball(inputs, [0.01, 0.1, 0.4], norm)
    lower, upper = Verifier(model).bound_gradient(region, [[1.0, 0.0, -2.0]])
    points = points_of(region, 100, seed=4)
    attained = gradients(in_float64(model), points, np.array([1.0, 0.0, -2.0]))
    assert_contains((lower[:, 0], upper[:, 0]), attained)
    wide = Verifier(model).bound_gradient(Ball(inputs, [0.01, 0.1, 0.4]), [[1.0, 0.0, -2.0]])
    assert (upper - lower).mean() < (wide[1] - wide[0]).mean()


NB_ARCHITECTURES = 200


def check_architecture(seed):
    """No gradient of a random architecture leaves its bounds; only those with jumps are refused."""
    drawn = draw(seed)
    options = {k: v for k, v in drawn.options.items() if k != "memory_budget"}
    verifier = Verifier(drawn.model, strip_head=True, **options)
    rows = np.random.default_rng(seed).integers(-2, 3, (1, verifier.nb_outputs)).astype("f4")
    rows[0, 0] += 3
    if any(getattr(layer, "threshold", 0) for layer in drawn.model.layers):  # a ReLU with a jump
        with pytest.raises(UnsupportedLayerError, match="jumps"):
            verifier.bound_gradient(drawn.region, rows)
        return
    bounds = [verifier.bound_gradient(drawn.region, rows, method=m) for m in ("ibp", "crown")]
    exact = in_float64(logits_of(drawn.twin or drawn.model))
    attained = gradients(exact, points_of(drawn.region, 24, seed), rows[0])
    for lower, upper in bounds:
        assert_contains((lower[:, 0], upper[:, 0]), attained)


@pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis")
@pytest.mark.parametrize("seed", rotating(NB_ARCHITECTURES, 3))
def test_random_architecture(seed):
    check_architecture(seed)


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis")
@pytest.mark.parametrize("seed", rotating(NB_ARCHITECTURES, 20))
def test_random_architecture_without_tracing(seed):
    check_architecture(seed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis")
@pytest.mark.parametrize("seed", range(NB_ARCHITECTURES))
def test_every_random_architecture(seed):
    check_architecture(seed)
    gc.collect()  # graphs refer to themselves, and hundreds of them take gigabytes


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", ["max_pooling", "dense_gelu"])
def test_compiled_bounds_are_those_of_single_operations(name, monkeypatch):
    model = NETWORKS[name]()
    region = regions(model.input_shape[1:])
    rows = np.eye(model.output_shape[-1], dtype="f4")[:2]
    compiled = Verifier(model).bound_gradient(region, rows)
    exact = without_head(model)
    points = points_of(region, 24, seed=2)
    for number, row in enumerate(rows):
        bounds = tuple(side[:, number] for side in compiled)
        assert_contains(bounds, gradients(exact, points, row))
    without_tracing(monkeypatch)
    single = Verifier(model).bound_gradient(region, rows)
    np.testing.assert_allclose(compiled, single, rtol=1e-4, atol=1e-4)


# --- exact on tiny networks ---------------------------------------------------------------------


def all_patterns(weights, lower, upper):
    """Gradients of a ReLU network with one hidden layer for every pattern that may occur."""
    first, bias, last, _ = weights
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    center, reach = middle @ first + bias, radius @ np.abs(first)
    choices = [{low > 0, high >= 0} for low, high in zip(center - reach, center + reach)]
    patterns = itertools.product(*([float(c) for c in choice] for choice in choices))
    return np.stack([first @ (np.array(p) * last[:, 0]) for p in patterns])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_one_hidden_layer_is_exact_over_its_patterns(method):
    model = sequential((3,), L.Dense(6, "relu"), L.Dense(1), seed=1)
    inputs = np.random.default_rng(5).uniform(-1, 1, (4, 3)).astype("f4")
    lower, upper = Verifier(model).bound_gradient(Ball(inputs, 0.25), method=method)
    weights = [w.astype("f8") for w in model.get_weights()]
    nb_patterns = []
    for sample, center in enumerate(inputs.astype("f8")):
        possible = all_patterns(weights, center - 0.25, center + 0.25)
        np.testing.assert_allclose(lower[sample, 0], possible.min(axis=0), atol=2e-6)
        np.testing.assert_allclose(upper[sample, 0], possible.max(axis=0), atol=2e-6)
        nb_patterns.append(len(possible))
    assert max(nb_patterns) >= 4


@pytest.mark.usefixtures("eager")
def test_two_hidden_layers_against_all_patterns():
    model = sequential((2,), L.Dense(4, "relu"), L.Dense(4, "relu"), L.Dense(1), seed=3)
    inputs = np.random.default_rng(6).uniform(-1, 1, (6, 2)).astype("f4")
    region = Ball(inputs, 0.15)
    verifier = Verifier(model)
    bounds = {m: verifier.bound_gradient(region, method=m) for m in GRADIENT_METHODS}
    exact = in_float64(model)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.15, 0.15, 41)] * 2), -1).reshape(-1, 1, 2)
    attained = gradients(exact, inputs + grid, np.ones(1))
    for lower, upper in bounds.values():
        assert (lower[:, 0] <= attained.min(0) + 1e-12).all()
        assert (attained.max(0) - 1e-12 <= upper[:, 0]).all()
    # Where the first layer is stable, crown leaves nothing: only the second one's pattern varies.
    first, bias = (w.astype("f8") for w in model.get_weights()[:2])
    stable = (np.abs(inputs @ first + bias) > 0.15 * np.abs(first).sum(axis=0)).all(axis=1)
    assert stable.any() and not stable.all()
    lower, upper = bounds["crown"]
    np.testing.assert_allclose(lower[stable, 0], attained.min(0)[stable], atol=1e-5)
    np.testing.assert_allclose(upper[stable, 0], attained.max(0)[stable], atol=1e-5)


@pytest.mark.usefixtures("eager")
def test_a_single_neuron_by_hand():
    model = sequential((1,), L.Dense(1, "tanh"), L.Dense(1))
    model.set_weights([np.ones((1, 1)), np.zeros(1), np.full((1, 1), 2.0), np.zeros(1)])
    lower, upper = Verifier(model).bound_gradient(Box([[-0.5], [0.5]], [[1.0], [1.0]]))
    slopes = 2 * (1 - np.tanh([0.5, 1.0]) ** 2)
    np.testing.assert_allclose(lower.ravel(), [slopes[1]] * 2, rtol=1e-5)
    np.testing.assert_allclose(upper.ravel(), [2.0, slopes[0]], rtol=1e-5)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_both_sides_of_a_kink_are_covered(method):
    model = sequential((1,), L.Dense(1, "relu"), L.Dense(1))
    model.set_weights([np.ones((1, 1)), np.zeros(1), np.full((1, 1), 3.0), np.zeros(1)])
    lower, upper = Verifier(model).bound_gradient(Ball(np.zeros((1, 1)), 0.0), method=method)
    np.testing.assert_allclose([lower.item(), upper.item()], [0.0, 3.0], atol=1e-5)


@pytest.mark.usefixtures("eager")
def test_tied_maxima_are_covered():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, L.Dense(1, use_bias=False)(L.Reshape((1,))(
        L.GlobalMaxPooling1D()(L.Reshape((2, 1))(inputs)))))  # fmt: skip
    model.set_weights([np.full((1, 1), 2.0)])
    regions = Box([[1.0, 1.0], [1.0, 2.5], [0.0, 1.0]], [[1.0, 1.0], [2.0, 3.0], [2.0, 1.5]])
    lower, upper = Verifier(model).bound_gradient(regions)
    np.testing.assert_allclose(lower[:, 0], [[0, 0], [0, 2], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(upper[:, 0], [[2, 2], [0, 2], [2, 2]], atol=1e-6)


# --- facts about derivatives --------------------------------------------------------------------

CONTINUOUS = {f.__name__: a for f, a in ACTIVATIONS.items() if a is not None and a.continuous}
SLOPES = {name: a for name, a in CONTINUOUS.items() if a.slope is not None}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_ranges_of_derivatives(name):
    activation = CONTINUOUS[name]
    generator = np.random.default_rng(0)
    middle, radius = generator.normal(0, 3, 400), 10.0 ** generator.uniform(-8, 1, 400)
    lower, upper = (tf.constant(side) for side in (middle - radius, middle + radius))
    low, high = relaxations.derivative_range(activation, lower, upper)
    points = tf.constant(np.linspace(-1, 1, 50)[:, None] * radius + middle)
    with tf.GradientTape() as tape:
        tape.watch(points)
        values = activation.value(points)
    slopes = tape.gradient(values, points).numpy()
    assert (low.numpy() <= slopes + 1e-12).all() and (slopes - 1e-12 <= high.numpy()).all()
    excess = (high - low).numpy() - np.ptp(slopes, axis=0)
    assert np.median(excess) < 1e-12


@pytest.mark.parametrize("name", SLOPES)
def test_slopes_as_functions_of_their_own(name):
    activation = SLOPES[name]
    slope, kinks = activation.slope, np.array(activation.slope.kinks)
    z = np.linspace(-9, 4 if name == "exponential" else 9, 20_011)
    points = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(points)
        values = slope.value(points)
    bend = tape.gradient(values, points).numpy()
    np.testing.assert_allclose(values, activation.derivative(points), atol=1e-14)
    away = (np.abs(z[:, None] - kinks) > 1e-3).all(axis=1)
    np.testing.assert_allclose(slope.derivative(points).numpy()[away], bend[away], atol=1e-9)
    curvature = slope.curvature(points).numpy() if callable(slope.curvature) else slope.curvature
    turn = np.abs(np.gradient(bend, z))
    near = (np.abs(z[:, None] - kinks) > 3 * (z[1] - z[0])).all(axis=1)
    assert (turn <= curvature * 1.001 + 1e-6)[near].all()

    generator = np.random.default_rng(1)
    middle, radius = generator.normal(0, 2, 300), 10.0 ** generator.uniform(-6, 0.7, 300)
    lower, upper = (tf.constant(side) for side in (middle - radius, middle + radius))
    lines = relaxations.relaxation(slope, lower, upper, "float32")
    inner = tf.constant(np.linspace(-1, 1, 41)[:, None] * radius + middle)
    between = slope.value(inner).numpy()
    below = lines.lower_slope.numpy().astype("f8") * inner.numpy() + lines.lower_intercept.numpy()
    above = lines.upper_slope.numpy().astype("f8") * inner.numpy() + lines.upper_intercept.numpy()
    assert (below <= between).all() and (between <= above).all()


# --- the loss -----------------------------------------------------------------------------------


def loss_gradients(exact, points, labels):
    points = tf.constant(points, "float64")
    with tf.GradientTape() as tape:
        tape.watch(points)
        logits = exact(points, training=False)
        if logits.shape[1] == 1:
            loss = tf.nn.sigmoid_cross_entropy_with_logits(labels[:, None].astype("f8"), logits)
        else:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tape.gradient(loss, points).numpy()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("nb_classes", [1, 3])
def test_cross_entropy(nb_classes):
    head = "sigmoid" if nb_classes == 1 else "softmax"
    model = sequential((4,), L.Dense(6, "relu"), L.Dense(5, "elu"), L.Dense(nb_classes, head))
    region, labels = regions((4,)), np.array([0, 1, 1, 0, 1])
    exact = without_head(model)
    verifier = Verifier(model, strip_head=True)
    for method in ("ibp", "crown"):
        lower, upper = verifier.bound_gradient(region, labels=labels, method=method)
        assert lower.shape == (5, 1, 4)
        for point in points_of(region, 30, seed=7):
            gradient = loss_gradients(exact, point, labels)
            assert_contains((lower[:, 0], upper[:, 0]), gradient)
    assert (upper - lower)[0].max() < 2e-5


# --- weights ------------------------------------------------------------------------------------


def with_weights(model, gamma, generator, corner, bias_radius=None):
    """A copy in float64 with every trainable weight moved within its radius."""
    copy = in_float64(model)
    for own, other in zip(model.trainable_variables, copy.trainable_variables):
        value = own.numpy().astype("f8")
        share = generator.uniform(-1, 1, value.shape)
        share = np.sign(share) if corner else share
        radius = gamma * np.abs(value)
        if bias_radius is not None and own.name in ("bias", "beta"):
            radius = bias_radius
        other.assign(value + share * radius)
    return copy


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["convolutions", "dense_tanh", "batch_normalization"])
def test_weights_and_inputs_never_left(name):
    model = NETWORKS[name]()
    region = regions(model.input_shape[1:])[np.array([0, 2, 3])]
    gamma, rows = np.array([0.05, 0.0, 0.01]), np.array([[1.0, -1.0, 0.5]], "f4")
    verifier, generator = Verifier(model), np.random.default_rng(8)
    bounds = [
        verifier.bound_gradient(region, rows, gamma=gamma, method=m) for m in ("ibp", "crown")
    ]
    for number in range(5):
        copy = with_weights(model, 1.0, generator, corner=number % 2 == 0)
        moved = [w.numpy() for w in copy.trainable_variables]
        for sample, radius in enumerate(gamma):
            for own, other, far in zip(model.trainable_variables, copy.trainable_variables, moved):
                value = own.numpy().astype("f8")
                other.assign(value + radius * (far - value))
            points = points_of(region[np.array([sample])], 8, seed=number)
            attained = gradients(copy, points, rows[0])[:, 0]
            for lower, upper in bounds:
                assert_contains((lower[sample, 0], upper[sample, 0]), attained)
    plain = verifier.bound_gradient(region, rows)
    np.testing.assert_allclose(bounds[1][0][1], plain[0][1], atol=1e-4)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("bias_radius", [None, 0.0, 0.02])
def test_biases(bias_radius):
    model = NETWORKS["dense_tanh"]()
    region = regions((5,))[:1]
    lower, upper = Verifier(model).bound_gradient(
        region, [[1.0, 0.0, 0.0]], gamma=0.01, bias_radius=bias_radius, method="ibp"
    )
    generator = np.random.default_rng(9)
    for number in range(20):
        copy = with_weights(model, 0.01, generator, number % 2 == 0, bias_radius)
        gradient = gradients(copy, region.center, np.array([1.0, 0.0, 0.0]))
        assert_contains((lower[:, 0], upper[:, 0]), gradient)


@pytest.mark.usefixtures("eager")
def test_weights_by_hand_and_against_lemma_1():
    model = sequential((3,), L.Dense(2))
    lower, upper = Verifier(model).bound_gradient(Ball(np.ones((1, 3)), 0.0), gamma=0.1)
    kernel = model.get_weights()[0].T.astype("f8")
    np.testing.assert_allclose(lower[0], kernel - 0.1 * np.abs(kernel), rtol=1e-5)
    np.testing.assert_allclose(upper[0], kernel + 0.1 * np.abs(kernel), rtol=1e-5)

    model = sequential((3,), L.Dense(6, "relu"), L.Dense(1), seed=1)
    region = Ball(np.full((1, 3), 0.3), 0.05)
    lower, upper = Verifier(model).bound_gradient(region, gamma=0.1, method="ibp")
    wide = lemma_1(model.get_weights(), region.lower[0], region.upper[0], 0.1)
    assert (wide[0] <= lower[0, 0] + 1e-6).all() and (upper[0, 0] <= wide[1] + 1e-6).all()
    assert (upper - lower).sum() < (wide[1] - wide[0]).sum()


def lemma_1(weights, lower, upper, gamma):
    """The paper's bounds with the product of the radii in place of its Q."""

    def product(low, high, matrix):
        middle, radius = (low + high) / 2, (high - low) / 2
        spread = gamma * np.abs(matrix)
        reach = radius @ np.abs(matrix) + np.abs(middle) @ spread + radius @ spread
        return middle @ matrix - reach, middle @ matrix + reach

    first, bias, last, _ = (w.astype("f8") for w in weights)
    low, high = product(lower.astype("f8"), upper.astype("f8"), first)
    low, high = low + bias - gamma * np.abs(bias), high + bias + gamma * np.abs(bias)
    back = product(np.ones(1), np.ones(1), last.T)
    corners = np.stack([d * s for d in back for s in ((low > 0) * 1.0, (high >= 0) * 1.0)])
    return product(corners.min(axis=0), corners.max(axis=0), first.T)


# --- interface ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_rows_batches_and_memory_do_not_matter():
    model = sequential((2, 3), L.Dense(3, "relu"), L.Flatten(), L.Dense(7, "relu"), L.Dense(3))
    region = regions((2, 3))
    verifier = Verifier(model)
    lower, upper = verifier.bound_gradient(region)
    assert lower.shape == upper.shape == (5, 3, 2, 3) and lower.dtype == np.float32
    rows = np.eye(3, dtype="f4")[[2, 0, 1, 1, 0]][:, None]
    single = verifier.bound_gradient(region, rows)
    order = np.array([2, 0, 1, 1, 0])
    np.testing.assert_allclose(single[0][:, 0], lower[np.arange(5), order], atol=1e-5)
    small = Verifier(model, memory_budget=30_000).bound_gradient(region)
    np.testing.assert_allclose(small[1], upper, atol=1e-5)
    alone = verifier.bound_gradient(region[3:4])
    np.testing.assert_allclose(alone[1][0], upper[3], atol=1e-5)
    methods = {"ibp": "ibp", "crown-ibp": "crown-ibp", "alpha-crown": "crown"}
    for method, name in methods.items():
        bounds = Verifier(model, method).bound_gradient(region)
        np.testing.assert_allclose(
            bounds[0], verifier.bound_gradient(region, method=name)[0], atol=1e-5
        )


@pytest.mark.usefixtures("compiled")
def test_compiled_once_and_with_current_weights():
    model = sequential((5,), L.Dense(4, "relu"), L.Dense(4, "relu"), L.Dense(3))
    verifier, region = Verifier(model), regions((5,))
    rows = np.array([[1.0, 0.0, 0.0]])
    before = verifier.bound_gradient(region, rows, gamma=0.01, method="crown-ibp")
    model.set_weights([1.5 * w for w in model.get_weights()])
    after = verifier.bound_gradient(region[:2], rows, gamma=0.02, method="crown-ibp")
    assert sum(key[0] == "compiled" for key in verifier._engine._kept) == 1
    plain = gradients(in_float64(model), region.center, rows[0])
    assert_contains((after[0][:, 0], after[1][:, 0]), plain[:2])
    assert (before[1][0, 0] < plain[0]).any() or (before[0][0, 0] > plain[0]).any()


def test_networks_of_affine_layers_only():
    model = keras.Sequential([keras.Input((2, 2)), L.Flatten()])
    lower, upper = Verifier(model).bound_gradient(Ball(np.zeros((1, 2, 2)), 0.1))
    np.testing.assert_allclose(lower.reshape(4, 4), np.eye(4), atol=1e-6)
    np.testing.assert_allclose(upper.reshape(4, 4), np.eye(4), atol=1e-6)
    inputs = keras.Input((3,))
    same = keras.Model(inputs, L.Dropout(0.5)(inputs))
    lower, _ = Verifier(same).bound_gradient(Ball(np.zeros((1, 3)), 0.1))
    np.testing.assert_allclose(lower[0], np.eye(3), atol=1e-6)


def test_refusals():
    model = NETWORKS["dense_relu"]()
    verifier, region = Verifier(model), regions((5,))
    with pytest.raises(ValueError, match="method must be one of ibp.*Received: 'exact'"):
        verifier.bound_gradient(region, method="exact")
    with pytest.raises(ValueError, match="labels must be 5 integers from 0 to 2"):
        verifier.bound_gradient(region, labels=np.array([0, 1, 2, 3, 0]))
    with pytest.raises(ValueError, match="not both"):
        verifier.bound_gradient(region, np.eye(3), labels=np.zeros(5, int))
    with pytest.raises(ValueError, match="gamma must be a number or 5 of them"):
        verifier.bound_gradient(region, gamma=-0.1)
    with pytest.raises(ValueError, match="bias_radius"):
        verifier.bound_gradient(region, bias_radius=[0.1, 0.2])
    with pytest.raises(ValueError, match="not available through decomon"):
        Verifier(model, "decomon:crown").bound_gradient(region)
    jumps = NETWORKS["parametric_activations"]()
    with pytest.raises(UnsupportedLayerError, match="'re_lu.*jumps"):
        Verifier(jumps).bound_gradient(regions((5,)))
    learned = NETWORKS["shared_prelu_on_images"]()
    with pytest.raises(UnsupportedLayerError, match="alpha of the layer 'p_re_lu"):
        Verifier(learned).bound_gradient(regions((5, 5, 2)), gamma=0.01)
    if keras.__version__.startswith("3.10."):
        return  # it makes no model with an input that nothing depends on
    first, second = keras.Input((2,)), keras.Input((2,))
    other = functional([first, second], L.Dense(2)(second))
    with pytest.raises(UnsupportedLayerError, match="do not depend"):
        Verifier(other).bound_gradient(Ball(np.zeros((1, 2)), 0.1), constants=[np.zeros((1, 2))])


# --- against the strongest peer -----------------------------------------------------------------

PEER = {  # auto_LiRPA and its like, mean width: interval, crown-interval, crown
    ("fc_2x128", 0.001): (0.975, 0.183, 0.068),
    ("fc_2x128", 0.005): (3.99, 1.02, 0.326),
    ("fc_2x128", 0.01): (6.22, 2.24, 0.765),
    ("fc_2x128", 0.025): (9.20, 5.56, 2.32),
    ("cnn_small", 0.001): (1.36, 0.257, 0.070),
    ("cnn_small", 0.01): (16.6, 2.54, 0.703),
    ("cnn_small", 0.025): (20.6, 7.04, 1.88),
}


def assert_as_tight_as_the_peer(shared, name, nb_images):
    model = keras.models.load_model(shared / f"reference/{name}.keras")
    images = np.load(shared / "reference/inputs.npz")["x"][:nb_images]
    images = images.reshape(-1, *model.input_shape[1:]).astype("f4")
    verifier = Verifier(model)
    rows = np.eye(10, dtype="f4")[verifier.evaluate(images).argmax(axis=1)][:, None]
    for (net, epsilon), widths in PEER.items():
        if net == name:
            for method, width in zip(("ibp", "ibp-crown", "crown"), widths):
                lower, upper = verifier.bound_gradient(Ball(images, epsilon), rows, method=method)
                assert (upper - lower).mean() <= 1.02 * width, (epsilon, method)


@pytest.mark.usefixtures("eager")
def test_dense_net_is_as_tight_as_the_peer(shared):
    assert_as_tight_as_the_peer(shared, "fc_2x128", 8)


@pytest.mark.slow
def test_convolutional_net_is_as_tight_as_the_peer(shared):
    assert_as_tight_as_the_peer(shared, "cnn_small", 4)
