"""Maps of noisy inputs, by any explainer: what certificates from samples are made of."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from tqdm import tqdm

from xcertify.attacks.maps import Explanation
from xcertify.attributions.base import Certifying, Explainer, ScoreExplainer
from xcertify.attributions.map_changes import BoundedMaps
from xcertify.logits import classes_of, weights_of
from xcertify.models import takes_words
from xcertify.perturbation import as_outside
from xcertify.regions import valid_range
from xcertify.sampling import Draw, Streams, normal_draws, sampled

if TYPE_CHECKING:
    from typing_extensions import Self

_BYTES = 2**28  # of noisy points, their maps and copies of both
_NB_BYTES = 32  # of each feature
_DIFFERENT = 0.01  # of what a map varies by: what no rounding makes of it,
_ROUNDED = 1e-5  # unless it is less than this share of its length
_RISE_OF_XPLIQUE = ("xplique.attributions.rise", "Rise")


class NoisyExplainer(Certifying):
    """What explainers of smoothed maps share: another explainer, called at noisy points.

    Parameters
    ----------
    explainer
        What makes the maps: an explainer of this package or of Xplique, or a function
        (inputs (B, *shape), targets (B, K)) -> maps (B, *map). The map of a point must depend on
        the point and its targets alone, not on the points beside it; which is tried out at first
        use. It may be random itself, if its draws are new for each point.
    clip
        What noisy points are cut to before they are explained, (low, high); None: they are not.
    outside
        What becomes of inputs outside `clip`: "error" or "clip", as for `EVA`.
    model
        That the explainer is of; None: its attribute `model`. Of a function it must be given. An
        explainer of another model is copied, with this one.
    batch_size
        Most noisy points that are explained at once. With 1 each is explained alone.
    seed
        Of the noise.
    verbose
        Whether to show a progress bar.
    """

    def __init__(
        self,
        explainer: Any,
        *,
        clip: tuple[Any, Any] | None,
        outside: str,
        model: Any,
        batch_size: int | None,
        seed: int,
        verbose: bool,
    ) -> None:
        name = type(self).__name__
        own = getattr(explainer, "model", None)
        is_model = isinstance(explainer, keras.layers.Layer)
        if is_model or not (callable(explainer) or hasattr(explainer, "explain")):
            raise ValueError(
                f"explainer must be an explainer, such as Saliency(model), or a function (inputs, "
                f"targets) -> maps; of a model write {name}.of_model(model, of='Saliency'). "
                f"Received: {explainer!r}"
            )
        if model is None and own is None:
            raise ValueError(
                f"model must be given where the explainer has none, as a function: "
                f"{name}(function, model=model). Received: None with {explainer!r}"
            )
        if model is not None and own is not None and own is not model:
            explainer = copy.copy(explainer)
            explainer.model = model
        super().__init__(
            own if model is None else model, batch_size=batch_size, seed=seed, verbose=verbose
        )
        if isinstance(clip, str):
            raise ValueError(
                f"clip must be a pair (low, high) that does not depend on the inputs of a call. "
                f"Received: {clip!r}"
            )
        self.explainer, self.clip, self.outside = explainer, clip, as_outside(outside)

    @classmethod
    def of_model(
        cls,
        model: keras.Model,
        of: str | Callable = "Saliency",
        of_settings: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """The smoothed explainer of an explainer that is told by name, for runs and commands.

        Parameters
        ----------
        model
            What is explained.
        of
            Name of a class of `xcertify.attributions`; in Python also what the constructor takes.
        of_settings
            Arguments of its constructor but the model, by name.
        settings
            Arguments of this class.
        """
        if not isinstance(of, (str, type)) and (callable(of) or hasattr(of, "explain")):
            return cls(of, model=model, **settings)
        # by name: the folder knows all explainers, this one among them
        known = importlib.import_module("xcertify.attributions")
        kind = getattr(known, of, None) if isinstance(of, str) and of in known.__all__ else None
        if not (isinstance(kind, type) and issubclass(kind, Explainer)):
            raise ValueError(
                f"of must be the name of an explainer of xcertify.attributions, such as "
                f"'Saliency'; give any other to the constructor, {cls.__name__}(explainer). "
                f"Received: {of!r}"
            )
        try:
            explainer = kind.of_model(model, **(of_settings or {}))
        except TypeError as error:  # of an argument that it does not have
            raise ValueError(
                f"of_settings must be arguments of {of}: {error}. Received: {of_settings!r}"
            ) from error
        return cls(explainer, **settings)

    def _stated(self) -> dict[str, Any]:
        settings = super()._stated()
        explainer = settings.pop("explainer")
        own: dict[str, Any] = {"of": explainer}  # which is told in words only
        if type(explainer) in _of_this_package():
            own = {"of": type(explainer).__name__, "of_settings": explainer._stated()}
        return own | settings

    def _construct_with(self, changes: dict[str, Any]) -> None:
        explainer = changes.get("explainer", self.explainer)
        if "explainer" in changes and getattr(explainer, "model", None) is not None:
            changes = {"model": None} | changes  # that of the new explainer
        super()._construct_with(changes)

    def _prepare(self, inputs: Any, targets: Any) -> tuple[np.ndarray, Any]:
        self._follow_explainer()
        return super()._prepare(inputs, targets)

    def _follow_explainer(self) -> None:
        """Take the model that the explainer has now; refuse one to whose inputs no noise fits."""
        model = getattr(self.explainer, "model", self.model)
        if model is not self.model:  # the explainer was given another one
            self.model = model
        if takes_words(self.model):
            raise ValueError(
                f"the model must take real numbers, to which noise can be added: of words explain "
                f"what is behind their embedding, behind(model, layer). "
                f"Received: inputs of {self.model.inputs[0].dtype}"
            )

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Weights (N, K) of the outputs, before any noise; of a class a one-hot row."""
        explainer, found = self.explainer, None
        if isinstance(explainer, Explainer):
            found = explainer._resolve(inputs, targets)
            if explainer._resolves_at_inputs:  # into something else than targets
                found = classes_of(self.model, self._logits(inputs), targets)
        if found is None:
            return weights_of(self.model, self._logits(inputs), targets)
        if np.ndim(found) > 1:
            return np.asarray(found)
        nb_outputs = self.explainer._logits(inputs[:1]).shape[1]
        return np.eye(max(2, nb_outputs), dtype=np.float32)[found]

    @property
    def _takes_bounds(self) -> bool:
        return False

    def _streams(self, inputs: np.ndarray, purpose: str) -> Streams:
        """Generators of the inputs for one purpose."""
        return Streams(self.seed, inputs, purpose)

    def _nb_sharing(self, nb_inputs: int) -> int:
        """How many inputs share the level, of a call with so many; see the setting `nb_inputs`."""
        shared = vars(self)["nb_inputs"]
        shared = nb_inputs if shared is None else shared
        if 1 < shared < nb_inputs:
            raise ValueError(
                f"nb_inputs must be at least the number of inputs, {nb_inputs}, or 1 for a level "
                f"of each. Received: {shared}"
            )
        return shared

    @property
    def _clip_sides(self) -> np.ndarray | None:
        """`clip` as certificates hold it, (2,) or (2, *input) float64; None: nothing is cut."""
        if self.clip is None:
            return None
        return np.stack(np.broadcast_arrays(*(np.asarray(side, np.float64) for side in self.clip)))

    def _noisy_maps(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        streams: Streams,
        counts: Any,
        noise: Draw,
        progress: tqdm | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Maps of noisy points, as `sampled` yields them: inputs in order, in batches.

        Parameters
        ----------
        inputs, targets
            (N, *shape), (N, K) as `_prepare` gives them.
        streams, counts, progress
            As for `sampled`.
        noise
            Draws of what is added, (count, *shape) float32.

        Yields
        ------
        which, maps
            (B,) int, and (B, *map) float64.

        Raises
        ------
        ValueError
            For maps that are not finite, or not one for each point; for explainers whose valid
            range the noisy points leave, and those whose maps depend on the batch.
        """
        self._check_ranges(inputs.shape[1:])
        maps_of = self._maps_of(inputs, targets)
        self._derive("checked", lambda: self._check_alone(inputs, noise, maps_of))
        return sampled(
            streams,
            counts,
            self._points(inputs, noise),
            maps_of,
            batch_size=self._nb_points(inputs.shape[1:]),
            progress=progress,
        )

    def _nb_points(self, shape: tuple[int, ...]) -> int:
        """Most noisy points that are held at once, of a shape."""
        if self.batch_size is None:
            return self._nb_at_once
        return min(self._nb_at_once, max(1, _BYTES // (_NB_BYTES * math.prod(shape))))

    def _nb_climbed(self, shape: tuple[int, ...]) -> int:
        """Most points whose maps an attack holds at once: one map may be a mean of many."""
        explainer = self.explainer
        nb_each = len(explainer._mean(shape)) if isinstance(explainer, BoundedMaps) else 1
        return max(1, self._nb_points(shape) // nb_each)

    def _points(self, inputs: np.ndarray, noise: Draw) -> Draw:
        """Draws of noisy points, cut to `clip`."""
        limits = None
        if self.clip is not None:
            limits = valid_range(self.clip, inputs.shape[1:], np.float32)

        def draw(generator: np.random.Generator, n: int, count: int) -> np.ndarray:
            points = inputs[n] + noise(generator, n, count)
            return points if limits is None else np.clip(points, *limits)

        return draw

    def _maps_of(
        self, inputs: np.ndarray, targets: np.ndarray
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """A function of points (B, *shape) near the inputs `which` (B,): their maps (B, *map)."""
        explainer = self.explainer
        if not isinstance(explainer, Explainer):
            explain = getattr(explainer, "explain", explainer)
            return lambda points, which: _as_maps(explain(points, targets[which]), points)
        once: Any = targets  # weights of a score are what `_resolve` gave
        if explainer._resolves_at_inputs:
            once = None
        elif not isinstance(explainer, ScoreExplainer):
            once = explainer._resolve(inputs, targets)
        cuts = vars(explainer).get("outside") == "clip"

        def maps_of(points: np.ndarray, which: np.ndarray) -> np.ndarray:
            points = explainer.perturbation.inside(points) if cuts else points
            own = explainer._resolve(points, targets[which]) if once is None else once[which]
            try:
                found = explainer._explain(points, own)
            except ValueError as error:
                raise ValueError(
                    f"the explainer must explain every noisy point, for the targets of the input, "
                    f"and does not: {error}"
                ) from error
            return _as_maps(found, points)

        return maps_of

    def _climbed_maps(self, shape: tuple[int, ...]) -> Explanation | None:
        """The maps of the explainer, not smoothed, as `_as_operations` gives them."""
        known = isinstance(self.explainer, Explainer)
        return self.explainer._as_operations(shape) if known else None

    def _check_ranges(self, shape: tuple[int, ...]) -> None:
        """Refuse an explainer with a valid range that noisy points may leave."""
        own = vars(self.explainer) if isinstance(self.explainer, Explainer) else {}
        if isinstance(own.get("clip"), str):
            raise ValueError(
                f"the explainer must have a valid range that does not depend on the inputs of a "
                f"call: give it clip=(low, high). Received: {own['clip']!r}"
            )
        if own.get("clip") is None or own.get("outside", "clip") == "clip":
            return
        limits = (-np.inf, np.inf) if self.clip is None else self.clip
        (low, high), (least, most) = (
            valid_range(clip, shape, np.float32) for clip in (limits, own["clip"])
        )
        if (low < least).any() or (high > most).any():
            raise ValueError(
                f"noisy points would leave the valid range of the explainer, clip={own['clip']!r}: "
                f"cut them to it, {type(self).__name__}(..., clip={own['clip']!r}), which is part "
                f"of the function that is smoothed; or give the explainer outside='clip'. "
                f"Received: clip={self.clip!r}"
            )

    def _check_alone(self, inputs: np.ndarray, noise: Draw, maps_of: Callable) -> bool:
        """Refuse an explainer whose map of a point depends on the points beside it.

        Of one that is random itself: whose draws are the same for all points of a batch.
        """
        if self._nb_points(inputs.shape[1:]) == 1:
            return True
        for n in range(len(inputs)):
            generator, which = self._streams(inputs[n : n + 1], "check")[0], np.full(3, n)
            first, other = self._points(inputs, noise)(generator, n, 2)
            alone = [maps_of(one[None], which[:1])[0] for one in (first, first, other)]
            together = maps_of(np.stack([first, first, other]), which)
            if any(map(np.ptp, (*alone, *together))):  # maps of one value would tell nothing
                break
        if _differ(*alone[:2]):
            depends = _shares_masks(self.explainer) or not _differ(*together[:2])
            why = "its random draws are the same for all points of a batch"
        else:
            depends = any(map(_differ, alone, together))
            why = "it gives another map of a point alone than beside others"
        if depends:
            raise ValueError(
                f"the explainer must give maps that are independent of the batch: {why}, so that "
                f"samples would not be independent. With batch_size=1 each noisy point is "
                f"explained alone. Received: {self.explainer!r}"
            )
        return True


def scaled(noise: Draw, by: float) -> Draw:
    """Draws that are multiplied by a number, in float32."""
    factor = np.float32(by)
    return lambda generator, n, count: factor * noise(generator, n, count)


def normal_noise(shape: tuple[int, ...], sigma: float) -> Draw:
    """Independent normal noise of the deviation `sigma`, (count, *shape) float32."""
    return scaled(normal_draws(shape), sigma)


def _of_this_package() -> tuple[type, ...]:
    """The explainers that `of_model` knows by name."""
    known = importlib.import_module("xcertify.attributions")
    return tuple(getattr(known, name) for name in known.__all__)


def _shares_masks(explainer: Any) -> bool:
    """Whether it is Xplique's Rise: one call has the same masks, at random places, for all points.

    So that its maps are not independent, although they differ.
    """
    kinds = type(explainer).__mro__
    return any((kind.__module__, kind.__name__) == _RISE_OF_XPLIQUE for kind in kinds)


def _as_maps(found: Any, points: np.ndarray) -> np.ndarray:
    """What an explainer gave, (B, *map) float64, or a ValueError."""
    maps = np.asarray(found, np.float64)
    if maps.shape[:1] != points.shape[:1] or maps.ndim < 2:
        raise ValueError(
            f"the explainer must give one map for each point, {len(points)} of them. "
            f"Received: shape {maps.shape}"
        )
    if not np.isfinite(maps).all():
        raise ValueError(
            "the explanation has NaN or infinite values at a noisy point: look at the explainer at "
            "inputs + noise, or cut the points by clip=(low, high)"
        )
    return maps


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two maps are further apart than roundings; a number added to all says nothing."""
    spread, length = np.linalg.norm(first - first.mean()), np.linalg.norm(first)
    return bool(np.linalg.norm(first - second) > max(_DIFFERENT * spread, _ROUNDED * length))
