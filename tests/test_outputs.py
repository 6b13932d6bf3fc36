"""Every explainer, metric and attack on every kind of output: it runs, or says the cure.

A model of several outputs, maps of outputs, labels with a yes or no each, and regressions. A run
draws some pairs; ``-m slow`` has all of them.
"""

import inspect
import itertools
import warnings

import keras
import numpy as np
import pytest
from networks import sequential
from rotation import rotating
from test_defaults import EXPLAINERS, METRICS, WORK

from xcertify import attacks, attributions, metrics, one_output, suggest_epsilon
from xcertify.attributions import EVA, Saliency
from xcertify.bounds import Verifier
from xcertify.certificates import Certificate
from xcertify.estimates import estimate
from xcertify.logits import head_of, logits_of
from xcertify.regions import Ball
from xcertify.runs.loading import load_model
from xcertify.usefulness import VacuousWarning
from xcertify.verdicts import recheck

L = keras.layers
INPUTS = np.random.default_rng(1).uniform(0, 1, (3, 8, 8, 2)).astype("float32")
MASK = np.zeros((8, 8), bool)
MASK[2:4, 3:5] = True
WEIGHTS = np.zeros((3, 8, 8, 3), "float32")  # the second class at the places of the mask
WEIGHTS[:, MASK, 1] = 1


