"""The contract of explainers: all of ours keep it, and every rule catches who breaks it."""

import contextlib
import dataclasses
import os
import random
import warnings
import weakref

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from matplotlib import pyplot
from networks import sequential

from xcertify import attributions
from xcertify.attributions.base import Explainer
from xcertify.inputs import as_arrays, input_shape_of
from xcertify.logits import logits_of
from xcertify.targets import one_hot_targets
from xcertify.testing import RULES, check_explainer

L = keras.layers
EXPLAINERS = [
    name for name in attributions.__all__ if issubclass(getattr(attributions, name), Explainer)
]
# Small and cheap; what is not here is checked with its defaults.
SETTINGS = {
    "AttributionBound": {"beta": 10.0},  # the small model has ReLU
    "CORGI": {"k": 3, "form": "map", "method": "crown-ibp", "attack": None, "tolerance": 1.0},
    "EVAHybrid": {"latent_layer": "convolution", "nb_samples": 3, "grid_size": 2},
    "GreedyAS": {"nb_subsets": 6, "steps": 3, "share": 0.4},
    "IntegratedGradients": {"steps": 3},
    "Occlusion": {"patch_size": 2, "patch_stride": 2},
    "RelEx": {"nb_samples": 2, "steps": 3, "nb_halvings": 2},
    "Rise": {"nb_samples": 11, "grid_size": 3},
    "SampledEVA": {"nb_samples": 3, "grid_size": 2},
    "SmoothGrad": {"nb_samples": 3},
    "SmoothedAttribution": {"nb_samples": 30, "nb_choosing": 5, "tau": 0.6},
    "UniformlySmoothedAttribution": {"nb_samples": 100, "nb_choosing": 10, "epsilon": 1e-3},
}
# What an explainer is not meant to keep: a random map looks neither at classes nor at models, and
# the maps of a batch are drawn one after the other.
EXCEPTIONS = {"RandomMap": {"targets", "wrong targets", "batches", "model"}}
# Its targets are what the model predicts: its contract is in its own tests.
EXPLAINERS = [name for name in EXPLAINERS if name != "SufficientReason"]
FOR_IMAGES = {"CORGI", "GradCAM", "GradCAMPP"}
OF_SMOOTHED = {"explainer": lambda inputs, targets: inputs[..., :1], "nb_inputs": 5}
OTHER_VALUES = {
    "CORGI": {"k2": 4, "attack": "sum"},
    "GreedyAS": {"clip": (-1.0, 2.0)},
    "RelEx": {"start": 0.5},
    "SmoothedAttribution": OF_SMOOTHED | {"tau": 0.55},
    "UniformlySmoothedAttribution": OF_SMOOTHED | {"norm": 2.0},  # the only one
}
# Their certificates take seconds each, and there are three for every setting.
SLOW_TO_CERTIFY = ("AttributionBound", "CORGI", "RelEx")


def build(name, **settings):
    kind = getattr(attributions, name)
    return lambda model: kind.of_model(model, **SETTINGS.get(name, {}) | settings)


def test_every_public_name_is_checked():
    assert set(attributions.__all__) - set(EXPLAINERS) == {
        *("SufficientReason", "TargetedExplanation"),
    }
    assert set(SETTINGS) | set(EXCEPTIONS) <= set(EXPLAINERS)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_public_explainers(name):
    exceptions = EXCEPTIONS.get(name, set()) | {"settings"}  # below
    checked = check_explainer(build(name), leave_out=exceptions)
    certifies = hasattr(getattr(attributions, name), "certify")
    assert set(checked) == set(RULES) - exceptions - (set() if certifies else {"certificate"})


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", EXPLAINERS)
def test_settings_of_public_explainers(name):
    kind = getattr(attributions, name)
    if name in SLOW_TO_CERTIFY:
        kind = type(name, (kind,), {"certify": property(None)})
    only(
        "settings",
        lambda model: kind.of_model(model, **SETTINGS.get(name, {})),
        kind="images",
        changes=OTHER_VALUES.get(name),
    )


