"""Lines of what mixes moving entries: valid at all corners and inside, for every mixture."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops

from xcertify.bounds.graph.operations import Enclosure, Options
from xcertify.bounds.graph.products import Average, Contraction, Product
from xcertify.bounds.graph.softmax import Softmax
from xcertify.bounds.propagation.relaxing import blended

WIDTHS = (0.0, 1e-4, 0.1, 1.0, 10.0, 900.0)
SHARES = (-1.0, -0.4, 0.0, 0.7, 1.0)
CASES = {
    "product": (Product(), [(5,), (5,)]),
    "matrices": (Contraction(), [(2, 3, 4), (2, 2, 4)]),
    "softmax": (Softmax(), [(2, 4)]),
    "softmax_of_two": (Softmax(1), [(2, 3)]),
    "softmax_of_all": (Softmax((1, 2)), [(2, 3)]),
}


def enclosures(shapes, width, generator):
    """One region around random references, which are anywhere in their intervals."""
    found = []
    for shape in shapes:
        reference = generator.normal(size=(1, *shape)) * generator.choice([0.1, 1, 4])
        sides = generator.uniform(0, width, (2, 1, *shape)).astype("float32")
        sides *= generator.random((1, *shape)) < 0.8  # some are fixed
        found.append(Enclosure(*map(ops.convert_to_tensor, (reference, -sides[0], sides[1]))))
    return found


def assert_lines_hold(operation, inputs, points, dtype="float32", network=None):
    """Upper bounds of random rows, which `pull_back` and the lines make, at points of the box."""
    generator = np.random.default_rng(1)
    shapes = [e.reference.shape[1:] for e in inputs]
    reference = operation.evaluate(*(e.reference for e in inputs))
    steps = [p - np.asarray(e.reference) for p, e in zip(points, inputs)]
    change = np.asarray(operation.evaluate(*points)) - np.asarray(reference)
    for alternatives in (False, True):
        options = Options(dtype, network, alternatives=alternatives)
        output = operation.interval(inputs, reference, options)
        relaxed = operation.relax(inputs, output, options)
        relaxed = relaxed.map(lambda values: values[:, None, None])
        size = (1, 1, 4, *reference.shape[1:])
        rows = generator.normal(size=size).astype("float32")
        assert (change >= np.asarray(output.lower)).all()
        assert (change <= np.asarray(output.upper)).all()
        for share in SHARES if alternatives else (0.0,):
            mixed = relaxed
            if alternatives:
                shares = np.full(size, share, "float32")
                if relaxed.least is None:
                    shares = np.maximum(shares, 0)
                mixed = blended(relaxed, relaxed.alternative, shares)
            pulled = operation.pull_back(ops.convert_to_tensor(rows), mixed, shapes)
            constant = np.where(rows > 0, rows * mixed.upper, rows * mixed.lower)[0, 0]
            bound = constant.astype("float64").reshape(4, -1).sum(axis=1)
            for part, step in zip(pulled, steps):
                flat = np.asarray(part[0, 0], "float64").reshape(4, -1)
                bound = bound + step.reshape(len(step), -1) @ flat.T
            found = change.reshape(len(change), -1) @ rows[0, 0].reshape(4, -1).T
            slack = 1e-6 * np.abs(constant).sum()  # sums of the pass itself
            assert (found <= bound + slack).all()


def points_of(inputs, generator, count=60):
    """Corners of intervals, and points inside, of each input (2 * count, *shape)."""
    found = []
    for enclosure in inputs:
        shares = generator.random((count, *enclosure.reference.shape[1:]))
        shares = np.concatenate([np.rint(shares), shares])
        lower, upper = (np.asarray(side, "float64") for side in (enclosure.lower, enclosure.upper))
        step = lower * (1 - shares) + upper * shares
        found.append(np.asarray(enclosure.reference) + step)
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CASES)
def test_lines_hold_for_every_mixture(name, width):
    operation, shapes = CASES[name]
    generator = np.random.default_rng(0)
    for _ in range(2):
        inputs = enclosures(shapes, width, generator)
        assert_lines_hold(operation, inputs, points_of(inputs, generator))


@pytest.mark.parametrize("width", WIDTHS)
def test_means_whose_weights_sum_to_one(width):
    """Of shares of a softmax, at corners of its scores; intervals stay between the values."""
    generator, softmax, mean = np.random.default_rng(0), Softmax(), Average()
    for _ in range(2):
        scores, values = enclosures([(2, 3, 4), (2, 2, 4)], width, generator)
        reference = softmax.evaluate(scores.reference)
        shares = softmax.interval([scores], reference, Options())
        points = points_of([scores, values], generator)
        points[0] = np.asarray(softmax.evaluate(ops.convert_to_tensor(points[0])))
        for network in (None, "float32"):
            assert_lines_hold(mean, [shares, values], points, network=network)
        output = mean.interval(
            [shares, values], mean.evaluate(reference, values.reference), Options()
        )
        lower, upper = map(np.asarray, output.absolute())
        least, most = map(np.asarray, values.absolute())
        assert (upper <= most.max(axis=-1)[:, :, None] + 1e-4 * (1 + width)).all()
        assert (lower >= least.min(axis=-1)[:, :, None] - 1e-4 * (1 + width)).all()
        plain = Contraction().interval([shares, values], output.reference, Options())
        assert (plain.upper >= output.upper).numpy().all()


def test_the_largest_mean_is_found():
    """Weights of .2 to .6 on 0, 1 and 2: .6 * 2 + .2 * 1, and .6 * 0 + .2 * 1 + .2 * 2."""
    shares = [np.full((1, 1, 1, 3), value) for value in (0.2, 0.6)]
    shares = Enclosure(*map(ops.convert_to_tensor, (0 * shares[0], *shares)))
    values = ops.convert_to_tensor(np.array([0.0, 1.0, 2.0]).reshape(1, 1, 1, 3))
    output = Average().interval(
        [shares, Enclosure(values, 0 * values, 0 * values)], 0 * values[..., :1], Options("float64")
    )
    np.testing.assert_allclose(output.upper, 1.4, rtol=1e-6)
    np.testing.assert_allclose(output.lower, 0.6, rtol=1e-6)


def test_the_shares_of_a_softmax_of_infinite_intervals():
    """From 0 to 1, with constants as lines."""
    reference = ops.convert_to_tensor(np.zeros((1, 3)))
    sides = [np.full((1, 3), side, "float32") for side in (-1, np.inf)]
    inputs = [Enclosure(reference, *map(ops.convert_to_tensor, sides))]
    operation, options = Softmax(), Options()
    output = operation.interval(inputs, operation.evaluate(reference), options)
    lower, upper = map(np.asarray, output.absolute())
    assert (np.abs(lower) < 1e-6).all()
    assert (np.abs(upper - 1) < 1e-6).all()
    relaxed = operation.relax(inputs, output, options)
    (pulled,) = operation.pull_back(
        ops.ones((1, 1, 1, 3)), relaxed.map(lambda values: values[:, None, None]), [(3,)]
    )
    assert (np.asarray(pulled) == 0).all()
    assert np.isfinite(np.asarray(relaxed.upper)).all()
