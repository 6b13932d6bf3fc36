"""`SufficientReason` against brute force: every question, group, norm and shape of inputs."""

import keras
import numpy as np
import pytest
from brute_force import CURVES
from networks import functional, sequential
from reasons_asked import Asked, check
from rotation import rotating
from subsets import beats, label_stays, stays_within
from tiny_networks import ARCHITECTURES, chain, draw_weights, tiny

from xcertify.attributions import EVA, SufficientReason
from xcertify.grid import grid_cells
from xcertify.regions import Ball

L = keras.layers
NO_LIMIT = {"time_limit": None}
pytestmark = pytest.mark.usefixtures("eager")
NB_LONG, TODAY = 15, 3


def sometimes(number):
    """A long test, of which the default run holds others every day."""
    today = number in rotating(NB_LONG, TODAY)
    return (lambda test: test) if today else pytest.mark.slow


def points(nb, shape, seed=0, low=-1.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, (nb, *shape)).astype("float32")


def network(shape, nb_outputs=3, head=None, seed=0, units=7):
    """Two layers of ReLU, on whatever shape of inputs."""
    inputs = keras.Input(shape)
    x = L.Flatten()(inputs) if len(shape) > 1 else inputs
    x = L.Dense(units, "relu")(L.Dense(units, "relu")(x))
    return draw_weights(functional(inputs, L.Dense(nb_outputs, head)(x)), seed)


def reasons(model, inputs, epsilon, *, targets=None, ours=None, labels=None, **settings):
    """A certificate that has been checked; `ours` is the property of a class and its outputs."""
    explainer = SufficientReason(model, epsilon, **(NO_LIMIT | settings))
    region = Ball(inputs, epsilon, settings.get("norm", np.inf), settings.get("clip"))
    asked = Asked.of(model, region, labels, ours, targets)
    certificate = explainer.certify(inputs, targets)
    check(certificate, asked)
    return certificate


def by_hand(slopes, margin, nb_outputs=2):
    """f_0 - f_1 = margin + slopes @ x, of as many inputs as slopes."""
    model = sequential((len(slopes),), L.Dense(nb_outputs))
    kernel = np.zeros((len(slopes), nb_outputs))
    kernel[:, 0] = slopes
    model.set_weights([kernel, np.array([margin, 0.0, *[-9.0] * (nb_outputs - 2)])])
    return model


# --- by hand ------------------------------------------------------------------------------------


def test_weights_that_decide_alone():
    """Margin 3.5, steps 3, 1, 1, 1: the heavy one is kept, or two of three light ones."""
    certificate = reasons(by_hand([3, -1, 1, -1], 3.5), np.zeros((1, 4), "f4"), 1.0)
    np.testing.assert_array_equal(certificate.needed, [[True, False, False, False]])
    np.testing.assert_array_equal(certificate.irrelevant, [[False, True, True, True]])
    assert certificate.sizes == certificate.smallest == 1 and certificate.minimal.all()


def test_an_answer_that_nothing_changes_needs_nothing():
    certificate = reasons(by_hand([3, -1, 1, -1], 9.0), np.zeros((2, 4), "f4"), 1.0)
    assert certificate.irrelevant.all() and not certificate.sizes.any()
    assert certificate.witnesses == [{}, {}] and not certificate.smallest.any()


def test_an_answer_that_each_feature_changes_needs_all():
    certificate = reasons(by_hand([3, -2, 2, 4], 1.5), np.zeros((1, 4), "f4"), 1.0)
    assert certificate.needed.all() and certificate.sizes == 4 and certificate.smallest == 4


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("image", [False, True])
def test_both_sides_of_the_box_are_freed(sign, image):
    """Upwards x0 is harmless and downwards it changes the class (or the other way round)."""
    shape = (2, 2, 1) if image else (4,)
    inputs = keras.Input(shape)
    x = L.Flatten()(inputs) if image else inputs
    model = functional(inputs, L.Dense(2)(L.Dense(4, "relu")(x)))
    kernel = np.diag([-sign, 0.1, 0.1, 0.1])
    model.set_weights(
        [kernel, np.zeros(4), np.array([[-5.0, 0], [1, 0], [1, 0], [1, 0]]), np.array([0.3, 0.0])]
    )
    certificate = reasons(model, np.zeros((1, *shape), "f4"), 0.1)
    assert certificate.needed.ravel().tolist() == [True, False, False, False]
    assert certificate.irrelevant.ravel().tolist() == [False, True, True, True]
    (witness,) = certificate.witnesses[0].values()
    assert sign * witness.ravel()[0] < -0.05


