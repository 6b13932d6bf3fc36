"""RelEx and the metrics of reliability: by hand, against naive loops, and in exact arithmetic."""

from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential
from tiny_networks import tiny

from xcertify.attacks import MinimalPerturbation
from xcertify.attributions import RelEx, Saliency
from xcertify.attributions.mask_descent import Descent
from xcertify.bounds import Verifier
from xcertify.masks import kept_region
from xcertify.metrics import (
    ClassRetrieval,
    FeatureRelevance,
    as_masks,
    rank_correlation,
    top_k_overlap,
)
from xcertify.radii import ContradictionError
from xcertify.regions import Ball

L = keras.layers
SHAPE = (4, 5, 2)
LABELS = np.array([2, 0, 1])
FEW = {"nb_samples": 4, "steps": 6, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def model():
    return sequential(SHAPE, L.Conv2D(3, 2, activation="tanh"), L.Flatten(), L.Dense(3))


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 1, (3, *SHAPE)).astype("float32")


def affine(weights, bias):
    model = keras.Sequential([keras.Input((len(weights),)), L.Dense(len(bias))])
    model.layers[0].set_weights([np.array(weights, "float32"), np.array(bias, "float32")])
    return model


def naive_mask(model, x, label, *, nb_samples, steps, learning_rate, neutral, seed=0, **settings):
    """Equation 11 and descent with momentum of one input, one copy after the other."""
    momentum, noise = settings.get("momentum", 0.99), settings.get("noise", 0.1)
    background, sparsity = settings.get("background", 1.0), settings.get("sparsity", 1e-3)
    start, adam = settings.get("start", 0.3), settings.get("optimizer") == "adam"
    generator = np.random.default_rng(seed)
    mask = tf.fill(x.shape, np.float32(start if start != "paper" else 0))
    if start == "paper":
        mask = tf.constant(generator.uniform(0, 0.01, x.shape).astype("float32"))
    velocity, squares = tf.zeros_like(mask), tf.zeros_like(mask)
    for step in range(1, steps + 1):
        copies = [x]
        if nb_samples > 1:
            draws = generator.standard_normal((nb_samples, *x.shape), np.float32)
            copies = [x + noise * (x.max() - x.min()) * draw for draw in draws]
        with tf.GradientTape() as tape:
            tape.watch(mask)
            loss = sparsity * tf.reduce_sum(mask)
            for copy in copies:
                kept = tf.nn.softmax(model((mask * copy + (1 - mask) * neutral)[None]))[0, label]
                lost = tf.nn.softmax(model(((1 - mask) * copy + mask * neutral)[None]))[0, label]
                terms = -tf.math.log(kept) - background * tf.math.log(1 - lost)
                loss += terms / len(copies)
        gradient = tape.gradient(loss, mask)
        if adam:  # Algorithm 1 of Kingma & Ba
            velocity = 0.9 * velocity + 0.1 * gradient
            squares = 0.999 * squares + 0.001 * gradient**2
            first, second = velocity / (1 - 0.9**step), squares / (1 - 0.999**step)
            mask -= learning_rate * first / (tf.sqrt(second) + 1e-8)
            mask = tf.clip_by_value(mask, 0, 1)
            continue
        velocity = momentum * velocity + gradient / tf.norm(gradient)
        mask = tf.clip_by_value(mask - learning_rate * velocity, 0, 1)
    return mask.numpy(), -velocity.numpy()


@pytest.mark.parametrize(
    ("settings", "neutral"),
    [
        ({}, 0.0),
        ({"background": 0.3, "sparsity": 0.05, "momentum": 0.5, "noise": 0.4}, 0.25),
        ({"nb_samples": 1, "seed": 3}, np.float32([0.2, 0.7])),
        ({"start": "paper", "seed": 2}, 0.0),
        ({"start": 0.75, "momentum": 0.0}, 0.1),
        ({"start": 0.5, "optimizer": "adam"}, 0.0),
        ({"start": 1, "optimizer": "adam", "background": 0.0, "nb_samples": 1}, 0.3),
    ],
)
def test_masks_by_a_naive_loop(model, images, settings, neutral):
    settings = {**FEW, "sparsity": 1e-3} | settings
    explainer = RelEx(model, neutral_value=neutral, **settings, form="pull", reducer="sum")
    masks, maps = explainer.masks(images, LABELS), explainer.explain(images, LABELS)
    for image, label, mask, shown in zip(images, LABELS, masks, maps):
        expected, pull = naive_mask(model, image, label, neutral=neutral, **settings)
        np.testing.assert_allclose(mask, expected, atol=1e-4)
        np.testing.assert_allclose(shown[..., 0], pull.sum(-1), atol=1e-3)


