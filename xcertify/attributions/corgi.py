"""CORGI: class activation maps whose most important cells are proved to stay the same.

Source: Gu et al., Certified Interpretability Robustness for Class Activation Mapping, 2020. Its
Algorithm 2 is printed with the two branches of the search swapped: what is certified moves the
lower end.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.top_k import MinimalTopK
from xcertify.attributions.base import Certifying, ClassExplainer
from xcertify.attributions.cell_order import FORMS, Form, RankedMaps
from xcertify.attributions.class_activation import (
    ClassActivation,
    GradientActivation,
    WeightDeviation,
    WeightedChannels,
)
from xcertify.bounds import Verifier
from xcertify.certificates import TopKCertificate
from xcertify.checks import positive, whole_number
from xcertify.inputs import evaluate_in_batches, in_batches
from xcertify.models import refuse_channels_first
from xcertify.perturbation import as_outside
from xcertify.radii import Interval, RadiusSearch, compare_radii, keeps_class
from xcertify.regions import Ball, Region, as_norm

EXPLANATIONS = {"cam": ClassActivation, "grad-cam": GradientActivation}

_SMALLEST = 1e-6  # of the largest radius: below, nothing is searched
# Steps of an attack and their length: ours, and the paper's (Algorithm 1).
_ASCENTS = {"gap": (50, 0.5), "sum": (300, 0.1)}


class CORGI(Certifying, ClassExplainer):
    """CORGI: the class activation map, and how far its top k cells are proved to stay on top.

    For a model whose map of channels goes through global average pooling and affine layers to the
    logits, ``CAM_c[x, y] = sum_k w[c, k] * map[x, y, k]`` shows where the target class c is seen.
    `certify` finds for every input the largest radius, of those tested, within which the k cells
    with the largest values are proved to remain among the k2 largest.

    Parameters
    ----------
    model
        Model of images that is explained. For class activation maps: convolutions,
        `GlobalAveragePooling2D`, then affine layers (dense, batch normalization, dropout), and a
        softmax or sigmoid or none. Residual connections and all else that `Verifier` bounds may
        stand before the pooling. Of others the maps are those of Grad-CAM, see `explanation`.
    k
        Number of cells of the map, the size of which is that of the last channels, not that of the
        input. None: 15, or half the cells of a map that has fewer than 30.
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
        which are mean gradients of the logit and bounded as well. "auto" (default): "cam" where the
        model has such a head, else "grad-cam"; `kind` and certificates say which it is. The form
        "lipschitz" and the attack "sum" are of "cam" alone.
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
    outside
        What becomes of inputs outside `clip`, as for `EVA`.
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
    >>> explainer = CORGI(model, clip=(0.0, 1.0))
    >>> maps = explainer.explain(images, labels)               # (N, H, W, 1)
    >>> certificate = explainer.certify(images, labels)
    >>> certificate.radius, certificate.attacked               # (N,), (N,)
    """

    def __init__(
        self,
        model: keras.Model,
        k: int | None = None,
        k2: int | None = None,
        form: str = "pairwise",
        method: str = "crown",
        norm: float = np.inf,
        clip: tuple[Any, Any] | None = None,
        conv_layer: str | int | None = None,
        explanation: str = "auto",
        *,
        resize: bool = True,
        attack: str | None = "gap",
        prediction: bool = False,
        largest_radius: float = 1.0,
        tolerance: float = 0.02,
        nb_pairs: int = 1024,
        outside: str = "error",
        batch_size: int | None = 64,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        _check_words(form, method, explanation, attack)
        super().__init__(model, batch_size=batch_size, seed=seed, verbose=verbose)
        self.k, self.k2 = (
            None if number is None else whole_number(name, number)
            for name, number in (("k", k), ("k2", k2))
        )
        self.norm, self.clip, self.form, self.method = as_norm(norm), clip, form, method
        self.conv_layer, self.explanation = conv_layer, explanation
        self.outside = as_outside(outside)
        self.resize, self.attack, self.prediction = resize, attack, prediction
        self.largest_radius = positive("largest_radius", largest_radius)
        self.tolerance = positive("tolerance", tolerance)
        self.nb_pairs = whole_number("nb_pairs", nb_pairs)

    def certify(
        self,
        inputs: Any,
        targets: Any = None,
        *,
        complete: bool = False,
        timeout: float | None = 60.0,
    ) -> TopKCertificate:
        """How far the top cells are proved to stay, and with `prediction` the class.

        Parameters
        ----------
        inputs, targets
            As for `explain`.
        complete
            Whether the radii of the class are found by `Verifier.radius`, which decides where
            bounds end; needs `prediction`. Those of the cells are proved by bounds all the same:
            for ``k2 > k`` and for Grad-CAM they are no matter of a few linear inequalities.
        timeout
            Seconds that this may take, about, for all inputs together; None: no limit.

        Returns
        -------
        certificate
            See `TopKCertificate`.

        Raises
        ------
        ValueError
            As `explain`; for inputs outside `clip`; and for `complete` without `prediction`.
        UnsupportedLayerError
            For a model that cannot be bounded.
        ContradictionError
            If an attack succeeds inside what is certified: a bug, to be reported.
        """
        if complete and not self.prediction:
            raise ValueError(
                "complete=True is of the radii of the class: make CORGI(..., prediction=True)"
            )
        inputs, classes = self._prepare(inputs, targets)
        region = self._looked_at(self.perturbation.around(inputs))
        return self._given_out(self._certify(region, classes, complete, timeout))

    def _certify(
        self,
        region: Ball,
        classes: np.ndarray,
        complete: bool = False,
        timeout: float | None = None,
    ) -> TopKCertificate:
        maps = self._ranked_maps(region.center, classes)
        certified = self._certified_radii(maps, region)
        prediction_radius = None
        if complete:
            prediction_radius = self._decided_class_radii(region, classes, timeout)
        elif self.prediction:
            prediction_radius = self._class_radii(region, classes)
        region = region.resized(certified)
        attacked = None
        if self.attack:
            attacked = self._attacked(self.attack, maps, region)
            what = f"one of the top {maps.k} cells outside of the top {maps.k2}"
            compare_radii(certified, attacked, what=what, method=self.method, region=region)
        return TopKCertificate(
            region=region,
            method=self.method,
            arithmetic=self._verifier.guarantee,
            interval=Interval(certified, attacked),
            explanation=self.kind,
            form=self.form,
            k=maps.k,
            k2=maps.k2,
            prediction_radius=prediction_radius,
            gap=maps.gap,
            cells=maps.ranking[:, : maps.k],
            map_shape=self._activation.shape[:2],
            targets=classes,
        )

    def _least(self, region: Ball) -> Ball:
        return region.resized(np.full(len(region), self.largest_radius * _SMALLEST))

    def _ranked_maps(self, inputs: np.ndarray, classes: np.ndarray) -> RankedMaps:
        target_rows = self._activation.target_rows(classes)
        size = self._nb_at_once
        parts = [*zip(in_batches(inputs, size), in_batches(target_rows, size))]
        weights = np.concatenate([self._activation.weights(*part) for part in parts])
        values = np.concatenate([self._activation.exact_maps(*part) for part in parts])
        return RankedMaps.of(values, target_rows, weights, self.k, self.k2)

    def _certified_radii(self, maps: RankedMaps, region: Ball) -> np.ndarray:
        """Radii (N,) within which the top k are proved to stay among the top k2.

        By the given form and method behind cheaper ones, which show where to look.
        """
        certified = np.zeros(len(region))
        for form, method in _stages(self.form, self.method):
            search = self._search(certified, f"{form}, {method}")
            # What was proved within a radius holds within all smaller ones, which come next.
            proved = maps.nothing_proved()
            for samples, radii in search:
                some, balls = maps[samples], region[samples].resized(radii)
                deviation, prover = self._means(some, balls, form, method)
                with np.errstate(invalid="ignore", over="ignore"):  # infinite bounds prove nothing
                    now = prover.prove(some, balls, deviation, proved[samples])
                stay = some.stay(now).all(axis=1)
                proved[samples[~stay]] = now[~stay]
                search.answer(stay)
            certified = search.held
        return certified

    def _means(
        self, maps: RankedMaps, region: Region, form: str, method: str, dtype: str = "float32"
    ) -> tuple[WeightDeviation | None, Form]:
        """How far weights can be from those at the inputs, and what proves pairs."""
        rows, weights = maps.target_rows, maps.weights
        deviation = self._activation.weight_deviation(region, rows, weights, method, dtype)
        verifier = self._activation.verifier(method, dtype)
        return deviation, FORMS[form](self._activation, verifier, self.nb_pairs)

    def _stay(self, maps: RankedMaps, region: Ball, dtype: str) -> np.ndarray:
        """Whether the top k are proved to stay among the top k2 on balls, (N,) bool."""
        proved = maps.nothing_proved()
        for form, method in _stages(self.form, self.method):
            deviation, prover = self._means(maps, region, form, method, dtype)
            with np.errstate(invalid="ignore", over="ignore"):
                proved = prover.prove(maps, region, deviation, proved)
        return np.all(maps.stay(proved), axis=1)

    def _class_radii(self, region: Ball, classes: np.ndarray) -> np.ndarray:
        """Radii (N,) within which the model is proved to give the classes."""
        search = self._search(np.zeros(len(region)), "prediction")
        for samples, radii in search:
            balls = region[samples].resized(radii)
            search.answer(keeps_class(self._verifier, balls, classes[samples]))
        return search.held

    def _decided_class_radii(
        self, region: Region, classes: np.ndarray, timeout: float | None
    ) -> np.ndarray:
        """The same by `Verifier.radius`, as exact as `tolerance` says."""
        interval = self._verifier.radius(
            region.center,
            classes,
            norm=self.norm,
            clip=self.clip,
            largest=self.largest_radius,
            nb_halvings=max(1, math.ceil(-math.log2(self.tolerance))),
            timeout=timeout,
            verbose=self.verbose,
        )
        return interval.certified

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

    def _prepare(self, inputs: Any, targets: Any) -> tuple[np.ndarray, Any]:
        refuse_channels_first(self.model, "CORGI")
        return super()._prepare(inputs, targets)

    def _explain(self, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
        target_rows = self._activation.target_rows(classes)
        maps_of = self._compile(
            self._maps,
            ((None, *inputs.shape[1:]), tf.float32),
            ((None, target_rows.shape[1]), tf.float32),
        )
        maps = evaluate_in_batches(maps_of, self._nb_at_once, inputs, target_rows)
        maps = maps.reshape(-1, *self._activation.shape[:2], 1)
        if self.kind == "grad-cam":
            maps = np.maximum(maps, 0)
        return tf.image.resize(maps, inputs.shape[1:3]).numpy() if self.resize else maps

    def _maps(self, inputs: tf.Tensor, target_rows: tf.Tensor) -> tf.Tensor:
        return self._activation.maps(inputs, target_rows)

    @property
    def kind(self) -> str:
        """Which maps these are, "cam" or "grad-cam": `explanation`, or what "auto" comes to."""
        return next(name for name, kind in EXPLANATIONS.items() if type(self._activation) is kind)

    @property
    def _activation(self) -> WeightedChannels:
        return self._derive("activation", self._make_activation)

    def _make_activation(self) -> WeightedChannels:
        if self.explanation != "auto":
            return EXPLANATIONS[self.explanation](self.model, self.conv_layer)
        activation = ClassActivation(self.model, self.conv_layer)
        if self.form == "lipschitz" or self.attack == "sum" or activation.is_one:
            return activation
        return GradientActivation(self.model, self.conv_layer)

    @property
    def _verifier(self) -> Verifier:
        """Of the logits."""
        return self._derive("verifier", lambda: Verifier(self.model, self.method, strip_head=True))

    def _attacked(self, climb: str, maps: RankedMaps, region: Ball) -> np.ndarray:
        """Distances (N,) at which an attack moves a cell out; it begins at the balls' radii."""
        radii = np.asarray(region.epsilon).reshape(len(region), -1)[:, 0]
        found = self._attack(climb)(
            region.center,
            maps.target_rows,
            maps.in_top,
            maps.k2,
            np.maximum(radii, self.largest_radius * _SMALLEST),
            self.largest_radius,
        )
        return found.distances

    def _attack(self, climb: str) -> MinimalTopK:
        activation, (steps, step_size) = self._activation, _ASCENTS[climb]
        return self._derive(
            "attack",
            lambda: MinimalTopK(
                activation.maps,
                activation.exact_maps,
                activation.smooth_maps() if climb == "sum" else None,
                climb=climb,
                norm=self.norm,
                clip=self.clip,
                steps=steps,
                step_size=step_size,
                batch_size=self._nb_at_once,
            ),
        )


def _check_words(form: str, method: str, explanation: str, attack: str | None) -> None:
    """A ValueError for words that are unknown, or do not go together."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}. Received: {form!r}")
    if str(method).startswith("decomon:"):
        raise ValueError(
            f"method must be a native one, since decomon bounds no convolutional maps. "
            f"Received: {method!r}"
        )
    if explanation not in ("auto", *EXPLANATIONS):
        raise ValueError(
            f"explanation must be 'auto', 'cam' or 'grad-cam'. Received: {explanation!r}"
        )
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


def _stages(form: str, method: str) -> list[tuple[str, str]]:
    """Forms and methods that are tried one after the other, the given ones last."""
    stages = [(form, method)]
    if form != "lipschitz" and method in ("crown", "alpha-crown"):
        if method == "alpha-crown":
            stages.insert(0, (form, "crown"))
        stages.insert(0, ("map" if form == "pairwise" else form, "crown-ibp"))
    return stages
