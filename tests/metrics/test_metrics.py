"""Metrics against naive references: one sample, one step, one model call at a time."""

import inspect
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from xcertify.grid import grid_cells
from xcertify.inputs import as_arrays, input_shape_of
from xcertify.metrics import (
    ClassRetrieval,
    Deletion,
    FeatureRelevance,
    Insertion,
    MuFidelity,
    RobustnessSr,
    baseline_values,
    deletion,
    insertion,
    mu_fidelity,
)
from xcertify.metrics.class_retrieval import retrieval
from xcertify.metrics.deletion import importance_curves
from xcertify.metrics.mu_fidelity import subset_correlations
from xcertify.metrics.robustness import robustness_of
from xcertify.targets import one_hot_targets


def make_model(shape, nb_classes=4):
    layers = [keras.Input(shape), keras.layers.Flatten()]
    layers += [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(nb_classes)]
    model = keras.Sequential(layers)
    generator = np.random.default_rng(1)
    model.set_weights([generator.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


SHAPES = {"image": (6, 5, 3), "series": (7, 3), "tabular": (9,)}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def case(request):
    generator = np.random.default_rng(0)
    inputs = generator.random((5, *request.param)).astype(np.float32)
    features = request.param[:2] if len(request.param) == 3 else request.param
    maps = generator.normal(size=(5, *features))
    return make_model(request.param), inputs, np.array([3, 0, 1, 1, 2]), maps


def naive_curve(model, x, label, importance, baseline, nb_steps, deletes, share=1.0):
    """One sample, features one after the other; no ties allowed."""
    cells = [np.unravel_index(i, importance.shape) for i in range(importance.size)]
    cells.sort(key=lambda cell: -importance[cell])
    assert len(np.unique(importance)) == importance.size
    last = int(share * importance.size)
    curve = []
    for step in range(nb_steps + 1):
        point = np.array(x if deletes else baseline)
        for cell in cells[: int(step * last / nb_steps)]:
            point[cell] = baseline[cell] if deletes else x[cell]
        logits = model(point[None]).numpy()[0]
        curve.append(np.exp(logits[label]) / np.exp(logits).sum())
    return curve


@pytest.mark.parametrize(("metric", "deletes"), [(Deletion, True), (Insertion, False)])
def test_causal_curves_agree_with_a_naive_loop(case, metric, deletes):
    model, inputs, labels, maps = case
    settings = {"steps": 5, "max_percentage_perturbed": 0.8, "activation": "softmax"}
    result = metric(model, inputs, labels, baseline_mode=0.3, **settings).detailed_evaluate(maps)
    baseline = np.full(inputs.shape[1:], 0.3, np.float32)
    for sample in range(len(inputs)):
        curve = naive_curve(
            model, inputs[sample], labels[sample], maps[sample], baseline, 5, deletes, 0.8
        )
        np.testing.assert_allclose(result.curves[sample], curve, rtol=1e-5)
        area = sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / 5
        np.testing.assert_allclose(result.scores[sample], area, rtol=1e-5)
    assert result.nb_tied == 0
    assert result.higher_is_better is not deletes
    np.testing.assert_allclose(result.mean_curve, result.curves.mean(axis=0))
    assert result.axis[0] == 0
    assert result.axis[-1] == int(0.8 * maps[0].size) / maps[0].size


@pytest.mark.parametrize("metric", [Deletion, Insertion])
def test_batches_do_not_matter_and_nothing_is_traced_twice(case, metric):
    model, inputs, labels, maps = case
    calls = []

    def traced(x):
        calls.append(x.shape)
        return model(x)

    whole = metric(model, inputs, labels, batch_size=None).evaluate_samples(maps)
    metric_of_7 = metric(traced, inputs, labels, batch_size=7)
    np.testing.assert_allclose(metric_of_7.evaluate_samples(maps), whole, rtol=1e-5)
    np.testing.assert_allclose(metric_of_7.evaluate_samples(maps), whole, rtol=1e-5)
    assert [shape[0] for shape in calls].count(None) == 1
    for sample in range(2):
        one = metric(model, inputs[sample : sample + 1], labels[sample : sample + 1])
        score = one.evaluate(maps[sample : sample + 1])
        np.testing.assert_allclose(score, whole[sample], rtol=1e-5)


def test_hand_computed_linear_model():
    model = lambda x: tf.stack([x[:, 0] + 2 * x[:, 1] + 3 * x[:, 2], -x[:, 0]], axis=1)  # noqa: E731
    inputs, maps = np.ones((1, 3), np.float32), np.array([[1.0, 2.0, 3.0]])
    removed = deletion(model, inputs, [0], maps, steps=-1)
    np.testing.assert_allclose(removed.curves, [[6, 3, 1, 0]])
    np.testing.assert_allclose(removed.scores, [(4.5 + 2 + 0.5) / 3])
    added = insertion(model, inputs, [0], maps, steps=-1)
    np.testing.assert_allclose(added.curves, [[0, 3, 5, 6]])
    weighted = deletion(model, inputs, np.array([[1.0, -1.0]]), maps, steps=-1)
    np.testing.assert_allclose(weighted.curves, [[7, 4, 2, 0]])
    np.testing.assert_allclose(removed.axis, [0, 1 / 3, 2 / 3, 1])
    # more steps than features are one step per feature
    assert deletion(model, inputs, [0], maps, steps=50).curves.shape == (1, 4)
    assert repr(removed) == "<Deletion 2.3333 (lower is better) over 1 samples, 0 with ties>"


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        (Deletion, importance_curves),
        (FeatureRelevance, importance_curves),
        (MuFidelity, subset_correlations),
        (ClassRetrieval, retrieval),
        (RobustnessSr, robustness_of),
    ],
)
def test_classes_have_the_defaults_of_their_functions(metric, function):
    own, core = (inspect.signature(which).parameters for which in (metric, function))
    shared = [name for name in own if name in core and core[name].default is not core[name].empty]
    assert shared
    assert {n: own[n].default for n in shared} == {n: core[n].default for n in shared}


