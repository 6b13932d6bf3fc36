"""Whether bounds say anything: how loose they are, the warning, and a radius to start with."""

import io
import warnings

import keras
import numpy as np
import pytest
from networks import NETWORKS, sequential

import xcertify
from xcertify.attributions import (
    CORGI,
    EVA,
    AttributionBound,
    CertifiedGradient,
    EVAHybrid,
    RelEx,
    Saliency,
    SufficientReason,
)
from xcertify.attributions.useful_overlaps import Usefulness
from xcertify.bounds import Verifier
from xcertify.criteria import Within
from xcertify.progress import compiling, progress_bar
from xcertify.radii import keeps_class
from xcertify.regions import Ball
from xcertify.targets import margin_rows
from xcertify.usefulness import VacuousWarning, times_wider, warn_vacuous

L = keras.layers
INPUTS = np.random.default_rng(0).random((3, 6), np.float32)


@pytest.fixture(scope="module")
def deep():
    """Bounds of wide balls grow with every layer."""
    kernels = [keras.initializers.HeNormal(seed=number) for number in range(8)]
    inner = [L.Dense(24, "relu", kernel_initializer=kernel) for kernel in kernels]
    return keras.Sequential([keras.Input((6,)), *inner, L.Dense(3, kernel_initializer=kernels[0])])


@pytest.fixture(scope="module")
def linear():
    return sequential((6,), L.Dense(3))


def test_times_by_hand():
    proved = [2.0, 1.0, 1.0, np.inf, 3.0, 0.0, np.nan, 1.0]
    attained = [1.0, 1.0, 1.1, 1.0, 0.0, 0.0, 1.0, np.nan]
    expected = [2.0, 1.0, 1.0, np.inf, np.inf, 1.0, np.nan, np.nan]
    np.testing.assert_array_equal(times_wider(proved, attained), expected)
    np.testing.assert_array_equal(times_wider([1e-6, 1e-4], [0.0, 0.0], 1e-5), [1.0, np.inf])


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_bounds_of_a_linear_network_are_exact(linear, norm):
    region = Ball(INPUTS, 0.1, norm)
    tolerance = 1e-4 if norm == np.inf else 0.1  # of the ascent
    np.testing.assert_allclose(Verifier(linear).looseness(region), 1, rtol=tolerance)
    rows = np.float32([[1, -1, 0], [0, 2, 0]])
    found = Verifier(linear, "crown").looseness(region, rows)
    np.testing.assert_allclose(found, 1, rtol=tolerance)


def test_looseness_of_bounds_is_that_of_the_widths(deep):
    region = Ball(INPUTS, 0.3)
    loose = {method: Verifier(deep, method).looseness(region) for method in ("ibp", "crown")}
    assert (loose["ibp"] > loose["crown"]).all() and (loose["crown"] > 1).all()
    lower, upper = Verifier(deep).bound_outputs(region)
    values = deep(region.sample(200).reshape(-1, 6)).numpy().reshape(200, 3, 3)
    sampled = times_wider((upper - lower).sum(axis=1), np.ptp(values, axis=0).sum(axis=1))
    assert (loose["crown"] <= sampled).all()  # the attack attains more than samples do
    assert (Verifier(deep).looseness(Ball(INPUTS, 0.0)) == 1).all()
    with pytest.raises(ValueError, match="looseness"):
        Verifier(deep, "decomon:crown").looseness(region)


def test_looseness_of_the_certificates_of_a_linear_network(linear):
    overlap = EVA(linear, epsilon=0.1).certify(INPUTS)
    np.testing.assert_allclose(overlap.looseness, 1, rtol=1e-3)
    assert overlap.to_dict()["looseness"] == overlap.looseness.tolist()
    assert "1 times what is attained" in repr(overlap)
    margins = np.sort(linear(INPUTS).numpy(), axis=1)
    np.testing.assert_allclose(overlap.nominal, margins[:, -2] - margins[:, -1], rtol=1e-5)
    gradient = CertifiedGradient(linear, epsilon=0.1).certify(INPUTS)
    assert (gradient.attained == 0).all() and (gradient.looseness == 1).all()


