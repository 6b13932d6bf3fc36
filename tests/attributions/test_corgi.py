"""CORGI: by hand on affine maps, against attacks on networks, and by the rules of its search."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance import adversarial_points, in_float64
from networks import functional, sequential

from xcertify.attacks import MinimalTopK
from xcertify.attributions import CORGI, GradCAM
from xcertify.attributions.cell_order import FORMS, WholeMap
from xcertify.bounds import Verifier
from xcertify.radii import ContradictionError
from xcertify.regions import Ball

L = keras.layers
SHAPE = (8, 8, 2)


def images(nb_samples=3, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (nb_samples, *shape)).astype("float32")


def plain():
    return sequential(
        SHAPE,
        L.Conv2D(3, 3, padding="same", activation="relu"),
        L.MaxPooling2D(2),
        L.Conv2D(4, 3, padding="same", activation="relu", name="last"),
        L.GlobalAveragePooling2D(),
        L.Dense(3),
    )


def residual():
    inputs = keras.Input(SHAPE)
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, strides=2, padding="same")(inputs)))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(x)))
    x = L.ReLU(name="top")(L.Add()([x, L.Conv2D(4, 3, padding="same")(y)]))
    x = L.Dropout(0.5)(L.BatchNormalization()(L.GlobalAveragePooling2D()(x)))
    return functional(inputs, L.Dense(3, "softmax")(L.Dense(5)(x)))


def identity(nb_cells=2):
    """A model whose map of class 0 is the input, of class 1 its negative."""
    layers = [L.Conv2D(1, 1, name="map"), L.GlobalAveragePooling2D(), L.Dense(2)]
    model = sequential((1, nb_cells, 1), *layers)
    weights = [np.ones((1, 1, 1, 1)), np.zeros(1), np.array([[1.0, -1.0]]), np.array([0.5, 0.0])]
    model.set_weights(weights)
    return model


@pytest.fixture(scope="module")
def net():
    return plain()


# --- the map ------------------------------------------------------------------------------------


def test_the_map_by_hand(net):
    x, labels = images(), np.array([2, 0, 1])
    maps = CORGI(net, resize=False).explain(x, labels)
    channels = keras.Model(net.inputs[0], net.get_layer("last").output)(x).numpy()
    kernel, bias = net.layers[-1].get_weights()
    expected = np.einsum("nhwc,nc->nhw", channels, kernel.T[labels])[..., None]
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)
    logits = net(x).numpy()[np.arange(3), labels]
    np.testing.assert_allclose(maps.mean(axis=(1, 2, 3)) + bias[labels], logits, rtol=1e-4)
    resized = CORGI(net).explain(x, np.eye(3)[labels])
    assert resized.shape == (3, 8, 8, 1) and resized.dtype == np.float32
    np.testing.assert_allclose(resized.mean(axis=(1, 2, 3)), maps.mean(axis=(1, 2, 3)), rtol=0.3)


def test_affine_layers_of_the_head_are_multiplied_together():
    model, x = residual(), images()
    maps = CORGI(model, resize=False).explain(x, [0, 1, 2])
    logits = keras.Model(model.inputs[0], model.layers[-2].output)(x).numpy()
    kernel, bias = model.layers[-1].get_weights()
    logits = logits @ kernel + bias
    # The mean of a map is the logit without the bias, which is the same for all inputs.
    differences = maps.mean(axis=(1, 2, 3)) - np.diagonal(logits)
    others = CORGI(model, resize=False).explain(x[::-1], [0, 1, 2])
    again = others.mean(axis=(1, 2, 3)) - np.diagonal(logits[::-1])
    np.testing.assert_allclose(differences, again, atol=1e-4)


@pytest.mark.usefixtures("eager")
def test_another_global_pooling_by_name(net):
    x = net.get_layer("last").output
    pooled = L.Dropout(0.1)(L.Flatten()(L.AveragePooling2D(4)(x)))
    model = keras.Model(net.inputs[0], net.layers[-1](pooled))
    named = CORGI(model, conv_layer="last", k=4, attack=None, form="map", method="ibp")
    other = CORGI(net, k=4, attack=None, form="map", method="ibp")
    np.testing.assert_allclose(named(images()), other(images()), rtol=1e-5)
    radii = [explainer.certify(images()).radius for explainer in (named, other)]
    np.testing.assert_allclose(*radii, rtol=0.02)


def test_a_single_logit_is_two_classes():
    model = sequential(
        SHAPE, L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(1, "sigmoid")
    )
    explainer = CORGI(model)
    np.testing.assert_allclose(
        explainer(images(2), [0, 0]), -explainer(images(2), [1, 1]), atol=1e-6
    )
    predicted = (model(images(4)).numpy()[:, 0] > 0.5).astype(int)
    np.testing.assert_array_equal(explainer(images(4)), explainer(images(4), predicted))


def test_current_weights_are_used():
    model, x = plain(), images()
    explainer = CORGI(model, k=3, attack=None, form="map", method="crown-ibp")
    maps, radius = explainer(x, [0, 1, 2]), explainer.certify(x, [0, 1, 2]).radius
    weights = model.get_weights()
    weights[-2] = 2 * weights[-2]
    weights[0], weights[1] = 3 * weights[0], 3 * weights[1]
    model.set_weights(weights)
    np.testing.assert_array_equal(explainer(x, [0, 1, 2]).shape, maps.shape)
    fresh = CORGI(model, k=3, attack=None, form="map", method="crown-ibp")
    np.testing.assert_array_equal(explainer(x, [0, 1, 2]), fresh(x, [0, 1, 2]))
    again = explainer.certify(x, [0, 1, 2]).radius
    np.testing.assert_array_equal(again, fresh.certify(x, [0, 1, 2]).radius)
    assert (again != radius).any()


@pytest.mark.usefixtures("eager")
def test_the_model_does_not_learn_of_its_explainers(net):
    before = [len(layer._outbound_nodes) for layer in net.layers], net.to_json()
    name = keras.layers.Dense(1).name
    CORGI(net, k=3, form="map", method="ibp", attack=None).certify(images())
    assert before == ([len(layer._outbound_nodes) for layer in net.layers], net.to_json())
    number = int(name.rpartition("_")[2]) if "_" in name else 0
    assert keras.layers.Dense(1).name == f"dense_{number + 1}"


def test_models_without_such_a_map_are_refused(net):
    channels = net.get_layer("last").output
    pooled = L.GlobalAveragePooling2D()(channels)
    flat = keras.Model(net.inputs[0], L.Dense(3)(L.Flatten()(channels)))
    with pytest.raises(ValueError, match="GlobalAveragePooling2D.*conv_layer.*Received"):
        CORGI(flat, explanation="cam").explain(images())
    with pytest.raises(ValueError, match="cells count differently"):
        CORGI(flat, conv_layer="last", explanation="cam").explain(images())
    bent = keras.Model(net.inputs[0], L.Dense(3)(L.Dense(4, "relu", name="bent")(pooled)))
    with pytest.raises(ValueError, match="affine layers.*nonlinear layers there: bent"):
        CORGI(bent, explanation="cam").explain(images())
    side = keras.Model(net.inputs[0], L.Dense(3)(L.Concatenate()([pooled, L.Flatten()(channels)])))
    with pytest.raises(ValueError, match="affine layers.*all paths go through"):
        CORGI(side, explanation="cam").explain(images())
    with pytest.raises(ValueError, match="the layer must be one that the model calls once"):
        CORGI(net, conv_layer="nothing").explain(images())
    with pytest.raises(ValueError, match="channels of an image"):
        CORGI(net, conv_layer=net.layers[-1].name).explain(images())


# --- certificates by hand -----------------------------------------------------------------------


CELLS = np.array([[0.9, 0.5, 0.47, 0.3, 0.1], [0.2, 0.9, 0.8, 0.25, 0.3]], "float32")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("form", "method", "norm", "sharpness"),
    [
        ("per-channel", "ibp", np.inf, 2),
        ("map", "crown-ibp", np.inf, 2),
        ("map", "crown", 2, 2),
        ("pairwise", "ibp", np.inf, 2),
        ("pairwise", "crown", 2, np.sqrt(2)),  # a difference has one gradient, of length sqrt(2)
        ("lipschitz", "ibp", np.inf, 2),
        ("lipschitz", "ibp", 2, np.sqrt(2)),
    ],
)
def test_radii_of_an_affine_map_by_hand(form, method, norm, sharpness):
    settings = {"norm": norm, "form": form, "method": method, "tolerance": 1e-3, "attack": None}
    explainer = CORGI(identity(5), k=2, **settings)
    x = CELLS[:, None, :, None]
    # The map of class 1 is turned over.
    certificate = explainer.certify(np.concatenate([x, x]), [0, 0, 1, 1])
    np.testing.assert_allclose(certificate.gap[:2], [0.03, 0.5], rtol=1e-5)
    np.testing.assert_array_equal(certificate.cells, [[0, 1], [1, 2], [4, 3], [0, 3]])
    radii = np.array([0.03, 0.5, 0.17, 0.05]) / sharpness
    np.testing.assert_allclose(certificate.radius, radii, rtol=2e-3)
    assert (certificate.radius < radii).all()
    # Among the top 3: one cell may come past, the next one not.
    explainer.k2 = 3
    relaxed = explainer.certify(x, [0, 0]).radius
    np.testing.assert_allclose(relaxed, np.array([0.2, 0.55]) / sharpness, rtol=2e-3)


@pytest.mark.parametrize("climb", ["gap", "sum"])
@pytest.mark.parametrize(("norm", "sharpness"), [(np.inf, 2), (2, np.sqrt(2))])
def test_attacks_of_an_affine_map_by_hand(climb, norm, sharpness):
    explainer = CORGI(identity(5), k=2, norm=norm, form="pairwise", method="ibp", attack=climb)
    certificate = explainer.certify(CELLS[:, None, :, None], [0, 0])
    # The sum of the top k falls with both of its cells, and nothing else rises.
    best = np.array([0.03, 0.5]) / sharpness
    if climb == "sum":
        best = best * sharpness * (1 if np.isinf(norm) else np.sqrt(2))
    assert (certificate.attacked >= best).all()
    np.testing.assert_allclose(certificate.attacked, best, rtol=0.02)


@pytest.mark.usefixtures("eager")
def test_the_attack_looks_at_the_smallest_radius_first():
    """Also where it is the largest one, and nowhere beyond."""
    x, top = np.array([[0.5, 0.4], [0.5, 0.2]], "float32"), np.array([[True, False]] * 2)
    attack = MinimalTopK(lambda points, data: points, lambda points, data: points.astype("f8"))
    attack.steps = 3
    found = attack(x, np.ones((2, 1), "float32"), top, 1, np.full(2, 0.06), 0.06)
    np.testing.assert_array_equal(found.found, [True, False])
    np.testing.assert_allclose(found.distances[0], 0.05, rtol=2e-3)


@pytest.mark.usefixtures("eager")
def test_clip_and_class_radius_by_hand():
    x = np.array([[1.0, 0.6, 0.5]], "float32")[:, None, :, None]
    settings = {"form": "map", "method": "ibp", "tolerance": 1e-3, "attack": None}
    # The largest cell can only fall, the smallest only rise: half of the gap all the same, but
    # where the range ends earlier nothing can cross.
    free = CORGI(identity(3), k=1, **settings).certify(x, [0])
    np.testing.assert_allclose(free.radius, 0.2, rtol=2e-3)
    narrow = CORGI(identity(3), k=1, clip=([[[0.81]], [[0.0]], [[0.0]]], 1.0), **settings)
    with pytest.raises(ValueError, match="clip"):
        narrow.certify(x, [0])
    limits = np.array([0.95, 0.5, 0.4], "float32")[None, :, None], 1.0
    half = CORGI(identity(3), k=1, clip=limits, prediction=True, **settings).certify(x, [0])
    np.testing.assert_allclose(half.radius, 0.35, rtol=2e-3)  # 0.95 against 0.6 + 0.35
    # The margin is twice the mean plus 0.5, and the range keeps it above zero.
    assert half.prediction_radius > 0.99
    wide = CORGI(identity(3), k=1, prediction=True, largest_radius=10, **settings)
    wide = wide.certify(x, [0])
    np.testing.assert_allclose(wide.prediction_radius, 0.7 + 0.25, rtol=2e-3)
    np.testing.assert_array_equal(wide.joint_radius, wide.radius)
    with pytest.raises(ValueError, match="prediction=True"):
        _ = free.joint_radius


@pytest.mark.usefixtures("eager")
def test_ties_are_never_certified():
    x = np.array([[0.5, 0.5, 0.2], [0.5, 0.4, 0.4]], "float32")[:, None, :, None]
    explainer = CORGI(identity(3), k=1, method="ibp", attack=None)
    for explainer.form in FORMS:
        explainer.k2 = None
        radius = explainer.certify(x, [0, 0]).radius
        assert radius[0] == 0 and radius[1] > 0.04
        explainer.k2 = 2
        np.testing.assert_allclose(explainer.certify(x[:1], [0]).radius, 0.15, rtol=0.02)


# --- certificates of networks -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "form", "method", "norm"),
    [
        (plain, "per-channel", "ibp", np.inf),
        (plain, "map", "crown-ibp", 2),
        (plain, "lipschitz", "ibp", 2),
        (residual, "pairwise", "crown-ibp", np.inf),
    ],
)
def test_no_point_of_a_certified_ball_moves_a_cell_out(build, form, method, norm):
    model, x = build(), images()
    whole = form == "pairwise"  # everything that there is to ask, once
    settings = {"norm": norm, "clip": (0, 1), "attack": "gap" if whole else None}
    explainer = CORGI(model, 3, 4, form, method, prediction=whole, **settings)
    certificate = explainer.certify(x, [0, 1, 2])
    assert (certificate.radius > 0).all()
    if whole:
        assert (certificate.radius < certificate.attacked).all()
        assert (certificate.joint_radius <= certificate.prediction_radius).all()
    channels = in_float64(explainer._activation.models.body)
    region = Ball(x, certificate.radius, norm, (0, 1))
    points = adversarial_points(channels, region, 40, 0)
    weights = explainer._activation.target_rows(np.array([0, 1, 2])).astype("f8")
    values = channels(points.reshape(-1, *SHAPE)).numpy()
    values = values.reshape(len(points), 3, *values.shape[1:])
    maps = np.einsum("pnhwc,nc->pnhw", values, weights).reshape(len(points), 3, -1)
    for sample, cells in enumerate(certificate.cells):
        own = maps[:, sample, cells]
        rank = (maps[:, sample, None, :] >= own[:, :, None]).sum(axis=-1)
        assert (rank <= 4).all()


def test_tighter_forms_prove_more(net):
    x = images(4)
    explainer, radii = CORGI(net, k=4, method="crown", attack=None), {}
    for explainer.form in ("per-channel", "map", "pairwise"):
        radii[explainer.form] = explainer.certify(x).radius
    assert (radii["map"] >= 0.97 * radii["per-channel"]).all()
    assert (radii["pairwise"] >= 0.97 * radii["map"]).all()
    assert radii["map"].mean() > 1.1 * radii["per-channel"].mean()
    attacked = CORGI(net, k=4, form="map", method="ibp").certify(x).attacked
    assert (radii["pairwise"] < attacked).all() and (attacked < 2 * radii["pairwise"]).all()
    alone = np.concatenate([explainer.certify(x[i : i + 1]).radius for i in range(4)])
    np.testing.assert_allclose(alone, radii["pairwise"], rtol=0.03)
    explainer.batch_size = 3
    np.testing.assert_allclose(explainer.certify(x).radius, radii["pairwise"], rtol=0.03)
    explainer.nb_pairs = 1  # too few for the pairs that are open beyond what the map proves
    fewer = explainer.certify(x).radius
    assert (fewer >= 0.97 * radii["map"]).all() and (fewer <= 1.03 * radii["pairwise"]).all()
    assert fewer.sum() < radii["pairwise"].sum()


def test_the_certificate_says_what_it_is(net):
    explainer = CORGI(net, k=3, form="map", method="ibp", attack=None)
    certificate = explainer.certify(images(), [0, 1, 2])
    fields = json.loads(json.dumps(certificate.to_dict()))
    assert fields["interval"]["certified"] == certificate.radius.tolist()
    assert certificate.attacked is None and certificate.map_shape == (4, 4)
    assert repr(certificate).startswith(
        "<TopKCertificate: top 3 of 3 cam maps within the top 3, on "
    )
    np.testing.assert_array_equal(certificate.targets, [0, 1, 2])
    maps = CORGI(net, resize=False)(images(), [0, 1, 2]).reshape(3, -1)
    np.testing.assert_array_equal(certificate.cells, np.argsort(-maps, axis=1)[:, :3])


# --- Grad-CAM -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_grad_cam_of_a_cam_model_is_the_cam(net):
    x, labels = images(), np.array([2, 0, 1])
    settings = {"k": 3, "form": "pairwise", "method": "crown-ibp", "attack": None}
    cam, grad_cam = CORGI(net, **settings), CORGI(net, explanation="grad-cam", **settings)
    first, second = cam.certify(x, labels), grad_cam.certify(x, labels)
    np.testing.assert_array_equal(first.cells, second.cells)
    np.testing.assert_allclose(second.gap, first.gap / 16, rtol=1e-5)
    np.testing.assert_allclose(second.radius, first.radius, rtol=0.02)
    maps = np.maximum(CORGI(net, resize=False)(x, labels), 0) / 16
    grad_cam.resize = False
    np.testing.assert_allclose(grad_cam(x, labels), maps, atol=1e-6)


@pytest.mark.usefixtures("eager")
def test_the_map_that_a_model_allows(net):
    """Nothing has to be said for another head, nor for a small map."""
    channels = net.get_layer("last").output  # 4x4 cells
    flat = keras.Model(net.inputs[0], L.Dense(3)(L.Flatten()(channels)))
    pooled = L.GlobalAveragePooling2D()(channels)
    bent = keras.Model(net.inputs[0], L.Dense(3)(L.Dense(4, "relu")(pooled)))
    settings = {"method": "crown-ibp", "form": "map", "tolerance": 1.0, "attack": None}
    for model, kind in [(net, "cam"), (flat, "grad-cam"), (bent, "grad-cam")]:
        explainer = CORGI(model, **settings)
        assert explainer.kind == kind and explainer.explanation == "auto"
        named = CORGI(model, explanation=kind, **settings)
        np.testing.assert_array_equal(explainer(images()), named(images()))
    found = explainer.certify(images())
    assert (found.explanation, found.k, found.k2) == ("grad-cam", 8, 8)
    assert "top 8 of 3 grad-cam maps" in repr(found)
    assert CORGI(net, k2=3, **settings).certify(images()).k == 3
    for asked in ({"form": "lipschitz"}, {"attack": "sum"}):  # which are of one kind alone
        with pytest.raises(ValueError, match="GlobalAveragePooling2D"):
            CORGI(flat, **settings | asked).explain(images())
    one = sequential(SHAPE, L.Conv2D(3, 8, name="all"), L.GlobalAveragePooling2D(), L.Dense(3))
    with pytest.raises(ValueError, match="one cell.*an earlier layer, whose map is larger"):
        CORGI(one, **settings).certify(images())


def test_grad_cam_of_a_dense_head():
    model = sequential(
        SHAPE,
        L.Conv2D(3, 3, strides=2, padding="same", activation="relu", name="conv"),
        L.Flatten(),
        L.Dense(6, "relu"),
        L.Dense(3, "softmax"),
    )
    x, labels = images(), np.array([2, 0, 1])
    explainer = CORGI(model, 2, method="crown-ibp", explanation="grad-cam")
    np.testing.assert_allclose(explainer(x, labels), GradCAM(model)(x, labels), atol=1e-5)
    certificate = explainer.certify(x, labels)
    assert (certificate.radius > 0).sum() > 1
    assert (certificate.radius < certificate.attacked).all()
    logits = in_float64(
        keras.Model(model.inputs[0], L.Dense(3, name="end")(model.layers[-2].output))
    )
    logits.set_weights(model.get_weights())
    head = keras.Sequential(logits.layers[2:])
    conv = keras.Model(logits.inputs[0], logits.get_layer("conv").output)
    region = Ball(x, certificate.radius)
    points = adversarial_points(logits, region, 40, 0)
    rows = tf.one_hot(np.tile(labels, len(points)), 3, dtype="float64")
    channels = tf.constant(conv(points.reshape(-1, *SHAPE)))
    with tf.GradientTape() as tape:
        tape.watch(channels)
        score = tf.reduce_sum(head(channels) * rows)
    weights = tf.reduce_mean(tape.gradient(score, channels), axis=(1, 2), keepdims=True)
    maps = tf.reduce_sum(weights * channels, axis=-1).numpy().reshape(len(points), 3, -1)
    for sample in np.flatnonzero(certificate.radius):
        cells = certificate.cells[sample]
        top, others = maps[:, sample, cells], np.delete(maps[:, sample], cells, axis=1)
        assert (top.min(axis=1) > others.max(axis=1)).all()


# --- the search ---------------------------------------------------------------------------------


def test_the_search_returns_the_largest_radius_that_was_proved(net):
    explainer = CORGI(net, tolerance=0.02, batch_size=2)
    limits, tested = np.array([0.3, 2e-5, 0.0, 5.0, 0.01]), []

    def proves(some, radii):
        holes = (radii > 0.1) & (radii < 0.15)  # a proof that does not always get easier
        tested.extend(zip(some, radii, (radii <= limits[some]) & ~holes))
        return (radii <= limits[some]) & ~holes

    for known in (np.zeros(5), np.array([0.001, 1e-5, 0, 0.9, 0.0099])):
        tested.clear()
        search = explainer._search(known, "")
        for samples, radii in search:
            search.answer(proves(samples, radii))
        radius = search.held
        for sample, found in enumerate(radius):
            proved = [r for s, r, yes in tested if s == sample and yes]
            assert found == max([*proved, known[sample]])
        assert (radius <= np.maximum(limits, known)).all() and radius[2] == 0
        assert radius[1] > 2e-5 / 1.03 and radius[3] > 0.97 and radius[4] > 0.01 / 1.03


def test_an_attack_inside_a_certified_radius_is_reported(net, monkeypatch):
    """The attack looks inside what is certified, and both sides are compared."""
    x = images(2)
    explainer = CORGI(net, k=4, form="map", method="ibp")
    right = explainer.certify(x)
    assert np.isfinite(right.attacked).all()
    limits = {x[0].tobytes(): 0.0, x[1].tobytes(): 3 * right.attacked[1]}

    def wrong_bounds(form, maps, region, deviation, proved):
        radii = region.epsilon.ravel()
        within = [r < limits[x.tobytes()] for r, x in zip(radii, region.center)]
        return np.broadcast_to(np.reshape(within, (-1, 1, 1)), proved.shape)

    monkeypatch.setattr(WholeMap, "prove", wrong_bounds)
    with pytest.raises(ContradictionError, match="top 4 cells outside of the top 4 at .* input 1"):
        explainer.certify(x)


def test_bad_arguments(net):
    for settings, match in [
        ({"k": 0}, "k must be a whole number above 0"),
        ({"k2": 1.5}, "k2 must be a whole number"),
        ({"form": "both"}, "form must be one of per-channel, map.*Received: 'both'"),
        ({"method": "decomon:crown"}, "method must be a native one.*Received: 'decomon:crown'"),
        ({"attack": "pgd"}, "attack must be 'gap', 'sum' or None. Received: 'pgd'"),
        (
            {"explanation": "lime"},
            "explanation must be 'auto', 'cam' or 'grad-cam'. Received: 'lime'",
        ),
        ({"explanation": "grad-cam", "form": "lipschitz"}, "form='lipschitz' needs weights"),
        ({"explanation": "grad-cam", "attack": "sum"}, "attack='sum' is that of class"),
        ({"largest_radius": 0}, "largest_radius must be a number above 0. Received: 0"),
        ({"tolerance": -1}, "tolerance must be a number above 0. Received: -1"),
    ]:
        with pytest.raises(ValueError, match=match):
            CORGI(net, **settings)
    for settings in ({"k": 16}, {"k": 3, "k2": 2}, {"k": 3, "k2": 16}):
        with pytest.raises(ValueError, match="0 < k <= k2 < 16"):
            CORGI(net, **settings).certify(images())
    with pytest.raises(ValueError, match="climb"):
        MinimalTopK(None, None, climb="both")


@pytest.mark.usefixtures("eager")
def test_bounds_of_a_layer_are_those_of_the_model_that_ends_there(net):
    part = keras.Model(net.inputs[0], net.get_layer("last").output)
    region = Ball(images(), 0.02)
    for method in ("ibp", "crown"):
        bounds = Verifier(net, method).bound_layer(region, "last")
        for one, other in zip(bounds, Verifier(part, method).bound_outputs(region)):
            np.testing.assert_allclose(one, other, atol=2e-5)


def test_complete_decides_the_radii_of_the_class(net):
    x = images(3)
    explainer = CORGI(net, k=4, form="map", method="ibp", attack=None, prediction=True)
    alone = explainer.certify(x)
    decided = explainer.certify(x, complete=True, timeout=5.0)
    np.testing.assert_array_equal(decided.radius, alone.radius)
    assert (decided.prediction_radius >= 0.98 * alone.prediction_radius).all()
    assert (decided.prediction_radius > 1.02 * alone.prediction_radius).any()
    region = Ball(x, decided.prediction_radius)
    logits = net.predict(region.sample(200, 0).reshape(-1, *SHAPE), verbose=0)
    assert (logits.reshape(200, 3, -1).argmax(2) == decided.targets).all()
    with pytest.raises(ValueError, match="prediction=True"):
        CORGI(net, k=4).certify(x, complete=True)
