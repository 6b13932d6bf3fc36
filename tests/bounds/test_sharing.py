"""Verifiers of one model share what was read and compiled of it, and nothing outlives the model."""

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from networks import sequential

from xcertify.ascent import ascend
from xcertify.attacks import PGD, ascent
from xcertify.attributions import CORGI, EVA, Saliency
from xcertify.bounds import Verifier
from xcertify.fingerprints import fingerprint
from xcertify.regions import Ball
from xcertify.sharing import shared

L = keras.layers


def dense():
    return sequential((3,), L.Dense(4, "relu"), L.Dense(2))


REGION = Ball(np.float32([[0.2, 0.5, 0.8]]), 0.1)


def test_verifiers_of_the_same_settings_have_one_engine():
    model = dense()
    engine = Verifier(model)._engine
    assert Verifier(model)._engine is engine
    assert Verifier(model, "crown", strip_head=True, nb_steps=7)._engine is engine
    assert EVA(model, 0.1)._verifier._engine is engine
    others = [
        {"method": "ibp"},
        {"dtype": "float64"},
        {"arithmetic": "float32"},
        {"memory_budget": 10**6},
        {"start_layer": model.layers[0].name},
        {"strip_head": False},
        {"lower_slope": "left"},
        {"compile": True},
        {"method": "alpha-crown"},
        {"method": "alpha-crown", "nb_steps": 7},
    ]
    engines = [engine, *(Verifier(model, **settings)._engine for settings in others)]
    engines += [Verifier(dense())._engine]
    assert len({id(one) for one in engines}) == len(engines)


def test_calls_of_several_verifiers_add_up_to_a_graph():
    model = dense()

    def compiled():
        kept = Verifier(model)._engine._kept.values()
        return [one._graph is not None for one in kept if hasattr(one, "_graph")]

    for _ in range(9):
        before = Verifier(model).bound_outputs(REGION)
    assert compiled() == [False]
    for _ in range(3):
        after = Verifier(model).bound_outputs(REGION)
    assert compiled() == [True]
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)


def test_a_changed_model_gets_an_engine_of_its_own():
    model = dense()
    verifier = Verifier(model, "ibp")
    engine, before = verifier._engine, verifier.bound_outputs(REGION)
    model.set_weights([2 * weight for weight in model.get_weights()])
    assert verifier._engine is engine is Verifier(model, "ibp")._engine
    assert not np.allclose(verifier.bound_outputs(REGION), before)
    model.layers[0].activation = keras.activations.tanh
    changed = Verifier(model, "ibp")._engine
    assert changed is not engine
    assert verifier._engine is changed
    lower, upper = verifier.bound_outputs(REGION)
    outputs = model(REGION.center).numpy()
    assert (lower <= outputs).all()
    assert (outputs <= upper).all()
    model.layers[0].activation = keras.activations.relu
    assert Verifier(model, "ibp")._engine not in (engine, changed)


@pytest.mark.parametrize("compile", [True, False])
def test_nothing_outlives_the_model(compile):
    model = dense()
    model.compile("sgd", "mse")
    model.fit(REGION.center, np.zeros((1, 2)), verbose=0)
    engines = []
    for method in ("crown", "alpha-crown"):
        verifier = Verifier(model, method, compile=compile)
        verifier.bound_outputs(REGION)
        verifier.bound_gradient(REGION)
        verifier.evaluate(REGION.center)
        engines.append(weakref.ref(verifier._engine))
    Saliency(model).explain(REGION.center)
    PGD(model, steps=2)(REGION, [0])
    gone = weakref.ref(model)
    del verifier
    gc.collect()
    assert all(engine() is not None for engine in engines)
    del model
    gc.collect()
    assert gone() is None
    assert all(engine() is None for engine in engines)


def test_copies_and_files_of_a_model_have_nothing_of_it(tmp_path):
    model = dense()
    before = fingerprint(model)
    Verifier(model).bound_outputs(REGION)
    assert fingerprint(model) == before
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "exported", verbose=False)
    others = [keras.models.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)]
    others += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for other in others:
        assert Verifier(other)._engine is not Verifier(model)._engine
        Verifier(other).bound_outputs(REGION)


def test_what_a_cell_notes_when_it_is_called_changes_nothing():
    cells = [L.SimpleRNN(2), L.GRU(2), L.Bidirectional(L.LSTM(2)), L.ConvLSTM1D(1, 1)]
    models = [sequential((2, 3, 1)[: 3 if cell is cells[3] else 2], cell) for cell in cells]
    before = [fingerprint(model) for model in models]
    for model in models:
        model(np.zeros((1, *model.input_shape[1:]), "float32"))
    assert [fingerprint(model) for model in models] == before


def test_threads_get_one_engine():
    model = dense()
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(lambda _: Verifier(model)._engine, range(32)))
    assert len({id(engine) for engine in engines}) == 1


def test_explainers_share_what_they_make_of_a_model():
    model = sequential(
        (6, 6, 1), L.Conv2D(3, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(2)
    )
    images = np.random.default_rng(0).random((2, 6, 6, 1), dtype="float32")
    first = CORGI(model, k=3)
    maps = first.explain(images)
    second = CORGI(model, k=4)
    np.testing.assert_array_equal(second.explain(images), maps)
    assert first._activation.models is second._activation.models
    engines = [corgi._activation.verifier("crown")._engine for corgi in (first, second)]
    assert engines[0] is engines[1]


def test_attacks_on_a_model_are_traced_once(monkeypatch):
    model, traced = dense(), []

    def count(*arguments):
        traced.append(len(arguments))
        return ascend(*arguments)

    monkeypatch.setattr(ascent, "ascend", count)
    for steps in (2, 3):
        PGD(model, steps=steps)(REGION, [0])
    assert len(traced) == 1
    PGD(model, steps=2, targeted=True)(REGION, [0])
    assert len(traced) == 2


def test_the_results_used_last_are_kept():
    model = dense()
    shared(model, "first", 0, object)
    kept = [shared(model, number, 0, object) for number in range(31)]
    assert [shared(model, number, 0, object) for number in range(31)] == kept
    first = shared(model, "first", 0, object)
    assert shared(model, 0, 0, object) is kept[0]
    shared(model, "another", 0, object)
    assert shared(model, "first", 0, object) is first
    assert shared(model, 1, 0, object) is not kept[1]
    assert shared(model, 0, "another state", object) is not kept[0]
    assert shared(len, "of a function", 0, object) is not shared(len, "of a function", 0, object)
