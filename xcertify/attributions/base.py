"""What all explainers share: the model, the forms of inputs and targets, and two templates.

`explain` and `certify` make arrays, logits, targets and regions in one place; an explainer writes
`_explain(inputs, targets)` and, if there is something to prove, `_certify(region, targets)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import keras
import numpy as np
import tensorflow as tf

from xcertify.attacks.maps import Explanation
from xcertify.attributions.before import says_nothing
from xcertify.batches import most_at_once
from xcertify.bounds import Verifier
from xcertify.certificates import Certificate, Origin
from xcertify.inputs import as_arrays, in_batches, input_shape_of
from xcertify.logits import classes_of, head_of, logits_of, weights_of
from xcertify.models import as_rows, channels_last_layer, check_model, output_of_layer, outputs_of
from xcertify.operators import (
    Operator,
    as_operator,
    scores_of,
    takes_weights,
    targets_of_operator,
    weighted_outputs,
)
from xcertify.regions import Region
from xcertify.settings import Settings, setting_names
from xcertify.targets import logit_weights
from xcertify.tracing import traced
from xcertify.usefulness import warn_vacuous

if TYPE_CHECKING:
    from typing_extensions import Self

AnyCertificate = TypeVar("AnyCertificate", bound=Certificate)

WITHOUT_BOUNDS = "an explainer without bounds, such as SmoothGrad"
REDUCERS: dict[str, Callable] = {"mean": np.mean, "max": np.max, "min": np.min, "sum": np.sum}


class Explainer(Settings):
    """An explanation method for one Keras model.

    A subclass keeps its arguments as attributes of the same names, does no work in its
    constructor, implements `_explain`, and keeps what it derives by `_derive` (see `Settings`). All
    settings may be assigned at any time.

    Parameters
    ----------
    model
        A built Keras model that classifies. Explanations are of its logits: a softmax or sigmoid
        at its end is left out.
    batch_size
        Most perturbed samples that are held at once; None: all.
    seed
        Makes everything random repeatable, in every call.
    verbose
        Whether to show a progress bar.
    """

    _resolves_at_inputs: ClassVar[bool] = False  # targets, into what depends on the inputs as well
    _dtype = "float32"  # of proofs; whoever verifies them again takes "float64"
    _instead: ClassVar = {
        "output_layer": "give the model cut there, "
        "keras.Model(model.inputs, model.layers[-2].output) for instance",
        "operator": "it is about logits; give a model whose outputs are the scores that are "
        "meant, keras.Model(model.inputs, scores)",
        "reducer": "its maps have one value for each pixel",
    }

    def __init__(
        self,
        model: keras.Model,
        *,
        batch_size: int | None = 512,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        most_at_once(model, batch_size)
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0. Received: {seed!r}")
        check_model(model)
        self.batch_size, self.seed, self.verbose = batch_size, seed, verbose
        self.model = model

    @classmethod
    def of_model(cls, model: keras.Model, **settings: Any) -> Self:
        """The explainer of a model with settings that files can hold, for runs and commands.

        Here what the constructor makes; of an explainer of another explainer, that one is told by
        its name.
        """
        return cls(model, **settings)

    def _stated(self) -> dict[str, Any]:
        """Arguments of `of_model` that make the same explainer of the model."""
        names = [name for name in setting_names(type(self)) if name not in ("model", "verbose")]
        return {name: getattr(self, name) for name in names}

    def explain(self, inputs: Any, targets: Any = None) -> np.ndarray:
        """Attribution maps.

        Parameters
        ----------
        inputs
            Images (N, H, W, C), time series (N, T, W) or tabular data (N, W): arrays, tensors, or
            a `tf.data.Dataset` of them, with or without targets.
        targets
            Class of each input: integer labels (N,) or one-hot rows (N, K). None: the class that
            the model predicts. Of a model of other outputs see `xcertify.one_output`; a score of a
            map of outputs is a weighted sum, by weights (N, h, w, K).

        Returns
        -------
        explanations
            float32: (N, H, W, 1) for images, else the shape of the inputs.

        Raises
        ------
        ValueError
            For inputs that do not fit the model or, unless ``outside="clip"``, are outside of
            `clip`; for targets that are neither, and explanations that would be NaN or infinite.
        """
        inputs, targets = self._prepare(inputs, targets)
        maps = self._explain(inputs, targets).astype(np.float32)
        missing = ~np.isfinite(maps).reshape(len(maps), -1).all(axis=1)
        if missing.any():
            raise ValueError(
                f"the explanation has NaN or infinite values in sample "
                f"{int(np.argmax(missing))}: the model's outputs or gradients are not finite (an "
                f"overflow, the root or logarithm of 0). Look at model(inputs), also of perturbed "
                f"inputs"
            )
        return maps

    def __call__(self, inputs: Any, targets: Any = None) -> np.ndarray:
        """Same as `explain`."""
        return self.explain(inputs, targets)

    def prepare(self, inputs: Any, targets: Any = None) -> tuple[np.ndarray, Any]:
        """What this explainer computes with; nothing is explained yet.

        Parameters
        ----------
        inputs, targets
            As for `explain`.

        Returns
        -------
        inputs
            (N, *shape) float32, channels last; with ``outside="clip"`` within `clip`.
        targets
            Classes (N,) int, or weights (N, K) of the outputs that are explained.

        Raises
        ------
        ValueError
            As `explain`, for inputs and targets that it does not take.
        """
        return self._prepare(inputs, targets)

    def _prepare(self, inputs: Any, targets: Any) -> tuple[np.ndarray, Any]:
        """Inputs (N, *shape) that fit the model, channels last, and targets as `_explain` has them.

        Every call of an explainer begins with it.
        """
        check_model(self.model)  # which may have been given other outputs
        inputs, targets = as_arrays(inputs, targets, input_shape_of(self.model))
        inputs = inputs if self._start is None else np.moveaxis(inputs, 1, -1)
        if "outside" in vars(self):  # of those with a valid range
            inputs = self.perturbation.inside(inputs)
        return inputs, self._resolve(inputs, targets)

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> Any:
        """Targets as `_explain` has them: here as they were given."""
        return targets

    @property
    def _start(self) -> str | None:
        """The layer from which on the model is looked at, if it takes channels first."""
        return self._derive("start", lambda: channels_last_layer(self.model))

    @property
    def _nb_at_once(self) -> int:
        """`batch_size` as a number, or fewer where memory does not hold so many."""
        return self._derive("at once", lambda: most_at_once(self.model, self.batch_size))

    def _logits(self, inputs: np.ndarray) -> np.ndarray:
        """Logits (N, K) of inputs, `batch_size` at a time."""
        logits = self._compile(self._logits_at, ((None, *inputs.shape[1:]), tf.float32))
        return np.concatenate([logits(part) for part in in_batches(inputs, self._nb_at_once)])

    def _logits_at(self, points: tf.Tensor) -> tf.Tensor:
        """Logits (B, K) float32 of points (B, *shape), of any model."""
        logits = self._derive("logits", lambda: logits_of(self.model, self._start))
        return tf.cast(logits(points), tf.float32)

    def _verifier_of(self, method: str, dtype: str | None = None) -> Verifier:
        """A verifier of the logits, from where on the model is looked at."""
        dtype = self._dtype if dtype is None else dtype
        return self._derive(
            ("verifier", method, dtype),
            lambda: Verifier(
                self.model, method, dtype=dtype, strip_head=True, start_layer=self._start
            ),
        )

    def _compile(self, function: Callable, *arguments: tuple[tuple, tf.DType]) -> Callable:
        """A method as a graph; `arguments` are the shape and type of each argument."""
        signature = [tf.TensorSpec(*argument) for argument in arguments]
        return self._derive(
            (function.__name__, *arguments),
            lambda: traced(function, input_signature=signature, autograph=False),
        )

    def _warn_before(self, region: Region) -> bool:
        """Whether bounds over regions are known to say nothing, and said to, before any work."""
        return False

    def _as_operations(self, shape: tuple[int, ...]) -> Explanation | None:
        """Maps of inputs of a shape as TensorFlow operations with a derivative, for attacks.

        None: no such operations are known.
        """
        return None

    @abstractmethod
    def _explain(self, inputs: np.ndarray, targets: Any) -> np.ndarray:
        """Maps of float32 inputs (N, *shape) that fit the model."""


class ClassExplainer(Explainer):
    """An explainer of one class of each input: its targets are classes (N,) int."""

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        return classes_of(self.model, self._logits(inputs), targets)


class ScoreExplainer(Explainer):
    """An explainer of a score of each input: its targets are weights (N, K) float32 of the logits.

    With labels or one-hot targets the score is the logit of a class. Of a single logit, the
    negative is the logit of class 0; without targets it is explained itself, or, where a sigmoid
    stands behind it, the predicted class (see `xcertify.targets`).
    """

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        return weights_of(self.model, self._logits(inputs), targets)

    def _scores(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Scores (N,) of inputs with targets as `_resolve` gives them, `batch_size` at a time."""
        scores = self._compile(self._scores_at, *map(_any_number_of, (inputs, targets)))
        size = self._nb_at_once
        pairs = zip(in_batches(inputs, size), in_batches(targets, size))
        return np.concatenate([scores(*pair) for pair in pairs])

    def _scores_at(self, points: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Scores (B,) float32 of points (B, *shape)."""
        return self._scores_by(self._logits_at, points, targets)

    def _scores_by(self, outputs: Callable, points: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """The same by a function that takes the place of the model."""
        return scores_of(weighted_outputs, outputs, points, targets)


class OperatorExplainer(ScoreExplainer):
    """An explainer of a score of each input that the user may choose, as in Xplique.

    Parameters
    ----------
    output_layer
        The layer whose outputs are explained, just as they are: its name, or its number in
        `model.layers` (0 is the first, -1 the last). None: logits, or with an operator the outputs
        of the model.
    operator
        The score; see `xcertify.operators`. None: the sum of targets times outputs.
    """

    _meant: str | None = None  # what may have been given in the place of `output_layer`

    def __init__(
        self,
        model: keras.Model,
        *,
        output_layer: str | int | None = None,
        operator: Operator | str | None = None,
        **settings: Any,
    ) -> None:
        as_operator(operator)
        super().__init__(model, **settings)
        self.output_layer, self.operator = output_layer, operator
        if output_layer is not None:
            shape = self._output_of_layer().shape
            if operator is None and len(shape) > 2:
                raise ValueError(
                    f"output_layer must give one row of scores per input, (N, K)"
                    f"{self._by_name(output_layer)}. "
                    f"Received: output_layer={output_layer!r} of shape {tuple(shape)}"
                )

    def _output_of_layer(self) -> keras.KerasTensor:
        layer = self.output_layer
        return output_of_layer(self.model, layer, "output_layer", self._by_name(layer))

    def _by_name(self, given: Any) -> str:
        """What else may have been meant by an output layer."""
        if self._meant is None or isinstance(given, bool):
            return ""
        return f"; what comes behind it is given by name: {self._meant}={given!r}"

    @property
    def _strips_head(self) -> bool:
        """Whether logits are explained, and not outputs as they are."""
        return self.output_layer is None and self.operator is None

    @property
    def _explained(self) -> Any:
        """The model whose outputs are explained: as it was given, or cut at `output_layer`."""
        if self.output_layer is None:
            return self.model
        name = f"{self.model.name}_cut"  # of its own: Keras would count it

        def cut() -> keras.Model:
            return keras.Model(self.model.inputs, self._output_of_layer(), name=name)

        return self._derive("explained", cut)

    def _logits_at(self, points: tf.Tensor) -> tf.Tensor:
        """Logits (B, K), or outputs (B, ...) as they are."""
        if self._strips_head:
            return super()._logits_at(points)
        outputs = self._derive("outputs", lambda: outputs_of(self._explained, self._start))
        return tf.cast(outputs(points), tf.float32)

    def _resolve(self, inputs: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
        """Weights (N, K) of the outputs, or whatever rows the operator is given."""
        if self._strips_head:
            return super()._resolve(inputs, targets)
        if not takes_weights(as_operator(self.operator)):
            return targets_of_operator(lambda: self._logits(inputs), targets, len(inputs))
        is_probability = head_of(self._explained) == "sigmoid"  # of class 1, where it is single
        outputs = as_rows(self._logits(inputs))
        return logit_weights(outputs - 0.5 * is_probability, targets, is_probability)

    def _scores_by(self, outputs: Callable, points: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        operator = as_operator(self.operator)
        operator = weighted_outputs if operator is None else operator
        return scores_of(operator, outputs, points, targets)


class Certifying(Explainer):
    """An explainer that can prove something about its explanations, within its `perturbation`."""

    def certify(self, inputs: Any, targets: Any = None) -> Any:
        """What is proved of each input; see the class for the guarantee.

        Parameters
        ----------
        inputs, targets
            As for `explain`.

        Returns
        -------
        certificate
            See the class.

        Raises
        ------
        ValueError
            As `explain`.
        UnsupportedLayerError
            For a model that cannot be bounded.
        ContradictionError
            If an attack succeeds inside what is certified: a bug, to be reported.

        Warns
        -----
        VacuousWarning
            Where what is proved says nothing (`vacuous` of the certificate); of a large network,
        whose bounds take minutes, before they are computed.
        """
        inputs, targets = self._prepare(inputs, targets)
        return self._given_out(self._certify(self._looked_at(self._region(inputs)), targets))

    def _given_out(self, certificate: AnyCertificate) -> AnyCertificate:
        """A certificate as `certify` returns it: with its origin, and a warning if one is due."""
        self._warn_of(certificate)
        if not isinstance(self.model, keras.Model):  # of which no fingerprint can be taken
            return certificate
        origin = Origin.of(type(self).__name__, self._stated(), self.model)
        return replace(certificate, origin=origin)

    def _warn_of(self, certificate: Certificate) -> None:
        """A `VacuousWarning` where what is proved says nothing."""
        what = certificate.describe_vacuous()
        if what:
            warn_vacuous(
                f"{type(self).__name__}: {what}. Try a smaller epsilon (see suggest_epsilon) where "
                f"there is one, a tighter method, or {WITHOUT_BOUNDS}"
            )

    def _warn_before(self, region: Region) -> bool:
        if not (self._takes_bounds and self._verifier_of(self._method_before).is_large):
            return False
        why = says_nothing(self._verifier_of, self._logits_at, self._least(region))
        if why:
            warn_vacuous(
                f"{type(self).__name__}: the network is large, its bounds take long and say "
                f"nothing: {why}. Try EVAHybrid, whose bounds begin behind a layer, a smaller "
                f"network, or {WITHOUT_BOUNDS}"
            )
        return bool(why)

    @property
    def _takes_bounds(self) -> bool:
        """Whether anything is bounded at all."""
        return True

    @property
    def _method_before(self) -> str:
        """The method of a verifier that is needed anyway."""
        return vars(self)["method"]

    def _least(self, region: Any) -> Region:
        """The smallest regions for which something is to be proved: here as they are."""
        return region

    def _looked_at(self, region: Any) -> Any:
        """Regions as they are, behind a warning where bounds over them say nothing."""
        self._warn_before(region)
        return region

    def _region(self, inputs: np.ndarray) -> Region:
        """The regions around inputs."""
        return self.perturbation.around(inputs)

    @abstractmethod
    def _certify(self, region: Any, targets: Any) -> Certificate:
        """The certificate of N regions, the inputs being their centers, and of their targets."""


def check_reducer(reducer: str | None) -> None:
    """A ValueError for an unknown way to make one value of the channels of an image."""
    if reducer is not None and reducer not in REDUCERS:
        raise ValueError(
            f"reducer must be one of {list(REDUCERS)}, or None for all channels. "
            f"Received: {reducer!r}"
        )


def reduce_channels(maps: np.ndarray, reducer: str | None) -> np.ndarray:
    """Maps of images, (N, H, W, C), with one value for each pixel, (N, H, W, 1).

    Those of other inputs, and with None those of images, stay as they are.
    """
    if reducer is None or maps.ndim != 4:
        return maps
    return REDUCERS[reducer](maps, axis=-1, keepdims=True)


def _any_number_of(rows: np.ndarray) -> tuple[tuple, tf.DType]:
    """Shape and type of arrays such as this one, for `_compile`."""
    return (None, *rows.shape[1:]), tf.float32
