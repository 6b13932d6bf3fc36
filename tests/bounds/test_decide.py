"""`Verifier.decide` says what brute force says, on hundreds of tiny networks."""

import itertools

import keras
import numpy as np
import pytest
from brute_force import Area, Net, read, worst
from decided import CLEAR, Questions, ask, check
from networks import functional
from rotation import rotating
from tiny_networks import ARCHITECTURES, chain, draw_weights, tiny

from xcertify.bounds import Verifier, supported_activations
from xcertify.regions import Box

L = keras.layers
NB_NETWORKS = 100  # weights of each architecture
# A network for each pair of neighbours: every activation is first and second once.
ACTIVATIONS = sorted({*supported_activations()} - {"softmax", "linear"})
PAIRS = list(zip(ACTIVATIONS, ACTIVATIONS[1:] + ACTIVATIONS[:1]))
ENOUGH = {"timeout": None, "nb_branches": 2000}
KINDS = [(np.inf, "auto"), (np.inf, "inputs"), (np.inf, "activations")]
KINDS += [(2, "auto"), (1, "auto"), (2, "activations"), (1, "inputs")]


def check_networks(build, seeds, kinds, least=CLEAR, **settings):
    """Decisions about one architecture with the weights of each seed."""
    model = tiny(build)
    verifier = Verifier(model, strip_head=False)
    for seed, (norm, strategy) in itertools.product(seeds, kinds):
        asked = ask(draw_weights(model, seed), seed, norm=norm, **settings)
        found = verifier.decide(asked.region, asked.rows, asked.limits, strategy=strategy, **ENOUGH)
        check(found, asked, model, least)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_agrees_on_architectures(name):
    seeds = rotating(NB_NETWORKS, 1)
    check_networks(name, seeds, [KINDS[seeds[0] % len(KINDS)]])


@pytest.mark.parametrize("pair", [PAIRS[i] for i in rotating(len(PAIRS), 6)], ids="-".join)
def test_agrees_on_activations(pair):
    seeds = rotating(NB_NETWORKS, 1)
    check_networks(chain(*pair), seeds, [KINDS[seeds[0] % len(KINDS)]])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_agrees_with_every_norm_and_strategy(kind):
    check_networks("relu", rotating(NB_NETWORKS, 1), [kind])


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 3)], ids=str)
def test_agrees_on_properties_of_every_shape(shape):
    sizes = dict(zip(("nb_properties", "nb_rows"), shape))
    check_networks("relu", rotating(NB_NETWORKS, 2), KINDS[:1], **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_agrees_on_many_networks(name):
    for number, kind in enumerate(KINDS):
        check_networks(name, range(number, NB_NETWORKS, 10 * len(KINDS)), [kind])


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_agrees_on_all_activations(pair):
    for number, kind in enumerate(KINDS):
        check_networks(chain(*pair), range(number, NB_NETWORKS, 10 * len(KINDS)), [kind])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 3), (3, 3)], ids=str)
def test_agrees_on_many_properties(shape):
    sizes = dict(zip(("nb_properties", "nb_rows"), shape))
    check_networks("relu", range(30), KINDS[:3], **sizes)
    check_networks(chain("tanh", "sigmoid"), range(10), KINDS[:3], **sizes)


def test_agrees_in_valid_ranges_and_with_fixed_features():
    model = tiny("relu", 3)
    verifier = Verifier(model)
    asked = ask(model, 3, clip=(-1, 1), radii=(0.5, 1.5))
    check(verifier.decide(asked.region, asked.rows, asked.limits, **ENOUGH), asked, model, CLEAR)
    fixed = asked.region.fix(np.array([False, True, False]))
    truth = [
        worst(asked.net, Area.of(fixed, i), asked.rows[i], asked.limits[i])
        for i in range(len(fixed))
    ]
    asked = Questions(asked.net, fixed, asked.rows, asked.limits, np.array(truth))
    check(verifier.decide(fixed, asked.rows, asked.limits, **ENOUGH), asked, model, CLEAR)


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float64"}, {"arithmetic": "float32"}, {"method": "alpha-crown"}, {"method": "ibp"}],
    ids=str,
)
def test_agrees_in_other_settings(options):
    model = tiny("relu")
    asked = ask(model, 5)
    verifier = Verifier(model, **options)
    check(verifier.decide(asked.region, asked.rows, asked.limits, **ENOUGH), asked, model, CLEAR)


