"""AttributionBound and its quadratic forms: by hand, against dense algebra, and against attacks."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential

from xcertify.attacks import PGD, softplus_copy
from xcertify.attributions import AttributionBound, CertifiedGradient, Saliency
from xcertify.attributions.quadratic_forms import ascent, largest_eigenvalue, least_dual
from xcertify.bounds import Verifier
from xcertify.bounds.graph.activations import smooth_rectifier
from xcertify.bounds.graph.relaxations import derivative_range, image
from xcertify.radii import ContradictionError
from xcertify.regions import Ball

L = keras.layers


def curved(model, inputs, targets):
    """A callable attribution of another shape than the inputs."""
    score = tf.reduce_sum(model(inputs) * targets, axis=1, keepdims=True)
    return tf.concat([tf.sin(3 * inputs) * score, score**2], axis=1)


ATTRIBUTIONS = {
    "saliency": "saliency",
    "gradient_input": "gradient_input",
    "integrated_gradients": "integrated_gradients",
    "callable": curved,
}


@pytest.fixture(scope="module")
def smooth():
    return sequential((6,), L.Dense(8, "tanh"), L.Dense(7, "softplus"), L.Dense(3), seed=3)


@pytest.fixture
def inputs():
    return np.random.default_rng(0).uniform(0.1, 0.9, (4, 6)).astype("float32")


def quadratic(matrix):
    """Logits whose first one has the gradient A x, so that estimates are exact."""
    matrix = tf.constant(matrix, tf.float32)

    def model(x):
        first = tf.reduce_sum(tf.matmul(x, matrix) * x, axis=1) / 2
        return tf.stack([first, -1 - 0 * first], axis=1)

    return model


def gram(matrix):
    return (matrix.T @ matrix)[None]


MATRICES = {
    "full": np.random.default_rng(0).normal(size=(30, 30)),
    "scaled": np.random.default_rng(1).normal(size=(30, 30)) * np.geomspace(0.01, 10, 30),
    "rank two": np.random.default_rng(2).normal(size=(30, 2))
    @ np.random.default_rng(3).normal(size=(2, 30)),
    "diagonal": np.diag(np.linspace(1, 5, 30)),
    "identity": np.eye(30),
    "zero": np.zeros((30, 30)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_eigenvalues_lie_between_both_sides(name):
    matrix = gram(MATRICES[name])
    true = np.linalg.eigvalsh(matrix[0])[-1]
    for nb_products, seed in itertools.product((3, 8, 40), range(3)):
        found = largest_eigenvalue(
            lambda v: np.einsum("bij,bj->bi", matrix, v),
            (1, 30),
            nb_products=nb_products,
            seed=seed,
        )
        assert found.lower[0] <= true * (1 + 1e-12)
        assert found.upper[0] >= true
        np.testing.assert_allclose(found.spread.sum(), 1)
        quotient = np.einsum("bi,bij,bj->b", found.vector, matrix, found.vector)
        np.testing.assert_allclose(quotient, found.lower, rtol=1e-9, atol=1e-20)
    assert found.upper[0] <= 1.001 * true


def test_the_upper_side_fails_as_rarely_as_stated():
    # so few products and so large a probability that failures do occur
    spectrum = np.r_[np.linspace(0, 1, 99), 1.3]
    starts = range(300)
    failures = [
        largest_eigenvalue(
            lambda v: v * spectrum, (100,), nb_products=3, failure=0.5, seed=start
        ).upper
        < 1.3
        for start in starts
    ]
    assert 0 < np.mean(failures) < 0.5


@pytest.mark.parametrize("norm", [3.0, 4.0, np.inf])
@pytest.mark.parametrize("name", MATRICES)
def test_the_dual_is_a_bound_and_below_both_of_the_papers(name, norm):
    part = MATRICES[name][:, :9]
    matrix = gram(part)
    power = 1 if np.isinf(norm) else norm / (norm - 2)
    sums = np.abs(matrix).sum(axis=-1)

    def multiply(vectors):
        return np.matmul(vectors.reshape(1, -1, 9), matrix).reshape(vectors.shape)

    largest = np.linalg.eigvalsh(matrix[0])[-1]
    corollary = largest * 9 ** (1 / power)
    theorem = (sums[0] ** power).sum() ** (1 / power)
    bound, decided, plain = least_dual(multiply, (1, 9), norm, sums, matrix=matrix)
    assert bound[0] <= min(corollary, theorem) * (1 + 1e-5) + 1e-25
    value, point = ascent(multiply, plain.vector, norm)
    np.testing.assert_allclose(np.linalg.norm(point[0], norm), 1)
    assert value[0] <= bound[0] * (1 + 1e-9)
    generator = np.random.default_rng(0)
    points = np.array(list(itertools.product((-1.0, 1.0), repeat=9)))
    points = np.concatenate([points, generator.normal(size=(500, 9))])
    points /= np.linalg.norm(points, norm, axis=1)[:, None]
    assert (np.einsum("ni,ij,nj->n", points, matrix[0], points) <= bound[0] * (1 + 1e-9)).all()
    free, _, _ = least_dual(multiply, (1, 9), norm, matrix.diagonal(axis1=1, axis2=2))
    assert free[0] >= value[0]
    assert free[0] <= corollary * (1 + 1e-4)
    assert decided[0] in (0, 1, 2)


@pytest.mark.usefixtures("eager")
def test_a_quadratic_score_by_hand():
    x = np.array([[0.5, 0.25]])
    for norm, expected in [(2, 0.4), (np.inf, 0.5), (4, 0.1 * (3**4 + 4**4) ** 0.25)]:
        certificate = AttributionBound(quadratic(np.diag([3.0, 4.0])), 0.1, norm).certify(x, [0])
        np.testing.assert_allclose(certificate.euclidean_estimate, [expected], rtol=1e-4)
        np.testing.assert_allclose(certificate.reached, [expected], rtol=1e-4)
        np.testing.assert_allclose(certificate.factor, [1.0], rtol=1e-5)
        np.testing.assert_allclose(certificate.explanation, [[1.5, 1.0]], rtol=1e-6)
        share = expected**2 / (1.5**2 + 1)
        np.testing.assert_allclose(certificate.cosine_estimate, [1 - (1 - share) ** 0.5], rtol=1e-4)
        np.testing.assert_allclose(certificate.singular_value_lower, [4.0], rtol=1e-5)
    assert certificate.origin is None  # a function has no fingerprint
    assert certificate.attained.all()
    far = AttributionBound(quadratic(np.diag([3.0, 4.0])), 1.0).certify(x, [0])
    assert far.cosine_estimate.tolist() == [2.0]  # 4 is farther than the attribution is long
    still = AttributionBound(quadratic(np.zeros((2, 2))), 1.0, np.inf).certify(x, [0])
    assert still.euclidean_estimate.tolist() == still.cosine_estimate.tolist() == [0.0]


def dense_jacobian(explainer, inputs, targets):
    with tf.GradientTape(persistent=True) as tape:
        points = tf.constant(inputs)
        tape.watch(points)
        maps = explainer.explanation(explainer.network, points, tf.constant(targets))
    jacobian = tape.batch_jacobian(maps, points, experimental_use_pfor=False).numpy()
    return jacobian.reshape(len(inputs), maps[0].shape.num_elements(), -1).astype(float)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_estimates_against_dense_algebra(name, smooth, inputs):
    explainer = AttributionBound(smooth, 0.1, 2, ATTRIBUTIONS[name], steps=3, baseline_value=0.2)
    certificate = explainer.certify(inputs)
    jacobian = dense_jacobian(explainer, inputs, certificate.targets)
    singular = np.linalg.svd(jacobian, compute_uv=False)[:, 0]
    np.testing.assert_allclose(certificate.singular_value_lower, singular, rtol=1e-3)
    np.testing.assert_allclose(certificate.singular_value_upper, singular, rtol=1e-3)
    assert (certificate.singular_value_upper >= singular).all()
    np.testing.assert_allclose(certificate.euclidean_estimate, 0.1 * singular, rtol=1e-3)
    image = np.einsum("noi,ni->no", jacobian, certificate.direction)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), singular, rtol=1e-4)
    explainer.norm = np.inf
    certificate = explainer.certify(inputs)
    products = np.swapaxes(jacobian, 1, 2) @ jacobian
    theorem = 0.1 * np.sqrt(np.abs(products).sum(axis=(1, 2)))
    corollary = 0.1 * singular * np.sqrt(6)
    estimate = certificate.euclidean_estimate
    assert (estimate <= np.minimum(theorem, corollary) * (1 + 1e-5)).all()
    corners = 0.1 * np.array(list(itertools.product((-1.0, 1.0), repeat=6)))
    exact = np.linalg.norm(np.einsum("noi,ci->nco", jacobian, corners), axis=2).max(axis=1)
    assert (estimate >= exact * (1 - 1e-6)).all()
    np.testing.assert_allclose(certificate.reached, exact, rtol=0.1)
    assert set(certificate.decided) <= {"corollary 1", "theorem 2", "diagonal dual"}
    explainer.largest_matrix = 0
    free = explainer.certify(inputs)
    assert (free.euclidean_estimate >= exact).all()
    assert (free.euclidean_estimate <= corollary * (1 + 1e-3)).all()


@pytest.mark.usefixtures("eager")
def test_it_explains_what_others_explain(smooth, inputs):
    for name, other in [("saliency", "gradient"), ("integrated_gradients",) * 2]:
        maps = AttributionBound(smooth, attribution=name, steps=4)(inputs, [0, 1, 2, 0])
        expected = CertifiedGradient(smooth, attribution=other, steps=4)(inputs, [0, 1, 2, 0])
        np.testing.assert_allclose(maps, expected, rtol=1e-5)


def test_inputs_are_independent_and_radii_their_own(smooth, inputs):
    certificate = AttributionBound(smooth, [0.1, 0.2, 0.0, 0.3], batch_size=3).certify(inputs)
    for number, epsilon in enumerate(certificate.epsilon):
        alone = AttributionBound(smooth, epsilon).certify(inputs[number : number + 1])
        for field in ("euclidean_estimate", "factor", "reached", "cosine_estimate"):
            np.testing.assert_allclose(
                getattr(certificate, field)[number], getattr(alone, field)[0], rtol=1e-4, atol=1e-7
            )
    assert certificate.euclidean_estimate[2] == 0
    assert np.isinf(certificate.certified).all() and certificate.proved_euclidean is None
    within = AttributionBound(smooth, 0.3, clip=(0.1, 0.9)).certify(inputs).attacked
    whole = AttributionBound(smooth, 0.3).certify(inputs).attacked
    assert (within > 0).all() and (within < whole).all()
    json.dumps(certificate.to_dict())
    assert "nothing proved" in repr(certificate)


@pytest.mark.usefixtures("eager")
def test_the_label_constraint():
    # both directions of the singular vector meet a label of their own
    def model(x):
        score = 2 * x[:, 0] ** 2
        others = [score + 10 * x[:, 0] - 0.5, score - 10 * x[:, 0] - 0.5]
        return tf.stack([score, *others], axis=1)

    x = np.zeros((1, 2))
    for epsilon, attained in [(0.04, True), (0.06, False)]:
        certificate = AttributionBound(model, epsilon).certify(x, [0])
        np.testing.assert_allclose(certificate.reached, [4 * epsilon], rtol=1e-4)
        assert certificate.attained.tolist() == [attained]
    two = AttributionBound(lambda x: model(x)[:, :2], 0.06).certify(x, [0])
    assert two.attained.tolist() == [True]


def test_relu_is_refused_or_replaced_by_softplus():
    model = sequential((5,), L.Dense(6, "relu", name="first"), L.Dense(3))
    x = np.random.default_rng(0).random((2, 5))
    with pytest.raises(ValueError, match="relu of the layer 'first'.*give beta="):
        AttributionBound(model, beta=None).certify(x)
    with pytest.raises(ValueError, match="relu of the layer 'first'"):
        AttributionBound(model, beta=None).epsilon_for(0.1, x)
    explainer = AttributionBound(model, beta=7.0)
    certificate = explainer.certify(x)
    assert certificate.network == "a copy with softplus, beta 7"
    assert (certificate.euclidean_estimate > 0).all()
    copy, beta = softplus_copy(model)
    beta.assign(7.0)
    np.testing.assert_allclose(explainer(x), AttributionBound(copy)(x), rtol=1e-6)
    assert AttributionBound(copy).certify(x).network == "the model"
    # the copy follows the model
    model.set_weights([2 * weight for weight in model.get_weights()])
    again = AttributionBound(model, beta=7.0).certify(x)
    later = explainer.certify(x)
    np.testing.assert_allclose(later.euclidean_estimate, again.euclidean_estimate, rtol=1e-6)
    for layer in (L.PReLU(name="bent"), L.ReLU(max_value=6, name="bent")):
        other = sequential((5,), L.Dense(4), layer, L.Dense(3))
        for beta in (5.0, "auto"):
            with pytest.raises(ValueError, match="'bent'.*beta replaces ReLU and LeakyReLU only"):
                AttributionBound(other, beta=beta).certify(x)
        np.testing.assert_array_equal(AttributionBound(other).betas(x), np.inf)


@pytest.fixture(scope="module")
def bent():
    """A network with ReLU whose inputs need copies of several sharpnesses."""
    model = sequential((5,), L.Dense(12, "relu"), L.Dense(12, "relu"), L.Dense(3), seed=4)
    scales = np.repeat([[0.1], [1.0], [10.0]], 4, axis=0)
    return model, (scales * np.random.default_rng(2).uniform(-1, 1, (12, 5))).astype("float32")


def rule_by_hand(model, x):
    logits = model(x).numpy().astype("f8")
    second, first = np.sort(logits)[:, -2:].T
    copy, beta = softplus_copy(model)
    found = np.full(len(x), 1000.0)
    for value in (1000, 300, 100, 30, 10, 3, 1, 0.3, 0.1, 0.03, 0.01):
        beta.assign(value)
        fits = np.abs(copy(x).numpy() - logits).max(axis=1) <= 0.1 * (first - second)
        found[fits] = value
    return found


def test_the_softplus_that_is_sharp_enough_for_each_input(bent):
    model, x = bent
    explainer = AttributionBound(model, 0.1)
    betas = explainer.betas(x)
    np.testing.assert_array_equal(betas, rule_by_hand(model, x))
    assert len(np.unique(betas)) > 1
    certificate = explainer.certify(x)
    maps, radii = explainer(x), explainer.epsilon_for(0.1, x)
    np.testing.assert_array_equal(certificate.beta, betas)
    assert "copies with softplus, beta" in repr(certificate)
    assert json.loads(json.dumps(certificate.to_dict()))["beta"] == betas.tolist()
    for beta in np.unique(betas)[:2]:
        some = np.flatnonzero(betas == beta)
        alone = AttributionBound(model, 0.1, beta=float(beta))
        found = alone.certify(x[some])
        assert found.network == f"a copy with softplus, beta {beta:g}"
        np.testing.assert_allclose(maps[some], alone(x[some]), rtol=1e-6)
        np.testing.assert_allclose(radii[some], alone.epsilon_for(0.1, x[some]), rtol=1e-4)
        for field in ("euclidean_estimate", "explanation", "attacked", "epsilon", "targets"):
            expected = getattr(found, field)
            np.testing.assert_allclose(getattr(certificate, field)[some], expected, rtol=1e-3)
        assert found.decided == tuple(np.array(certificate.decided)[some])
    # it depends on no other input, and classes stay
    np.testing.assert_array_equal(explainer.betas(x[5:6]), betas[5:6])
    np.testing.assert_allclose(explainer(x[5:6]), maps[5:6], rtol=1e-5)
    classes = certificate.targets.argmax(axis=1)
    np.testing.assert_array_equal(classes, model(x).numpy().argmax(axis=1))


@pytest.mark.usefixtures("eager")
def test_the_softplus_of_changed_weights_and_of_other_models(bent, smooth, inputs):
    model, x = bent
    explainer = AttributionBound(model, 0.1, proved=True, method="ibp")
    proved = explainer.certify(x[3:5])
    assert (proved.attacked <= proved.proved_euclidean).all()
    assert proved.proved_cosine.shape == (2,)
    weights = model.get_weights()
    model.set_weights([3 * weight for weight in weights])
    np.testing.assert_array_equal(explainer.betas(x), rule_by_hand(model, x))
    np.testing.assert_allclose(explainer(x), AttributionBound(model)(x), rtol=1e-6)
    model.set_weights(weights)
    with pytest.raises(ValueError, match="chosen for each input.*explainer.betas"):
        _ = explainer.network
    whole = AttributionBound(smooth)
    assert whole.network is smooth and np.isinf(whole.betas(inputs)).all()
    assert whole.certify(inputs).network == "the model"
    np.testing.assert_array_equal(AttributionBound(model, beta=5.0).betas(x), 5.0)
    single = sequential((5,), L.Dense(6, "relu"), L.Dense(1, "sigmoid"))
    found = AttributionBound(single).certify(x[:2])
    assert np.isfinite(found.beta).all()


class BlackBox:
    """As Xplique's explainers are: called with inputs and targets."""

    def explain(self, inputs, targets):
        return inputs

    def __call__(self, inputs, targets):
        return self.explain(inputs, targets)


