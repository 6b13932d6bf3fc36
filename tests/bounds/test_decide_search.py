"""How `Verifier.decide` searches: budgets, order, refusals, and what overflows."""

import keras
import numpy as np
import pytest
from decided import ask, check, verifier_of
from networks import sequential
from rotation import rotating
from tiny_networks import draw_weights, tiny

from xcertify.bounds import UnsupportedLayerError, Verifier
from xcertify.bounds.branching.compiled import Branching
from xcertify.bounds.branching.pool import Pool
from xcertify.bounds.branching.problems import Problems
from xcertify.regions import Ball, Box

L = keras.layers
CLOSE = (0.02, 0.01, 5e-3, 2e-3, -2e-3)  # worst values that take branches to decide


@pytest.fixture
def net(questions):
    """A model whose close questions take branches, its verifier and the questions."""
    verifier = verifier_of("relu")
    return draw_weights(verifier.model, 0), verifier, questions


@pytest.fixture(scope="module")
def questions():
    return ask(draw_weights(verifier_of("relu").model, 0), 0, wanted=CLOSE, radii=(0.8, 1.5))


def decide(net, **settings):
    _, verifier, asked = net
    settings = {"timeout": None, "nb_branches": 500} | settings
    return verifier.decide(asked.region, asked.rows, asked.limits, **settings)


@pytest.mark.parametrize("strategy", ["inputs", "activations"])
def test_more_branches_never_loosen(net, strategy):
    limits = (1, 2, 4, 16, 64, 128)
    found = [decide(net, nb_branches=most, strategy=strategy) for most in limits]
    for decision in found:
        check(decision, net[2], net[0])
    for fewer, more in zip(found, found[1:]):
        # A search ends where it is decided: above 0 a lower bound may stay what it was.
        # Sums of a batch of another size are rounded in another order.
        assert (more.lower >= np.minimum(fewer.lower, 0) - 1e-6).all()
        assert (more.upper <= np.maximum(fewer.upper, 0) + 1e-9).all()
        assert (more.nb_branches >= fewer.nb_branches).all()
        assert fewer.holds[~more.holds].sum() == 0 and fewer.violated[~more.violated].sum() == 0
    for decision, most in zip(found, limits):
        assert (decision.nb_branches <= max(most, 2)).all()  # the roots of two conjunctions
    assert found[0].unknown.any(), "the questions are too easy to show anything"
    assert (found[-1].lower > found[0].lower).any()


@pytest.mark.parametrize(
    ("settings", "reason"), [({"timeout": 1e-9}, "timeout"), ({"nb_branches": 1}, "nb_branches")]
)
def test_unknown_with_sound_values(net, settings, reason):
    found = decide(net, **settings)
    check(found, net[2], net[0])
    assert found.unknown.any()
    assert {found.reason[i] for i in np.flatnonzero(found.unknown)} == {reason}


def test_what_a_decision_says(net):
    found = decide(net)
    check(found, net[2], net[0], least=1e-3)
    assert found.holds.tolist() == [True] * 4 + [False]
    assert (found.nb_branches >= 0).all() and (found.seconds > 0).all()
    words = {"attack", "bounds", "branch and bound", "timeout", "nb_branches", "no split"}
    assert set(found.reason) <= words
    assert "branch and bound" in found.reason
    as_dict = found.to_dict()
    assert as_dict["status"] == found.status.tolist()
    assert "4" in repr(found) and "holds" in repr(found)
    with pytest.raises(AttributeError):
        found.status = None


def test_the_same_again(net):
    first, second = decide(net, seed=3), decide(net, seed=3)
    assert first.status.tolist() == second.status.tolist()
    for name in ("lower", "upper", "counterexamples", "nb_branches"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    other = decide(net, seed=4)
    check(other, net[2], net[0], least=1e-3)


def test_a_batch_is_many_of_one(net):
    """In small regions, where what is refined for one region leaves the others as they are."""
    model, verifier, asked = net
    small = ask(model, 1, wanted=CLOSE, radii=(0.05, 0.1))
    settings = {"timeout": None, "nb_branches": 200}
    for some in (asked, small):
        together = verifier.decide(some.region, some.rows, some.limits, **settings)
        for sample in range(len(CLOSE)):
            one = some[sample : sample + 1]
            alone = verifier.decide(one.region, one.rows, one.limits, **settings)
            check(alone, one, model)
            assert alone.status[0] == together.status[sample]
            if some is small:
                np.testing.assert_allclose(alone.lower[0], together.lower[sample], atol=1e-5)
                np.testing.assert_allclose(alone.upper[0], together.upper[sample], atol=1e-5)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    "place",
    [
        (Branching, "roots"),
        (Branching, "bounds"),
        (Branching, "probe"),
        (Pool, "put"),
        (Pool, "take"),
        (Problems, "note_open"),
        (Problems, "note_leaves"),
    ],
    ids=lambda place: place[1],
)
def test_an_interrupted_call(net, monkeypatch, place, number):
    """What is proved so far comes back, wherever the key is hit."""
    owner, name = place
    original, calls = getattr(owner, name), []

    def interrupted(*args, **settings):
        calls.append(name)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*args, **settings)

    monkeypatch.setattr(owner, name, interrupted)
    found = decide(net, strategy="activations", nb_branches=32)
    assert len(calls) <= number
    check(found, net[2], net[0])
    if len(calls) == number:
        assert {found.reason[i] for i in np.flatnonzero(found.unknown)} <= {"interrupted"}


