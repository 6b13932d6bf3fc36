"""Verifier: sound on every layer with every method, exact where it must be, and well-behaved."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conformance import adversarial_points, assert_sound, in_float64, logits_of
from networks import NETWORKS, RESIZED, TWINS, functional, randomize, sequential
from rotation import rotating

from xcertify.bounds import UnsupportedLayerError, Verifier, backend
from xcertify.regions import Ball, Box, as_column

METHODS = ("ibp", "crown-ibp", "crown")
L = keras.layers


def inputs_of(model, nb_samples=3, seed=1):
    generator = np.random.default_rng(seed)
    return generator.uniform(0, 1, (nb_samples, *model.input_shape[1:])).astype("float32")


def check_layers(name):
    model = NETWORKS[name]()
    inputs = inputs_of(model, 6)
    # Unclipped and clipped balls of several sizes in one batch: one trace a method.
    epsilon = np.reshape([0.3, 0.05, 1e-5, 0.2, 0.02, 0.0], (6, *[1] * (inputs.ndim - 1)))
    boxes = Ball(inputs, epsilon)
    twin = TWINS[name](model) if name in TWINS else None
    arithmetic = "float32" if name in RESIZED else "real"
    for region in (boxes, Ball(inputs, 0.1, clip=(0, 1))):
        assert_sound(model, region, "ibp", "crown", twin=twin, arithmetic=arithmetic)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", NETWORKS)
def test_sound_on_every_layer(name):
    check_layers(name)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", [[*NETWORKS][i] for i in rotating(len(NETWORKS), 8)])
def test_sound_on_layers_as_compiled(name):
    check_layers(name)


@pytest.mark.usefixtures("compiled")
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_sound_on_every_layer_as_compiled(name):
    check_layers(name)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("norm", [2, 1])
@pytest.mark.parametrize("name", ["max_pooling", "branches"])
def test_sound_on_other_balls(name, norm):
    model = NETWORKS[name]()
    inputs = inputs_of(model)
    every_second = np.arange(inputs[0].size).reshape(inputs.shape[1:]) % 2 == 0
    clipped = Ball(inputs, [0.5, 0.1, 0.01], norm, (0, 1))
    ball = Ball(inputs, [0.5, 0.1, 0.01], norm)
    for region in (ball, clipped, clipped.positive(), clipped.fix(every_second)):
        assert_sound(model, region, *METHODS)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", [{"arithmetic": "float32"}, {"dtype": "float64"}])
@pytest.mark.parametrize("name", ["dense_tanh", "convolutions", "residual"])
def test_sound_in_other_arithmetic(name, options):
    model = NETWORKS[name]()
    region = Ball(inputs_of(model), [0.1, 1e-4, 0.0])
    for method in METHODS:
        lower, upper = assert_sound(model, region, method, **options)
        if options == {"arithmetic": "float32"}:
            # What Keras computes, at corners too, and not only what it means.
            for point in (region.center, region.lower, region.upper):
                outputs = model.predict_on_batch(point)
                assert (lower <= outputs).all() and (outputs <= upper).all()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["dense_tanh", "max_pooling", "residual"])
def test_epsilon_zero_is_the_forward_pass(name, method):
    model = NETWORKS[name]()
    inputs = inputs_of(model)
    exact = in_float64(logits_of(model))(inputs.astype("f8"), training=False).numpy()
    lower, upper = Verifier(model, method).bound_outputs(Ball(inputs, 0.0))
    assert (lower <= exact).all() and (exact <= upper).all()
    np.testing.assert_allclose(upper - lower, 0, atol=5e-7)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["dense_relu", "convolutions", "branches"])
def test_batch_of_n_is_n_batches_of_one(name, method):
    model = NETWORKS[name]()
    region = Ball(inputs_of(model, 4), [0.02, 0.1, 0.3, 0.0])
    verifier = Verifier(model, method)
    together = verifier.bound_outputs(region)
    for sample in range(4):
        alone = verifier.bound_outputs(region[sample : sample + 1])
        np.testing.assert_allclose(alone[0][0], together[0][sample], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(alone[1][0], together[1][sample], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("norm", [np.inf, 2])
@pytest.mark.parametrize("name", ["dense_relu", "convolutions", "max_pooling", "residual"])
def test_what_is_refined_does_not_depend_on_other_samples(name, norm):
    """Of small regions few neurons are unstable: more than these may not be refined."""
    model = NETWORKS[name]()
    inputs = inputs_of(model, 4)
    region = Ball(inputs, as_column(np.array([0.01, 0.1, 0.5, 2.0]), inputs), norm)
    verifier = Verifier(model, "crown")
    lower, upper = verifier.bound_outputs(region)
    for sample in range(4):
        alone = np.stack(verifier.bound_outputs(region[sample : sample + 1]))[:, 0]
        width = (upper - lower)[sample].max()
        np.testing.assert_allclose(alone, (lower[sample], upper[sample]), 1e-6, 2e-6 * width)


def test_memory_budget_changes_nothing():
    model = NETWORKS["convolutions"]()
    region = Ball(inputs_of(model, 5), 0.1)
    wide = Verifier(model, "crown").bound_outputs(region)
    narrow = Verifier(model, "crown", memory_budget=100_000).bound_outputs(region)
    np.testing.assert_allclose(wide, narrow, rtol=1e-5, atol=1e-5)


def test_ibp_by_hand():
    model = sequential((2,), L.Dense(2, "relu"), L.Dense(1))
    model.set_weights(
        [
            np.array([[1.0, -2.0], [3.0, 1.0]]),
            np.array([0.5, 0.0]),
            np.array([[2.0], [-1.0]]),
            np.array([1.0]),
        ]
    )
    region = Box([[0.0, 0.0]], [[1.0, 1.0]])
    # First layer: [.5, 4.5] and [-2, 1] -> [0, 1]; output: 2 h1 - h2 + 1.
    lower, upper = Verifier(model, "ibp").bound_outputs(region)
    np.testing.assert_allclose([lower.item(), upper.item()], [1.0, 10.0], rtol=5e-5)
    # CROWN: h2 <= (z2 + 2) / 3 and, as 1 < 2, h2 >= 0; h1 = z1 = x1 + 3 x2 + .5.
    # Lower: 2 x1 + 6 x2 + 1 - (-2 x1 + x2 + 2) / 3 + 1 = (8 x1 + 17 x2) / 3 + 4/3.
    lower, upper = Verifier(model, "crown").bound_outputs(region)
    np.testing.assert_allclose([lower.item(), upper.item()], [4 / 3, 10.0], rtol=5e-5)


def test_ibp_is_monotone_in_epsilon():
    model = NETWORKS["max_pooling"]()
    inputs = inputs_of(model)
    verifier = Verifier(model, "ibp")
    widths = [np.subtract(*verifier.bound_outputs(Ball(inputs, e))[::-1]) for e in (0, 0.1, 0.2)]
    assert (widths[0] <= widths[1]).all() and (widths[1] <= widths[2]).all()


def test_margins_are_tighter_than_separate_bounds():
    model = NETWORKS["dense_relu"]()
    region = Ball(inputs_of(model), 0.1)
    for method in METHODS:
        verifier = Verifier(model, method)
        lower, upper = verifier.bound_outputs(region)
        margin = verifier.bound_rows(region, [[-1.0, 1.0, 0.0]])[1][:, 0]
        assert (margin <= upper[:, 1] - lower[:, 0] + 1e-5).all()
        assert (margin < upper[:, 1] - lower[:, 0]).any()


def test_rows_of_each_sample():
    model = NETWORKS["dense_relu"]()
    region = Ball(inputs_of(model, 2), 0.1)
    rows = np.array([[[1, 0, 0], [0, 1, -1]], [[0, 0, 1], [1, 1, 1]]], dtype="float32")
    verifier = Verifier(model, "crown")
    together = verifier.bound_rows(region, rows)
    for sample in range(2):
        alone = verifier.bound_rows(region[sample : sample + 1], rows[sample])
        np.testing.assert_allclose(np.array(alone)[:, 0], np.array(together)[:, sample], rtol=1e-5)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_exact_on_affine_models(norm):
    model = sequential((6,), L.Dense(4), L.BatchNormalization(), L.Dense(3))
    inputs = inputs_of(model)
    epsilon = 0.3
    exact = in_float64(model)
    values = exact(inputs.astype("f8")).numpy()
    jacobian = np.stack(
        [exact(row[None]).numpy()[0] - exact(np.zeros((1, 6))).numpy()[0] for row in np.eye(6)]
    )
    dual = {np.inf: 1, 2: 2, 1: np.inf}[norm]
    reach = epsilon * np.linalg.norm(jacobian, ord=dual, axis=0)
    lower, upper = Verifier(model, "crown").bound_outputs(Ball(inputs, epsilon, norm=norm))
    np.testing.assert_allclose(lower, values - reach, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(upper, values + reach, rtol=2e-5, atol=1e-6)
    assert (lower <= values - reach * (1 - 1e-7)).all()


def test_clipped_ball_is_as_tight_as_box_and_as_ball():
    model = NETWORKS["dense_relu"]()
    inputs = inputs_of(model)
    verifier = Verifier(model, "crown-ibp")
    clipped = np.subtract(*verifier.bound_outputs(Ball(inputs, 0.9, 2, clip=(0, 1)))[::-1])
    box = np.subtract(*verifier.bound_outputs(Ball(inputs, 0.9, clip=(0, 1)))[::-1])
    assert (clipped <= box + 1e-4).all()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["dense_tanh", "max_pooling", "branches"])
def test_linear_bounds_hold_and_give_the_same_numbers(name):
    model = NETWORKS[name]()
    region = Ball(inputs_of(model), 0.1, clip=(0, 1))
    verifier = Verifier(model, "crown")
    lines = verifier.linear_bounds(region)
    exact = in_float64(model)
    points = np.concatenate(
        [region.sample(50).astype("f8"), adversarial_points(exact, region, 30, 0)]
    )
    steps = points - region.center
    axes = tuple(range(1, steps.ndim - 1))
    for point, step in zip(points, steps):
        values = exact(point, training=False).numpy()
        size = "abcd"[: len(axes)]
        below = np.einsum(f"ns{size},n{size}->ns", lines.lower_coefficients, step)
        above = np.einsum(f"ns{size},n{size}->ns", lines.upper_coefficients, step)
        assert (below + lines.lower_bias <= values).all()
        assert (values <= above + lines.upper_bias).all()
    lower, upper = verifier.bound_outputs(region)
    line_lower, line_upper = lines.bounds()
    assert (line_lower <= lower + 1e-5).all() and (upper <= line_upper + 1e-5).all()


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_linear_bounds_with_a_cell_fixed(norm):
    model = NETWORKS["dense_relu"]()
    region = Ball(inputs_of(model), 0.3, norm=norm, clip=(0, 1))
    lines = Verifier(model, "crown").linear_bounds(region)
    cells = np.array([0, 1, 1, 2, 0])
    lower, upper = lines.bounds_with_fixed(cells)
    for cell in range(3):
        part = region.fix(cells == cell)
        fixed = type(lines)(
            part,
            lines.lower_coefficients,
            lines.lower_bias,
            lines.upper_coefficients,
            lines.upper_bias,
        )
        expected = fixed.bounds()
        np.testing.assert_allclose(lower[..., cell], expected[0], rtol=1e-9)
        np.testing.assert_allclose(upper[..., cell], expected[1], rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_bound_layer(method):
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, L.Dense(6, "relu", name="last")(L.Dense(5)(inner_inputs)))
    inputs = keras.Input((3,))
    first = L.Dense(4, "tanh", name="first")(inputs)
    model = functional(inputs, L.Dense(2)(inner(first)))
    verifier = Verifier(model, method)
    region = Ball(inputs_of(model), 0.2)
    points = region.sample(100)
    values = np.stack([keras.Model(inputs, first)(p).numpy() for p in points])
    lower, upper = verifier.bound_layer(region, "first")
    assert lower.shape == (3, 4)
    assert (lower <= values + 1e-6).all()
    assert (values <= upper + 1e-6).all()
    # tanh is monotone in an affine function, and the intervals of both are exact.
    assert ((upper - lower) < 1.6 * (values.max(axis=0) - values.min(axis=0))).all()
    values = np.stack([inner(keras.Model(inputs, first)(p)).numpy() for p in points])
    lower, upper = verifier.bound_layer(region, f"{inner.name}/last")
    assert (lower <= values + 1e-6).all()
    assert (values <= upper + 1e-6).all()


def test_the_model_is_untouched():
    model = NETWORKS["softmax_output"]()
    model.compile("adam", "categorical_crossentropy")
    before = [w.copy() for w in model.get_weights()]
    config, optimizer = model.get_config(), model.optimizer
    Verifier(model, "crown").bound_outputs(Ball(inputs_of(model), 0.1))
    assert model.get_config() == config and model.optimizer is optimizer
    assert all((a == b).all() for a, b in zip(before, model.get_weights()))
    assert model.layers[-1].activation is keras.activations.softmax


def test_current_weights_are_used():
    model = NETWORKS["dense_relu"]()
    region = Ball(inputs_of(model), 0.1)
    verifier = Verifier(model, "crown")
    before = verifier.bound_outputs(region)[0]
    model.set_weights([2 * w for w in model.get_weights()])
    after = verifier.bound_outputs(region)[0]
    np.testing.assert_allclose(after, Verifier(model, "crown").bound_outputs(region)[0])
    assert np.abs(after - before).max() > 0.1


@pytest.mark.usefixtures("compiled")
def test_new_weights_need_no_new_trace(tmp_path):
    model = NETWORKS["dense_relu"]()
    region = Ball(inputs_of(model), 0.1)
    verifier = Verifier(model, "crown")
    first = verifier.bound_outputs(region)[0]
    traced = dict(verifier._engine._kept)
    model.save_weights(tmp_path / "first.weights.h5")
    kernel = model.layers[0].kernel
    kernel.assign(2 * kernel)
    assert np.abs(verifier.bound_outputs(region)[0] - first).max() > 0.01
    model.load_weights(tmp_path / "first.weights.h5")
    np.testing.assert_array_equal(verifier.bound_outputs(region)[0], first)
    assert verifier._engine._kept == traced


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", ["residual", "convolutions", "nested_and_shared", "branches"])
def test_what_is_compiled_holds_no_variable(name, monkeypatch):
    found = []

    def traced(*arguments):
        found.append(original(*arguments))
        return found[-1]

    original = backend._traced
    model = NETWORKS[name]()
    verifier = Verifier(model, "crown-ibp")
    monkeypatch.setattr(backend, "_traced", traced)
    verifier.bound_outputs(Ball(inputs_of(model), 0.1))
    verifier.evaluate(inputs_of(model))
    assert len(found) == 2
    for function in found:
        assert not function.graph.variables
        assert all(captured.dtype != "resource" for captured in function.captured_inputs)


@pytest.mark.usefixtures("compiled")
def test_one_trace_for_all_batches():
    model = NETWORKS["dense_relu"]()
    verifier = Verifier(model, "crown")
    for nb_samples in (1, 2, 5):
        verifier.bound_outputs(Ball(inputs_of(model, nb_samples), 0.1))
    assert nb_graphs(verifier) == 1


def nb_graphs(verifier):
    kept = verifier._engine._kept.values()
    return sum(isinstance(one, backend.Compiled) and one._graph is not None for one in kept)


def test_what_is_asked_often_is_compiled():
    model = NETWORKS["dense_relu"]()
    region = Ball(inputs_of(model), 0.1)
    for method in ("ibp", "crown-ibp", "crown"):
        auto, always, never = (Verifier(model, method, compile=c) for c in ("auto", True, False))
        with_graph = always.bound_outputs(region)
        graphs = []
        for _ in range(12):
            bounds = auto.bound_outputs(region)
            graphs.append(nb_graphs(auto))
            np.testing.assert_allclose(bounds, with_graph, rtol=1e-5, atol=1e-6)
            never.bound_outputs(region)
        assert graphs[0] == 0 and graphs[-1] == 1, graphs
        assert (nb_graphs(always), nb_graphs(never)) == (1, 0)
    with pytest.raises(ValueError, match="compile must be 'auto', True or False. Received: 'no'"):
        Verifier(model, compile="no")


def test_what_computes_much_or_fills_the_memory_is_compiled_at_once():
    model = NETWORKS["convolutions"]()
    region = Ball(inputs_of(model), 0.1)
    small = Verifier(model, "crown", memory_budget=200_000)
    small.bound_outputs(region)
    assert nb_graphs(small) == 1
    engine = Verifier(model, "crown")._engine
    question = SimpleNamespace(node=engine.graph.output)
    assert engine._share(question, 1, 3) < 1 < engine._share(question, 10**7, 3)
    assert engine._share(question, 1, 3, 0.5) == np.inf


def test_start_layer():
    model = NETWORKS["convolutions"]()
    name = model.layers[-2].name
    latent = np.random.default_rng(0).normal(size=(2, *model.layers[-2].output.shape[1:]))
    lower, upper = Verifier(model, "crown", start_layer=name).bound_outputs(Ball(latent, 0.0))
    expected = model.layers[-1](latent.astype("f4")).numpy()
    np.testing.assert_allclose(lower, expected, atol=1e-5)
    np.testing.assert_allclose(upper, expected, atol=1e-5)


class Cube(L.Layer):
    """A layer that nobody knows."""

    def call(self, inputs):
        return inputs**3


def test_refusals_name_the_layer():
    inputs = keras.Input((4,))
    model = functional(inputs, Cube(name="my_cube")(inputs))
    with pytest.raises(UnsupportedLayerError, match="'my_cube' of class Cube.*Dense"):
        Verifier(model)
    with pytest.raises(UnsupportedLayerError, match="has not been built"):
        Verifier(keras.Sequential([L.Dense(2)]))

    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UnsupportedLayerError, match="Only Sequential and functional"):
        Verifier(Subclassed())


def test_bad_arguments():
    model = NETWORKS["dense_relu"]()
    with pytest.raises(ValueError, match="method must be one of.*'lirpa'"):
        Verifier(model, "lirpa")
    with pytest.raises(ValueError, match="dtype"):
        Verifier(model, dtype="float16")
    verifier = Verifier(model)
    with pytest.raises(ValueError, match=r"inputs of shape \(5,\).*\(4,\)"):
        verifier.bound_outputs(Ball(np.zeros((1, 4)), 0.1))
    with pytest.raises(ValueError, match="must be a Ball or a Box"):
        verifier.bound_outputs(np.zeros((1, 5)))
    region = Ball(np.zeros((2, 5)), 0.1)
    with pytest.raises(ValueError, match=r"\(S, 3\) or \(2, S, 3\)"):
        verifier.bound_rows(region, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="exact in float32"):
        verifier.bound_rows(region, np.full((1, 3), 0.1))
    with pytest.raises(ValueError, match="layer must be one of"):
        verifier.bound_layer(region, "nothing")
    with pytest.raises(ValueError, match="crown-ibp' or 'crown"):
        Verifier(model, "ibp").linear_bounds(region)


@pytest.mark.parametrize("method", METHODS)
def test_float32_bounds_hold_at_corners_in_float64(method):
    model = sequential((30,), L.Dense(40, "relu"), L.Dense(40, "relu"), L.Dense(5))
    verifier = Verifier(model, method)
    epsilon = np.reshape([0.0, 1e-6, 1e-5, 1e-3, 0.1], (5, 1))
    for seed in range(100):
        randomize(model, seed)
        weights = [w.astype("f8") for w in model.get_weights()]
        generator = np.random.default_rng(seed)
        region = Ball(generator.uniform(0, 1, (5, 30)).astype("f4"), epsilon)
        lower, upper = verifier.bound_outputs(region)
        corners = np.where(generator.random((200, 5, 30)) < 0.5, region.lower, region.upper)
        # The corners that the gradient of each output points to.
        hidden, slopes = region.center.astype("f8"), np.eye(30)[None]
        for matrix, bias in ((weights[0], weights[1]), (weights[2], weights[3])):
            hidden = hidden @ matrix + bias
            slopes = (slopes @ matrix) * (hidden > 0)[:, None]
            hidden = np.maximum(hidden, 0)
        slopes = np.moveaxis(slopes @ weights[4], -1, 0)
        towards = np.where(np.concatenate([slopes, -slopes]) > 0, region.upper, region.lower)
        points = np.concatenate([corners, towards]).astype("f8")
        values = np.maximum(points @ weights[0] + weights[1], 0)
        values = np.maximum(values @ weights[2] + weights[3], 0) @ weights[4] + weights[5]
        assert (lower <= values).all()
        assert (values <= upper).all()