@pytest.mark.parametrize("name", ["IntegratedGradients", "Rise", "SmoothGrad"])
def test_settings_that_are_constants_of_graphs(name):
    only("settings", build(name))


@pytest.mark.usefixtures("compiled")
@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLAINERS)
def test_settings_of_public_explainers_as_compiled(name):
    only("settings", build(name), kind="images", changes=OTHER_VALUES.get(name))


def test_certified_grad_cam_leaves_the_model():
    only("globals", build("CORGI", explanation="grad-cam"), kind="images")


@pytest.mark.parametrize(
    ("name", "rule"), [(n, r) for n in EXCEPTIONS for r in sorted(EXCEPTIONS[n])]
)
def test_exceptions_are_needed(name, rule):
    with pytest.raises(AssertionError, match=f"^{rule}: "):
        only(rule, build(name))


@pytest.mark.parametrize("kind", ["tabular", "time series"])
@pytest.mark.parametrize("name", [n for n in EXPLAINERS if n not in FOR_IMAGES])
def test_tabular_and_time_series(name, kind):
    settings = {"latent_layer": "dense"} if name == "EVAHybrid" else {}
    only("result", build(name, **settings), kind=kind)


# --- explainers in NumPy, honest and broken -------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sizes:
    inputs: np.ndarray
    largest: np.ndarray
    weights: np.ndarray  # the same for all inputs

    def to_dict(self):
        return {"largest": self.largest.tolist()}

    def __repr__(self):
        return f"<Sizes of {len(self.largest)}>"


class Honest(Explainer):
    """Products of the weights and the inputs of a dense network."""

    certificate = Sizes

    def _explain(self, inputs, targets):
        logits = logits_of(self.model)
        nb_classes = self.model.output_shape[-1]
        rows = one_hot_targets(lambda: logits(inputs), targets, len(inputs), nb_classes)
        return inputs * (rows @ self._weights().T).reshape(inputs.shape)

    def _weights(self):
        kernels = [w for w in self.model.get_weights() if w.ndim == 2]
        return np.linalg.multi_dot(kernels)

    def certify(self, inputs, targets=None):
        inputs, targets = as_arrays(inputs, targets, input_shape_of(self.model))
        maps = self._explain(inputs, targets)
        largest = np.abs(maps).reshape(len(maps), -1).max(axis=1)
        return self.certificate(inputs, largest, self._weights())


def only(rule, build, **arguments):
    arguments = {"kind": "tabular"} | arguments
    assert check_explainer(build, leave_out=set(RULES) - {rule}, **arguments) == (rule,)


@pytest.mark.parametrize("kind", ["tabular", "time series"])
def test_an_honest_explainer_passes(kind):
    assert check_explainer(Honest, kind=kind) == tuple(RULES)


