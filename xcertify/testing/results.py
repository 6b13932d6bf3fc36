"""Rules about what `explain` gives, by whatever call."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from xcertify.testing.case import Case


def check_globals(case: Case) -> None:
    """Seeds, states, switches and the model stay as they were; see `surroundings`."""
    for method in case.methods(case.explainer):
        case.call(method, case.inputs, case.labels)  # as all other calls, which are watched, too


def check_result(case: Case) -> None:
    """A NumPy array of its own, float32 and finite, (N, H, W, 1) for images."""
    maps = case.explain(case.inputs, case.labels)
    shape = case.inputs.shape
    shape = (*shape[:-1], 1) if len(shape) == 4 else shape
    if not isinstance(maps, np.ndarray):
        case.fail(f"explain must give a NumPy array. Received: {type(maps).__name__}")
    if maps.shape != shape:
        case.fail(f"explain must give the shape {shape}. Received: {maps.shape}")
    if maps.dtype != np.float32:
        case.fail(f"explain must give float32. Received: {maps.dtype}")
    if not np.isfinite(maps).all():
        case.fail(f"explain must give finite values. Received: {maps[~np.isfinite(maps)][:3]}")
    if np.shares_memory(maps, case.inputs):
        case.fail("explain must give an array of its own. Received: memory of the inputs")


def check_call(case: Case) -> None:
    """``explainer(inputs, targets)`` and arguments by name give the same maps."""
    pair = case.inputs, case.labels
    case.agree("explainer(inputs, targets)", case.call(case.explainer, *pair))
    by_name = case.call(case.explainer.explain, targets=pair[1], inputs=pair[0])
    case.agree("explain(inputs=..., targets=...)", by_name)


def check_batches(case: Case) -> None:
    """Inputs one at a time, or with another `batch_size`, have the same maps."""
    pairs = zip(np.split(case.inputs, len(case.inputs)), case.labels[:, None])
    alone = [case.explain(*pair) for pair in pairs]
    case.agree("inputs one at a time", np.concatenate(alone))
    usual = getattr(case.explainer, "batch_size", None)
    if usual is not None:
        case.explainer.batch_size = 2
        maps = case.explain(case.inputs, case.labels)
        case.explainer.batch_size = usual
        case.agree(f"batch_size=2 instead of {usual}", maps)


def check_repeats(case: Case) -> None:
    """A later call and a new explainer give the same maps; results do not change later."""
    first = case.explain(case.inputs, case.labels)
    before = np.array(first)
    case.explain(case.inputs[::-1], case.labels[::-1])
    if not np.array_equal(first, before):
        case.fail("a result must stay what it is. Received: one that the next call changed")
    case.agree("a later call", case.explain(case.inputs, case.labels))
    again = case.make(case.model)
    case.agree("a new explainer", case.call(again.explain, case.inputs, case.labels))


def check_quiet(case: Case) -> None:
    """Nothing is printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for method in case.methods(case.explainer):
            case.call(method, case.inputs, case.labels)
    if printed.getvalue():
        case.fail(f"nothing must be printed. Received: {printed.getvalue()[:200]!r}")