def test_channels_are_averaged_and_taken_together():
    generator = np.random.default_rng(0)
    inputs = generator.random((3, 4, 4, 2)).astype(np.float32)
    maps = generator.normal(size=inputs.shape)
    metric = Deletion(make_model((4, 4, 2)), inputs, [0, 1, 2])
    expected = metric.evaluate_samples(maps.mean(axis=-1))
    np.testing.assert_array_equal(metric.evaluate_samples(maps), expected)
    np.testing.assert_array_equal(metric.evaluate_samples(tf.constant(maps)), expected)
    one_channel = maps.mean(axis=-1, keepdims=True)
    np.testing.assert_array_equal(metric.evaluate_samples(one_channel), expected)
    assert metric(maps) == metric.evaluate(maps) == pytest.approx(expected.mean())


def test_targets_of_all_kinds_give_one_score(case):
    model, inputs, _, maps = case
    predicted = np.argmax(model(inputs), axis=1)
    expected = Deletion(model, inputs, predicted).evaluate(maps)
    one_hot = np.eye(4, dtype=np.float32)[predicted]
    pairs = tf.data.Dataset.from_tensor_slices((inputs, predicted))
    assert Deletion(model, inputs).evaluate(maps) == expected
    assert Deletion(model, tf.constant(inputs), tf.constant(one_hot)).evaluate(maps) == expected
    assert Deletion(model, pairs).evaluate(maps) == expected
    assert Deletion(model, pairs.batch(2, drop_remainder=False)).evaluate(maps) == expected
    assert Deletion(model, pairs.batch(5, True).prefetch(1)).evaluate(maps) == expected
    alone = tf.data.Dataset.from_tensor_slices(inputs)
    assert Deletion(model, alone.batch(3), predicted).evaluate(maps) == expected


