"""Several threads may certify at once: with the same object, with others, and with EVA."""

import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf
from networks import sequential

from xcertify.attributions import EVA
from xcertify.bounds import Verifier, backend
from xcertify.regions import Ball

L = keras.layers
NB_THREADS = 4


def at_once(*calls):
    """Results of calls that start together."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def network(seed):
    keras.utils.set_random_seed(seed)
    return sequential((6,), L.Dense(8, "relu"), L.Dense(3))


def test_one_verifier_and_several():
    models = [network(seed) for seed in range(2)]
    generator = np.random.default_rng(0)
    inputs = [generator.random((n, 6), dtype="float32") for n in range(1, NB_THREADS + 1)]
    regions = [Ball(x, 0.1) for x in inputs]
    expected = [
        [Verifier(model, "crown").bound_outputs(region) for region in regions] for model in models
    ]
    verifiers = [Verifier(model, "crown") for model in models]  # that have compiled nothing yet
    for _ in range(3):
        found = at_once(*(lambda v=v, r=r: v.bound_outputs(r) for v in verifiers for r in regions))
        for sides, known in zip(found, [sides for each in expected for sides in each]):
            np.testing.assert_allclose(sides, known, rtol=1e-5, atol=1e-6)


def test_calls_of_different_kinds():
    model = network(0)
    inputs = np.random.default_rng(0).random((3, 6), dtype="float32")
    region = Ball(inputs, 0.1)
    verifier = Verifier(model)
    calls = [
        lambda v: v.bound_outputs(region),
        lambda v: v.linear_bounds(region).bounds(),
        lambda v: v.bound_gradient(region),
        lambda v: v.evaluate(inputs),
        lambda v: v.bound_layer(region, model.layers[0].name),
    ]
    expected = [call(Verifier(model)) for call in calls]
    found = at_once(*(lambda call=call: call(verifier) for call in calls))
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_eva():
    model = network(1)
    inputs = np.random.default_rng(0).random((4, 6), dtype="float32")
    expected = EVA(model, 0.1).certify(inputs)
    explainer = EVA(model, 0.1)
    for found in at_once(*[lambda: explainer.certify(inputs)] * NB_THREADS):
        np.testing.assert_allclose(found.overlap, expected.overlap, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            found.cell_overlaps, expected.cell_overlaps, rtol=1e-5, atol=1e-6
        )


def test_the_last_thread_restores_the_precision():
    switch = tf.config.experimental.tensor_float_32_execution_enabled
    before = switch()
    inside, left = threading.Event(), threading.Event()
    seen = []

    def first():
        with backend.full_precision():
            inside.set()
            left.wait(30)
            seen.append(switch())

    tf.config.experimental.enable_tensor_float_32_execution(True)
    try:
        thread = threading.Thread(target=first)
        thread.start()
        inside.wait(30)
        with backend.full_precision():
            seen.append(switch())
        seen.append(switch())  # one has left, and the other still needs it
        left.set()
        thread.join()
        assert seen == [False, False, False]
        assert switch()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
