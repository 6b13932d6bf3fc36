"""CORGI: class activation maps whose most important cells are proved to stay the same.

Source: Gu et al., Certified Interpretability Robustness for Class Activation Mapping, 2020. Its
Algorithm 2 is printed with the two branches of the search swapped: what is certified moves the
lower end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.top_k import MinimalTopK
from xcertify.attributions.base import Certifying, ClassExplainer
from xcertify.attributions.class_activation import (
    ClassActivation,
    GradientActivation,
    WeightedChannels,
)
from xcertify.bounds import Verifier
from xcertify.certificates import TopKCertificate
from xcertify.checks import whole_number
from xcertify.inputs import in_batches
from xcertify.models import refuse_channels_first
from xcertify.radii import Interval, RadiusSearch, compare_radii, keeps_class
from xcertify.regions import Ball, Region, as_column, as_norm
from xcertify.smoothing import BETAS, softplus_copy

EXPLANATIONS = {"cam": ClassActivation, "grad-cam": GradientActivation}
FORMS = ("per-channel", "map", "pairwise", "lipschitz")

_SMALLEST = 1e-6  # of the largest radius: below, nothing is searched
# Steps of an attack and their length: ours, and the paper's (Algorithm 1).
_ASCENTS = {"gap": (50, 0.5), "sum": (300, 0.1)}
_ENTRIES = 2**24  # of rows or gradients that are held at once


@dataclass(frozen=True)
class _Maps:
    """What is asked of some inputs: maps of which class, and which cells have to stay on top.

    `asked` (N, D) names the class (`WeightedChannels.asked`), `weights` (N, K) are those at the
    inputs, `order` (N, S) are the cells from the most important on.
    """

    inputs: np.ndarray
    asked: np.ndarray
    weights: np.ndarray
    order: np.ndarray

    def __getitem__(self, index: np.ndarray) -> _Maps:
        return _Maps(*(array[index] for array in vars(self).values()))


class CORGI(Certifying, ClassExplainer):
    """CORGI: the class activation map, and how far its top k cells are proved to stay on top.

    For a model whose map of channels goes through global average pooling and affine layers to the
    logits, ``CAM_c[x, y] = sum_k w[c, k] * map[x, y, k]`` shows where the target class c is seen.
    `certify` finds for every input the largest radius, of those tested, within which the k cells
    with the largest values are proved to remain among the k2 largest.

    Parameters
    ----------
    model
        Model that is explained: convolutions, `GlobalAveragePooling2D`, then affine layers (dense,
        batch normalization, dropout), and a softmax or sigmoid or none. Residual connections and
        all else that `Verifier` bounds may stand before the pooling.
    k
        Number of cells of the map, the size of which is that of the last channels, not that of the
        input.
    k2
        Among how many they have to stay (section 3.3). None: k, the set itself stays the same.
    form
        How the maps are bounded. "per-channel": bounds of each channel, combined by the signs of
        the weights (the paper's Eq. 1-2). "map": the map as a linear output inside the bounded
        graph. "pairwise": also the differences of two cells, for the pairs that the bounds of the
        map leave open. "lipschitz": the gap at the input against bounds of the gradients of the
        map (Theorem 8.3).
    method
        A native bound method of `Verifier`: "ibp", "crown-ibp", "crown" or "alpha-crown".
    norm
        inf or 2 (or 1): how a perturbation is measured.
    clip
        Valid range of the inputs, (low, high), as for `Ball`: perturbed inputs are within it. None:
        anything.
    conv_layer
        Name of the layer whose output is averaged, or its number in `model.layers`, for models that
        do it by another layer than `GlobalAveragePooling2D`; for Grad-CAM of any layer that all
        paths to the output go through, by default the last convolution.
    explanation
        "cam", the class activation map; or "grad-cam" for models with another head, the weights of
        which are mean gradients of the logit and bounded as well.
    resize
        Whether `explain` enlarges maps to the size of the images (bilinear).
    attack
        How `certify` also searches for the smallest perturbation that moves a cell out: "gap"
        climbs the gap between the cells that would have to swap, 50 steps at each radius; "sum" is
        the paper's (Ghorbani et al.), minus the sum of the top k on a softplus network in 300 steps
        of a tenth of the radius. None: no attack.
    prediction
        Whether `certify` also finds the radius within which the target class itself is proved.
    largest_radius
        Largest radius that is looked at, in units of the inputs; the smallest is its millionth.
    tolerance
        The search halves the logarithm of the radius until the smallest radius that was tested and
        not proved is at most this share above the largest that was proved.
    nb_pairs
        Most pairs of cells of one input that get rows of their own; where more are open, the radius
        counts as not proved.
    batch_size
        Most regions that are bounded at once, and most points that are attacked at once.
    seed
        Not used (nothing is random); kept for a common signature.
    verbose
        Whether to show a progress bar of the tests.

    Raises
    ------
    ValueError
        For an unknown form, norm or number; at the first use for a model without such a head, for
        k or k2 that the map is too small for, and for inputs outside `clip`.
    UnsupportedLayerError
        At `certify`, for a model that cannot be bounded.

    Guarantee
    ---------
    Of `certify`: at every point within `radius` of the input (and within `clip`), each of the k
    cells has fewer than k2 cells that are as large or larger. Ties are never certified. The class
    whose map it is is the given one; that the model still predicts it is proved within
    `prediction_radius` only. Bounds are those of `Verifier`, of the network in real arithmetic; the
    class weights are the numbers in float32 that `explain` uses. The radius itself was tested, so
    that nothing depends on bounds growing with the radius. For Grad-CAM it is the map before its
    last ReLU, which keeps the order of the cells that are positive.

    References
    ----------
    Zhou et al.: Learning Deep Features for Discriminative Localization, CVPR 2016 (the map).
    Gu et al.: Certified Interpretability Robustness for Class Activation Mapping, 2020.

    Examples
    --------
    >>> explainer = CORGI(model, k=15, clip=(0.0, 1.0))
    >>> maps = explainer.explain(images, labels)               # (N, H, W, 1)
    >>> certificate = explainer.certify(images, labels)
    >>> certificate.radius, certificate.attacked               # (N,), (N,)
    """

    def __init__(
        self,
        model: keras.Model,
        k: int = 15,
        k2: int | None = None,
        form: str = "pairwise",
        method: str = "crown",
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        conv_layer: str | int | None = None,
        explanation: str = "cam",
        *,
        resize: bool = True,
        attack: str | None = "gap",
        prediction: bool = False,
        largest_radius: float = 1.0,
        tolerance: float = 0.02,
        nb_pairs: int = 1024,
        batch_size: int | None = 64,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}. Received: {form!r}")
        if str(method).startswith("decomon:"):
            raise ValueError(
                f"method must be a native one, since decomon bounds no convolutional maps. "
                f"Received: {method!r}"
            )
        if explanation not in EXPLANATIONS:
            raise ValueError(f"explanation must be 'cam' or 'grad-cam'. Received: {explanation!r}")
        if explanation == "grad-cam" and form == "lipschitz":
            raise ValueError(
                f"form='lipschitz' needs weights that do not vary; for Grad-CAM take 'pairwise'. "
                f"Received: {form!r}"
            )
        if explanation == "grad-cam" and attack == "sum":
            raise ValueError(
                f"attack='sum' is that of class activation maps; for Grad-CAM take 'gap'. "
                f"Received: {attack!r}"
            )
        if attack is not None and attack not in _ASCENTS:
            raise ValueError(f"attack must be 'gap', 'sum' or None. Received: {attack!r}")
        for name, value in (("largest_radius", largest_radius), ("tolerance", tolerance)):
            if not 0 < value < np.inf:
                raise ValueError(f"{name} must be a number above 0. Received: {value!r}")
        super().__init__(model, batch_size=batch_size, seed=seed, verbose=verbose)
        self.k, self.k2 = whole_number("k", k), None if k2 is None else whole_number("k2", k2)
        self.norm, self.clip, self.form, self.method = as_norm(norm), clip, form, method
        self.conv_layer, self.explanation = conv_layer, explanation
        self.resize, self.attack = resize, attack
        self.prediction, self.largest_radius = prediction, largest_radius
        self.tolerance = tolerance
        self.nb_pairs = whole_number("nb_pairs", nb_pairs)

    def _certify(self, region: Ball, classes: np.ndarray) -> TopKCertificate:
        inputs = region.center
        asked = self._activation.asked(classes)
        some = [*zip(*self._parts(inputs, asked))]
        maps = np.concatenate([self._activation.exact_maps(*part) for part in some])
        weights = np.concatenate([self._activation.weights(*part) for part in some])
        k, k2 = self._numbers(maps.shape[1])
        order = np.argsort(-maps, axis=1, kind="stable")
        asked = _Maps(inputs, asked, weights, order)
        kept = np.take_along_axis(maps, order[:, k - 1 : k + 1], axis=1)

        radius = self._search_top(asked)
        proved = self._search_class(inputs, classes) if self.prediction else None
        region = region.resized(radius)
        attacked = None
        if self.attack:
            attacked = self._attacked(asked, radius)
            what = f"one of the top {k} cells outside of the top {k2}"
            compare_radii(radius, attacked, what=what, method=self.method, region=region)
        return TopKCertificate(
            region=region,
            method=self.method,
            arithmetic=self._verifier.guarantee,
            interval=Interval(radius, attacked),
            form=self.form,
            k=k,
            k2=k2,
            prediction_radius=proved,
            gap=kept[:, 0] - kept[:, 1],
            cells=order[:, :k],
            map_shape=self._activation.shape[:2],
            targets=classes,
        )

    def _prepare(self, inputs: Any, targets: Any) -> tuple[np.ndarray, Any]:
        refuse_channels_first(self.model, "CORGI")
        return super()._prepare(inputs, targets)

    def _explain(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        asked = self._activation.asked(classes)
        maps_of = self._compile(
            self._maps,
            ((None, *inputs.shape[1:]), tf.float32),
            ((None, asked.shape[1]), tf.float32),
        )
        maps = np.concatenate([maps_of(*some) for some in zip(*self._parts(inputs, asked))])
        maps = maps.reshape(-1, *self._activation.shape[:2], 1)
        if self.explanation == "grad-cam":
            maps = np.maximum(maps, 0)
        return tf.image.resize(maps, inputs.shape[1:3]).numpy() if self.resize else maps

    @property
    def _activation(self) -> WeightedChannels:
        return self._derive(
            "activation", lambda: EXPLANATIONS[self.explanation](self.model, self.conv_layer)
        )

    @property
    def _verifier(self) -> Verifier:
        """Of the logits."""
        return self._derive("verifier", lambda: Verifier(self.model, self.method, strip_head=True))

    def _map_verifier(self, method: str) -> Verifier:
        model = self._activation.model
        return self._derive(("map verifier", method), lambda: Verifier(model, method))

    def _maps(self, inputs: tf.Tensor, asked: tf.Tensor) -> tf.Tensor:
        return self._activation.maps(inputs, asked)

    def _numbers(self, nb_cells: int) -> tuple[int, int]:
        """k and k2, checked against the map."""
        k2 = self.k if self.k2 is None else self.k2
        if not self.k <= k2 < nb_cells:
            raise ValueError(
                f"k and k2 must be 0 < k <= k2 < {nb_cells}, the number of cells of the map. "
                f"Received: k={self.k}, k2={self.k2}"
            )
        return self.k, k2

    def _parts(self, *arrays: np.ndarray) -> Any:
        return (in_batches(array, self._nb_at_once) for array in arrays)

    # --- the search ---------------------------------------------------------------------------

    def _search_top(self, asked: _Maps) -> np.ndarray:
        """Radii of the top k, (N,); a cheap proof shows where to look for a tight one."""
        radius = np.zeros(len(asked.inputs))
        for form, method in self._stages():
            radius = self._search_stage(asked, radius, form, method)
        return radius

    def _search_stage(self, asked: _Maps, known: np.ndarray, form: str, method: str) -> np.ndarray:
        nb_samples, nb_cells = asked.order.shape
        # What was proved within a radius holds within all smaller ones, which are tested next.
        decided = np.zeros((nb_samples, self.k, nb_cells - self.k), bool)

        def proves(some: np.ndarray, radii: np.ndarray) -> np.ndarray:
            region = self._ball(asked.inputs[some], radii)
            with np.errstate(invalid="ignore", over="ignore"):  # infinite bounds prove nothing
                larger = self._larger(asked[some], region, radii, form, method, decided[some])
            proved = self._stays(larger).all(axis=1)
            decided[some[~proved]] = larger[~proved]
            return proved

        search = self._search(known, f"{form}, {method}")
        for some, radii in search:
            search.answer(proves(some, radii))
        return search.held

    def _stages(self) -> list[tuple[str, str]]:
        """Forms and methods, the last one that which was asked for."""
        stages = [(self.form, self.method)]
        if self.form != "lipschitz" and self.method in ("crown", "alpha-crown"):
            if self.method == "alpha-crown":
                stages.insert(0, (self.form, "crown"))
            stages.insert(0, ("map" if self.form == "pairwise" else self.form, "crown-ibp"))
        return stages

    def _search_class(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Radii of the prediction, (N,)."""
        search = self._search(np.zeros(len(inputs)), "prediction")
        for some, radii in search:
            region = self._ball(inputs[some], radii)
            search.answer(keeps_class(self._verifier, region, classes[some]))
        return search.held

    def _search(self, known: np.ndarray, name: str) -> RadiusSearch:
        """From what is known to be proved, (N,), up to the largest radius."""
        return RadiusSearch(
            np.maximum(known, self.largest_radius * _SMALLEST),
            self.largest_radius,
            tolerance=self.tolerance,
            known=known,
            batch_size=self._nb_at_once,
            name=name,
            verbose=self.verbose,
        )

    def _ball(self, inputs: np.ndarray, radii: np.ndarray) -> Region:
        return Ball(inputs, as_column(radii, inputs), self.norm, self.clip)

    def _larger(
        self,
        asked: _Maps,
        region: Region,
        radii: np.ndarray,
        form: str,
        method: str,
        decided: np.ndarray,
    ) -> np.ndarray:
        """Which of the top k are proved larger than which others, (N, k, S - k), decided or now."""
        verifier = self._map_verifier(method)
        if form == "lipschitz":
            return decided | self._larger_by_slope(verifier, asked, region, radii)
        spread = None
        if not self._activation.constant:
            spread = self._activation.spread(region, asked.asked, asked.weights, method)
        if form != "pairwise":
            return decided | self._larger_by_bounds(verifier, asked, region, form, spread)
        larger, nb_cells = decided.copy(), asked.order.shape[1]

        def add(by: Callable, some: np.ndarray, further: Any) -> None:
            sides = spread if spread is None else [side[some] for side in spread]
            larger[some] |= by(verifier, asked[some], region[some], further, sides)

        # A row for each pair costs as much as one for each cell.
        some = np.flatnonzero(self._open(larger).sum(axis=(1, 2)) > nb_cells)
        if len(some):
            add(self._larger_by_bounds, some, "map")
        pairs = self._open(larger)
        count = pairs.sum(axis=(1, 2))
        some = np.flatnonzero((count > 0) & (count <= self.nb_pairs))
        row_size = max(count[some], default=1) * math.prod(self._activation.shape)
        for part in in_batches(some, max(1, _ENTRIES // row_size)):
            add(self._larger_by_pairs, part, pairs[part])
        return larger

    def _stays(self, larger: np.ndarray) -> np.ndarray:
        """Which of the top k are proved to stay among the top k2, (N, k)."""
        k, k2 = self._numbers(larger.shape[1] + larger.shape[2])
        return (~larger).sum(axis=2) <= k2 - k

    def _open(self, larger: np.ndarray) -> np.ndarray:
        """Pairs that are not proved, of cells that still need them, (N, k, S - k)."""
        return ~larger & ~self._stays(larger)[:, :, None]

    def _larger_by_bounds(
        self, verifier: Verifier, asked: _Maps, region: Region, form: str, spread: Any
    ) -> np.ndarray:
        """By bounds of the cells, (N, k, S - k)."""
        lower, upper = self._bound_maps(verifier, form, region, asked.weights)
        if spread is not None:
            *sides, distance = spread
            size = np.maximum(*map(np.abs, sides)).reshape(*lower.shape, -1)
            error = (size * distance[:, None]).sum(axis=-1) * (1 + 1e-9)
            lower, upper = lower - error, upper + error
        lower = np.take_along_axis(lower, asked.order[:, : self.k], axis=1)
        upper = np.take_along_axis(upper, asked.order[:, self.k :], axis=1)
        return lower[:, :, None] > upper[:, None]

    def _bound_maps(
        self, verifier: Verifier, form: str, region: Region, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the maps with these weights, (N, S) float64."""
        per_cell = self._activation.per_cell(weights)
        if form != "per-channel":
            bounds = verifier.bound_layer(region, self._activation.output_layer, [per_cell])
            return tuple(side.reshape(len(region), -1).astype(np.float64) for side in bounds)
        lower, upper = verifier.bound_layer(region, self._activation.body.name, [per_cell])
        ends = per_cell * lower.astype(np.float64), per_cell * upper.astype(np.float64)
        # Products of float32 numbers are exact in float64; the sums are off by 1e-12 at the most.
        slack = 1e-12 * np.maximum(*map(np.abs, ends)).sum(axis=-1)
        lower = np.minimum(*ends).sum(axis=-1) - slack
        upper = np.maximum(*ends).sum(axis=-1) + slack
        return lower.reshape(len(region), -1), upper.reshape(len(region), -1)

    def _larger_by_pairs(
        self,
        verifier: Verifier,
        asked: _Maps,
        region: Region,
        open_pairs: np.ndarray,
        spread: Any,
    ) -> np.ndarray:
        """By rows CAM_i - CAM_j of the open pairs, (N, k, S - k)."""
        nb_samples, nb_cells = asked.order.shape
        sample, top, other = np.nonzero(open_pairs)
        count = np.bincount(sample, minlength=nb_samples)
        place = np.arange(len(sample)) - np.repeat(np.cumsum(count) - count, count)
        # As many rows as the sample with most pairs has; zeros fill the rest.
        rows = np.zeros((nb_samples, int(count.max()), nb_cells), np.float32)
        first, second = asked.order[sample, top], asked.order[sample, self.k + other]
        rows[sample, place, first], rows[sample, place, second] = 1, -1
        per_cell = self._activation.per_cell(asked.weights)
        lower, _ = verifier.bound_rows(region, rows, [per_cell])
        error = 0.0
        if spread is not None:
            sides = (side.reshape(nb_samples, nb_cells, -1) for side in spread[:2])
            below, above = (side.astype(np.float64) for side in sides)
            rise = above[sample, first] - below[sample, second]
            fall = above[sample, second] - below[sample, first]
            error = (np.maximum(rise, fall) * spread[2][sample]).sum(axis=-1) * (1 + 1e-9)
        proved = np.zeros(open_pairs.shape, bool)
        proved[sample, top, other] = lower[sample, place] > error
        return proved

    def _larger_by_slope(
        self, verifier: Verifier, asked: _Maps, region: Region, radii: np.ndarray
    ) -> np.ndarray:
        """By gaps of more than the radius times a Lipschitz constant, (N, k, S - k).

        The constant of a difference of cells is the largest dual norm of its gradient on the region
        (Theorem 8.3): of the difference of the middles of their bounds, plus both radii.
        """
        dual = {np.inf: 1, 2: 2, 1: np.inf}[region.norm]
        size = asked.order.shape[1] * math.prod(region.shape)
        found = []
        for some in in_batches(np.arange(len(region)), max(1, _ENTRIES // size)):
            weights = self._activation.per_cell(asked.weights[some])
            bounds = verifier.bound_gradient(region[some], constants=[weights])
            lower, upper = (side.reshape(*side.shape[:2], -1).astype(float) for side in bounds)
            order = asked.order[some][..., None]
            middle = np.take_along_axis((lower + upper) / 2, order, axis=1)
            spread = np.linalg.norm((upper - lower) / 2, dual, axis=-1, keepdims=True)
            spread = np.take_along_axis(spread, order, axis=1)
            constant = spread[:, : self.k] + np.swapaxes(spread[:, self.k :], 1, 2)
            cells = np.stack(np.indices(constant.shape[:2]), axis=-1).reshape(-1, 2)
            apart = [
                np.linalg.norm(middle[n, i][:, None] - middle[n, self.k :], dual, axis=-1)
                for n, i in (part.T for part in in_batches(cells, max(1, _ENTRIES // size)))
            ]
            found.append(constant + np.concatenate(apart).reshape(constant.shape))
        at_input = self._ball(asked.inputs, 0.0 * radii)
        low, high = self._bound_maps(verifier, "map", at_input, asked.weights)
        low = np.take_along_axis(low, asked.order[:, : self.k], axis=1)
        high = np.take_along_axis(high, asked.order[:, self.k :], axis=1)
        # 1e-9 for the float64 roundings of the sums above.
        reach = radii[:, None, None] * np.concatenate(found) * (1 + 1e-9)
        return low[:, :, None] - high[:, None] > reach

    # --- the other side -----------------------------------------------------------------------

    def _attacked(self, asked: _Maps, radius: np.ndarray) -> np.ndarray:
        """Distances of the nearest points found where a cell has left, (N,); inf without one."""
        attack = self._derive("attack", self._make_attack)
        k, k2 = self._numbers(asked.order.shape[1])
        top = np.zeros(asked.order.shape, bool)
        np.put_along_axis(top, asked.order[:, :k], True, axis=1)
        smallest = np.maximum(radius, self.largest_radius * _SMALLEST)
        found = attack(asked.inputs, asked.asked, top, k2, smallest, self.largest_radius)
        return found.distances

    def _make_attack(self) -> MinimalTopK:
        steps, step_size = _ASCENTS[self.attack]
        return MinimalTopK(
            self._maps,
            self._activation.exact_maps,
            self._smooth_maps() if self.attack == "sum" else None,
            climb=self.attack,
            norm=self.norm,
            clip=self.clip,
            steps=steps,
            step_size=step_size,
            batch_size=self._nb_at_once,
        )

    def _smooth_maps(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        activation = self._activation
        copy, beta = softplus_copy(activation.model)
        beta.assign(BETAS[-1])
        return lambda inputs, weights: activation.maps_of(copy, inputs, weights)