def test_operator_and_model_setter(case):
    model, inputs, labels, maps = case

    def squared(model, inputs, targets):
        return tf.reduce_sum(model(inputs) * targets, axis=1) ** 2

    one_hot = np.eye(4, dtype=np.float32)[labels]
    metric = Deletion(model, inputs, one_hot, operator=squared)
    plain = Deletion(model, inputs, labels)
    curves = plain.detailed_evaluate(maps).curves
    np.testing.assert_allclose(metric.detailed_evaluate(maps).curves, curves**2, rtol=1e-4)
    plain.model = lambda x: 2 * model(x)
    np.testing.assert_allclose(plain.detailed_evaluate(maps).curves, 2 * curves, rtol=1e-5)


def test_activations(case):
    model, inputs, labels, maps = case
    logits = Insertion(model, inputs, labels).detailed_evaluate(maps).curves
    sigmoid = Insertion(model, inputs, labels, activation="sigmoid").detailed_evaluate(maps).curves
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_ties_are_broken_at_random_repeatably_and_reported(case):
    model, inputs, labels, maps = case
    metric = Deletion(model, inputs, labels, steps=3)
    flat = metric.detailed_evaluate(np.zeros_like(maps))
    assert flat.nb_tied == len(inputs)
    again = Deletion(model, inputs, labels, steps=3).detailed_evaluate(np.ones_like(maps))
    np.testing.assert_array_equal(flat.curves, again.curves)
    other = Deletion(model, inputs, labels, steps=3, seed=1).detailed_evaluate(np.zeros_like(maps))
    assert not np.array_equal(flat.curves, other.curves)
    # equal features that no step separates decide nothing
    order = np.argsort(np.argsort(maps.reshape(5, -1), axis=1), axis=1)
    counts = flat.axis[1:-1] * maps[0].size
    blocks = -np.searchsorted(counts, maps[0].size - 1 - order, side="right")
    separated = metric.detailed_evaluate(blocks.reshape(maps.shape))
    assert separated.nb_tied == 0
    np.testing.assert_allclose(separated.curves, metric.detailed_evaluate(maps).curves, rtol=1e-5)


def naive_ranks(values):
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def naive_correlation(first, second):
    first, second = np.array(first) - np.mean(first), np.array(second) - np.mean(second)
    return sum(first * second) / (sum(first**2) * sum(second**2)) ** 0.5


@pytest.mark.parametrize("correlation", ["spearman", "pearson"])
@pytest.mark.parametrize("grid_size", [3, None])
def test_mu_fidelity_agrees_with_a_naive_loop(case, correlation, grid_size):
    model, inputs, labels, maps = case
    maps = np.round(maps, 1)  # ties
    subsets = []

    def watched(points):
        subsets.append(points.numpy())
        return model(points)

    settings = {"grid_size": grid_size, "nb_samples": 40, "baseline_mode": -1.0}
    settings |= {"correlation": correlation, "batch_size": 41}
    result = mu_fidelity(model, inputs, labels, maps, **settings)
    with pytest.MonkeyPatch.context() as patch:  # run eagerly once, to see the perturbed inputs
        patch.setattr(tf, "function", lambda function, **_: function)
        mu_fidelity(watched, inputs, labels, maps, **settings)
    perturbed = subsets[-5:]
    cells = grid_cells(inputs.shape[1:], grid_size)
    for sample, points in enumerate(perturbed):
        np.testing.assert_array_equal(points[0], inputs[sample])
        removed, drops = [], []
        for point in points[1:]:
            mask = point == -1
            mask = mask.all(axis=-1) if point.ndim == 3 else mask
            np.testing.assert_array_equal(point[~mask], inputs[sample][~mask])
            chosen = set(cells[mask])
            assert len(chosen) == round(0.2 * (cells.max() + 1))
            assert np.isin(cells, list(chosen)).sum() == mask.sum()
            removed.append(round(maps[sample][mask].sum(), 9))
            logits = model(np.stack([inputs[sample], point])).numpy()[:, labels[sample]]
            drops.append(logits[0] - logits[1])
        if correlation == "spearman":
            removed, drops = naive_ranks(removed), naive_ranks(drops)
        expected = naive_correlation(removed, drops)
        assert result.scores[sample] == pytest.approx(expected, abs=2e-3)
    assert result.score == pytest.approx(result.scores.mean())
    assert result.curves.shape == (5, 40)


