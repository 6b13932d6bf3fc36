"""xcertify: certified explanations for Keras models.

The parts are imported from their modules, so that ``import xcertify`` stays fast::

    from xcertify.attributions import EVA
    from xcertify.bounds import Verifier
    from xcertify.metrics import Deletion, Insertion
    from xcertify.plots import plot_attributions

`suggest_epsilon`, `one_output` and `VacuousWarning` are here, since all of them need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xcertify.epsilon import suggest_epsilon
    from xcertify.outputs import one_output
    from xcertify.usefulness import VacuousWarning

__all__ = ["VacuousWarning", "one_output", "suggest_epsilon"]

_MODULES = {
    "one_output": "xcertify.outputs",
    "suggest_epsilon": "xcertify.epsilon",
    "VacuousWarning": "xcertify.usefulness",
}

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """What is imported when it is asked for."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'xcertify' has no attribute {name!r}")