def test_zeros_of_a_mask_are_ranked_by_the_pull(model, images):
    settings = {**FEW, "sparsity": 0.5, "start": 0.2, "reducer": None}
    ways = {form: RelEx(model, **settings, form=form) for form in ("mask", "pull")}
    masks = ways["mask"].masks(images, LABELS)
    maps, pulls = (ways[form].explain(images, LABELS) for form in ("mask", "pull"))
    assert 3 < (masks == 0).sum() < masks.size
    np.testing.assert_array_equal(maps[masks > 1e-6], masks[masks > 1e-6])
    for mask, shown, pull in zip(masks, maps, pulls):
        zero = mask == 0
        assert (shown[zero] <= 1e-6).all()
        np.testing.assert_array_equal(np.argsort(shown[zero]), np.argsort(pull[zero]))


@pytest.mark.parametrize("shape", [(7,), (4, 3)])
def test_tabular_and_time_series(shape):
    model = sequential(shape, L.Flatten(), L.Dense(5, "tanh"), L.Dense(1))
    inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    explainer = RelEx(model, **FEW, sparsity=1e-3)
    maps = explainer.explain(inputs, [0, 1])
    np.testing.assert_allclose(maps, explainer.masks(inputs, [0, 1]), atol=1.1e-6)
    two = keras.Model(model.inputs[0], keras.ops.pad(model.outputs[0], [[0, 0], [1, 0]]))
    for x, label, found in zip(inputs, [0, 1], maps):
        expected, _ = naive_mask(two, x, label, neutral=0.0, **FEW)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_conventions(model, images):
    explainer = RelEx(model, **FEW)
    maps, masks = explainer.explain(images, LABELS), explainer.masks(images, LABELS)
    assert maps.shape == (3, 4, 5, 1)
    assert maps.dtype == masks.dtype == np.float32
    np.testing.assert_allclose(maps[..., 0], masks.mean(-1), rtol=1e-6, atol=1.1e-6)
    np.testing.assert_array_equal(explainer(images, LABELS), maps)
    one_hot = np.eye(3)[LABELS]
    dataset = tf.data.Dataset.from_tensor_slices((images, one_hot)).batch(2)
    softmax = keras.Model(model.inputs[0], L.Softmax()(model.outputs[0]))
    for other in [
        explainer(dataset),
        RelEx(model, **FEW, batch_size=3)(images, LABELS),
        RelEx(model, **FEW, batch_size=11)(images, LABELS),
        RelEx(softmax, **FEW)(images, LABELS),
    ]:
        np.testing.assert_allclose(other, maps, atol=1e-4)
    np.testing.assert_allclose(explainer(images[1:2], LABELS[1:2]), maps[1:2], atol=1e-4)
    predicted = model.predict(images, verbose=0).argmax(1)
    np.testing.assert_allclose(explainer(images), explainer(images, predicted), atol=1e-5)
    assert np.abs(RelEx(model, **FEW, seed=1)(images, LABELS) - maps).max() > 1e-3
    largest = RelEx(model, **FEW, reducer="max")(images, LABELS)
    np.testing.assert_allclose(largest[..., 0], masks.max(-1), atol=1e-5)


def test_no_more_masked_copies_at_once_than_batch_size(model, images):
    sizes = []

    class Recorded(RelEx):
        def _logits_at(self, points):
            def record(size):
                sizes.append(int(size))
                return size

            size = tf.py_function(record, [tf.shape(points)[0]], tf.int32)
            with tf.control_dependencies([size]):
                return super()._logits_at(tf.identity(points))

    for batch_size, largest in [(1, 1), (7, 3), (10, 4), (512, 12)]:
        sizes.clear()
        Recorded(model, **FEW, batch_size=batch_size).masks(images, LABELS)
        assert max(sizes) == largest