@pytest.fixture(scope="module")
def whole():
    """A map of classes, one of yes or no, labels, classes and a number."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 2))
    h = L.Conv2D(3, 3, activation="relu", padding="same", name="conv")(x)
    pooled = L.GlobalAveragePooling2D()(L.MaxPooling2D(2)(h))
    return keras.Model(
        x,
        {
            "classes": L.Dense(4, name="kinds")(pooled),
            "ground": L.Conv2D(1, 1, activation="sigmoid")(h),
            "labels": L.Dense(5, "sigmoid")(pooled),
            "pixels": L.Conv2D(3, 1, activation="softmax")(h),
            "number": L.Dense(1)(pooled),
        },
    )


def only(model, name):
    """One output as Keras makes a model of it: the map as it is, and the labels together."""
    return keras.Model(model.inputs[0], model.output[name])


# Models of outputs, and targets.
KINDS = {
    "several": (lambda model: model, None),
    "by name": (lambda model: one_output(model, "classes"), None),
    "number": (lambda model: one_output(model, "number"), None),
    "map": (lambda model: only(model, "pixels"), WEIGHTS),
    "map without targets": (lambda model: only(model, "pixels"), None),
    "place": (lambda model: one_output(model, "pixels", at=(2, 3)), None),
    "mean": (lambda model: one_output(model, "ground", mask=MASK), None),
    "labels": (lambda model: only(model, "labels"), None),
    "label": (lambda model: one_output(model, "labels", label=2), None),
}
OTHERS = ["PGD", "minimal_perturbation", "targeted_map_attack", "radius", "suggest", "estimate"]
PAIRS = [*itertools.product([*EXPLAINERS, *METRICS, *OTHERS], KINDS)]

# What is about classes, and takes neither maps nor labels that have a yes or no each.
OF_CLASSES = {
    *("CORGI", "EVA", "EVAHybrid", "GreedyAS", "MarginGradientRange", "RelEx", "SampledEVA"),
    *("SufficientReason", "ClassRetrieval", "RandomLogit", "RobustnessSr", "SufficientSize"),
    *("PGD", "minimal_perturbation", "radius", "suggest", "Stability", "ProbableSize"),
}
UNCHANGED = {("RandomMap", "map without targets"), ("radius", "several")}
PROBABILITIES = {("FeatureRelevance", kind) for kind in ("by name", "number", "map")}


def refusal(name, kind):
    """What the error says to do; None where nothing is refused."""
    if (name, kind) in PROBABILITIES:
        return "made of probabilities"
    if kind == "several" and name != "radius":
        return "several outputs.*one_output.*'classes'"
    if kind == "labels" and name in OF_CLASSES:
        return "yes or no.*one_output.*label=0.*head='softmax'"
    is_map = kind in ("map", "map without targets")
    if is_map and (name in OF_CLASSES or name == "estimate"):
        return "map of outputs.*one_output"
    if kind == "map without targets" and (name, kind) not in UNCHANGED:
        return r"map of outputs, \(8, 8, 3\), .*weights, \(3, 8, 8, 3\).*one_output"
    return None


def run(name, model, targets):
    settings = WORK.get(name, {}) | ({"latent_layer": "conv"} if name == "EVAHybrid" else {})
    region = Ball(INPUTS, 0.02)
    if name in EXPLAINERS:
        explainer = getattr(attributions, name).of_model(model, **settings)
        maps = explainer.explain(INPUTS, targets)
        assert maps.shape[0] == 3 and np.isfinite(maps).all()
        if hasattr(explainer, "certify"):
            assert isinstance(explainer.certify(INPUTS, targets), Certificate)
    elif name in METRICS:
        metric = getattr(metrics, name)(model, INPUTS, targets, **settings)
        saliency = Saliency(model)
        takes_maps = "explanations" in inspect.signature(metric.detailed_evaluate).parameters
        asked = saliency.explain(INPUTS, targets) if takes_maps else saliency
        assert np.isfinite(metric(asked))
    elif name == "PGD":
        assert np.isfinite(attacks.PGD(model, steps=2)(region, targets).values).all()
    elif name == "minimal_perturbation":
        attacks.minimal_perturbation(model, region, targets, steps=2)
    elif name == "targeted_map_attack":
        wanted = np.ones_like(INPUTS)
        attack = attacks.targeted_map_attack
        attack(model, attacks.input_gradient, region, wanted, targets, steps=2, betas=None)
    elif name == "radius":
        output = "classes" if len(model.outputs) > 1 else 0
        Verifier(model, output=output).radius(INPUTS, targets, nb_halvings=1, timeout=0.5)
    elif name == "suggest":
        assert suggest_epsilon(model, INPUTS, targets) > 0
    else:
        assert "Saliency" in str(estimate(model, seconds=0.1))


def check(whole, name, kind):
    make, targets = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VacuousWarning)
        warnings.filterwarnings("ignore", "clip='auto' took the valid range")
        message = refusal(name, kind)
        if message is None:
            run(name, make(whole), targets)
            return
        with pytest.raises(ValueError, match=message + ".*Received: "):
            run(name, make(whole), targets)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("number", rotating(len(PAIRS), 6))
def test_a_pair_of_an_output_and_what_is_done_with_it(whole, number):
    check(whole, *PAIRS[number])


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_all_pairs(whole, name, kind):
    check(whole, name, kind)


# --- one output as a model ----------------------------------------------------------------------


def log_odds(p):
    return np.log(p) - np.log1p(-p)


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


PARTS = {
    "classes": ({}, lambda v: v, None),
    "number": ({}, lambda v: v, None),
    "labels": ({"label": 2}, lambda v: v[:, 2:3], "sigmoid"),
    "labels as classes": ({"head": "softmax"}, lambda v: softmax(log_odds(v)), "softmax"),
    "pixels": ({"at": (2, -1)}, lambda v: v[:, 2, 7], "softmax"),
    "pixels, mean": (
        {"mask": MASK},
        lambda v: softmax(np.log(v[:, MASK]).mean(axis=1)),
        "softmax",
    ),
    "ground": ({"at": (0, 3, 0)}, lambda v: v[:, 0, 3], "sigmoid"),
    "ground, weighted": (
        {"mask": MASK[..., None] * np.arange(8)[:, None, None]},
        lambda v: (
            1 / (1 + np.exp(-(log_odds(v[:, 2:4, 3:5, 0]) @ [0.5, 0.5] @ [0.4, 0.6])[:, None]))
        ),
        "sigmoid",
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_a_part_of_an_output_as_a_model(whole, case, tmp_path):
    settings, of_whole, head = PARTS[case]
    name = case.split(",")[0].split(" ")[0]
    weights = [w.numpy() for w in whole.weights]
    model = one_output(whole, name, **settings)
    values = of_whole(np.asarray(whole(INPUTS)[name], "float64"))
    np.testing.assert_allclose(model(INPUTS), values, atol=1e-5)
    assert model.output_shape == (None, *values.shape[1:]) and head_of(model) == head
    lower, upper = Verifier(model, "ibp", dtype="float64").bound_outputs(Ball(INPUTS, 0.0))
    np.testing.assert_allclose((lower + upper) / 2, logits_of(model)(INPUTS), atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = load_model(str(tmp_path / "model.keras"))
    np.testing.assert_allclose(loaded(INPUTS), values, atol=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(weights, whole.weights))
    whole.layers[1].bias.assign_add([0.1, 0.2, -0.1])  # the weights are shared
    try:
        changed = of_whole(np.asarray(whole(INPUTS)[name], "float64"))
        np.testing.assert_allclose(model(INPUTS), changed, atol=1e-5)
    finally:
        whole.layers[1].bias.assign(weights[1])


def test_a_head_in_a_nested_model():
    inner = sequential((4, 4, 2), L.Conv2D(3, 1), L.Softmax())
    x = keras.Input((4, 4, 2))
    model = keras.Model(x, L.Dropout(0.5)(inner(x)))
    part = one_output(model, at=(1, 2))
    points = INPUTS[:, :4, :4]
    np.testing.assert_allclose(part(points), model(points)[:, 1, 2], rtol=1e-5)
    assert head_of(part) == "softmax" and part.layers[-1].name != model.layers[-1].name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "output must be one of classes, ground, labels, number, pixels, or its number"),
        ({"output": "no"}, "output must be a number below 5 or one of classes, .*Received: 'no'"),
        ({"output": 5}, "output must be a number below 5"),
        ({"output": "pixels", "at": (8, 0)}, "at must be whole numbers from 0 to 7.*Received: 8"),
        ({"output": "pixels", "at": 3}, r"at must be a place.*\(8, 8, 3\).*Received: at=3"),
        ({"output": "labels", "at": 3}, r"at must be a place.*\(5,\)"),
        ({"output": "pixels", "mask": np.ones(8)}, r"mask must be numbers of the shape.*\(8,\)"),
        ({"output": "pixels", "mask": -MASK.astype(int)}, "mask must be finite numbers of at le"),
        ({"output": "pixels", "mask": 0 * MASK}, "not all 0"),
        ({"output": "pixels", "mask": MASK, "at": (0, 0)}, "not both"),
        ({"output": "labels", "label": 5}, "label must be whole numbers from 0 to 4"),
        ({"output": "labels", "label": True}, "label must be whole numbers"),
        ({"output": "pixels", "label": 1}, r"of a softmax are classes.*targets=\[1\]"),
        ({"output": "labels", "head": "tanh"}, "head must be one of .*Received: 'tanh'"),
    ],
)
def test_what_an_output_does_not_have(whole, settings, message):
    with pytest.raises(ValueError, match=message):
        one_output(whole, **settings)


def test_outputs_by_name_on_the_command_line(whole, tmp_path):
    path = str(tmp_path / "model.keras")
    whole.save(path)
    for name in ("labels", "2", "-3"):
        assert load_model(f"{path}:{name}").output_shape == (None, 5)
    assert len(load_model(path).outputs) == 5
    with pytest.raises(ValueError, match=r"model.keras: output must be .* of classes, ground"):
        load_model(f"{path}:none")
    with pytest.raises(FileNotFoundError):
        load_model(f"{path}x:labels")


@pytest.mark.usefixtures("eager")
def test_a_label_that_stays_though_another_becomes_larger():
    model = sequential((2,), L.Dense(3, "sigmoid"))
    model.set_weights([np.array([[4.0, 0, 1], [0, 4, 0]]), np.zeros(3)])
    x = np.array([[1.0, 0.9]])  # both of the first are yes, and close
    as_classes = EVA(one_output(model, head="softmax"), 0.2).certify(x)
    labels = [EVA(one_output(model, label=k), 0.2).certify(x) for k in range(3)]
    assert not as_classes.robust and all(one.robust for one in labels)
    assert [int(one.targets[0]) for one in labels] == [1, 1, 1]
    assert not EVA(one_output(model, label=0), 1.1).certify(x).robust


def test_scores_of_a_map_are_the_weighted_sums(whole):
    model = only(whole, "pixels")
    summed = keras.Model(
        model.inputs[0],
        L.Flatten()(sequential((8, 8, 3), L.Conv2D(1, 8, use_bias=False))(logits_model_of(whole))),
    )
    summed.layers[-2].set_weights([WEIGHTS[0, ..., None]])
    expected = Saliency(summed).explain(INPUTS)
    np.testing.assert_allclose(Saliency(model).explain(INPUTS, WEIGHTS), expected, rtol=1e-4)
    single = only(whole, "ground")
    without_channel = Saliency(single).explain(INPUTS, np.repeat(MASK[None], 3, axis=0))
    with_channel = Saliency(single).explain(INPUTS, np.repeat(MASK[None, ..., None], 3, axis=0))
    np.testing.assert_array_equal(without_channel, with_channel)


def logits_model_of(whole):
    """The tensor of the logits of the pixels, by Keras alone."""
    layer = whole.get_layer(whole.output["pixels"]._keras_history[0].name)
    copy = L.Conv2D(3, 1)
    logits = copy(layer.input)
    copy.set_weights(layer.get_weights())
    return logits


# --- regression ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regression():
    keras.utils.set_random_seed(1)
    return sequential((4,), L.Dense(8, "tanh"), L.Dense(2))


NUMBERS = np.random.default_rng(2).normal(size=(3, 4)).astype("float32")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("mode", ["one-pass", "exact"])
def test_a_regression_stays_within_delta(regression, mode):
    delta, targets = np.array([0.05, 0.3, 0.6]), np.array([0, 1, 0])
    explainer = EVA(regression, 0.1, mode=mode, delta=delta, attack=True)
    certificate = explainer.certify(NUMBERS, targets, complete=True)
    points = Ball(NUMBERS, 0.1).sample(2000, 0)
    rows = np.arange(3)
    values = np.asarray(regression(points.reshape(-1, 4))).reshape(2000, 3, 2)[:, rows, targets]
    first = np.asarray(regression(NUMBERS))[rows, targets]
    attained = np.abs(values - first).max(axis=0) - delta
    assert (attained <= certificate.overlap + 1e-6).all()
    assert (certificate.attacked >= attained - 1e-6).all()
    assert certificate.decision.status.tolist() == ["violated", "holds", "holds"]
    np.testing.assert_allclose(certificate.answers.values, first, rtol=1e-5)
    np.testing.assert_allclose(certificate.nominal, -delta, atol=1e-6)
    point = certificate.decision.counterexamples[:1].astype("float32")
    assert abs(np.asarray(regression(point))[0, 0] - first[0]) >= 0.05
    assert "within 0.05 to 0.6 of its value" in repr(certificate)
    held = np.where(np.arange(4) == 2, NUMBERS, points)
    held = np.asarray(regression(held.reshape(-1, 4))).reshape(2000, 3, 2)[:, rows, targets]
    of_cell = np.abs(held - first).max(axis=0) - delta
    assert (of_cell <= certificate.cell_overlaps[:, 2] + 1e-6).all()
    assert (explainer.explain(NUMBERS, targets) >= 0).all()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("method", ["crown", pytest.param("alpha-crown", marks=pytest.mark.slow)])
def test_certificates_of_a_regression_are_verified_again(regression, method, tmp_path):
    explainer = EVA(regression, 0.1, method=method, delta=0.3)
    certificate = explainer.certify(NUMBERS, [0, 1, 1], complete=True)
    certificate.save(tmp_path / "certificate.npz")
    loaded = Certificate.load(tmp_path / "certificate.npz")
    assert recheck(loaded, regression).confirmed.all()
    wrong = recheck(changed(loaded, values=loaded.answers.values + 0.01), regression, attack=False)
    assert not wrong.confirmed.any() and "are not the outputs" in wrong.reason[0]
    assert not recheck(
        changed(loaded, delta=loaded.answers.delta * 1.1), regression
    ).confirmed.any()


def changed(certificate, **fields):
    answers = type(certificate.answers)(**vars(certificate.answers) | fields)
    return type(certificate)(**{**vars(certificate), "answers": answers})


def test_questions_to_a_regression_that_have_no_meaning(regression):
    with pytest.raises(ValueError, match="targets must name the output that stays within delta"):
        EVA(regression, delta=0.1).certify(NUMBERS)
    with pytest.raises(ValueError, match="delta must be a number above 0"):
        EVA(regression, delta=0.0).certify(NUMBERS, [0, 1, 1])
    with pytest.raises(ValueError, match="with delta there are none: take explain"):
        EVA(regression, delta=0.1).explain_targeted(NUMBERS, 1, [0, 0, 0])
