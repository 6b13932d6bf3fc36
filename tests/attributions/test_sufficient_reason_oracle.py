"""Brute force over all subsets, which `SufficientReason` is held against, is right by itself."""

import dataclasses
import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from brute_force import Area, by_grid, by_pieces, read, with_property, worst
from networks import functional
from reasons_asked import Asked, check
from rotation import rotating
from subsets import (
    Subsets,
    beats,
    by_program,
    class_stays,
    label_stays,
    stays_within,
    with_others_held,
)
from tiny_networks import ARCHITECTURES, chain, draw_weights, tiny

from xcertify.regions import Ball, Box

STRAIGHT = [name for name in ARCHITECTURES if read(tiny(name)).straight]


def some_subsets(build, nb_inputs, seed, norm=np.inf, numbers=None, clip=None):
    generator = np.random.default_rng(seed)
    net = read(tiny(build, nb_inputs, seed))
    center = generator.uniform(-1, 1, (1, nb_inputs)).astype("f4")
    area = Area.of(Ball(center, generator.uniform(0.05, 0.5), norm, clip), 0)
    own = int(net.values(area.center[None])[0].argmax())
    numbers = np.arange(nb_inputs) if numbers is None else np.asarray(numbers)
    return Subsets(net, area, numbers, *class_stays(own, 3))


def points_that_free(subsets, free, generator, nb_points=2000):
    points = subsets.area.sample(generator, nb_points)
    freed = (free >> subsets.numbers) & 1 > 0
    return np.where(freed, points, subsets.area.center)


@pytest.mark.parametrize("name", STRAIGHT)
def test_programs_agree_with_pieces(name):
    pytest.importorskip("scipy.optimize")
    for seed in rotating(1000, 2):
        for nb_inputs in (2, 3):
            subsets = some_subsets(name, nb_inputs, seed)
            asked = with_property(subsets.net, subsets.rows, subsets.limits)
            value, _ = by_pieces(asked, subsets.area)
            lowest, highest = by_program(asked, subsets.area)
            assert lowest <= value + 1e-8 and value - 1e-8 <= highest
            assert highest - lowest < 3e-5


@pytest.mark.parametrize("numbers", [None, [0, 1, 0, 2, 1]])
@pytest.mark.parametrize("name", ["relu", "max_pooling", "smooth_residual", "two_kinks"])
def test_every_subset_alone(name, numbers):
    """No short cut from one subset to another: each is asked, and sampled, by itself."""
    for seed in rotating(1000, 3):
        subsets = some_subsets(name, 5, seed, numbers=numbers)
        table, generator = subsets.table(), np.random.default_rng(seed)
        sizes = []
        for free, enough in enumerate(table):
            alone = dataclasses.replace(subsets)
            lowest, highest = alone.worst(free)
            sampled = subsets.value(points_that_free(subsets, free, generator, 300)).min()
            assert lowest <= highest and lowest <= sampled + 1e-9
            assert lowest <= subsets.seen[free] + 1e-9
            assert enough is not True or highest > 0
            assert enough is not False or lowest <= 0
            if enough:
                sizes.append(subsets.nb_groups - free.bit_count())
        least, most = subsets.smallest()
        assert least <= most == min(sizes)
        assert not subsets.smaller_than(least) and subsets.smaller_than(most + 1)
        for free, group in itertools.product(range(len(table)), range(subsets.nb_groups)):
            if table[free] is False:
                assert table[free | 1 << group] is False


@pytest.mark.parametrize("norm", [2, 1])
def test_balls(norm):
    for seed in rotating(1000, 3):
        subsets = some_subsets("relu", 3, seed, norm)
        generator = np.random.default_rng(seed)
        asked = with_property(subsets.net, subsets.rows, subsets.limits)
        lowest, highest = subsets.worst(0b111)
        lower, upper = by_grid(asked, subsets.area, 1e-2)
        assert lowest <= upper and lower <= highest
        for free in range(8):
            points = points_that_free(subsets, free, generator)
            assert subsets.area.contains(points, 1e-12).all()
            assert subsets.value(points).min() >= subsets.worst(free)[0] - 1e-9


def test_features_held_are_those_of_a_smaller_network():
    net = read(tiny("residual", 4))
    center = np.array([0.1, -0.2, 0.3, 0.4])
    held = with_others_held(net, center, np.array([1, 3]))
    points = np.random.default_rng(0).normal(size=(20, 2))
    full = np.broadcast_to(center, (20, 4)).copy()
    full[:, [1, 3]] = points
    np.testing.assert_allclose(held.values(points), net.values(full), atol=1e-12)