def test_mu_fidelity_of_an_additive_model_is_perfect():
    weights = np.random.default_rng(0).normal(size=(4, 6, 1))
    model = lambda x: tf.reduce_sum(x * tf.constant(weights, tf.float32), [1, 2])  # noqa: E731
    images = np.random.default_rng(1).random((3, 4, 6, 1)).astype(np.float32)
    for correlation in ("spearman", "pearson"):
        metric = MuFidelity(model, images, correlation=correlation, grid_size=None)
        assert metric.evaluate(images * weights) == pytest.approx(1, abs=1e-4)
        assert metric.evaluate(-images * weights) == pytest.approx(-1, abs=1e-4)
    curve = metric.detailed_evaluate(images * weights).mean_curve
    assert np.all(np.diff(curve) >= -1e-5)
    # the attribution of a cell is the sum of its features
    metric = MuFidelity(model, images, correlation="pearson", grid_size=3, subset_percent=0.4)
    assert metric.evaluate(images * weights) == pytest.approx(1, abs=1e-4)


def test_mu_fidelity_without_a_correlation_is_zero_and_reported(case):
    model, inputs, labels, maps = case
    metric = MuFidelity(model, inputs, labels, grid_size=None)
    constant = metric.detailed_evaluate(np.full_like(maps, 0.1))
    assert constant.scores.tolist() == [0] * 5
    assert constant.nb_tied == 5
    blind = MuFidelity(lambda x: model(0 * x), inputs, labels, grid_size=None)
    assert blind.detailed_evaluate(maps).nb_tied == 5
    assert blind.evaluate(maps) == 0
    assert metric.detailed_evaluate(maps).nb_tied == 0
    # same subsets whatever the batches and however often
    scores = metric.evaluate_samples(maps)
    np.testing.assert_array_equal(scores, metric.evaluate_samples(maps))
    alone = MuFidelity(model, inputs[:1], labels[:1], batch_size=33, grid_size=None)
    np.testing.assert_allclose(alone.evaluate_samples(maps[:1]), scores[:1], atol=2e-3)
    other = MuFidelity(model, inputs, labels, grid_size=None, seed=1)
    assert not np.array_equal(other.evaluate_samples(maps), scores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"correlation": "kendall"}, "correlation"),
        ({"nb_samples": 1}, "nb_samples"),
        ({"subset_percent": 0.0}, "subset_percent"),
        ({"subset_percent": 1.0}, "subset_percent"),
        ({"grid_size": 0}, "grid_size"),
    ],
)
def test_bad_settings_of_mu_fidelity(settings, message):
    images = np.ones((2, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=message):
        mu_fidelity(make_model((4, 4, 1)), images, [0, 1], images, **settings)


def test_grid_cells():
    expected = [[0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert grid_cells((3, 4, 2), 2).tolist() == expected
    assert grid_cells((4, 2), 2).tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert grid_cells((3,), 2).tolist() == [0, 1, 2]
    for size, grid_size in [(28, 12), (32, 12), (5, 9), (7, 7), (9, 2)]:
        resized = tf.image.resize(
            tf.reshape(tf.range(grid_size**2), (grid_size, grid_size, 1)), (size, size), "nearest"
        )
        cells = grid_cells((size, size, 3), grid_size)
        assert np.unique(cells).tolist() == list(range(min(size, grid_size) ** 2))
        if grid_size <= size:
            np.testing.assert_array_equal(cells, resized[..., 0])
    with pytest.raises(ValueError, match="images"):
        grid_cells((2, 2, 2, 2), 2)


def test_baselines():
    generator = np.random.default_rng(0)
    images = generator.random((3, 6, 5, 2)).astype(np.float32) * [1, 10]
    images = images.astype(np.float32)
    np.testing.assert_array_equal(baseline_values(0.5, images), np.full_like(images, 0.5))
    np.testing.assert_array_equal(baseline_values(images[0], images)[2], images[0])
    np.testing.assert_array_equal(baseline_values(lambda x: 2 * x, images), 2 * images)

    random = baseline_values("random", images, seed=3)
    np.testing.assert_array_equal(random[0], random[1])
    np.testing.assert_array_equal(random, baseline_values("random", images, seed=3))
    assert not np.array_equal(random, baseline_values("random", images, seed=4))
    assert np.all(random.min((0, 1, 2)) >= images.min((0, 1, 2)))
    assert np.all(random.max((0, 1, 2)) <= images.max((0, 1, 2)))
    assert random[..., 1].max() > 1

    mean = baseline_values("mean", images)
    np.testing.assert_allclose(mean[1, 4, 2], images[1].mean(axis=(0, 1)), rtol=1e-6)
    table = images[:, 0, :, 0]
    np.testing.assert_allclose(baseline_values("mean", table)[0], table.mean(axis=0), rtol=1e-6)

    blurred = baseline_values("blur", images)
    weights = [np.exp(-(k**2) / 50) for k in range(-5, 6)]
    value = total = 0.0
    for a, first in enumerate(weights):
        for b, second in enumerate(weights):
            row, column = min(max(2 + a - 5, 0), 5), min(max(3 + b - 5, 0), 4)
            value += first * second * images[1, row, column, 0]
            total += first * second
    np.testing.assert_allclose(blurred[1, 2, 3, 0], value / total, rtol=1e-5)
    constant = np.full((1, 8, 3), 0.7, np.float32)
    np.testing.assert_allclose(baseline_values("blur", constant), constant, rtol=1e-6)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("white", "'blur', 'mean', 'random'.*Received: 'white'"),
        ("blur", "tabular data has no neighbours"),
        (np.zeros(3), r"shape of one of them, \(4,\)"),
        (lambda x: x[:, :2], r"Received: shape \(2, 2\)"),
        (np.nan, "NaN"),
        (None, "object"),
    ],
)
def test_bad_baselines(baseline, message):
    with pytest.raises(ValueError, match=message):
        baseline_values(baseline, np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="single value"):
        baseline_values("random", np.ones((1, 4), np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"max_percentage_perturbed": 0.0}, "max_percentage_perturbed"),
        ({"max_percentage_perturbed": 0.1}, "at least 0.25"),
        ({"activation": "relu"}, "activation"),
        ({"operator": "classify"}, "operator"),
    ],
)
def test_bad_settings(settings, message):
    inputs = np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match=message):
        deletion(make_model((4,)), inputs, [0, 1], inputs, **settings)