def test_inputs_that_do_not_vary():
    """The same as of one network of four inputs, of which two are fixed in a box."""
    varied, constant = keras.Input((2,)), keras.Input((2,))
    both = L.Concatenate()([varied, constant])
    model = functional([varied, constant], chain("relu", "tanh")(both))
    whole = tiny(chain("relu", "tanh"), 4)
    for seed in range(2):
        draw_weights(whole, seed)
        model.set_weights(whole.get_weights())
        asked = ask(whole, seed, wanted=(0.2, -0.2, 0.02, -0.02))
        box = asked.region.fix(np.array([False, False, True, True]))
        net = asked.net
        truth = np.array(
            [worst(net, Area.of(box, i), asked.rows[i], asked.limits[i]) for i in range(4)]
        )
        limits = asked.limits + (truth.mean(1) - [0.2, -0.2, 0.02, -0.02])[:, None, None]
        truth = truth - truth.mean(1, keepdims=True) + [[0.2], [-0.2], [0.02], [-0.02]]
        region = Box(box.lower[:, :2], box.upper[:, :2])
        constants = box.center[:, 2:]
        found = Verifier(model).decide(region, asked.rows, limits, constants=[constants], **ENOUGH)
        assert found.status.tolist() == ["holds", "violated"] * 2
        assert (found.lower <= truth[:, 1]).all() and (found.upper >= truth[:, 0]).all()
        for sample in (1, 3):
            point = found.counterexamples[sample]
            outputs = net.values(np.append(point, constants[sample])[None].astype("f8"))[0]
            values = asked.rows[sample].astype("f8") @ outputs - limits[sample]
            assert (values.max(1) <= 0).any()


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_logits_and_outputs(head):
    """With the head left out the property is of logits, else of what the model returns."""
    build = chain("relu", "relu")
    model = tiny(lambda x: L.Activation(head)(build(x)))
    asked = ask(model, 0)
    found = Verifier(model, strip_head=False).decide(
        asked.region, asked.rows, asked.limits, **ENOUGH
    )
    check(found, asked, model, CLEAR)
    logits = tiny(build)
    logits.set_weights(model.get_weights())
    asked = ask(logits, 0)
    found = Verifier(model, strip_head=True).decide(
        asked.region, asked.rows, asked.limits, **ENOUGH
    )
    check(found, asked, None, CLEAR)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_regions_of_one_point(norm):
    model = tiny("relu")
    asked = ask(model, 1, norm=norm, radii=(0.0, 0.0))
    found = Verifier(model).decide(asked.region, asked.rows, asked.limits, **ENOUGH)
    check(found, asked, model, 1e-5)
    same = found.counterexamples[found.violated] == asked.region.center[found.violated]
    assert same.all()


def test_a_linear_network_needs_no_branches():
    model = tiny(L.Dense(3))
    asked = ask(model, 0, nb_properties=3, nb_rows=1)
    found = Verifier(model).decide(
        asked.region, asked.rows, asked.limits, timeout=None, nb_branches=1
    )
    check(found, asked, model, CLEAR)


def test_nets_of_brute_force_are_what_is_asked():
    """The checks themselves notice wrong answers."""
    model = tiny("relu")
    asked = ask(model, 0)
    assert isinstance(asked.net, Net) and read(model).straight
    found = Verifier(model).decide(asked.region, asked.rows, asked.limits, **ENOUGH)
    other = Questions(asked.net, asked.region, asked.rows, asked.limits, -asked.truth[:, ::-1])
    with pytest.raises(AssertionError):
        check(found, other, model)