def test_looseness_of_the_certificates_of_a_network():
    model = NETWORKS["convolutions"]()
    images = np.random.default_rng(1).random((2, 6, 7, 2), np.float32)
    found = {
        "overlap": EVA(model, epsilon=0.02).certify(images),
        "gradient": CertifiedGradient(model, epsilon=0.02).certify(images),
    }
    for certificate in found.values():
        assert (certificate.looseness >= 1).all() and np.isfinite(certificate.looseness).all()
    gradient = found["gradient"]
    expected = gradient.farthest() / gradient.attained
    np.testing.assert_allclose(gradient.looseness, expected, rtol=1e-4)
    assert (gradient.attained > 0).all()


def test_looseness_of_radii_and_estimates():
    model = sequential(
        (6, 6, 1), L.Conv2D(2, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(2)
    )
    images = np.random.default_rng(1).random((2, 6, 6, 1), np.float32)
    certificate = CORGI(model, k=2).certify(images)
    expected = np.maximum(certificate.attacked / certificate.radius, 1)
    expected[np.isinf(certificate.attacked)] = np.nan
    np.testing.assert_allclose(certificate.looseness, expected)
    assert np.isnan(CORGI(model, k=2, attack=None).certify(images).looseness).all()
    smooth = sequential((6,), L.Dense(4, "tanh"), L.Dense(2))
    estimate = AttributionBound(smooth, epsilon=0.1)
    assert np.isinf(estimate.certify(INPUTS).looseness).all()  # nothing is proved
    estimate.proved = True
    assert (estimate.certify(INPUTS).looseness >= 1).all()


@pytest.mark.parametrize("settings", [{}, {"method": "ibp", "mode": "exact"}])
def test_vacuous_maps_are_warned_of_once_with_a_cure(deep, settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = EVA(deep, epsilon=8.0, **settings).explain(INPUTS)
    (warning,) = [one for one in caught if one.category is VacuousWarning]
    assert maps.shape == INPUTS.shape and np.isfinite(maps).all()
    assert warning.filename == __file__
    message = str(warning.message)
    assert " of 3 inputs" in message and "epsilon=8.0" in message
    assert "EVAHybrid" in message and ("method='crown'" in message) == bool(settings)
    epsilon = float(message.split("(at ")[1].split()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EVA(deep, epsilon=epsilon, **settings).explain(INPUTS)


def test_vacuous_maps_of_the_others(deep):
    hybrid = EVAHybrid(deep, deep.layers[0].name, epsilon=8.0, nb_samples=50, method="ibp")
    with pytest.warns(VacuousWarning, match="EVAHybrid: .* latent_layer"):
        hybrid.explain(INPUTS)
    with pytest.warns(VacuousWarning, match="EVA: "):
        EVA(deep, epsilon=8.0).explain_targeted(
            INPUTS, (EVA(deep)._logits(INPUTS).argmax(1) + 1) % 3
        )


def test_tight_bounds_are_not_warned_of(linear, deep):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EVA(linear, epsilon=1e3).explain(INPUTS)
        EVA(deep, epsilon=1e-4).explain(INPUTS)
        EVA(deep, epsilon=0.0).explain(INPUTS)


def test_the_warning_names_the_line_that_called_the_package():
    with pytest.warns(VacuousWarning, match="of nothing") as caught:
        warn_vacuous("of nothing")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_the_suggested_epsilon_proves_about_half(deep, method):
    inputs = np.random.default_rng(2).random((9, 6), np.float32)
    epsilon = xcertify.suggest_epsilon(deep, inputs, method=method, clip=(0, 1))
    classes = deep(inputs).numpy().argmax(1)
    verifier = Verifier(deep, method)
    shares = [
        keeps_class(verifier, Ball(inputs, radius, clip=(0, 1)), classes).mean()
        for radius in (epsilon, 1.2 * epsilon)
    ]
    assert shares[0] >= 0.5 > shares[1], epsilon
    assert epsilon == float(f"{epsilon:.1e}")


def test_the_suggested_epsilon_by_hand():
    """f = x1 - x2 changes its sign at |x1 - x2| / 2."""
    model = sequential((2,), L.Dense(1, use_bias=False))
    model.layers[-1].kernel.assign([[1.0], [-1.0]])
    inputs = np.float32([[0.2, 0.0], [0.4, 0.0], [0.0, 0.8]])
    assert xcertify.suggest_epsilon(model, inputs) == pytest.approx(0.2, rel=0.06)
    assert xcertify.suggest_epsilon(model, inputs, share=1.0) == pytest.approx(0.1, rel=0.06)
    scale = np.float32([[2.0, 0.0]])  # only x1 moves
    for same in (scale, scale[0]):
        assert xcertify.suggest_epsilon(model, inputs, scale=same) == pytest.approx(0.2, rel=0.06)
    # radii larger than the inputs are found, too
    assert xcertify.suggest_epsilon(model, inputs, scale=1e-3) == pytest.approx(200, rel=0.06)
    many = sequential((100,), L.Dense(1))
    many.set_weights([np.ones((100, 1)), np.float32([-70])])
    spread = np.linspace(0, 1, 100, dtype=np.float32)[None]  # f = -20, and each step adds 1
    assert xcertify.suggest_epsilon(many, spread, norm=1) == pytest.approx(20, rel=0.06)


def test_no_epsilon_to_suggest(deep):
    wrong = (deep(INPUTS).numpy().argmax(1) + 1) % 3
    with pytest.raises(ValueError, match="gives 0 of 3 inputs the class"):
        xcertify.suggest_epsilon(deep, INPUTS, wrong)
    with pytest.raises(ValueError, match=r"share must be .* Received: 0"):
        xcertify.suggest_epsilon(deep, INPUTS, share=0)
    for scale in (0, np.ones(5), np.full(6, np.nan), "1"):
        with pytest.raises(ValueError, match=r"scale must be .* \(6,\)"):
            xcertify.suggest_epsilon(deep, INPUTS, scale=scale)
    two = keras.Model(deep.inputs, [deep.outputs[0], deep.layers[0].output])
    with pytest.raises(ValueError, match="several outputs"):
        xcertify.suggest_epsilon(two, INPUTS)
    constant = sequential((6,), L.Dense(2))
    constant.set_weights([np.zeros((6, 2)), np.zeros(2)])
    with pytest.raises(ValueError, match="gives 0 of 3"):  # ties are of no class
        xcertify.suggest_epsilon(constant, INPUTS)


def test_a_bar_says_that_a_graph_is_compiled(capsys):
    with progress_bar(3, "input") as bar:
        with compiling():
            assert "compiling a graph" in str(bar)
        assert "compiling" not in str(bar)
        with compiling(False):
            assert "compiling" not in str(bar)
    with progress_bar(3, verbose=False), compiling():  # nothing is shown
        pass
    assert "compiling a graph" in capsys.readouterr().err


def test_explaining_says_that_a_graph_is_compiled(linear, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    Saliency(sequential((6,), L.Dense(3)), verbose=True).explain(INPUTS)
    assert "compiling a graph" in shown.getvalue()


def test_where_no_useful_radius_is_found_the_warning_says_so(deep, monkeypatch):
    monkeypatch.setattr("xcertify.attributions.useful_overlaps._SECONDS", -1.0)
    with pytest.warns(VacuousWarning, match=r"not found: down to 8 none that was tried is useful"):
        EVA(deep, epsilon=80.0).explain(INPUTS)


def test_the_smaller_epsilon_is_sought_for_the_loosest_inputs():
    full = np.repeat([200.0, 2e5], 4)

    def bound(region, samples, *_):
        return full[samples] * np.max(region.epsilon)

    def attack(region, samples, *_):
        return np.zeros(len(samples)), np.ones(len(samples))

    region = Ball(np.zeros((8, 1), np.float32), 1.0)
    usefulness = Usefulness("EVA", attack, bound, 1.0, "", "")
    with pytest.warns(VacuousWarning, match="at 1e-05 the bounds are useful"):
        usefulness.warn(region, np.arange(8), full, np.zeros(8, bool))


def test_vacuous_certificates_are_warned_of(deep):
    """Where bounds are wide; not where a radius of 0 says it, and not where nothing was claimed."""
    with pytest.warns(VacuousWarning, match="CertifiedGradient: .* 3 of 3 .* suggest_epsilon"):
        gradient = CertifiedGradient(deep, epsilon=8.0).certify(INPUTS)
    assert gradient.vacuous.all() and (gradient.looseness > 100).all()
    with pytest.warns(VacuousWarning, match="EVA: what the certificate proves"):
        overlap = EVA(deep, epsilon=8.0).certify(INPUTS)
    assert not (overlap.vacuous & overlap.robust).any()
    with pytest.warns(VacuousWarning, match="AttributionBound"):
        AttributionBound(deep, epsilon=8.0, beta=10.0, proved=True).certify(INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", VacuousWarning)
        AttributionBound(deep, epsilon=8.0, beta=10.0).certify(INPUTS)
        assert not EVA(deep, epsilon=1e-3).certify(INPUTS).vacuous.any()


def test_what_weights_attain_is_not_known(deep):
    certificate = CertifiedGradient(deep, epsilon=0.01, gamma=0.5, method="ibp").certify(INPUTS)
    assert np.isnan(certificate.looseness).all() and not certificate.vacuous.any()


class Recorded:
    """A verifier of logits that do not move, which notes how many rows it is asked for."""

    nb_outputs = 100

    def __init__(self):
        self.asked = []

    def evaluate(self, inputs, constants=()):
        return np.asarray(inputs, np.float32)

    def bound_rows(self, region, rows, constants=()):
        rows = np.asarray(rows)
        self.asked.append(rows.shape[:2])
        values = np.einsum("nsk,nk->ns", rows, region.center)
        return values - 1, values + 1


def test_of_many_margins_that_of_the_runner_up_comes_first():
    logits = np.zeros((3, 100), np.float32)
    logits[[0, 1, 2], [5, 6, 7]] = 4
    logits[1, 99] = 3.5
    verifier = Recorded()
    kept = keeps_class(verifier, Ball(logits, 0.0), np.array([5, 6, 7]))
    np.testing.assert_array_equal(kept, [True, False, True])
    assert verifier.asked == [(3, 1), (2, 99)]
    rows = np.asarray(margin_rows(np.array([5, 6, 7]), 100))
    _, upper = verifier.bound_rows(Ball(logits, 0.0), rows)
    np.testing.assert_array_equal(kept, (upper < 0).all(axis=1))


@pytest.mark.parametrize(
    ("explainer", "made"),
    [
        (lambda model: EVA(model, epsilon=3.0, method="crown-ibp").explain(INPUTS), True),
        (lambda model: EVA(model, epsilon=3.0).certify(INPUTS), True),
        (lambda model: CertifiedGradient(model, epsilon=3.0).certify(INPUTS), True),
        (lambda model: CertifiedGradient(model).radius(INPUTS, Within(1e-9), largest=1e5), True),
        (lambda model: EVA(model, epsilon=3.0).explain_targeted(INPUTS, 4, [0, 1, 2]), True),
        (lambda model: SufficientReason(model, epsilon=3.0).explain(INPUTS), True),
        (lambda model: AttributionBound(model, epsilon=3.0, proved=True).certify(INPUTS), True),
        (lambda model: RelEx(model, largest_radius=1e4).certify(INPUTS), True),
        (lambda model: EVA(model, epsilon=1e-3).explain(INPUTS), False),
    ],
)
def test_bounds_of_large_networks_that_say_nothing_are_told_of_before(monkeypatch, explainer, made):
    monkeypatch.setattr("xcertify.bounds.propagation.depth.LARGEST_WORK", 0)
    model = sequential((6,), *(L.Dense(24, "relu") for _ in range(6)), L.Dense(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if not made else "error", VacuousWarning)
        if not made:
            explainer(model)
            return
        with pytest.raises(VacuousWarning, match="the network is large.* times as far"):
            explainer(model)


def test_large_networks_that_cannot_be_explained_by_bounds_are_told_of_once(monkeypatch):
    monkeypatch.setattr("xcertify.bounds.propagation.depth.LARGEST_WORK", 0)
    model = sequential((6,), *(L.Dense(24, "relu") for _ in range(6)), L.Dense(3))
    with pytest.warns(VacuousWarning) as warned:
        EVA(model, epsilon=3.0).explain(INPUTS)
    assert len(warned) == 1 and "EVA: the network is large" in str(warned[0].message)
    assert warned[0].filename == __file__
    assert Verifier(model).is_large


def test_bounds_that_do_not_depend_on_the_radius_say_nothing(monkeypatch):
    monkeypatch.setattr("xcertify.bounds.propagation.depth.LARGEST_WORK", 0)
    model = sequential((6,), *(L.Dense(24, "relu6") for _ in range(4)), L.Dense(5))
    with pytest.warns(VacuousWarning, match="hardly nearer than within 10 times the radius"):
        EVA(model, epsilon=0.3).explain(INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", VacuousWarning)
        EVA(model, epsilon=0.1).explain(INPUTS)