def test_a_model_and_data_of_ones_own():
    model = sequential((4,), L.Dense(5, "relu"), L.Dense(3), L.Softmax())
    inputs = np.random.default_rng(0).normal(size=(4, 4))
    before = random.getstate(), tf.get_logger().level
    checked = check_explainer(Honest, model, inputs, np.eye(3)[[2, 1, 0, 1]])
    assert set(RULES) - set(checked) == {"logits"}  # there is a softmax already
    assert before == (random.getstate(), tf.get_logger().level)
    single = sequential((4,), L.Dense(3, "tanh"), L.Dense(1))
    slow = ["memory", "model", "repeats"]
    assert "logits" in check_explainer(attributions.GradientInput, single, leave_out=slow)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "video"}, "kind must be one of .* Received: 'video'"),
        ({"leave_out": ["models"]}, r"leave_out must be .* Received: \['models'\]"),
        ({"leave_out": "model"}, "leave_out must be a list"),
        ({"inputs": np.zeros((1, 6, 5, 2))}, "inputs must be two or more. Received: 1"),
        ({"inputs": np.zeros((3, 7))}, r"shape \(N, 6, 5, 2\)"),
        ({"targets": [0, 1, 3]}, "labels from 0 to 2"),
        ({"model": np.sum}, "model must be a built Sequential or functional Keras model"),
        (
            {"model": sequential((None, 3), L.GlobalMaxPooling1D(), L.Dense(2))},
            "inputs must be given",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_explainer(Honest, **arguments)


def broken(rule, message):
    """Register a class that breaks a rule, with what the check has to say of it."""

    def register(kind):
        BROKEN[kind.__name__] = kind, rule, message
        return kind

    return register


BROKEN = {}
KEPT = weakref.WeakKeyDictionary()  # what explainers keep beside themselves, and should not


def result(change):
    """An explainer whose maps are changed at the end."""

    class Changed(Honest):
        def explain(self, inputs, targets=None):
            return change(super().explain(inputs, targets), inputs)

    return Changed


for change, message in [
    (lambda maps, _: tf.constant(maps), "NumPy array. Received: EagerTensor"),
    (lambda maps, _: maps.astype(float), "float32. Received: float64"),
    (lambda maps, _: maps[..., None], r"shape \(3, 7\). Received: \(3, 7, 1\)"),
    (lambda maps, _: maps + np.inf, "finite values. Received: .*inf"),
    (lambda maps, inputs: inputs, "of its own. Received: memory of the inputs"),
]:
    BROKEN[message] = result(change), "result", message


@broken("call", r"explainer\(inputs, targets\) must give the same")
class CallsWithoutTargets(Honest):
    def __call__(self, inputs, targets=None):
        return self.explain(inputs) + 1


@broken("call", "unexpected keyword argument 'targets'")
class OtherNames(Honest):
    def explain(self, images, labels=None):
        return super().explain(images, labels)


@broken("inputs", "Received: ")
class ArraysOnly(Honest):
    def explain(self, inputs, targets=None):
        return self._explain(np.array(inputs), targets).astype(np.float32)


@broken("inputs", "read-only")
class InPlace(Honest):
    def _explain(self, inputs, targets):
        inputs += 0
        return super()._explain(inputs, targets)


@broken("inputs", "a data set of .* must give the same maps")
class LosesTargetsOfData(Honest):
    def explain(self, inputs, targets=None):
        if isinstance(inputs, tf.data.Dataset):
            inputs, _ = as_arrays(inputs, None, input_shape_of(self.model))
        return super().explain(inputs, targets)


@broken("targets", "other classes must have other maps")
class IgnoresTargets(Honest):
    def _explain(self, inputs, targets):
        return super()._explain(inputs, np.zeros(len(inputs), int))


@broken("targets", "one-hot rows must give the same maps")
class BroadcastsLabels(Honest):
    """As many inputs as classes: labels pass for the weights of one row."""

    def _explain(self, inputs, targets):
        rows = np.ones((len(inputs), 3)) * targets
        return inputs * (rows @ self._weights().T)


@broken("targets", "targets=None, for the predicted classes, must give")
class ExplainsClassZero(Honest):
    def _explain(self, inputs, targets):
        return super()._explain(inputs, np.zeros(len(inputs), int) if targets is None else targets)


@broken("wrong inputs", "ValueError about inputs for inputs with NaN. Received: a result")
class TakesNan(Honest):
    def explain(self, inputs, targets=None):
        is_float = np.asarray(inputs).dtype.kind == "f"
        return super().explain(np.nan_to_num(inputs) if is_float else inputs, targets)


@broken("wrong inputs", "for no inputs at all. Received: IndexError")
class AnotherError(Honest):
    def explain(self, inputs, targets=None):
        maps = np.concatenate([inputs[0][None], inputs])[1:]
        return super().explain(maps, targets)


@broken("wrong inputs", "Received: a ValueError that says 'bad'")
class SaysNothing(Honest):
    def explain(self, inputs, targets=None):
        with contextlib.suppress(ValueError):
            return super().explain(inputs, targets)
        raise ValueError("bad")


@broken("wrong inputs", "certify must raise a ValueError about inputs for .* Received: a result")
class CertifiesAnything(Honest):
    def certify(self, inputs, targets=None):
        return None


@broken("wrong inputs", "after an error, the explainer must give the same maps")
class StaysBroken(Honest):
    failed = False

    def explain(self, inputs, targets=None):
        try:
            return super().explain(inputs, targets) * (0 if self.failed else 1)
        except ValueError:
            self.failed = True
            raise


@broken("wrong targets", "for the label 3 of 3 classes. Received: a result")
class ClipsLabels(Honest):
    def _explain(self, inputs, targets):
        targets = np.asarray(targets)
        return super()._explain(inputs, np.clip(targets, 0, 2) if targets.ndim == 1 else targets)


@broken("batches", "inputs one at a time must give the same maps")
class Centred(Honest):
    def _explain(self, inputs, targets):
        maps = super()._explain(inputs, targets)
        return maps - maps.mean(axis=0)


@broken("batches", "batch_size=2 instead of 512 must give the same maps")
class NormsOfABatch(Honest):
    def _explain(self, inputs, targets):
        maps = super()._explain(inputs, targets)
        return maps / self.batch_size


class Scaled(Honest):
    """One with a setting."""

    def __init__(self, model, factor=2.0, **settings):
        if not factor > 0:
            raise ValueError(f"factor must be above 0. Received: {factor!r}")
        super().__init__(model, **settings)
        self.factor = factor

    def _explain(self, inputs, targets):
        return super()._explain(inputs, targets) * self.factor


@broken("settings", "after factor = 1.4, instead of 2.0, must give the same maps")
class KeepsASetting(Scaled):
    def _explain(self, inputs, targets):
        return super()._explain(inputs, targets) * KEPT.setdefault(self, self.factor)


@broken("settings", "after factor = 1.4, .* must certify the same 'largest'")
class CertifiesAnEarlierSetting(Scaled):
    def certify(self, inputs, targets=None):
        factor = KEPT.setdefault(self, self.factor)
        found = super().certify(inputs, targets)
        return dataclasses.replace(found, largest=found.largest * factor)


@broken("settings", r"factor = '\?' must be refused, as by the constructor")
class TakesAnySetting(Scaled):
    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)