def test_an_explainer_has_no_derivative(smooth):
    with pytest.raises(ValueError, match="black box.*AverageStability.*explainer, BlackBox"):
        AttributionBound(smooth, attribution=BlackBox())
    with pytest.raises(ValueError, match="write attribution='saliency', which is the gradient"):
        AttributionBound(smooth, attribution=Saliency(smooth))
    theirs = pytest.importorskip("xplique.attributions", reason="Xplique is not installed")
    with pytest.raises(ValueError, match="write attribution='integrated_gradients'. How far"):
        AttributionBound(smooth, attribution=theirs.IntegratedGradients(smooth))


@pytest.mark.usefixtures("eager")
def test_a_selection_is_named():
    model = sequential((4, 4, 1), L.MaxPooling2D(name="pool"), L.Flatten(), L.Dense(3, "tanh"))
    certificate = AttributionBound(model).certify(np.random.default_rng(0).random((1, 4, 4, 1)))
    assert certificate.kinks == ("pool",)
    assert "not smooth: pool" in repr(certificate)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("saliency", 2),
        ("saliency", np.inf),
        ("gradient_input", np.inf),
        ("integrated_gradients", 2),
    ],
)
def test_no_attack_leaves_what_is_proved(name, norm):
    model = sequential((5,), L.Dense(6, "relu"), L.Dense(6), L.LeakyReLU(0.1), L.Dense(3), seed=5)
    x = np.random.default_rng(1).uniform(0, 1, (3, 5)).astype("float32")
    settings = {"steps": 2, "method": "ibp-crown"}
    explainer = AttributionBound(
        model, 0.3, norm, name, (0, 1), beta=4.0, proved=True, batch_size=6, **settings
    )
    certificate = explainer.certify(x)
    original, targets = tf.constant(certificate.explanation), tf.constant(certificate.targets)

    def deviation(points, samples):
        maps = explainer.explanation(explainer.network, points, tf.gather(targets, samples))
        return tf.norm(maps - tf.gather(original, samples), axis=1)

    region = Ball(x, 0.3, norm, (0, 1))
    attacked = PGD(objective=deviation, steps=20, restarts=3)(region)
    assert (attacked.values <= certificate.proved_euclidean * (1 + 1e-6)).all()
    assert certificate.certified is certificate.proved_euclidean
    assert (certificate.attacked <= certificate.certified).all()
    assert (attacked.values > 0.02 * certificate.proved_euclidean).all()
    maps = explainer.explanation(explainer.network, tf.constant(attacked.points), targets).numpy()
    cosine = (maps * original).numpy().sum(1) / (
        np.linalg.norm(maps, axis=1) * np.linalg.norm(original, axis=1)
    )
    assert (1 - cosine <= certificate.proved_cosine + 1e-6).all()
    assert "proved to be at most" in repr(certificate)
    if name == "saliency":
        region_settings = {"epsilon": 0.3, "norm": norm, "clip": (0, 1)}
        box = CertifiedGradient(explainer.network, **region_settings, **settings).certify(x)
        reach = np.maximum(box.upper - box.explanation, box.explanation - box.lower)
        reach = np.linalg.norm(reach, axis=1)
        np.testing.assert_allclose(certificate.proved_euclidean, reach, rtol=1e-5)