def test_bad_explanations_are_refused_by_sample():
    images = np.ones((3, 4, 4, 2), np.float32)
    metric = Deletion(make_model((4, 4, 2)), images, [0, 1, 2])
    maps = np.random.default_rng(0).random((3, 4, 4))
    for bad in (np.nan, np.inf):
        maps[1, 2, 2] = bad
        with pytest.raises(ValueError, match="sample 1"):
            metric.evaluate(maps)
    for shape in [(2, 4, 4), (3, 4, 4, 3), (3, 4), (3, 16)]:
        with pytest.raises(ValueError, match=r"\(3, 4, 4\) or \(3, 4, 4, 1\) or \(3, 4, 4, 2\)"):
            metric.evaluate(np.zeros(shape))
    with pytest.raises(ValueError, match="model must be"):
        Deletion("model.keras", images)
    with pytest.raises(ValueError, match=r"a map of outputs, \(4, 2\).*one_output.*: None"):
        Deletion(lambda x: tf.reduce_sum(x, 1), images).evaluate(np.zeros((3, 4, 4)))


def test_labels_are_right_when_there_are_as_many_samples_as_classes():
    outputs = np.array([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    expected = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)
    weights = one_hot_targets(None, np.array([2, 0, 1]), 3, 3)
    np.testing.assert_array_equal(weights, expected)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(one_hot_targets(None, expected.astype(int), 3, 3), expected)
    predicted = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(one_hot_targets(outputs, None, 3, 3), predicted)
    np.testing.assert_array_equal(one_hot_targets(lambda: outputs, None, 3, 3), predicted)
    regression = np.array([[-0.5], [1.0], [1.0]])
    np.testing.assert_array_equal(one_hot_targets(None, regression, 3, 1), regression)
    np.testing.assert_array_equal(one_hot_targets(np.zeros((3, 1)), None, 3, 1), np.ones((3, 1)))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.array([[0], [1], [2]]), r"targets\[:, 0\]"),
        (np.array([0.0, 1.0, 2.0]), r"targets.astype\(int\)"),
        (np.array([0, 4, 5]), "from 0 to 3. Received: 4 for sample 1"),
        (np.array([0, 0, -1]), "Received: -1 for sample 2"),
        (np.array([0, 1]), r"\(3,\).*\(3, 4\)"),
        (np.zeros((3, 5)), r"Received: shape \(3, 5\)"),
        (np.eye(3, 4) * [[1], [np.nan], [1]], "NaN.*sample 1"),
        (np.eye(3, 4, k=2), "all zero.*sample 2"),
        (np.array(["a", "b", "c"]), "astype"),
    ],
)
def test_bad_targets(targets, message):
    with pytest.raises(ValueError, match=message):
        one_hot_targets(None, targets, 3, 4)