def test_a_regression_by_hand():
    """f = 2 x0 + x1 + x2 stays within 2.5 of its value with steps of 1: x0 or both others."""
    model = sequential((3,), L.Dense(1))
    model.set_weights([np.array([[2.0], [1.0], [1.0]]), np.array([0.7])])
    inputs = points(2, (3,))
    certificate = reasons(
        model, inputs, 1.0, delta=2.5, ours=lambda own, f: stays_within(0, 2.5, f[0], 1)
    )
    assert (certificate.irrelevant == [False, True, True]).all()
    assert (certificate.smallest == 1).all() and (certificate.sizes == 1).all()
    for delta in (0.999, 1.001, 2.0, 2.001, 4.001):
        ours = lambda own, f: stays_within(0, delta, f[0], 1)  # noqa: B023, E731
        reasons(model, inputs, 1.0, delta=delta, ours=ours)


# --- what may move ------------------------------------------------------------------------------


def test_what_cannot_move_is_irrelevant():
    model, inputs = by_hand([9, 9, 9, 1], 0.5), np.zeros((1, 4), "f4")
    epsilon = np.array([[0.0, 0.0, 1.0, 1.0]])
    certificate = reasons(model, inputs, epsilon)
    assert certificate.irrelevant.ravel().tolist() == [True, True, False, False]
    clip = (np.array([0.0, 0.0, -1, -1]), np.array([0.0, 0.0, 1, 1]))
    certificate = reasons(model, inputs, 1.0, clip=clip)
    assert certificate.irrelevant.ravel().tolist() == [True, True, False, False]
    certificate = reasons(model, inputs, epsilon, norm=2)
    assert certificate.irrelevant.ravel().tolist() == [True, True, False, False]
    certificate = reasons(model, inputs, 0.0)
    assert certificate.irrelevant.all() and certificate.reason[0] == ""


@sometimes(0)
@pytest.mark.parametrize("norm", [np.inf, 2])
@pytest.mark.parametrize("seed", rotating(500, 2))
def test_balls_and_valid_ranges(norm, seed):
    model = network((4,), seed=seed)
    epsilon = 0.3 if norm == np.inf else 0.5
    reasons(model, points(4, (4,), seed), epsilon, norm=norm)
    reasons(model, points(4, (4,), seed), epsilon, norm=norm, clip=(-1.0, 1.0))


def test_a_stretched_ball():
    epsilon = np.array([[0.9, 0.2, 0.0, 0.6]])
    for norm in (2, np.inf):
        reasons(network((4,), seed=3), points(4, (4,), 3), epsilon, norm=norm)


# --- questions ----------------------------------------------------------------------------------


def second_best(model, inputs):
    return np.argsort(model.predict(inputs, verbose=0))[:, -2]


@sometimes(1)
@pytest.mark.parametrize("head", [None, "softmax"])
def test_one_class_beats_another(head):
    model, inputs = network((6,), 4, head, seed=1), points(4, (6,), 2)
    each = second_best(model, inputs)
    explainer = SufficientReason(model, 0.3, towards=each, time_limit=None)
    certificate, region = explainer.certify(inputs), Ball(inputs, 0.3)
    asked = Asked.of(model, region)
    own = [beats(int(c), [int(c2)], 4) for c, c2 in zip(asked.predicted, each)]
    check(certificate, Asked(model, asked.net, region, asked.labels, own))
    # The answer that one class beats another is a weaker one than that the class stays.
    whole = SufficientReason(model, 0.3, time_limit=None).certify(inputs)
    assert (certificate.smallest <= whole.sizes).all()


def test_one_class_for_all():
    model, inputs = network((5,), 3, seed=1), points(12, (5,), 2)
    predicted = model.predict(inputs, verbose=0).argmax(1)
    other = int(np.bincount(predicted, minlength=3).argmin())
    inputs = inputs[predicted != other][:4]
    reasons(model, inputs, 0.3, towards=other, ours=lambda own, f: beats(own, [other], 3))


@sometimes(2)
@pytest.mark.parametrize("groups", [[0, 0, 1, 1], [5, 2, 5, 7]])
def test_the_label_of_a_group_of_classes_stays(groups):
    for head in (None, "softmax"):
        model = network((5,), 4, head, seed=4)
        reasons(
            model,
            points(4, (5,), 4),
            0.4,
            class_groups=groups,
            ours=lambda own, f: label_stays(own, groups),
        )


@sometimes(3)
@pytest.mark.parametrize("delta", [0.05, 0.4])
def test_one_output_stays_near_its_value(delta):
    inputs = points(4, (5,), 5)
    single = network((5,), 1, seed=5)
    ours = lambda own, f: stays_within(0, delta, f[0], 1)  # noqa: E731
    reasons(single, inputs, 0.2, delta=delta, ours=ours)
    several, targets = network((5,), 3, seed=5), np.array([2, 0, 1, 2])
    ours = lambda own, f: stays_within(own, delta, f[own], 3)  # noqa: E731
    reasons(several, inputs, 0.2, delta=delta, targets=targets, ours=ours)