def test_a_small_memory_budget(net):
    model, _, asked = net
    verifier = Verifier(model, memory_budget=200_000)
    found = verifier.decide(asked.region, asked.rows, asked.limits, timeout=None, nb_branches=100)
    check(found, asked, model)
    assert {found.reason[i] for i in np.flatnonzero(found.unknown)} <= {"memory", "nb_branches"}


def test_rows_for_all_regions(net):
    _, verifier, asked = net
    shared = verifier.decide(asked.region, asked.rows[0], asked.limits[0], nb_branches=50)
    each = verifier.decide(
        asked.region,
        np.repeat(asked.rows[:1], len(CLOSE), axis=0),
        np.repeat(asked.limits[:1], len(CLOSE), axis=0),
        nb_branches=50,
    )
    assert shared.status.tolist() == each.status.tolist()
    np.testing.assert_allclose(shared.lower, each.lower, atol=1e-6)


# --- properties ---------------------------------------------------------------------------------


def test_infinite_limits(net):
    """inf is no condition; what has a limit of -inf is never violated."""
    _, verifier, asked = net
    one = asked[:2]
    none, never = np.full_like(one.limits, np.inf), np.full_like(one.limits, -np.inf)
    rows = np.concatenate([one.rows, one.rows], axis=2)  # more rows in each conjunction
    settings = {"timeout": None, "nb_branches": 500}
    plain = verifier.decide(one.region, one.rows, one.limits, **settings)
    wide = verifier.decide(one.region, rows, np.concatenate([one.limits, none], 2), **settings)
    assert wide.status.tolist() == plain.status.tolist() == ["holds", "holds"]
    np.testing.assert_allclose(wide.upper, plain.upper, atol=0.1)
    rows = np.concatenate([one.rows, one.rows], axis=1)  # more conjunctions
    other = never.copy()
    other[:, :, 0] = one.limits[:, :, 0]  # one of its rows is never below
    for more in (never, other):
        limits = np.concatenate([one.limits, more], 1)
        wide = verifier.decide(one.region, rows, limits, **settings)
        assert wide.status.tolist() == ["holds", "holds"]
    # Nothing can be violated; everything is.
    found = verifier.decide(one.region, one.rows, never)
    assert found.holds.all() and (found.lower > 0).all()
    found = verifier.decide(one.region, one.rows, none)
    assert found.violated.all() and (found.upper <= 0).all()
    inside = [one.area(i).contains(found.counterexamples[i : i + 1].astype("f8")) for i in (0, 1)]
    assert np.all(inside)


def test_rows_of_zeros(net):
    """0 <= limit, whatever the outputs."""
    _, verifier, asked = net
    rows = np.zeros((2, 1, 1, 3))
    limits = np.reshape([0.5, -0.5], (2, 1, 1))
    found = verifier.decide(asked.region[:2], rows, limits)
    assert found.status.tolist() == ["violated", "holds"]
    np.testing.assert_allclose([found.lower[1], found.upper[0]], [0.5, -0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows", lambda rows, limits: (rows[..., :2], limits)),
        ("rows", lambda rows, limits: (rows[:3], limits)),
        ("rows", lambda rows, limits: (rows[0, 0], limits)),
        ("rows", lambda rows, limits: (rows[:, :0], limits[:, :0])),
        ("rows", lambda rows, limits: (rows[:, :, :0], limits[:, :, :0])),
        ("rows", lambda rows, limits: (rows * np.nan, limits)),
        ("rows", lambda rows, limits: (rows + np.inf, limits)),
        ("rows", lambda rows, limits: (rows.astype("f8") * (1 + 1e-10), limits)),  # not exact
        ("limits", lambda rows, limits: (rows, limits[:, :1])),
        ("limits", lambda rows, limits: (rows, limits[..., :1])),
        ("limits", lambda rows, limits: (rows, limits[:3])),
        ("limits", lambda rows, limits: (rows, limits[0, 0])),
        ("limits", lambda rows, limits: (rows, limits * np.nan)),
    ],
)
def test_wrong_properties_are_named(net, name, change):
    _, verifier, asked = net
    rows, limits = change(asked.rows, asked.limits)
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        verifier.decide(asked.region, rows, limits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", -1.0),
        ("timeout", np.nan),
        ("nb_branches", 0),
        ("nb_branches", 2.5),
        ("strategy", "both"),
    ],
)
def test_wrong_settings_are_named(net, name, value):
    with pytest.raises(ValueError, match=name):
        decide(net, **{name: value})


