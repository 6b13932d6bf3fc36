"""What is made of a model is kept with the model, for all objects that need the same of it.

Several explainers, attacks and verifiers of one model need the same bounds and logits of it. What
was read and compiled for one serves the others, as long as the model is the one it was made of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import keras

from xcertify.keras_graph import KEPT

_NB_KEPT = 32  # results of one model, those used last


class _Kept:
    """What has been made of one model, with the state that it was made of, by key."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.made: dict[Hashable, tuple[Any, Any]] = {}


def shared(model: Any, key: Hashable, state: Any, make: Callable[[], Any]) -> Any:
    """What `make` gives, or what it gave when it was asked before for the same.

    It is an attribute of the model: both go when nobody holds the model, and copies and files of
    it have nothing of it. Of one model no more than the 32 results that were used last are kept.

    Parameters
    ----------
    model
        A Keras model. Of any other callable nothing is kept: its state is not known.
    key
        Tells apart what is made of one model; with all settings that it depends on.
    state
        What the model is now, as `xcertify.fingerprints.fingerprint` says. What was made of
        another state is made anew.
    make
        Makes it, of the model and the key alone: whoever asks may get what was made for another.
    """
    if not isinstance(model, keras.Model):
        return make()
    kept = vars(model).setdefault(KEPT, _Kept())  # not as Keras sets attributes, which it tracks
    with kept.lock:
        known, made = kept.made.pop(key, (None, None))
        if known is None or known != state:
            known, made = state, make()
        kept.made[key] = known, made
        while len(kept.made) > _NB_KEPT:
            del kept.made[next(iter(kept.made))]
    return made