def sum_of_four():
    """x0 + x1 + x2 + x3 against 0, of which the box allows steps of 1, 2, 3 and 0."""
    model = tiny(chain("linear", units=2), 4)
    model.set_weights(
        [
            np.float32([[1, 0]] * 4),
            np.zeros(2, "f4"),
            np.float32([[1, 0, 0], [0, 0, 0]]),
            np.float32([0, 0, -1]),
        ]
    )
    return read(model)


def test_subsets_by_hand():
    center = np.float32([[1, 1, 1, 0.5]])
    steps = np.float32([[1, 2, 3, 0]])
    area = Area.of(Box(center - steps, center + steps, center), 0)
    subsets = Subsets(sum_of_four(), area, np.arange(4), *beats(0, [1], 3))
    # The sum is 3.5: all steps but 1 + 3 + 2 and 2 + 3 and 1 + 3 leave it positive.
    for free in range(16):
        total = sum(float(step) for group, step in enumerate(steps[0]) if free >> group & 1)
        assert subsets.enough(free) is (total < 3.5)
        np.testing.assert_allclose(subsets.worst(free), 3.5 - total, atol=2e-5)
    assert subsets.immovable == 0b1000
    assert subsets.smallest() == (1, 1) and not subsets.smaller_than(1)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([3.0, 1.0, 2.0, 0.0], {"stays": 1.0, "beats": 2.0, "label": 2.0, "within": 0.5}),
        ([2.0, 1.0, 5.0, 0.0], {"stays": -3.0, "beats": 1.0, "label": 4.0, "within": -0.5}),
        ([2.0, 3.0, 1.0, 2.5], {"stays": -1.0, "beats": -1.0, "label": -1.0, "within": -0.5}),
    ],
)
def test_properties_by_hand(outputs, expected):
    """Class 0, against class 1, with the label of class 2, and within 1.5 of 3 or of 4 less."""
    from brute_force import property_values

    outputs = np.array([outputs])
    found = {
        "stays": class_stays(0, 4),
        "beats": beats(0, [1], 4),
        "label": label_stays(0, [7, 3, 7, 3]),
        "within": stays_within(0, 0.5, 3.0, 4),
    }
    for name, asked in found.items():
        assert property_values(*asked, outputs) == expected[name]


def test_a_single_logit():
    from brute_force import property_values

    for own, sign in ((1, 1.0), (0, -1.0)):
        assert property_values(*class_stays(own, 1), np.array([[0.3]])) == sign * 0.3


def test_worst_values_of_all_features_are_those_of_brute_force():
    for name in ("relu", "maxima"):
        subsets = some_subsets(name, 2, 5)
        expected = worst(subsets.net, subsets.area, subsets.rows, subsets.limits)
        lowest, highest = subsets.worst(3)
        assert lowest <= expected[1] and expected[0] <= highest


# --- what is asked of certificates --------------------------------------------------------------


def certificate_of(asked):
    """A certificate by brute force: features are freed one after the other, as long as they may."""
    nb, features = len(asked.region), asked.labels.shape[1:]
    irrelevant, witnesses, smallest = np.zeros((nb, *features), bool), [], []
    for sample in range(nb):
        subsets, labels = asked.subsets(sample), asked.labels[sample]
        names = np.unique(labels)
        free, found = 0, {}
        for number in range(len(names)):
            if subsets.enough(free | 1 << number):
                free |= 1 << number
        for number, name in enumerate(names):
            if not free >> number & 1:
                found[int(name)] = point_that_changes(asked, sample, subsets, free | 1 << number)
        irrelevant[sample] = np.isin(labels, [n for i, n in enumerate(names) if free >> i & 1])
        witnesses.append(found)
        smallest.append(subsets.smallest()[0])
    sizes = np.array([len(found) for found in witnesses])
    return SimpleNamespace(
        irrelevant=irrelevant,
        needed=~irrelevant,
        unknown=np.zeros_like(irrelevant),
        kept=~irrelevant,
        features=asked.labels,
        witnesses=witnesses,
        reason=np.full(nb, ""),
        sizes=sizes,
        smallest=np.array(smallest),
        minimal=np.ones(nb, bool),
        targets=asked.predicted,
        seconds=np.zeros(nb),
        interval=SimpleNamespace(certified=sizes.astype(float), attacked=np.array(smallest)),
        region=asked.region,
    )