def test_inputs_in_all_forms():
    values = np.arange(24).reshape(4, 6)
    for form in (values, values.tolist(), tf.constant(values), values.astype(np.float16)):
        inputs, targets = as_arrays(form)
        assert inputs.dtype == np.float32
        assert targets is None
        np.testing.assert_array_equal(inputs, values)
    plain = tf.data.Dataset.from_tensor_slices(values)
    for data in (plain, plain.batch(3), plain.batch(4, True), plain.batch(3).prefetch(1)):
        np.testing.assert_array_equal(as_arrays(data)[0], values)
        np.testing.assert_array_equal(as_arrays(data, input_shape=(6,))[0], values)
    pairs = tf.data.Dataset.from_tensor_slices((values, [3, 1, 2, 0]))
    assert as_arrays(pairs)[1].tolist() == [3, 1, 2, 0]
    assert as_arrays(pairs.batch(3))[1].tolist() == [3, 1, 2, 0]


def test_bad_inputs():
    values = np.ones((4, 6), np.float32)
    plain = tf.data.Dataset.from_tensor_slices(values)
    pairs = tf.data.Dataset.zip((plain, plain))
    for inputs, targets, shape, message in [
        (values[0], None, None, r"x\[None\]"),
        (values[0], None, (6,), r"\(N, 6\).*x\[None\]"),
        (values, None, (None, 5), r"\(N, any, 5\)"),
        (values[:0], None, None, "empty"),
        (values * [[1], [1], [np.inf], [1]], None, None, "sample 2"),
        ([["a", "b"]], None, None, "numbers"),
        (values, [1, 2], None, "4 of them"),
        (plain.repeat(), None, None, "take"),
        (plain.take(0), None, None, "empty"),
        (plain.map(lambda x: {"image": x, "label": 0}), None, None, "as_supervised"),
        (pairs, values, None, "targets of its own"),
    ]:
        with pytest.raises(ValueError, match=message):
            as_arrays(inputs, targets, shape)


def test_input_shape_of_models():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    assert input_shape_of(make_model((6, 5, 3))) == (6, 5, 3)
    assert input_shape_of(lambda x: x) is None
    assert input_shape_of(Subclassed()) is None
    assert input_shape_of(keras.Sequential([keras.layers.Dense(2)])) is None
    first, second = keras.Input((2,)), keras.Input((2,))
    with pytest.raises(ValueError, match="single input"):
        input_shape_of(keras.Model([first, second], first + second))