@broken("settings", "every argument must be an attribute. Received: none for share")
class HidesASetting(Honest):
    def __init__(self, model, share=0.5):
        super().__init__(model)
        self._share = share


@broken("settings", "another value of table must be known: give one in `changes`")
class UnknownKind(Honest):
    def __init__(self, model, table=frozenset()):
        if not isinstance(table, frozenset):
            raise TypeError(f"table must be a frozen set. Received: {table!r}")
        super().__init__(model)
        self.table = table


@broken("repeats", "a later call must give the same maps")
class NextNumbers(Honest):
    def __init__(self, model):
        super().__init__(model)
        self.generator = np.random.default_rng(0)

    def _explain(self, inputs, targets):
        return super()._explain(inputs, targets) + self.generator.random(inputs.shape)


@broken("repeats", "a new explainer must give the same maps")
class WithoutSeed(Honest):
    def __init__(self, model):
        super().__init__(model)
        self.noise = np.random.default_rng().random(7)

    def _explain(self, inputs, targets):
        return super()._explain(inputs, targets) + self.noise


@broken("repeats", "a result must stay what it is")
class OneBuffer(Honest):
    def explain(self, inputs, targets=None):
        self.buffer = getattr(self, "buffer", np.empty((3, 7), np.float32))
        self.buffer[:] = super().explain(inputs, targets)
        return self.buffer


@broken("model", "a model with other weights must have other maps")
class IgnoresTheModel(Honest):
    def _weights(self):
        return np.random.default_rng(0).random((7, 3))


@broken("model", "after explainer.model = other, explain must give the same maps")
class KeepsTheFirstModel(Honest):
    def _weights(self):
        first = KEPT.setdefault(self, self.model)
        return np.linalg.multi_dot([w for w in first.get_weights() if w.ndim == 2])


@broken("model", "a model whose weights were changed must give the same maps")
class KeepsTheFirstWeights(Honest):
    def _weights(self):
        return self._derive("weights", super()._weights)


@broken("model", "explainer.model must be the one that was set")
class AnotherModel(Honest):
    @property
    def model(self):
        return keras.models.clone_model(self._model)

    @model.setter
    def model(self, model):
        self._model = model

    def _explain(self, inputs, targets):
        return Honest(self._model)._explain(inputs, targets)