def test_other_wrong_arguments(net):
    _, verifier, asked = net
    with pytest.raises(ValueError, match="region"):
        verifier.decide(asked.region.center, asked.rows, asked.limits)
    with pytest.raises(ValueError, match="constants"):
        verifier.decide(asked.region, asked.rows, asked.limits, constants=[np.zeros((5, 2))])
    with pytest.raises(ValueError, match="region"):
        verifier.decide(asked.region[:0], asked.rows[:0], asked.limits[:0])
    other = Ball(np.zeros((5, 3)), 0.1)
    with pytest.raises(ValueError, match="region"):
        verifier.decide(other, asked.rows, asked.limits)


# --- NaN and overflow never read as "holds" -----------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("layer", [0, 2])
def test_weights_that_are_not_finite(net, value, layer):
    model = tiny("relu")
    verifier = Verifier(model)
    weights = model.get_weights()
    weights[layer][0, 1] = value
    model.set_weights(weights)
    _, _, asked = net
    with pytest.raises(ValueError, match="NaN or infinite"):
        verifier.decide(asked.region, asked.rows, asked.limits)


def huge(*kernels, activation=None):
    """Layers without biases."""
    layers = [L.Dense(len(kernel[0]), activation, use_bias=False) for kernel in kernels]
    model = sequential((len(kernels[0]),), *layers)
    model.set_weights([np.float32(kernel) for kernel in kernels])
    return model


# Each is violated somewhere, in real arithmetic or as the model computes, or is no number there.
OVERFLOWS = {
    "products": (huge([[1e30]], [[1e30]]), [1.0], -1.0),
    "differences": (huge([[1e30, 1e30]], [[1e30, 0], [0, 1e30]]), [1.0, -1.0], 0.0),
    "sums": (huge([[3e38, 3e38]], [[1.0], [1.0]]), [1.0], -1e30),
    "cancelling": (huge([[1e30, 1e30]], [[1e30], [-1e30]], activation="relu"), [1.0], 0.0),
    "exponentials": (huge([[200.0]], [[1.0]], activation="exponential"), [-1.0], -1e30),
    "squashed": (huge([[1e30]], [[1e30]], activation="softsign"), [1.0], -0.5),
}


def check_overflow(name, strategy):
    model, row, limit = OVERFLOWS[name]
    region = Box([[-1.0]], [[1.0]])
    rows = np.reshape(row, (1, 1, -1))
    settings = {"strategy": strategy, "nb_branches": 8, "timeout": None}
    verifier = Verifier(model, compile=False)
    try:
        found = verifier.decide(region, rows, np.full((1, 1), limit), **settings)
    except UnsupportedLayerError:  # it is refused by name where it overflows at the center
        return
    assert not found.holds[0] and found.lower[0] <= 0
    assert not np.isnan([found.lower, found.upper]).any()
    if found.violated[0]:
        outputs = model.predict_on_batch(found.counterexamples)
        assert (rows[0] @ outputs[0] <= limit).all()


@pytest.mark.parametrize("name", OVERFLOWS)
def test_what_overflows_does_not_hold(name):
    check_overflow(name, "inputs")


@pytest.mark.parametrize("name", [[*OVERFLOWS][i] for i in rotating(len(OVERFLOWS), 1)])
def test_what_overflows_does_not_hold_by_activations(name):
    check_overflow(name, "activations")


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERFLOWS)
def test_no_overflow_holds_by_activations(name):
    check_overflow(name, "activations")


def test_large_numbers_that_do_not_overflow():
    """Within float32, and still decided."""
    model = huge([[1e15, -1e15]], [[1e15, 1.0], [1e15, 1.0]], activation="relu")
    region = Box([[-1.0], [0.5]], [[1.0], [1.0]])
    rows, limits = np.reshape([1.0, 0.0], (1, 1, 2)), np.full((1, 1), 1e29)
    found = Verifier(model, compile=False).decide(region, rows, limits, timeout=None)
    assert found.status.tolist() == ["violated", "holds"]