@sometimes(4)
@pytest.mark.parametrize("head", [None, "sigmoid"])
@pytest.mark.parametrize("seed", rotating(500, 1))
def test_a_single_logit(head, seed):
    model, inputs = network((6,), 1, head, seed), points(6, (6,), seed)
    reasons(model, inputs, 0.3)


@sometimes(5)
@pytest.mark.parametrize("seed", rotating(500, 1))
def test_a_softmax_changes_nothing(seed):
    model, plain = network((6,), 3, "softmax", seed), network((6,), 3, None, seed)
    inputs = points(4, (6,), seed)
    first, second = reasons(model, inputs, 0.3), reasons(plain, inputs, 0.3)
    np.testing.assert_array_equal(first.sizes, second.sizes)


# --- groups and shapes --------------------------------------------------------------------------


@sometimes(6)
@pytest.mark.parametrize("seed", rotating(500, 1))
def test_one_hot_columns(seed):
    groups = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 4])
    model = network((10,), seed=seed)
    reasons(model, points(4, (10,), seed), 0.2, groups=groups, labels=groups)


@sometimes(7)
def test_labels_are_names():
    """Whatever numbers, in whatever order; the witnesses have them as keys."""
    groups = np.array([70, 3, 70, 1000, 3, 9])
    certificate = reasons(
        network((6,), seed=2), points(4, (6,), 2), 0.4, groups=groups, labels=groups
    )
    assert set().union(*certificate.witnesses) <= {3, 9, 70, 1000}


@sometimes(8)
@pytest.mark.parametrize("seed", rotating(500, 1))
def test_superpixels_of_each_image(seed):
    model, inputs = network((3, 4, 2), seed=seed), points(3, (3, 4, 2), seed)
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 8, (3, 3, 4)) * 5
    groups[1] = np.arange(12).reshape(3, 4) // 3  # fewer than in the others
    reasons(model, inputs, 0.1, groups=groups, labels=groups)


@sometimes(9)
def test_a_grid():
    model, inputs = network((5, 4, 1), seed=6), points(3, (5, 4, 1), 6)
    cells = grid_cells((5, 4, 1), 3)
    reasons(model, inputs, 0.15, grid_size=3, labels=cells)
    cells = grid_cells((5, 4, 1), (2, 4))
    reasons(model, inputs, 0.15, grid_size=(2, 4), labels=cells)


@sometimes(10)
@pytest.mark.parametrize("seed", rotating(500, 1))
def test_pixels_with_their_channels(seed):
    inputs = keras.Input((3, 3, 2))
    x = L.Conv2D(3, 2, activation="relu")(inputs)
    model = draw_weights(functional(inputs, L.Dense(3)(L.Flatten()(x))), seed)
    certificate = reasons(model, points(3, (3, 3, 2), seed), 0.2, clip=(-1.0, 1.0))
    assert certificate.irrelevant.shape == (3, 3, 3)


@sometimes(11)
def test_channels_first():
    inputs = keras.Input((2, 3, 3))
    x = L.Conv2D(3, 2, activation="relu")(L.Permute((2, 3, 1))(inputs))
    model = draw_weights(functional(inputs, L.Dense(3)(L.Flatten()(x))), 0)
    last = keras.Input((3, 3, 2))
    x = L.Conv2D(3, 2, activation="relu")(last)
    plain = functional(last, L.Dense(3)(L.Flatten()(x)))
    plain.set_weights(model.get_weights())
    images = points(3, (3, 3, 2))
    region = Ball(images, 0.25)
    explainer = SufficientReason(model, 0.25, time_limit=None)
    certificate = explainer.certify(np.moveaxis(images, -1, 1))
    check(certificate, Asked.of(plain, region))
    maps = explainer.explain(np.moveaxis(images, -1, 1))
    assert maps.shape == (3, 3, 3, 1)


@sometimes(12)
@pytest.mark.parametrize("by_time", [False, True])
def test_time_series(by_time):
    inputs = keras.Input((5, 2))
    x = L.Flatten()(L.Conv1D(4, 3, activation="relu")(inputs))
    model = draw_weights(functional(inputs, L.Dense(3)(x)), 1)
    series = points(3, (5, 2), 7)
    if by_time:
        groups = np.repeat(np.arange(5)[:, None], 2, 1)
        reasons(model, series, 0.2, groups=groups, labels=groups)
    else:
        reasons(model, series, 0.2)


# --- kinds of networks --------------------------------------------------------------------------