def test_settled_inputs_stop_and_others_go_on(monkeypatch, capsys):
    model = affine([[50.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    inputs = np.float32([[900.0, 0.0], [0.1, 0.3]])  # any mask keeps enough of the first one
    settings = {"nb_samples": 3, "steps": 25, "background": 0.0, "sparsity": 0.0}
    settings |= {"learning_rate": 0.02, "verbose": True}
    explainer = RelEx(model, **settings, tolerance=1e-3)
    nb_active, losses = [], Descent.mean_losses

    def record(descent, inputs, *arguments):
        nb_active.append(len(inputs))
        return losses(descent, inputs, *arguments)

    monkeypatch.setattr(Descent, "mean_losses", record)
    masks = explainer.masks(inputs, [0, 1])
    assert nb_active == [2] * 10 + [1] * 15
    assert "50/50" in capsys.readouterr().err
    whole = RelEx(model, **settings, tolerance=0).masks(inputs, [0, 1])
    np.testing.assert_allclose(masks[1], whole[1], atol=1e-6)
    assert masks[1, 1] > 0.2


@pytest.mark.parametrize(
    ("size", "rate", "sparsity"),
    [(224 * 224 * 3, 0.1, 1e-4), (3072, 0.1, 1e-4), (768, 0.05, 4e-4)],
)
def test_defaults_follow_the_size(model, size, rate, sparsity):
    descent = RelEx(model)._descent((size,))
    np.testing.assert_allclose([descent.learning_rate, descent.sparsity], [rate, sparsity])
    chosen = RelEx(model, learning_rate=0.5, sparsity=0.0)._descent((size,))
    assert (chosen.learning_rate, chosen.sparsity) == (0.5, 0)


def test_steps_of_adam_do_not_follow_the_size(model):
    descent = RelEx(model, optimizer="adam")._descent((768,))
    np.testing.assert_allclose([descent.learning_rate, descent.sparsity], [0.1, 4e-4])


def test_first_steps_by_hand():
    """Logits 2 x0 and 0: only the first feature of (1, 1) moves the loss, and upwards."""
    model = affine([[2.0, 0.0], [0.0, 0.0]], [0.0, 0.0])
    settings = {"nb_samples": 1, "steps": 1, "background": 0.0, "sparsity": 0.0}
    settings |= {"learning_rate": 0.05, "tolerance": 0}
    for start, first in [(0.0, 0.05), (0.3, 0.35), (0.98, 1.0)]:
        for optimizer in ("sgd", "adam"):
            explainer = RelEx(model, **settings, start=start, optimizer=optimizer)
            np.testing.assert_allclose(explainer.masks([[1.0, 1.0]], [0]), [[first, start]], 1e-5)
    near_0 = RelEx(model, **settings, start="paper", seed=7).masks([[1.0, 1.0]], [0])
    drawn = np.random.default_rng(7).uniform(0, 0.01, 2)
    np.testing.assert_allclose(near_0, drawn[None] + [0.05, 0], rtol=1e-5)


def test_a_start_near_0_stays_where_the_slope_points_away():
    """Class 0 has its evidence only above 1/8 of the feature: below, every step goes down."""
    layer = {"activation": "relu"}
    model = keras.Sequential([keras.Input((1,)), L.Dense(2, **layer), L.Dense(2)])
    model.layers[0].set_weights([np.float32([[1, 8]]), np.float32([0, -1])])
    model.layers[1].set_weights([np.float32([[-2, 0], [2, 0]]), np.float32([-0.5, 0])])
    masks = {
        start: RelEx(model, nb_samples=1, background=0.0, start=start).masks([[1.0]], [0])
        for start in ("paper", 0.5)
    }
    kept = {s: ClassRetrieval(model, [[1.0]], [0]).evaluate(mask) for s, mask in masks.items()}
    assert kept == {"paper": 0, 0.5: 1}
    assert masks["paper"] == 0


def test_the_evidence_is_found_for_any_class():
    """Each class has one feature that speaks for it; the others speak for nothing."""
    nb_features, nb_classes = 12, 3
    weights = np.zeros((nb_features, nb_classes))
    weights[[2, 5, 9], [0, 1, 2]] = 12
    model = affine(weights, np.zeros(nb_classes))
    inputs = np.full((3, nb_features), 0.5, np.float32)
    explainer = RelEx(model, steps=100)
    masks = explainer.masks(inputs, [0, 1, 2])
    np.testing.assert_array_equal(masks.argmax(1), [2, 5, 9])
    own = masks[[0, 1, 2], [2, 5, 9]]
    assert (own > 0.5).all() and (masks.sum(1) - own < 0.05).all()
    kept = explainer.keep(inputs, masks)
    np.testing.assert_allclose(kept, inputs * masks)
    assert (model.predict(kept, verbose=0).argmax(1) == [0, 1, 2]).all()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("norm", "dual", "neutral"), [(np.inf, 1, 0.0), (2, 2, 0.3), (1, np.inf, 0.3)]
)
def test_radii_of_an_affine_model_are_exact(norm, dual, neutral):
    generator = np.random.default_rng(1)
    weights = generator.normal(size=(3, 2)).astype("float32")
    model = affine(weights, [0.1, -0.2])
    inputs = generator.normal(size=(3, 3)).astype("float32")  # N = W: one radius per sample
    masks = np.float32([[1, 0.5, 0], [0.2, 1, 0.7], [1, 1, 1]])
    logits = model.predict(neutral + masks * (inputs - neutral), verbose=0)
    labels = logits.argmax(1)
    explainer = RelEx(model, neutral_value=neutral, norm=norm, largest_radius=50, nb_halvings=12)
    certificate = explainer.certify(inputs, labels, masks)
    slope = np.linalg.norm(masks * (weights[:, 0] - weights[:, 1]), dual, axis=1)
    radius = np.abs(logits[:, 0] - logits[:, 1]) / slope
    assert (certificate.certified <= radius * (1 + 1e-6)).all()
    assert (certificate.attacked >= radius * (1 - 1e-6)).all()
    np.testing.assert_allclose(certificate.certified, radius, rtol=3e-3)
    np.testing.assert_allclose(certificate.attacked, radius, rtol=2e-3)
    assert "3 of 3 masked inputs" in repr(certificate)
    assert certificate.to_dict()["targets"] == labels.tolist()


@pytest.mark.usefixtures("eager")
def test_certified_radii_are_never_beaten(model, images):
    explainer = RelEx(model, **FEW, clip=(0, 1), neutral_value=0.4)
    certificate = explainer.certify(images)
    np.testing.assert_allclose(certificate.masks, explainer.masks(images), atol=1e-6)
    assert (certificate.certified < certificate.attacked).all()
    assert (certificate.certified > 0).any()
    radii = certificate.certified.reshape(-1, 1, 1, 1)
    points = Ball(images, radii, clip=(0, 1)).sample(200, seed=1)
    kept = [explainer.keep(some, certificate.masks) for some in points]
    classes = model.predict(np.concatenate(kept), verbose=0).argmax(1).reshape(200, 3)
    proved = certificate.certified > 0
    assert (classes == certificate.targets)[:, proved].all()


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")
def test_decisions_go_on_where_bounds_end():
    model = tiny("relu", nb_inputs=3)
    inputs = np.random.default_rng(1).uniform(0, 1, (4, 3)).astype("float32")
    masks = np.random.default_rng(2).uniform(0.2, 1, (4, 3)).astype("float32")
    explainer = RelEx(model, clip=(-1, 2), nb_halvings=5, neutral_value=0.3)
    alone = explainer.certify(inputs, None, masks)
    decided = explainer.certify(inputs, None, masks, complete=True, timeout=None)
    assert (decided.certified >= alone.certified).all()
    assert (decided.certified > 1.05 * alone.certified).any()
    np.testing.assert_array_equal(decided.attacked, alone.attacked)
    points = Ball(inputs, decided.certified[:, None], clip=(-1, 2)).sample(2000, seed=1)
    kept = explainer.keep(points.reshape(-1, 3), np.tile(masks, (2000, 1)))
    classes = model.predict(kept, verbose=0).argmax(1).reshape(2000, 4)
    assert (classes == decided.targets).all()
    in_no_time = explainer.certify(inputs, None, masks, complete=True, timeout=0.0)
    assert (in_no_time.certified <= decided.attacked).all()


@pytest.mark.usefixtures("eager")
def test_what_nothing_or_everything_proves(model, images):
    explainer = RelEx(model, largest_radius=0.5)
    nothing = np.zeros_like(images)
    label = int(model.predict(nothing[:1], verbose=0).argmax())
    certificate = explainer.certify(images, [label, (label + 1) % 3, label], nothing)
    np.testing.assert_array_equal(certificate.certified, [0.5, 0, 0.5])
    np.testing.assert_array_equal(certificate.attacked, [np.inf, 0, np.inf])


@pytest.mark.usefixtures("eager")
def test_an_attack_that_beats_a_certificate_is_reported(model, images, monkeypatch):
    explainer = RelEx(model)

    def wrong_bounds(region, rows, constants=()):
        return (np.full(rows.shape[:2], -1.0),) * 2

    monkeypatch.setattr(explainer._verifier, "bound_rows", wrong_bounds)
    with pytest.raises(ContradictionError, match="what the mask keeps at .* for input 0"):
        explainer.certify(images, None, np.ones_like(images))


def test_attacks_change_what_is_kept_in_real_arithmetic(model, images, monkeypatch):
    """The class of kept points in float64, from the weights, is another one; nothing is nearer."""
    explainer = RelEx(model, clip=(0.1, 0.9))
    inputs = np.clip(images, np.float32(0.2), np.float32(0.8))
    masks = np.random.default_rng(3).random(inputs.shape, "float32")
    found = []
    search = MinimalPerturbation.__call__
    keep = lambda *arguments: found.append(search(*arguments)) or found[-1]  # noqa: E731
    monkeypatch.setattr(MinimalPerturbation, "__call__", keep)
    certificate = explainer.certify(inputs, None, masks)
    assert found[0].found.any()
    points = found[0].points[..., : inputs.shape[-1]].astype(np.float64)
    exact = Verifier(model, "ibp", dtype="float64", strip_head=True)
    classes = exact.evaluate(points * masks).argmax(axis=1)
    np.testing.assert_array_equal(classes != certificate.targets, found[0].found)
    far = np.abs(points - inputs).reshape(len(inputs), -1).max(axis=1)
    np.testing.assert_allclose(certificate.attacked[found[0].found], far[found[0].found])
    # within the float32 numbers around the valid range
    assert points.min() >= np.nextafter(np.float32(0.1), np.float32(0))
    assert points.max() <= np.nextafter(np.float32(0.9), np.float32(1))


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_kept_regions_hold_every_image_in_exact_arithmetic(norm):
    generator = np.random.default_rng(0)
    center = generator.uniform(-3, 3, (4, 6)).astype("float32")
    masks = generator.choice([0, 1e-7, 0.3, 0.999, 1], (4, 6)).astype("float32")
    neutral = generator.choice([0, 0.1, -1e4], 6).astype("float32")
    epsilon = 0.01
    region = Ball(center.astype("float64"), epsilon, norm, clip=(-3, 3))
    kept = kept_region(region, masks, neutral)
    assert (kept.lower <= kept.center).all() and (kept.center <= kept.upper).all()
    corners = np.clip(center + epsilon * generator.choice([-1, 1], (40, 4, 6)), -3, 3)
    corners = np.concatenate([[region.lower, region.upper], region.project(corners)])
    for point in corners:
        for n in range(4):
            exact = [
                Fraction(float(c)) + Fraction(float(m)) * (Fraction(float(x)) - Fraction(float(c)))
                for c, m, x in zip(neutral, masks[n], point[n])
            ]
            sides = zip(kept.lower[n], exact, kept.upper[n])
            assert all(Fraction(float(low)) <= x <= Fraction(float(high)) for low, x, high in sides)
            inside = np.linalg.norm(point[n] - center[n], norm) <= epsilon
            if norm != np.inf and inside:
                steps = [x - Fraction(float(c)) for x, c in zip(exact, kept.center[n])]
                shares = [abs(s) / Fraction(float(e)) for s, e in zip(steps, kept.epsilon[n]) if e]
                assert sum(share**norm for share in shares) <= 1
                assert all(s == 0 for s, e in zip(steps, kept.epsilon[n]) if not e)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nb_samples": 0}, "nb_samples must be a whole number above 0"),
        ({"steps": 2.5}, "steps must be a whole number above 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\["),
        ({"noise": -1.0}, "noise must be a number of at least 0"),
        ({"sparsity": np.nan}, "sparsity must be a number of at least 0"),
        ({"form": "velocity"}, "form must be 'mask' or 'pull'"),
        ({"start": 1.5}, r"start must be a number in \[0, 1\], or 'paper'. Received: 1.5"),
        ({"start": "zero"}, "start must be a number .* Received: 'zero'"),
        ({"start": np.nan}, "start must be a number"),
        ({"optimizer": "rmsprop"}, "optimizer must be 'sgd' or 'adam'"),
        ({"reducer": "median"}, "reducer must be one of"),
        ({"largest_radius": 0}, "largest_radius must be a number above 0"),
    ],
)
def test_wrong_settings(model, settings, message):
    with pytest.raises(ValueError, match=message):
        RelEx(model, **settings)


