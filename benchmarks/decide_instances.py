"""Instances of the verification competition, and what a benchmark checks of their answers itself.

Used by `decide.py`. Nothing here trusts the bounds: values come from the plain Keras model and from
a copy of it in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from xcertify.regions import Box, Region

NB_POINTS = 1000  # of a region at which a proved value is compared
ANSWERS = {"sat": "violated", "unsat": "holds"}  # the words of the competition


class Instance(NamedTuple):
    """One box, a property that it is asked about, and what is published of it.

    `rows` (1, P, J, K) and `limits` (1, P, J), -inf where there are fewer than P conjunctions.
    `answer` is "disputed" where published tools contradict each other.
    """

    network: Path
    name: str
    region: Box
    rows: np.ndarray
    limits: np.ndarray
    timeout: float
    answer: str
    winner: str
    winner_seconds: float

    @property
    def key(self) -> str:
        """The name, with that of the network."""
        return f"{self.network.stem}/{self.name}"


def instances_of(folder: Path, name: str) -> list[Instance]:
    """All instances of the networks whose names begin with `name`, in order."""
    found = []
    for path in sorted(folder.glob(f"{name}*.npz")):
        with np.load(path) as file:
            arrays = dict(file)
        limits = np.where(arrays["used"][..., None], arrays["limit"], -np.inf)
        winner = [ANSWERS.get(str(word), "unknown") for word in arrays["crown_answer"]]
        for n, timeout in enumerate(arrays["timeout"]):
            one = slice(n, n + 1)
            region = Box(arrays["lower"][one], arrays["upper"][one])
            asked = region, arrays["rows"][one], limits[one], float(timeout)
            published = str(arrays["answer"][n]), winner[n], float(arrays["crown_seconds"][n])
            name = str(arrays["names"][n])
            found.append(Instance(path.with_suffix(".keras"), name, *asked, *published))
    if not found:
        raise SystemExit(f"{folder} has no {name}*.npz")
    return found


class Plain:
    """A model as Keras computes it, and a copy in float64."""

    def __init__(self, model: keras.Model) -> None:
        def in_float64(layer: keras.layers.Layer) -> keras.layers.Layer:
            return type(layer).from_config(layer.get_config() | {"dtype": "float64"})

        wide = keras.Input(model.input_shape[1:], dtype="float64")
        copy = keras.models.clone_model(model, input_tensors=wide, clone_function=in_float64)
        copy.set_weights(model.get_weights())
        self._models = {"float32": model, "float64": copy}

    def values(
        self, points: np.ndarray, rows: np.ndarray, limits: np.ndarray, dtype: str
    ) -> np.ndarray:
        """min_p max_j of ``rows[p, j] @ f(x) - limits[p, j]``, (N,): violated where not above 0.

        `points` (N, *input), `rows` (P, J, K) and `limits` (P, J) of one region.
        """
        outputs = keras.ops.convert_to_numpy(self._models[dtype](points.astype(dtype)))
        sums = np.einsum("pjk,nk->npj", rows.astype(float), outputs.astype(float))
        return (sums - limits).max(axis=2).min(axis=1)


def contradictions(
    plain: Plain, region: Region, rows: np.ndarray, limits: np.ndarray, decision: Any, n: int
) -> list[str]:
    """What is wrong with the decision about region n, in words; without any it is confirmed.

    `rows` (N, P, J, K) and `limits` (N, P, J).
    """
    lower, upper, asked = region.lower[n], region.upper[n], (rows[n], limits[n])
    status, proved, attained = decision.status[n], decision.lower[n], decision.upper[n]
    found = []
    if not proved <= attained:
        found.append(f"lower {proved} is above upper {attained}")
    if status == "holds" and not proved > 0:
        found.append(f"holds with lower {proved}")
    if status == "violated" and not attained <= 0:
        found.append(f"violated with upper {attained}")
    if status == "violated":
        for dtype in ("float32", "float64"):
            shown = decision.counterexamples[n].astype(dtype)
            if not np.all((lower <= shown) & (shown <= upper)):  # NaN is not inside
                found.append(f"counterexample outside the region in {dtype}")
            value = plain.values(shown[None], *asked, dtype)[0]
            if not value <= 0:
                found.append(f"counterexample has {value} in {dtype}")
    least = plain.values(points_of(lower, upper), *asked, "float64").min()
    if not least >= proved - 1e-9 * max(1, abs(proved)):
        found.append(f"lower {proved} is above {least} at a random point")
    return found


def points_of(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Random points and corners of one box, half of each, (N, *input)."""
    shares = np.random.default_rng(0).random((NB_POINTS, *lower.shape))
    shares[::2] = np.round(shares[::2])
    return np.clip(lower + shares * (upper - lower), lower, upper)


def against_published(status: str, answer: str) -> list[str]:
    """The same for an answer that is published; one that is disputed contradicts nothing."""
    return [f"published: {answer}"] if {status, answer} == {"holds", "violated"} else []
