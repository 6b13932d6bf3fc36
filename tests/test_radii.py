"""Certified against attacked: one search, one comparison, one message."""

import keras
import numpy as np
import pytest
from networks import sequential

from xcertify.bounds import Verifier
from xcertify.radii import (
    ContradictionError,
    Interval,
    RadiusSearch,
    class_radii,
    compare_bounds,
    compare_radii,
    keeps_class,
)
from xcertify.regions import Ball

STATED = {"what": "another class", "method": "crown", "region": "l2 balls"}


def run(search, holds):
    """What was tested of each input, in order."""
    tried = []
    for samples, radii in search:
        tried.append((samples, radii))
        search.answer(holds(samples, radii))
    return tried


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5, 784])
def test_whole_numbers_are_found_exactly(size, known):
    most = np.random.default_rng(0).integers(0, size + 1, 30).astype(float)
    start = np.floor(most / 2) * known
    search = RadiusSearch(
        start, size + 1, linear=True, integers=True, known=start if known else None
    )
    tried = run(search, lambda samples, radii: radii <= most[samples])
    assert all((radii == np.floor(radii)).all() and radii.max() <= size for _, radii in tried)
    assert len(tried) <= np.log2(size + 1) + 1 + 4 * known
    np.testing.assert_array_equal(search.held, most)
    np.testing.assert_array_equal(search.broken, np.where(most < size, most + 1, np.inf))


def test_the_largest_radius_is_the_largest_that_was_tried_and_proved():
    limits = np.array([0.3, 2.0, 5.0, 0.0, 0.7])

    def holds(samples, radii):
        proved = radii < limits[samples]
        return proved & ~((samples == 4) & (radii > 0.45) & (radii < 0.55))  # not monotone

    ends = np.array([1.0, 1.0, 4.0, 1.0, 1.0])
    search = RadiusSearch(0.0, ends, nb_halvings=6, linear=True, test_high="last")
    tried = run(search, holds)
    # the ends themselves where nothing failed, nothing where nothing was proved
    np.testing.assert_array_equal(search.held, [0.296875, 1, 4, 0, 0.4375])
    np.testing.assert_array_equal(search.broken, [0.3125, np.inf, np.inf, 0.015625, 0.453125])
    for sample, radius in enumerate(search.held):
        radii = [r[s == sample] for s, r in tried if (s == sample).any()]
        assert radius in [0, *radii]
    assert sum(len(samples) for samples, _ in tried) == 6 * 5 + 2
    nothing = RadiusSearch(np.zeros(3), 0.0, nb_halvings=4, linear=True, test_high="last")
    assert not run(nothing, holds)
    np.testing.assert_array_equal(nothing.held, np.zeros(3))


def test_ends_that_are_tested_decide():
    limits = np.array([0.5, 1e-6, 2.0, 0.02])
    search = RadiusSearch(
        np.full(4, 1e-3), 1.0, nb_halvings=10, test_low=True, test_high="first", whole=True
    )
    tried = run(search, lambda samples, radii: radii <= limits[samples])
    assert all(len(samples) == 4 for samples, _ in tried)
    assert len(tried) == 2 + 10
    # a proof that reaches the largest radius is attacked, too
    whole = RadiusSearch(np.ones(1), 1.0, nb_halvings=3, test_low=True, test_high="first")
    assert len(run(whole, lambda samples, radii: radii < 1.0)) == 1
    assert whole.broken.tolist() == [1.0]
    # below the lower end nothing, at the upper end all; else to a thousandth of three decades
    np.testing.assert_array_equal(search.held[[1, 2]], [0, 1])
    step = 1000 ** (1 / 2**10)
    assert (limits[[0, 3]] / step <= search.held[[0, 3]]).all()
    assert (search.held[[0, 3]] <= limits[[0, 3]]).all()
    np.testing.assert_allclose(search.broken[[0, 3]], search.held[[0, 3]] * step)
    assert search.broken[1] == 1e-3
    assert search.broken[2] == np.inf


def test_a_search_rises_from_what_is_known_until_the_tolerance():
    limits = np.array([0.3, 0.3, 0.009])
    known = np.array([0.0, 0.2, 0.01])
    search = RadiusSearch(np.maximum(known, 1e-6), 1.0, tolerance=0.02, known=known, batch_size=2)
    tried = run(search, lambda samples, radii: radii <= limits[samples])
    assert max(len(samples) for samples, _ in tried) == 2
    assert (search.broken[:2] <= search.held[:2] * 1.02).all()
    assert (search.held[:2] <= 0.3).all()
    assert search.held[2] == 0.01  # it was known, whatever was tested afterwards
    of_second = [float(r[s == 1][0]) for s, r in tried if (s == 1).any()]
    np.testing.assert_allclose(of_second[0], min(2 * 0.2, np.sqrt(0.2)))
    of_first = [float(r[s == 0][0]) for s, r in tried if (s == 0).any()]
    np.testing.assert_allclose(of_first[0], 1e-3)