@pytest.mark.usefixtures("eager")
def test_radii_invert_deviations(smooth, inputs):
    explainer = AttributionBound(smooth, 0.1, method="ibp")
    certificate = explainer.certify(inputs)
    for deviation in ("euclidean", "cosine"):
        value = getattr(certificate, f"{deviation}_estimate")
        radii = explainer.epsilon_for(value, inputs, deviation=deviation)
        np.testing.assert_allclose(radii, 0.1, rtol=1e-4)
    threshold = float(certificate.euclidean_estimate.min())
    proved = explainer.epsilon_for(threshold, inputs[:1], proved=True)
    assert 0 < proved[0] <= explainer.epsilon_for(threshold, inputs[:1])[0] * 1.2
    explainer.epsilon, explainer.proved = proved[0], True
    assert explainer.certify(inputs[:1]).proved_euclidean[0] <= threshold * (1 + 1e-6)
    flat = AttributionBound(quadratic(np.zeros((2, 2))))
    assert np.isinf(flat.epsilon_for(0.1, np.ones((1, 2)), [0])).all()


@pytest.mark.usefixtures("eager")
def test_an_attribution_farther_than_proved_is_reported(smooth, inputs, monkeypatch):
    explainer = AttributionBound(smooth, 0.1, method="ibp", proved=True)
    right = explainer.certify(inputs)
    wrong = right.proved_euclidean.copy()
    wrong[1] = 0.1 * right.reached[1]
    monkeypatch.setattr(explainer, "_proofs", lambda *_: (wrong, right.proved_cosine))
    with pytest.raises(ContradictionError, match="Euclidean distance is at .* for input 1, which"):
        explainer.certify(inputs)