def test_wrong_inputs(model, images):
    with pytest.raises(ValueError, match="neutral_value must be a number, or an array that fits"):
        RelEx(model, neutral_value=np.zeros(3)).explain(images)
    with pytest.raises(ValueError, match="masks must have one value per feature"):
        RelEx(model).certify(images, None, np.zeros((3, 4, 5, 1)))
    with pytest.raises(ValueError, match=r"masks must be within \[0, 1\]. Received: 0 to 2"):
        RelEx(model).keep(images, np.where(images > 0.5, 2.0, 0.0))
    with pytest.raises(ValueError, match="name one class"):
        RelEx(model).explain(images, np.ones((3, 3)))


def test_masks_of_any_explanation():
    inputs = np.zeros((3, 2, 2, 3), np.float32)
    maps = np.float32([[[1, -4], [2, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 7]]])
    masks = as_masks(maps, inputs, percentile=100 * 2 / 3)  # the second largest of four
    expected = [[[0.5, 1], [1, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]]
    np.testing.assert_allclose(masks, np.repeat(np.float32(expected)[..., None], 3, -1), rtol=1e-6)
    np.testing.assert_array_equal(as_masks(maps[..., None], inputs, 100 * 2 / 3), masks)
    with pytest.raises(ValueError, match="explanations must have the shape"):
        as_masks(maps[:, :1], inputs)


def test_retrieval_by_hand():
    model = affine([[1, -1], [0, 0.5]], [0, 0])
    inputs = [[1.0, 1.0], [1.0, 4.0], [-1.0, 1.0]]
    metric = ClassRetrieval(model, inputs, [0, 0, 0])
    result = metric.detailed_evaluate([[1, 0], [0, 1], [0.5, 0.0]])
    np.testing.assert_array_equal(result.scores, [1, 0, 0])
    odds = np.exp([2.0, -2.0, -1.0])
    np.testing.assert_allclose(result.curves[:, 0], odds / (1 + odds), rtol=1e-6)
    np.testing.assert_array_equal(result.tied, False)
    assert metric.evaluate([[1, 0], [0, 1], [0.5, 0.0]]) == pytest.approx(1 / 3)
    # masked out, the first feature becomes 2 and speaks for class 0
    moved = ClassRetrieval(model, inputs, [0, 0, 0], neutral_value=2.0)
    np.testing.assert_array_equal(moved.evaluate_samples([[0, 0]] * 3), [1, 1, 1])
    predicted = ClassRetrieval(model, inputs)
    np.testing.assert_array_equal(predicted.evaluate_samples(np.ones((3, 2))), [1, 1, 1])
    with pytest.raises(ValueError, match="make them of explanations by as_masks"):
        metric.evaluate([[1, 0], [0, 1], [0.5, -2.0]])


def test_retrieval_of_a_single_logit():
    model = affine([[1], [1]], [0])
    metric = ClassRetrieval(model, [[1.0, -2.0], [1.0, -2.0]], [1, 0])
    np.testing.assert_array_equal(metric.evaluate_samples([[1, 0], [1, 1]]), [1, 1])
    np.testing.assert_array_equal(metric.evaluate_samples([[1, 1], [1, 0]]), [0, 0])


def test_relevance_by_hand():
    """p(class 1) with features left: {0, 1} .9, {0} .5, {1} .7, none .1."""
    table = {(1, 1): 0.9, (1, 0): 0.5, (0, 1): 0.7, (0, 0): 0.1}

    def probabilities(x):
        left, right = x[:, 0], x[:, 1]
        p = 0.1 + 0.4 * left + 0.6 * right - 0.2 * left * right
        return tf.stack([1 - p, p], axis=1)

    metric = FeatureRelevance(probabilities, np.ones((2, 2)), [1, 1], steps=2)
    result = metric.detailed_evaluate([[2.0, 1.0], [1.0, 2.0]])

    def area(*states):
        p = [table[state] for state in states]
        return (p[0] + 2 * p[1] + p[2]) / 4

    kept = np.array([area((1, 1), (1, 0), (0, 0)), area((1, 1), (0, 1), (0, 0))])
    deleted = kept[::-1]
    np.testing.assert_allclose(result.preservation, kept, rtol=1e-6)
    np.testing.assert_allclose(result.deletion, deleted, rtol=1e-6)
    np.testing.assert_allclose(result.scores, 2 / (1 / kept + 1 / (1 - deleted)), rtol=1e-6)
    overall = 2 / (1 / kept.mean() + 1 / (1 - deleted.mean()))
    assert result.overall == pytest.approx(overall)
    assert metric.evaluate([[2.0, 1.0], [1.0, 2.0]]) == pytest.approx(result.scores.mean())
    with pytest.raises(ValueError, match="activation='softmax'"):
        FeatureRelevance(lambda x: 3 * x, np.ones((2, 2)), [1, 1]).evaluate(np.eye(2))


def test_similarity_by_hand():
    first = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]]
    other = [[10.0, 30.0, 20.0, 40.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]]
    np.testing.assert_allclose(rank_correlation(first, other), [0.8, -1, 0])
    tied = rank_correlation([[1.0, 1.0, 2.0]], [[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(tied, [np.sqrt(3) / 2])
    np.testing.assert_allclose(top_k_overlap(first, other, 2), [0.5, 0, 0])
    np.testing.assert_allclose(top_k_overlap(first, other, 4), [1, 1, 1])
    for bad, message in [(0, "from 1 to 4"), (5, "from 1 to 4")]:
        with pytest.raises(ValueError, match=message):
            top_k_overlap(first, other, bad)
    with pytest.raises(ValueError, match="one shape"):
        rank_correlation(first, np.ones((3, 3)))
    with pytest.raises(ValueError, match="NaN"):
        rank_correlation(first, np.full((3, 4), np.nan))


def test_learned_masks_are_more_relevant_than_saliency(model, images):
    sharp = keras.Sequential([keras.Input(SHAPE), model, L.Rescaling(8.0)])
    labels = sharp.predict(images, verbose=0).argmax(1)
    explainer = RelEx(sharp, nb_samples=10, form="pull")
    masks, pulls = explainer.masks(images, labels), explainer.explain(images, labels)
    saliency = Saliency(sharp)(images, labels)
    relevance = FeatureRelevance(sharp, images, labels, activation="softmax", steps=20)
    scores = [relevance.evaluate(maps) for maps in (pulls, masks, saliency)]
    assert scores == sorted(scores, reverse=True)
    assert scores[1] > scores[2] + 0.1
    assert ClassRetrieval(sharp, images, labels).evaluate(masks) == 1
