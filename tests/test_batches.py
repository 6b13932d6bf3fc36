"""How many points are worked on at once."""

import keras
import numpy as np
import pytest
from networks import sequential

from xcertify import batches
from xcertify.attacks import PGD, MinimalPerturbation
from xcertify.attributions import Saliency
from xcertify.batches import most_at_once, nb_entries
from xcertify.metrics import Deletion

L = keras.layers


@pytest.fixture(scope="module")
def model():
    inner = sequential((6, 6, 1), L.Conv2D(4, 3, padding="same"), L.ReLU())
    return sequential((6, 6, 1), inner, L.Flatten(), L.Dense(2))


def test_entries_are_those_of_all_layers(model):
    # Two tensors inside of the nested model, what it gives, the same flat, and the outputs.
    assert nb_entries(model) == 4 * 144 + 2
    assert nb_entries(lambda x: x) == 1
    assert nb_entries(sequential((None, 3), L.Dense(4))) == 1


def test_no_more_than_memory_allows(model, monkeypatch):
    assert most_at_once(model, 512) == 512
    assert most_at_once(model, None) > 10**6
    monkeypatch.setattr(batches, "default_bytes", lambda: 3 * 8 * nb_entries(model) + 7)
    assert most_at_once(model, 512) == 3
    assert most_at_once(model, 2) == 2
    images = np.zeros((5, 6, 6, 1), np.float32)
    users = Saliency(model), PGD(model), MinimalPerturbation(model), Deletion(model, images)
    assert [user._nb_at_once for user in users] == [3] * 4
    monkeypatch.setattr(batches, "default_bytes", lambda: 1)
    assert most_at_once(model, 512) == 1
    with pytest.raises(ValueError, match="batch_size"):
        most_at_once(model, 0)
