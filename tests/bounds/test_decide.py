"""`Verifier.decide` says what brute force says, on hundreds of tiny networks."""

import itertools
from dataclasses import replace

import keras
import numpy as np
import pytest
from brute_force import Area, worst
from decided import CLEAR, Questions, ask, check, verifier_of
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
KINDS = list(itertools.product([np.inf, 2, 1], ["inputs", "activations"]))
SHAPES = list(itertools.product([1, 3], [1, 3]))  # conjunctions, and inequalities in each


def check_networks(build, seeds, kinds=KINDS[:1], shapes=((2, 2),)):
    """Decisions about one architecture with the weights of each seed."""
    verifier = verifier_of(build)
    model = verifier.model
    for seed, (norm, strategy), (nb_properties, nb_rows) in itertools.product(seeds, kinds, shapes):
        draw_weights(model, seed)
        sizes = {"nb_properties": nb_properties, "nb_rows": nb_rows}
        asked = ask(model, seed, norm=norm, **sizes)
        found = verifier.decide(asked.region, asked.rows, asked.limits, strategy=strategy, **ENOUGH)
        # Conjunctions are weighed together over boxes alone; elsewhere small values may stay open.
        by_boxes = norm == np.inf and strategy != "activations"
        check(found, asked, model, CLEAR if by_boxes else 0.1)


def decide(verifier, asked, **settings):
    return verifier.decide(asked.region, asked.rows, asked.limits, **ENOUGH | settings)


@pytest.mark.parametrize("name", [[*ARCHITECTURES][i] for i in rotating(len(ARCHITECTURES), 2)])
def test_agrees_on_architectures(name):
    check_networks(name, rotating(NB_NETWORKS, 4))


@pytest.mark.parametrize("pair", [PAIRS[i] for i in rotating(len(PAIRS), 1)], ids="-".join)
def test_agrees_on_activations(pair):
    check_networks(chain(*pair), rotating(NB_NETWORKS, 4))


@pytest.mark.parametrize("kind", [*KINDS[:2], *[KINDS[2:][i] for i in rotating(4, 1)]], ids=str)
def test_agrees_with_norms_and_strategies(kind):
    check_networks("relu", rotating(NB_NETWORKS, 4), [kind])


def test_agrees_on_properties_of_other_shapes():
    check_networks("relu", rotating(NB_NETWORKS, 3), shapes=[SHAPES[i] for i in rotating(4, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_agrees_on_many_networks(name):
    check_networks(name, range(NB_NETWORKS))
    check_networks(name, rotating(NB_NETWORKS, 5), KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_agrees_on_all_activations(pair):
    check_networks(chain(*pair), range(0, NB_NETWORKS, 2))
    check_networks(chain(*pair), rotating(NB_NETWORKS, 5), KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("build", ["relu", chain("tanh", "sigmoid")])
def test_agrees_on_properties_of_all_shapes(build):
    check_networks(build, rotating(NB_NETWORKS, 10), KINDS[:2], SHAPES)


def test_agrees_in_valid_ranges_and_with_fixed_features():
    verifier = verifier_of("relu")
    model = draw_weights(verifier.model, 3)
    asked = ask(model, 3, clip=(-1, 1), radii=(0.5, 1.5))
    check(decide(verifier, asked), asked, model, CLEAR)
    fixed = asked.region.fix(np.array([False, True]))
    truth = [
        worst(asked.net, Area.of(fixed, i), asked.rows[i], asked.limits[i])
        for i in range(len(fixed))
    ]
    asked = Questions(asked.net, fixed, asked.rows, asked.limits, np.array(truth))
    check(decide(verifier, asked), asked, model, CLEAR)


OPTIONS = [{"dtype": "float64"}, {"arithmetic": "float32"}]
OPTIONS += [{"method": "alpha-crown"}, {"method": "ibp"}]


def check_other_settings(options):
    model = tiny("relu")
    asked = ask(model, 5)
    check(decide(Verifier(model, **options), asked), asked, model, CLEAR)


@pytest.mark.parametrize("options", [OPTIONS[i] for i in rotating(len(OPTIONS), 1)], ids=str)
def test_agrees_in_other_settings(options):
    check_other_settings(options)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_agrees_in_all_settings(options):
    check_other_settings(options)


def test_inputs_that_do_not_vary():
    """The same as of one network of four inputs, two of which are fixed in a box."""
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


def check_head(head, strip_head):
    """With the head left out the property is of logits, else of what the model returns."""
    build = chain("relu")
    model = tiny(lambda x: L.Activation(head)(build(x)))
    bounded = model
    if strip_head:
        bounded = tiny(build)
        bounded.set_weights(model.get_weights())
    asked = ask(bounded, 0)
    found = decide(Verifier(model, strip_head=strip_head), asked)
    check(found, asked, None if strip_head else model, CLEAR)


HEADS = list(itertools.product(["softmax", "sigmoid"], [True, False]))


@pytest.mark.parametrize("head", [HEADS[i] for i in rotating(4, 1)], ids=str)
def test_logits_and_outputs(head):
    check_head(*head)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_all_logits_and_outputs(head):
    check_head(*head)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_regions_of_one_point(norm):
    verifier = verifier_of("relu")
    asked = ask(draw_weights(verifier.model, 1), 1, norm=norm, radii=(0.0, 0.0))
    found = decide(verifier, asked)
    check(found, asked, verifier.model, CLEAR)
    same = found.counterexamples[found.violated] == asked.region.center[found.violated]
    assert same.all()


def test_a_linear_network_needs_no_branches():
    model = tiny(L.Dense(3))
    asked = ask(model, 0, nb_properties=3, nb_rows=1)
    found = decide(Verifier(model), asked, nb_branches=1)
    check(found, asked, model, CLEAR)


def test_the_checks_notice_wrong_answers():
    verifier = verifier_of("relu")
    asked = ask(draw_weights(verifier.model, 0), 0)
    found = decide(verifier, asked)
    check(found, asked, verifier.model)
    opposite = replace(asked, truth=-asked.truth[:, ::-1])
    with pytest.raises(AssertionError):
        check(found, opposite, verifier.model)
    wide = replace(asked, limits=asked.limits - 1)  # counterexamples are none any more
    with pytest.raises(AssertionError):
        check(found, wide, verifier.model)