NAMES = sorted(ARCHITECTURES)


def check_architecture(name, seed, nb_inputs=4, norm=np.inf):
    model = tiny(ARCHITECTURES[name], nb_inputs, seed)
    reasons(model, points(4, (nb_inputs,), seed), 0.15 if norm == np.inf else 0.25, norm=norm)


@pytest.mark.parametrize("name", [NAMES[number] for number in rotating(len(NAMES), 2)])
def test_architectures(name):
    check_architecture(name, rotating(1000, 1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("norm", [np.inf, 2])
@pytest.mark.parametrize("name", NAMES)
def test_all_architectures(name, norm):
    for seed in rotating(1000, 2):
        check_architecture(name, seed, norm=norm)


ACTIVATIONS = sorted(set(CURVES) - {"absolute", "square", "approximate gelu"})


def check_activation(name, seed):
    model = tiny(chain(name, name), 3, seed)
    reasons(model, points(4, (3,), seed), 0.2)


@pytest.mark.parametrize(
    "name", ["tanh", *(ACTIVATIONS[number] for number in rotating(len(ACTIVATIONS), 1))]
)
def test_activations(name):
    check_activation(name, rotating(1000, 1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_all_activations(name):
    for seed in rotating(1000, 2):
        check_activation(name, seed)


# --- order --------------------------------------------------------------------------------------


@pytest.mark.parametrize("important", [[0, 1, 2], [5, 3, 1], [2, 4, 0]])
def test_the_least_important_features_are_freed_first(important):
    """Six equal features, of which three may be freed: those that the order says."""
    model, inputs = by_hand([1, -1, 1, 1, -1, -1], 3.5), np.zeros((2, 6), "f4")
    order = np.linspace(0, 0.5, 6)
    order[important] += 1
    expected = np.isin(np.arange(6), important)
    for given in (order, np.stack([order, order]), [order], -np.exp(-order)):
        certificate = reasons(model, inputs, 1.0, order=given)
        np.testing.assert_array_equal(certificate.needed, [expected, expected])
    reversed_for_one = np.stack([order, -order])
    certificate = reasons(model, inputs, 1.0, order=reversed_for_one)
    np.testing.assert_array_equal(certificate.needed[0], expected)
    others = np.argsort(order)[:3]
    np.testing.assert_array_equal(certificate.needed[1], np.isin(np.arange(6), others))


def test_of_several_orders_the_smallest_set():
    model, inputs = by_hand([3, -1, 1, -1], 3.5), np.zeros((1, 4), "f4")
    heavy_first, light_first = np.array([0.0, 1, 2, 3]), np.array([3.0, 2, 1, 0])
    assert reasons(model, inputs, 1.0, order=heavy_first).sizes == 3
    assert reasons(model, inputs, 1.0, order=light_first).sizes == 1
    for orders in ([heavy_first, light_first], [light_first, heavy_first]):
        assert reasons(model, inputs, 1.0, order=orders).sizes == 1


def test_several_orders_are_chosen_from_for_each_input():
    model = by_hand([3, -1, 1, -1], 0.5)
    inputs = np.zeros((2, 4), "f4")
    inputs[:, 0] = 1.0  # margin 3.5
    first = np.array([[0.0, 1, 2, 3], [3.0, 2, 1, 0]])
    found = reasons(model, inputs, 1.0, order=first)
    assert found.sizes.tolist() == [3, 1]
    found = reasons(model, inputs, 1.0, order=[first, first[::-1]])
    assert found.sizes.tolist() == [1, 1]


@sometimes(13)
def test_an_explainer_gives_the_order():
    model, inputs = network((6,), seed=8), points(4, (6,), 8)
    eva = EVA(model, 0.3, mode="exact")
    by_explainer = reasons(model, inputs, 0.3, order=eva)
    by_map = reasons(model, inputs, 0.3, order=eva.explain(inputs))
    np.testing.assert_array_equal(by_explainer.needed, by_map.needed)
    several = reasons(model, inputs, 0.3, order=[eva, np.arange(6.0)])
    assert (several.sizes <= by_explainer.sizes).all()


@sometimes(14)
def test_an_explainer_of_images_gives_the_order():
    inputs = keras.Input((3, 3, 2))
    x = L.Conv2D(3, 2, activation="relu")(inputs)
    model = draw_weights(functional(inputs, L.Dense(3)(L.Flatten()(x))), 2)
    images = points(3, (3, 3, 2), 2)
    eva = EVA(model, 0.2, mode="exact")
    by_explainer = reasons(model, images, 0.2, order=eva)
    by_map = reasons(model, images, 0.2, order=eva.explain(images)[..., 0])
    np.testing.assert_array_equal(by_explainer.needed, by_map.needed)