@pytest.mark.parametrize("low", [0.0, 0.25])
def test_values_lead_to_the_same_radii_in_fewer_tests(low):
    curves = [
        lambda r: -1.15 + 2 * r**2 + 9 * r**3,  # as bounds grow
        lambda r: -1 + 3 * r,
        lambda r: -1 + 0.1 * np.exp(9 * r),
        lambda r: -1 + 0.4 * r,  # holds up to the end
        lambda r: np.where(r > 0.4, np.inf, -1 + r),
        lambda r: -2 + 3 * np.sqrt(r),
        lambda r: -1e-3 + 1e3 * max(r - 0.25, 0) ** 4,
        lambda r: 1.0 + r,  # holds nowhere
    ]
    ends = np.linspace(0.6, 1, len(curves))

    def search(values=None):
        found = RadiusSearch(low, ends, nb_halvings=9, linear=True, values=values, test_high="last")
        nb_tests = np.zeros(len(curves), int)
        for samples, radii in found:
            at = np.array([float(curves[n](r)) for n, r in zip(samples, radii)])
            nb_tests[samples] += 1
            found.answer(at < 0, at)
        return found, nb_tests

    halved, nb_halved = search()
    led, nb_led = search(np.array([float(curve(low)) for curve in curves]))
    np.testing.assert_allclose(led.held, halved.held, rtol=1e-12)
    np.testing.assert_allclose(led.broken, halved.broken, rtol=1e-12)
    assert (nb_led <= nb_halved + 3).all()
    assert (nb_led[:4] <= 6).all()
    assert (nb_halved[:3] == 9).all()


def test_values_that_say_nothing_leave_a_bisection():
    search = RadiusSearch(np.zeros(1), 1.0, nb_halvings=4, linear=True, values=np.full(1, np.nan))
    tried = []
    for _, radii in search:
        tried.append(float(radii[0]))
        search.answer(radii < 0.3, np.full(1, np.inf))
    assert tried == [0.5, 0.25, 0.375, 0.3125]
    assert search.held == [0.25]


@pytest.mark.parametrize("nb_logits", [1, 3])
def test_radii_of_classes_are_those_of_a_bisection(nb_logits):
    model = sequential((4,), keras.layers.Dense(6, "relu"), keras.layers.Dense(nb_logits))
    inputs = np.random.default_rng(0).normal(size=(5, 4))
    logits = np.asarray(model(inputs))
    classes = logits.argmax(axis=1) if nb_logits > 1 else (logits[:, 0] > 0).astype(int)
    classes[4] = 1 - classes[4] if nb_logits == 1 else (classes[4] + 1) % 3
    verifier, ends = Verifier(model), np.array([2.0, 0.5, 1.0, 0.0, 1.0])

    def region_at(samples, radii):
        return Ball(inputs[samples], radii[:, None])

    found = class_radii(verifier, region_at, classes, ends, 8)
    search = RadiusSearch(0.0, ends, nb_halvings=8, linear=True, test_high="last")
    for samples, radii in search:
        search.answer(keeps_class(verifier, region_at(samples, radii), classes[samples]))
    np.testing.assert_allclose(found, search.held, rtol=1e-12)
    assert (found[:3] > 0).all()
    np.testing.assert_array_equal(found[3:], 0)


def test_an_answer_is_due_after_each_test():
    for answer in (None, [True, False, True]):
        search = RadiusSearch(np.zeros(2), 1.0, nb_halvings=2, linear=True)
        with pytest.raises(RuntimeError, match=r"answer\(\) is due .* 2 inputs"):  # noqa: PT012
            for _ in search:
                if answer is not None:
                    search.answer(answer)
    with pytest.raises(ValueError, match="nb_halvings, tolerance or both"):
        RadiusSearch(np.zeros(2), 1.0)


def test_a_class_is_kept_where_all_margins_are_negative():
    model = sequential((2,), keras.layers.Dense(3, use_bias=False))
    model.set_weights([np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])])
    inputs = np.array([[1.0, 0.5], [1.0, 0.5], [0.5, 1.0]])
    # f_1 - f_0 = x_1 - x_0 changes its sign at 0.25 in l_inf
    region = Ball(inputs, np.array([0.24, 0.26, 0.24]))
    kept = keeps_class(Verifier(model, "ibp"), region, np.array([0, 0, 1]))
    np.testing.assert_array_equal(kept, [True, False, True])


def test_an_interval_has_two_sides():
    interval = Interval(np.array([0.1, 0.0, 0.3]), np.array([0.2, np.inf, 0.3]))
    np.testing.assert_allclose(interval.gap, [0.1, np.inf, 0.0])
    some = interval[np.array([0, 2])]
    np.testing.assert_array_equal(some.certified, [0.1, 0.3])
    assert len(some) == 2
    assert repr(interval) == "<Interval: certified 0.1, attacked 0.3 (medians of 3)>"
    assert interval.to_dict() == {"certified": [0.1, 0.0, 0.3], "attacked": [0.2, np.inf, 0.3]}
    alone = Interval(np.array([1.0]))
    assert alone.gap is None
    assert "not attacked" in repr(alone)
    assert alone[:1].attacked is None
    assert repr(alone[:0]) == "<Interval of no inputs>"


def test_attacks_outside_of_certified_radii_pass():
    # equal only where nothing is certified; inf where nothing was found
    compare_radii([0.1, 0.0, 0.0, 0.3], [0.2, 0.0, 0.1, np.inf], **STATED)
    compare_radii([], [], **STATED)


@pytest.mark.parametrize("attacked", [0.2, 0.1999, 0.0])
def test_an_attack_at_or_inside_a_certified_radius_is_refused(attacked):
    with pytest.raises(ContradictionError, match=r"another class at .* for input 1, .*'crown'"):
        compare_radii([0.1, 0.2], [0.15, attacked], **STATED)
    with pytest.raises(RuntimeError, match="input 17.*up to 0.2 .l2 balls.*report it"):
        compare_radii([0.1, 0.2], [0.15, attacked], samples=[4, 17], **STATED)


def test_values_above_a_bound_are_refused():
    compare_bounds([1.0, -0.5, np.inf], [1.0, -np.inf, 7.0], **STATED)
    with pytest.raises(ContradictionError, match=r"at -0.25 for input 1, .*bounds by -0.5"):
        compare_bounds([1.0, -0.5], [1.0, -0.25], **STATED)