def point_that_changes(asked, sample, subsets, free):
    """The worst of many points, as float32."""
    area, generator = subsets.area, np.random.default_rng(0)
    share = np.round(generator.random((20_000, len(area.low))))
    points = np.where((free >> subsets.numbers) & 1, area.low + share * (area.high - area.low), 0)
    points = np.where((free >> subsets.numbers) & 1, points, area.center).astype("f4")
    return points[subsets.value(points.astype("f8")).argmin()].reshape(asked.region.shape)


@pytest.fixture(scope="module")
def asked():
    inputs = np.random.default_rng(1).uniform(-1, 1, (4, 2, 3, 2)).astype("f4")
    start = keras.Input((2, 3, 2))
    x = keras.layers.Dense(3)(keras.layers.Dense(6, "relu")(keras.layers.Flatten()(start)))
    return Asked.of(
        draw_weights(functional(start, x), 3), Ball(inputs, 0.3), [[5, 5, 7], [1, 2, 3]]
    )


def test_a_certificate_by_brute_force_passes(asked):
    certificate = certificate_of(asked)
    check(certificate, asked)
    assert 0 < certificate.sizes.mean() < 5


def moved(certificate, sample, label, origin, target, size=0):
    """A copy where a group has another word."""
    maps = {name: getattr(certificate, name).copy() for name in (origin, target)}
    group = certificate.features[sample] == label
    maps[origin][sample, group], maps[target][sample, group] = False, True
    copy = SimpleNamespace(**vars(certificate) | maps)
    copy.kept = ~copy.irrelevant
    copy.witnesses = [dict(found) for found in certificate.witnesses]
    if target != "needed":
        del copy.witnesses[sample][label]
    copy.sizes = certificate.sizes.copy()
    copy.sizes[sample] += size
    copy.interval = SimpleNamespace(certified=copy.sizes, attacked=certificate.smallest)
    return copy


def wrong_certificates(right, asked):
    sample = int(right.sizes.argmax())
    label = next(iter(right.witnesses[sample]))
    point = right.witnesses[sample][label]
    yield "freed too many", moved(right, sample, label, "needed", "irrelevant", -1)
    freed = int(right.features[right.irrelevant][0])
    owner = int(np.argwhere(right.irrelevant)[0][0])
    extra = moved(right, owner, freed, "irrelevant", "needed", 1)
    extra.witnesses[owner][freed] = asked.region.center[owner]
    yield "needs too many", extra
    unknown = moved(right, sample, label, "needed", "unknown")
    unknown.minimal, unknown.reason = right.minimal.copy(), right.reason.astype(object)
    unknown.minimal[sample], unknown.reason[sample] = False, "time limit"
    yield "gave up", unknown
    for name, wrong in {
        "outside": point + 0.31 * np.sign(point - asked.region.center[sample]),
        "nominal": asked.region.center[sample],
        "all moved": asked.region.lower[sample],
        "NaN": point * np.nan,
    }.items():
        copy = SimpleNamespace(**vars(right))
        copy.witnesses = [dict(found) for found in right.witnesses]
        copy.witnesses[sample][label] = wrong.astype("f4")
        yield name, copy
    larger = SimpleNamespace(**vars(right))
    larger.smallest = right.sizes + 1
    larger.interval = SimpleNamespace(certified=right.sizes, attacked=larger.smallest)
    yield "smallest", larger


def test_wrong_certificates_are_found(asked):
    right = certificate_of(asked)
    names = set()
    for name, wrong in wrong_certificates(right, asked):
        with pytest.raises(AssertionError):
            check(wrong, asked)
        names.add(name)
    assert len(names) == 8


def test_one_sided_proofs_are_found():
    """Upwards a feature is harmless, downwards it changes the class."""
    model = tiny(chain("relu", units=4), 4)
    kernel, end = np.diag([-1, 0.1, 0.1, 0.1]), [[-5.0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    model.set_weights([kernel, np.zeros(4), np.array(end), np.array([0.3, 0, -9])])
    asked = Asked.of(model, Ball(np.zeros((1, 4), "f4"), 0.1))
    right = certificate_of(asked)
    check(right, asked)
    assert right.needed.tolist() == [[True, False, False, False]]
    with pytest.raises(AssertionError, match="not enough"):
        check(moved(right, 0, 0, "needed", "irrelevant", -1), asked)