@pytest.mark.usefixtures("eager")
def test_a_single_logit(inputs):
    model = sequential((6,), L.Dense(5, "tanh"), L.Dense(1))
    for label in (0, 1):
        certificate = AttributionBound(model, 0.1).certify(inputs, [label] * 4)
        sign = 2 * label - 1
        np.testing.assert_allclose(certificate.targets, np.full((4, 1), sign))
    assert (certificate.euclidean_estimate > 0).all()


def test_the_softplus_with_beta_as_the_engine_knows_it():
    for beta, slope in [(3.0, 0.0), (10.0, 0.2), (2.0, -0.3)]:
        facts = smooth_rectifier(beta, slope)
        z = np.linspace(-3, 3, 4001)
        values = slope * z + (1 - slope) * np.log1p(np.exp(beta * z)) / beta
        np.testing.assert_allclose(facts.value(tf.constant(z)), values, atol=1e-12)
        numeric = np.gradient(values, z)
        np.testing.assert_allclose(facts.derivative(tf.constant(z)), numeric, atol=1e-3)
        bends = np.abs(np.diff(values, 2)).max() / (z[1] - z[0]) ** 2
        assert bends <= facts.curvature * 1.001
        sides = tf.constant([-3.0], tf.float64), tf.constant([1.0], tf.float64)
        inside = values[z <= 1]
        low, high = (float(side[0]) for side in image(facts, *sides))
        assert low <= inside.min() and inside.max() <= high
        low, high = (float(side[0]) for side in derivative_range(facts, *sides))
        assert low <= numeric[z <= 1].min() + 1e-3 and numeric[z <= 1].max() <= high + 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": 1}, "norm must be 2"),
        ({"attribution": "lime"}, "attribution must be one of saliency"),
        ({"beta": -1.0}, "beta must be a number above 0"),
        ({"beta": "high"}, "beta must be 'auto', a number above 0, or None"),
        ({"failure": 0.0}, "failure must be a probability"),
        ({"norm": 4, "proved": True}, "needs norm 2 or np.inf"),
        ({"attribution": curved, "proved": True}, "needs an attribution by name"),
        ({"nb_products": 0}, "nb_products must be"),
    ],
)
def test_arguments_that_do_not_fit(smooth, settings, message):
    with pytest.raises(ValueError, match=message):
        AttributionBound(smooth, **settings)