@broken("logits", "a model with a softmax at its end must give the same maps")
class OfProbabilities(Honest):
    def _explain(self, inputs, targets):
        return super()._explain(inputs, targets) * self.model(inputs).numpy().max()


@broken("quiet", r"nothing must be printed. Received: 'done")
class Prints(Honest):
    def _explain(self, inputs, targets):
        print("done")  # noqa: T201
        return super()._explain(inputs, targets)


@broken("memory", "one that the explainer keeps alive")
class RemembersModels(Honest):
    def _explain(self, inputs, targets):
        KEPT[self] = [*KEPT.get(self, []), self.model]
        return super()._explain(inputs, targets)


@broken("memory", "one that outlives its explainer, as in a cache of a class or a module")
class CacheOfTheClass(Honest):
    traced = {}  # noqa: RUF012

    def _explain(self, inputs, targets):
        score = self.traced.setdefault(id(self.model), tf.function(self.model, autograph=False))
        return super()._explain(inputs, targets) + 0 * score(inputs).numpy().max()


@broken("memory", "released with its explainer. Received: one that outlives it")
class ListsItself(Honest):
    all = []  # noqa: RUF012

    def __init__(self, model):
        super().__init__(model)
        self.all.append(self)


class MapOfAModel(np.ndarray):
    pass


@broken("memory", "one that a result keeps alive")
class ModelInTheMap(Honest):
    def explain(self, inputs, targets=None):
        maps = super().explain(inputs, targets).view(MapOfAModel)
        maps.model = self.model
        return maps


def certificate_of(change, **members):
    """An explainer whose certificate is another one."""
    certificate = dataclasses.make_dataclass(
        "Other", ["inputs", "largest", "weights"], frozen=True, namespace=members
    )

    class Certifies(Honest):
        def certify(self, inputs, targets=None):
            found = vars(super().certify(inputs, targets))
            return certificate(**found | change(found))

    return Certifies


GOOD = {"to_dict": Sizes.to_dict, "__repr__": Sizes.__repr__}
for change, members, message in [
    (lambda _: {}, {"to_dict": Sizes.to_dict}, r"sums it up. Received: .*array\("),
    (lambda _: {}, GOOD | {"__repr__": object.__repr__}, "sums it up. Received: .* object at 0x"),
    (lambda _: {}, {"__repr__": Sizes.__repr__}, r"must have to_dict\(\)"),
    (
        lambda _: {},
        GOOD | {"to_dict": lambda self: dataclasses.replace(self).__dict__},
        "ready for JSON. Received: .*ndarray",
    ),
    (lambda f: {"inputs": 0, "largest": f["largest"][:1]}, GOOD, "arrays with N first"),
    (lambda f: {"inputs": f["inputs"].T}, GOOD, "the array 'inputs' .* must have N first"),
    (
        lambda f: {"largest": f["largest"] * np.random.default_rng().random()},
        GOOD,
        "a second call must certify the same 'largest'",
    ),
]:
    BROKEN[message] = certificate_of(change, **members), "certificate", message


@broken("certificate", "must be a frozen dataclass. Received: dict")
class CertifiesADict(Honest):
    certificate = staticmethod(lambda *values: dict(enumerate(values)))


@broken("certificate", "whose 'inputs' can be set")
class CanBeChanged(Honest):
    certificate = dataclasses.make_dataclass("Open", ["inputs", "largest"])

    def certify(self, inputs, targets=None):
        return self.certificate(inputs, inputs)


@broken("certificate", "Received: ")
class CertifiesArraysOnly(Honest):
    def certify(self, inputs, targets=None):
        return super().certify(np.array(inputs), targets)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_explainers_are_caught(name):
    kind, rule, message = BROKEN[name]
    with pytest.raises(AssertionError, match=f"(?s)^{rule}: .*{message}"):
        only(rule, kind)


# --- nothing global -------------------------------------------------------------------------------


