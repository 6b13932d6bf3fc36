"""EVA and EVAHybrid: against brute force, by hand, and by Xplique's conventions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import adversarial_points, in_float64
from networks import NETWORKS, functional, sequential
from tiny_networks import tiny

from xcertify.attributions import EVA, EVAHybrid, SampledEVA
from xcertify.attributions.overlaps import smooth_maximum
from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.grid import grid_cells
from xcertify.radii import ContradictionError
from xcertify.regions import Ball
from xcertify.targets import margin_rows
from xcertify.usefulness import VacuousWarning

L = keras.layers
SETTINGS = {
    "one-pass": {"mode": "one-pass"},
    "one-pass by intervals": {"mode": "one-pass", "method": "crown-ibp"},
    "exact": {"mode": "exact"},
    "exact ibp": {"mode": "exact", "method": "ibp"},
    "separate": {"mode": "exact", "method": "crown-ibp", "overlap": "separate"},
    "one-pass separate": {"mode": "one-pass", "overlap": "separate"},
}


def images(nb_samples=3, shape=(6, 7, 2), seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (nb_samples, *shape)).astype("float32")


def true_overlap(model, points, classes):
    """Largest overlap over points (P, N, *shape), by brute force in float64."""
    exact = in_float64(model)
    values = exact(points.reshape(-1, *points.shape[2:]), training=False).numpy()
    values = values.reshape(*points.shape[:2], -1)
    own = np.take_along_axis(values, classes[None, :, None], axis=-1)[..., 0]
    others = np.where(np.arange(values.shape[-1]) == classes[:, None], -np.inf, values).max(-1)
    return (others - own).max(axis=0)


@pytest.fixture(scope="module")
def attained():
    """Overlaps of the worst points found of a region, (N,), and with each of four cells held."""
    model, inputs = NETWORKS["convolutions"](), images()
    classes = model.predict(inputs, verbose=0).argmax(1)
    region, exact = Ball(inputs, 0.05, clip=(0, 1)), in_float64(model)
    cells = grid_cells((6, 7, 2), 2)
    full = true_overlap(model, adversarial_points(exact, region, 30, 0), classes)
    fixed = []
    for cell in range(4):
        mask = np.broadcast_to((cells == cell)[..., None], inputs.shape[1:])
        points = adversarial_points(exact, region.fix(mask), 30, cell)
        fixed.append(true_overlap(model, points, classes))
    return model, inputs, classes, full, np.stack(fixed, axis=1)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("setting", SETTINGS)
def test_certified_overlaps_are_never_beaten(setting, attained):
    model, inputs, classes, full, fixed = attained
    explainer = EVA(model, epsilon=0.05, clip=(0, 1), grid_size=2, **SETTINGS[setting])
    certificate = explainer.certify(inputs)
    np.testing.assert_array_equal(certificate.targets, classes)
    np.testing.assert_array_equal(certificate.cells, grid_cells((6, 7, 2), 2))
    assert (full <= certificate.overlap).all()
    assert (fixed <= certificate.cell_overlaps).all()
    assert (certificate.robust == (certificate.overlap < 0)).all()


@pytest.mark.usefixtures("eager")
def test_attacked_overlaps_are_attained_and_never_above_the_proved_ones():
    model = NETWORKS["convolutions"]()
    inputs, labels = images(4), np.array([1, 0, 2, 1])
    for norm, epsilon in [(np.inf, 0.1), (2, 0.5)]:
        explainer = EVA(model, epsilon, norm, clip=(0, 1), grid_size=2, attack=True)
        certificate = explainer.certify(inputs, labels)
        assert (certificate.attacked <= certificate.certified).all()
        region = Ball(inputs, epsilon, norm, clip=(0, 1))
        sampled = true_overlap(model, np.concatenate([inputs[None], region.sample(50)]), labels)
        assert (certificate.attacked > sampled).all()
        assert ", attacked " in repr(certificate)
    assert EVA(model, grid_size=2).certify(inputs).attacked is None


@pytest.mark.usefixtures("eager")
def test_attacked_overlaps_by_hand():
    model = sequential((3,), L.Dense(2))
    model.set_weights([np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]), np.array([5.0, 0.0])])
    certificate = EVA(model, epsilon=0.1, attack=True).certify(np.zeros((1, 3)))
    np.testing.assert_allclose(certificate.attacked, [-4.4], rtol=1e-6)  # -5 + 0.1 (1 + 2 + 3)
    single = sequential((2,), L.Dense(1, "sigmoid"))
    single.set_weights([np.array([[1.0], [-2.0]]), np.array([1.0])])
    certificate = EVA(single, 0.1, attack=True).certify(np.array([[0.0, 0.0], [0.0, 3.0]]))
    np.testing.assert_allclose(certificate.attacked, [-0.7, -4.7], rtol=1e-6)


@pytest.mark.usefixtures("eager")
def test_an_overlap_above_the_proved_one_is_reported(monkeypatch):
    explainer = EVA(NETWORKS["convolutions"](), 0.1, grid_size=2, mode="exact", attack=True)
    bound = explainer._bound

    def wrong_bound(region, overlap):
        return bound(region, overlap) - 100 * (region.center[:, 0, 0, 0] == images()[1, 0, 0, 0])

    monkeypatch.setattr(explainer, "_bound", wrong_bound)
    with pytest.raises(ContradictionError, match="found an overlap at .* for input 1"):
        explainer.certify(images())


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("overlap", ["margin", "separate"])
def test_exact_scores_by_a_loop(overlap, temperature):
    model = NETWORKS["convolutions"]()
    inputs, labels = images(2), np.array([1, 0])
    settings = {"overlap": overlap, "temperature": temperature, "method": "crown-ibp"}
    explainer = EVA(model, 0.1, grid_size=3, mode="exact", **settings)
    maps = explainer.explain(inputs, labels)
    verifier = Verifier(model, "crown-ibp")
    cells = grid_cells((6, 7, 2), 3)

    def largest(bounds):
        if temperature == 0:
            return bounds.max()
        return temperature * np.log(np.exp(bounds.astype(float) / temperature).sum())

    def bound(region, label):
        if overlap == "margin":
            rows = np.delete(np.eye(3) - np.eye(3)[label], label, axis=0)
            return largest(verifier.bound_rows(region, rows.astype("f4"))[1][0])
        lower, upper = verifier.bound_outputs(region)
        return largest(np.delete(upper[0], label)) - lower[0, label]

    for sample, label in enumerate(labels):
        region = Ball(inputs[sample : sample + 1], 0.1)
        full = bound(region, label)
        for cell in range(9):
            mask = np.repeat((cells == cell)[..., None], 2, axis=-1)
            expected = max(full - bound(region.fix(mask), label), 0)
            np.testing.assert_allclose(maps[sample, cells == cell, 0], expected, atol=2e-5)


@pytest.mark.usefixtures("eager")
def test_temperature_changes_maps_and_not_certificates():
    model, inputs = NETWORKS["convolutions"](), images()
    cold, warm = (EVA(model, 0.1, grid_size=3, temperature=t) for t in (0, 3))
    assert np.abs(cold(inputs) - warm(inputs)).max() > 1e-3
    first, second = cold.certify(inputs), warm.certify(inputs)
    np.testing.assert_array_equal(first.overlap, second.overlap)
    np.testing.assert_array_equal(first.cell_overlaps, second.cell_overlaps)
    almost = EVA(model, 0.1, grid_size=3, temperature=1e-4)
    np.testing.assert_allclose(almost(inputs), cold(inputs), atol=1e-3)


def test_smooth_maximum_by_hand():
    values = np.array([[1.0, 1.0, -800.0], [0.0, np.inf, 2.0], [-np.inf, 3.0, -np.inf]])
    expected = [1 + 2 * np.log(2), np.inf, 3.0]
    np.testing.assert_allclose(smooth_maximum(values, 2.0), expected)
    np.testing.assert_array_equal(smooth_maximum(values, 0), [1.0, np.inf, 3.0])


def test_sampled_overlaps_by_a_loop_and_below_the_bound():
    model = NETWORKS["convolutions"]()
    inputs, labels = images(2), np.array([1, 0])
    settings = {"epsilon": 0.1, "grid_size": 2, "temperature": 0}
    sampled = SampledEVA(model, nb_samples=20, seed=3, **settings)
    region = Ball(inputs, 0.1)
    points = region.sample(20, seed=3)
    attained = true_overlap(model, points, labels)
    found = sampled._overlaps(region, sampled._overlap(inputs, labels))
    np.testing.assert_allclose(found.full, attained, rtol=1e-5)
    cells = grid_cells((6, 7, 2), 2)
    for cell in range(4):
        held = np.where((cells == cell)[..., None], inputs, points)
        expected = np.minimum(true_overlap(model, held, labels), attained)
        np.testing.assert_allclose(found.fixed[:, cell], expected, rtol=1e-5)
        maps = sampled(inputs, labels)[:, cells == cell, 0]
        np.testing.assert_allclose(maps, (attained - expected)[:, None] + 0 * maps, atol=1e-5)
    certificate = EVA(model, **settings).certify(inputs, labels)
    assert (found.full < certificate.overlap).all()
    np.testing.assert_array_equal(sampled(inputs, labels), sampled(inputs, labels))
    small = SampledEVA(model, nb_samples=20, seed=3, batch_size=7, **settings)
    np.testing.assert_allclose(small(inputs, labels), sampled(inputs, labels), atol=1e-6)
    assert not hasattr(sampled, "certify")


@pytest.mark.usefixtures("eager")
def test_one_pass_and_exact_agree_on_an_affine_model():
    model = sequential((8,), L.Dense(5), L.Dense(3))
    inputs = np.random.default_rng(1).uniform(0, 1, (4, 8)).astype("f4")
    maps = [EVA(model, 0.2, clip=(0, 1), mode=mode)(inputs) for mode in ("one-pass", "exact")]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-5)


def test_two_classes_by_hand():
    model = sequential((3,), L.Dense(2))
    model.set_weights([np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]), np.array([5.0, 0.0])])
    # Margin f_1 - f_0 = -x0 + 2 x1 + 3 x2 - 5: fixing a feature takes |weight| * epsilon away.
    explainer = EVA(model, epsilon=0.1)
    np.testing.assert_allclose(explainer(np.zeros((1, 3))), [[0.1, 0.2, 0.3]], rtol=1e-5)
    certificate = explainer.certify(np.zeros((1, 3)))
    np.testing.assert_allclose(certificate.overlap, [-4.4], rtol=1e-6)
    assert certificate.robust.all()
    certificate = EVA(model, epsilon=1.0).certify(np.zeros((1, 3)))
    np.testing.assert_allclose(certificate.overlap, [1.0], rtol=1e-5)
    np.testing.assert_allclose(certificate.cell_overlaps, [[0.0, -1.0, -2.0]], atol=1e-5)
    assert not certificate.robust.any()


def test_l2_by_hand():
    model = sequential((2,), L.Dense(2))
    model.set_weights([np.array([[0.0, 3.0], [0.0, 4.0]]), np.array([10.0, 0.0])])
    for mode in ("one-pass", "exact"):
        maps = EVA(model, epsilon=1.0, norm=2, mode=mode)(np.zeros((1, 2)))
        np.testing.assert_allclose(maps, [[1.0, 2.0]], rtol=1e-5)


@pytest.mark.parametrize("mode", ["one-pass", "exact"])
def test_targeted_halves_by_hand(mode):
    model = sequential((3,), L.Dense(3))
    weights = np.array([[0.0, 2.0, 9.0], [0.0, -1.0, 9.0], [1.0, 1.0, 9.0]])
    model.set_weights([weights, np.array([5.0, 0.0, -50.0])])
    explainer = EVA(model, epsilon=0.5, mode=mode)
    result = explainer.explain_targeted(np.zeros((1, 3)), towards=[1])
    np.testing.assert_allclose(result.positive, [[1.0, 0.0, 0.0]], atol=1e-5)
    np.testing.assert_allclose(result.negative, [[0.0, 0.5, 0.0]], atol=1e-5)
    with pytest.raises(ValueError, match="another class"):
        explainer.explain_targeted(np.zeros((1, 3)), towards=[0])


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_single_output_counts_as_two_classes(activation):
    model = sequential((2,), L.Dense(1, activation))
    model.set_weights([np.array([[1.0], [-2.0]]), np.array([1.0])])
    certificate = EVA(model, epsilon=0.1).certify(np.array([[0.0, 0.0], [0.0, 3.0]]))
    assert (certificate.targets == [1, 0]).all()
    # Logits 1 and -5, moved by at most .3.
    np.testing.assert_allclose(certificate.overlap, [-0.7, -4.7], rtol=1e-5)


def test_conventions_of_xplique():
    model = NETWORKS["convolutions"]()
    inputs, labels = images(), np.array([0, 1, 2])
    explainer = EVA(model, epsilon=0.05, grid_size=3)
    maps = explainer.explain(inputs, labels)
    assert maps.shape == (3, 6, 7, 1) and maps.dtype == np.float32
    assert np.isfinite(maps).all() and (maps.max(axis=(1, 2, 3)) > 0).all()
    one_hot = tf.one_hot(labels, 3)
    dataset = tf.data.Dataset.from_tensor_slices((inputs, one_hot)).batch(2)
    others = [
        explainer(inputs, labels),
        explainer.explain(inputs=inputs, targets=one_hot),
        explainer(tf.constant(inputs), one_hot),
        explainer(dataset),
        EVA(model, epsilon=0.05, grid_size=3, batch_size=1)(inputs, labels),
    ]
    for other in others:
        np.testing.assert_allclose(maps, other, atol=1e-6)
    predicted = model.predict(inputs, verbose=0).argmax(1)
    np.testing.assert_allclose(explainer(inputs), explainer(inputs, predicted), atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (5, 3)])
def test_tabular_and_time_series(shape):
    model = sequential(shape, L.Flatten(), L.Dense(6, "relu"), L.Dense(3))
    maps = EVA(model, epsilon=0.1, grid_size=None)(images(4, shape))
    assert maps.shape == (4, *shape)
    assert EVA(model, epsilon=0.1, mode="exact")(images(2, shape)).shape == (2, *shape)


def test_the_model_is_read_lazily_and_can_be_replaced():
    first, second = NETWORKS["convolutions"](), NETWORKS["average_pooling"]()
    explainer = EVA(first, epsilon=0.05)
    inputs = images(2)
    before = explainer(inputs)
    explainer.model = sequential((6, 7, 2), L.Flatten(), L.Dense(3), seed=5)
    assert np.abs(explainer(inputs) - before).max() > 1e-4
    explainer.model = second
    assert explainer(images(2, (7, 6, 2))).shape == (2, 7, 6, 1)


@pytest.mark.usefixtures("eager")
def test_softmax_head_is_explained_at_its_logits():
    logits = NETWORKS["convolutions"]()
    outputs = L.Softmax()(logits.outputs[0])
    model = keras.Model(logits.inputs[0], outputs)
    np.testing.assert_allclose(EVA(model, 0.05)(images()), EVA(logits, 0.05)(images()), atol=1e-6)


@pytest.mark.usefixtures("eager")
def test_hybrid_lies_between_the_attack_and_the_bound():
    model = NETWORKS["convolutions"]()
    inputs = images()
    first = model.layers[0].name
    region = Ball(inputs, 0.05)
    # Intervals are monotone: the box of samples lies in the proved one, and so do its bounds.
    settings = {"epsilon": 0.05, "grid_size": 2, "method": "ibp"}
    hybrid = EVAHybrid(model, first, nb_samples=200, **settings)
    classes = model.predict(inputs, verbose=0).argmax(1)
    estimate = hybrid._overlaps(region, hybrid._overlap(inputs, classes))
    attained = true_overlap(model, region.sample(200), classes)
    assert (attained <= estimate.full + 1e-5).all()
    assert (estimate.full <= EVA(model, mode="exact", **settings).certify(inputs).overlap).all()
    np.testing.assert_array_equal(hybrid(inputs), hybrid(inputs))
    assert (
        np.abs(hybrid(inputs) - EVAHybrid(model, first, 200, **settings, seed=1)(inputs)).max() > 0
    )
    small = EVAHybrid(model, first, nb_samples=200, **settings, batch_size=60)
    np.testing.assert_allclose(small(inputs), hybrid(inputs), atol=1e-5)
    assert not hasattr(hybrid, "certify")


class Cube(L.Layer):
    """A layer without a rule."""

    def call(self, inputs):
        return inputs**3


def test_hybrid_needs_rules_behind_the_latent_layer_only():
    inputs = keras.Input((4,))
    cube = Cube(name="cube")(inputs)
    model = functional(inputs, L.Dense(3)(L.Dense(5, "relu")(cube)))
    assert EVAHybrid(model, "cube", epsilon=0.1)(images(2, (4,))).shape == (2, 4)
    explainer = EVA(model)
    with pytest.raises(UnsupportedLayerError, match="cube"):
        explainer(images(2, (4,)))
    with pytest.raises(ValueError, match="calls once, of cube.*'nothing'"):
        EVAHybrid(model, "nothing")(images(2, (4,)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "fast"}, "'one-pass' or 'exact'. Received: 'fast'"),
        ({"overlap": "both"}, "'margin' or 'separate'. Received: 'both'"),
        ({"temperature": -1}, "temperature must be 0 .* Received: -1"),
        ({"method": "ibp"}, "use mode='exact'. Received: method='ibp'"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"epsilon": -1}, "epsilon is negative"),
        ({"clip": (0.9, 1)}, "leave the valid range"),
        ({"grid_size": 0}, "grid_size must be"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        EVA(NETWORKS["convolutions"](), **settings)(images())


def test_bad_inputs():
    explainer = EVA(NETWORKS["convolutions"]())
    with pytest.raises(ValueError, match=r"shape \(N, 6, 7, 2\)"):
        explainer(images()[0])
    with pytest.raises(ValueError, match="one class per sample.*for sample 1"):
        explainer(images(2), [[1, 0, 0], [0.5, 0.5, 0]])
    with pytest.raises(ValueError, match="labels from 0 to 2"):
        explainer(images(2), [0, 3])


@pytest.mark.usefixtures("eager")
def test_certificate_says_what_was_proved():
    certificate = EVA(NETWORKS["convolutions"](), 0.01, clip=(0, 1)).certify(images())
    assert "radius 0.01 within (0.0, 1.0)" in repr(certificate) and "crown" in repr(certificate)
    fields = certificate.to_dict()
    assert fields["interval"]["certified"] == certificate.overlap.tolist()
    with pytest.raises(AttributeError):
        certificate.overlap = 0


def test_nothing_global_changes(capsys):
    state, numpy_state = tf.executing_eagerly(), np.random.get_state()[1].copy()
    EVA(NETWORKS["convolutions"](), 0.01, verbose=True, mode="exact", grid_size=2)(images())
    assert tf.executing_eagerly() == state
    assert (np.random.get_state()[1] == numpy_state).all()
    assert "15/15" in capsys.readouterr().err


def test_complete_certificates_decide_what_bounds_leave_open():
    model = tiny("relu", nb_inputs=3)
    inputs = np.random.default_rng(4).uniform(0, 1, (40, 3)).astype("float32")
    explainer = EVA(model, epsilon=0.25, attack=True)
    alone = explainer.certify(inputs)
    assert alone.decision is None and "to change" not in repr(alone)
    found = explainer.certify(inputs, complete=True, timeout=None)
    np.testing.assert_array_equal(found.overlap, alone.overlap)
    decision = found.decision
    assert not decision.unknown.any()
    np.testing.assert_array_equal(found.robust, decision.holds)
    assert (found.robust & ~alone.robust).any(), "bounds alone prove all of it"
    assert (decision.reason[alone.robust] == "bounds").all()
    assert (decision.holds == (decision.lower > 0)).all()
    points = decision.counterexamples[decision.violated]
    assert (np.abs(points - inputs[decision.violated]) <= 0.25 + 1e-6).all()
    changed = model.predict(points, verbose=0).argmax(axis=1)
    assert (changed != found.targets[decision.violated]).all()
    words = found.to_dict()["decision"]
    assert words["status"] == decision.status.tolist()
    assert (words["counterexamples"][int(np.argmax(decision.violated))]) is not None
    assert f"and {int(decision.violated.sum())} to change" in repr(found)


def test_complete_certificates_in_no_time_are_those_of_bounds():
    model = sequential((3,), L.Dense(8, "relu"), L.Dense(3))
    inputs = np.random.default_rng(4).uniform(0, 1, (6, 3)).astype("float32")
    found = EVA(model, epsilon=0.3).certify(inputs, complete=True, timeout=0.0)
    assert (found.robust >= EVA(model, epsilon=0.3).certify(inputs).robust).all()
    with pytest.raises(ValueError, match="timeout"):
        EVA(model, epsilon=2.0).certify(inputs, complete=True, timeout=-1)


def dead_but_one(weight=-1.5, bias=2.0):
    """A logit ``bias + weight relu(x1 - x2)``."""
    model = sequential((3,), L.Dense(1, "relu", use_bias=False), L.Dense(1))
    kernels = np.float32([[1.0], [-1.0], [0.0]]), np.float32([[weight]])
    model.layers[0].kernel.assign(kernels[0])
    model.layers[1].kernel.assign(kernels[1])
    model.layers[1].bias.assign([bias])
    return model


@pytest.mark.parametrize("mode", ["one-pass", "exact"])
def test_a_map_is_not_zero_where_the_lines_under_relu_are_constant(mode):
    """x1 - x2 in [-.21, .19]: CROWN's line under the ReLU is 0, as if nothing depended on x.

    The line of slope .19 / .4 is valid, too: it gives x1 and x2 one score each, x3 none.
    """
    model = dead_but_one(weight=1.5, bias=2.0)  # class 1: the overlap is -2 - 1.5 relu(x1 - x2)
    inputs = np.float32([[0.49, 0.5, 0.5]])
    explainer = EVA(model, epsilon=0.1, mode=mode, temperature=0.0)
    (scores,) = explainer.explain(inputs)
    slope = 0.19 / 0.4
    np.testing.assert_allclose(scores, [0.15 * slope, 0.15 * slope, 0.0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(explainer.certify(inputs).overlap, -2.0, rtol=1e-5)


def test_only_maps_of_zeros_are_made_of_other_lines():
    model = dead_but_one(weight=1.5)
    inputs = np.float32([[0.49, 0.5, 0.5], [0.6, 0.5, 0.5]])
    maps = EVA(model, epsilon=0.1).explain(inputs)
    np.testing.assert_array_equal(maps[1:], EVA(model, epsilon=0.1).explain(inputs[1:]))
    targeted = EVA(model, epsilon=0.1).explain_targeted(inputs, towards=0)
    assert targeted.positive[0].max() > 0


@pytest.mark.parametrize("mode", ["one-pass", "exact"])
def test_a_map_of_zeros_is_not_silent(mode):
    inputs = np.float32([[0.1, 0.5, 0.5], [0.9, 0.5, 0.5]])  # the ReLU is dead in the first region
    with pytest.warns(VacuousWarning, match="1 of 2 maps are zero everywhere, first that"):
        maps = EVA(dead_but_one(), epsilon=0.1, mode=mode).explain(inputs)
    assert (maps[0] == 0).all() and maps[1].max() > 0


@pytest.mark.parametrize("method", ["crown", "crown-ibp"])
def test_one_pass_certifies_no_less_than_the_verifier(method):
    model, inputs = NETWORKS["convolutions"](), images()
    for epsilon in (0.01, 0.1, 0.5, 2.0):
        certificate = EVA(model, epsilon=epsilon, method=method).certify(inputs)
        rows = margin_rows(certificate.targets, 3)
        for name in (method, "ibp"):
            proved = Verifier(model, name).bound_rows(certificate.region, rows)[1].max(axis=1)
            assert (certificate.overlap <= proved).all()
        assert (certificate.cell_overlaps <= certificate.overlap[:, None]).all()


def test_latent_layers_that_not_all_paths_go_through_are_refused():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, "relu", name="latent")(inputs)
    both = keras.layers.Concatenate()([hidden, inputs])
    model = keras.Model(inputs, keras.layers.Dense(2)(both))
    with pytest.raises(ValueError, match="latent_layer must be a layer that all paths.*'latent'"):
        EVAHybrid(model, "latent").explain(np.zeros((1, 4), "float32"))