def test_calls_that_do_not_fit(smooth, inputs):
    explainer = AttributionBound(smooth)
    for threshold, deviation, message in [
        (0.1, "angle", "deviation must be one of"),
        (-0.1, "euclidean", "threshold must be a number at least 0"),
        (1.5, "cosine", "threshold must be a number from 0 to 1"),
        ([0.1, 0.2], "euclidean", "or one per input"),
    ]:
        with pytest.raises(ValueError, match=message):
            explainer.epsilon_for(threshold, inputs, deviation=deviation)
    for epsilon in (-0.1, [0.1, 0.2], np.nan):
        explainer.epsilon = epsilon
        with pytest.raises(ValueError, match="epsilon must be a finite number"):
            explainer.certify(inputs)


@pytest.mark.usefixtures("eager")
def test_a_ball_of_an_estimate_is_not_bounded():
    """Regions of a norm that only estimates know: none of the norms that are bounded holds them."""
    model = sequential((4,), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3))
    inputs = np.random.default_rng(0).random((2, 4), "float32")
    region = AttributionBound(model, epsilon=0.1, norm=3).certify(inputs).region
    assert region.norm == 3
    assert str(region) == "l3 balls of radius 0.1"
    verifier = Verifier(model)
    asked = (verifier.bound_outputs, verifier.linear_bounds, verifier.bound_gradient, PGD(model))
    for ask in asked:
        with pytest.raises(ValueError, match="of norm 1, 2 or inf. Received: norm 3"):
            ask(region)
    empty = Ball(inputs[:0], 0.1)
    with pytest.raises(ValueError, match="one input at least"):
        verifier.bound_outputs(empty)