CHANGES = {
    "Python's random state": lambda model: random.random(),
    "NumPy's random state": lambda model: np.random.rand(),
    "TensorFlow's global seed": lambda model: tf.random.set_seed(int.from_bytes(os.urandom(4))),
    "TensorFlow's random state": lambda model: tf.random.uniform([]),
    "TensorFlow's global generator": lambda model: tf.random.get_global_generator().normal([]),
    "Keras's random state": lambda model: keras.random.uniform([]),
    "the numbers in the names that Keras gives": lambda model: L.Flatten(),
    "eager execution": lambda model: tf.config.run_functions_eagerly(True),
    "TensorFloat-32": lambda model: tf.config.experimental.enable_tensor_float_32_execution(False),
    "Keras's floatx": lambda model: keras.config.set_floatx("float16"),
    "Keras's epsilon": lambda model: keras.config.set_epsilon(0.1),
    "Keras's dtype policy": lambda model: keras.config.set_dtype_policy("mixed_float16"),
    "Keras's image data format": lambda model: keras.config.set_image_data_format("channels_first"),
    "NumPy's error handling": lambda model: np.seterr(divide="raise"),
    "NumPy's print options": lambda model: np.set_printoptions(precision=2),
    "the filters of warnings": lambda model: warnings.simplefilter("ignore"),
    "environment variables": lambda model: os.environ.update(XCERTIFY_TEST="1"),
    "matplotlib's rcParams": lambda model: matplotlib.rcParams.update({"lines.linewidth": 7}),
    "pyplot's figures": lambda model: pyplot.figure(),
    "the model's configuration": lambda model: setattr(model.layers[-1], "trainable", False),
    "the model's weights": lambda model: model.set_weights([2 * w for w in model.get_weights()]),
    "the calls that the model's layers know of": lambda model: model.layers[-1](
        keras.KerasTensor((None, 6), name="again")
    ),
}


@pytest.fixture
def restored(monkeypatch):
    """All that the changes change is put back."""
    tf.random.set_seed(0)  # without a seed there is no state to change
    keras.random.uniform([])
    state, numpy_state = random.getstate(), np.random.get_state()
    settings, options = np.geterr(), np.get_printoptions()
    with warnings.catch_warnings(), matplotlib.rc_context():
        yield
    random.setstate(state)
    np.random.set_state(numpy_state)
    np.seterr(**settings)
    np.set_printoptions(**options)
    tf.config.run_functions_eagerly(False)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    os.environ.pop("XCERTIFY_TEST", None)
    pyplot.close("all")


@pytest.mark.parametrize("what", CHANGES)
def test_global_changes_are_caught(what, restored):
    class Changes(Honest):
        def _explain(self, inputs, targets):
            maps = super()._explain(inputs, targets)
            CHANGES[what](self.model)
            return maps

    with pytest.raises(AssertionError, match=f"^globals: explain must leave {what}"):
        only("globals", Changes)


def test_changed_inputs_are_caught():
    class InPlace(Honest):
        def _explain(self, inputs, targets):
            inputs *= 2
            return super()._explain(inputs, targets)

    with pytest.raises(AssertionError, match="^globals: explain must leave inputs and targets"):
        only("globals", InPlace)


def test_every_call_is_watched(restored):
    """The constructor, `certify`, and calls that end in an error."""

    class Draws(Honest):
        def __init__(self, model):
            super().__init__(model)
            random.random()

    class Paints(Honest):
        def certify(self, inputs, targets=None):
            pyplot.figure()
            return super().certify(inputs, targets)

    class Fails(Honest):
        def explain(self, inputs, targets=None):
            np.seterr(divide="raise")
            maps = super().explain(inputs, targets)
            np.seterr(divide="warn")
            return maps

    with pytest.raises(AssertionError, match="^globals: Draws must leave Python's random state"):
        only("globals", Draws)
    with pytest.raises(AssertionError, match="^globals: certify must leave pyplot's figures"):
        only("globals", Paints)
    with pytest.raises(AssertionError, match="^globals: explain must leave NumPy's error handling"):
        check_explainer(Fails, kind="tabular")
