"""SmoothedAttribution: known truths, what its samples may depend on, and whom it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential
from scipy import stats

from xcertify import VacuousWarning, attributions
from xcertify.attributions import (
    EVA,
    GradientInput,
    GreedyAS,
    MarginGradientRange,
    Occlusion,
    RandomMap,
    Rise,
    Saliency,
    SmoothedAttribution,
    SufficientReason,
)
from xcertify.perturbation import Perturbation
from xcertify.regions import Ball
from xcertify.runs import Job
from xcertify.runs.sources import open_source

L = keras.layers
SHAPE = (6, 5, 2)


def small(outputs=3, head=None, seed=0):
    layers = [L.Conv2D(3, 2, activation="tanh"), L.Flatten(), L.Dense(outputs, head)]
    return sequential(SHAPE, *layers, seed=seed)


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 1, (4, *SHAPE)).astype("float32")


def identity(inputs, targets):
    """The map of an input is the input."""
    return np.asarray(inputs)


def plain(**settings):
    """A smoothed explainer whose maps are the noisy inputs."""
    return SmoothedAttribution(identity, model=tf.identity, **settings)


def same(first, second):
    assert repr(first.to_dict()) == repr(second.to_dict())


# --- known truth --------------------------------------------------------------------------------

# Of two entries the larger one is in: with shares Phi(distance / (sqrt(2) sigma)).
POINTS = np.array([[0.0, 0.0], [0.0, 0.2], [1.0, 0.0], [0.3, 5.0]], np.float32)


def true_shares(points, sigma):
    return stats.norm.cdf((points - points[:, ::-1]) / (np.sqrt(2) * sigma))


def test_shares_of_votes_are_the_true_ones():
    explainer = plain(sigma=0.5, nb_samples=4000, top=0.5)
    found = explainer.explain(POINTS)
    assert found.dtype == np.float32 and found.shape == POINTS.shape
    np.testing.assert_allclose(found, true_shares(POINTS, 0.5), atol=4 * 0.5 / np.sqrt(4000))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_certified_is_what_is_true_at_the_worst_point_of_the_ball():
    explainer = plain(sigma=0.5, nb_samples=1000, top=0.5, tau=0.6, alpha=0.01)
    certificate = explainer.certify(POINTS)
    certificate.check()
    shares = true_shares(POINTS, 0.5)
    answers = np.maximum(shares, 1 - shares)
    np.testing.assert_array_equal(~certificate.abstained, answers > 0.65)  # none between 0.6 and it
    np.testing.assert_array_equal(certificate.certified_in, shares > 0.65)
    # the farthest that the answer stays: to where both entries are equal
    truth = np.abs(POINTS[:, 1] - POINTS[:, 0]) / np.sqrt(2)
    assert (certificate.radii <= truth[:, None]).all()
    assert (
        certificate.radii[1].min() > 0.6 * truth[1] and certificate.radii[2].min() > 0.7 * truth[2]
    )
    # at the worst point of the ball the share of the certified ones is still above 1/2
    away = np.array([[1, -1], [1, -1], [-1, 1], [1, -1]]) / np.sqrt(2)
    worst = true_shares(POINTS + certificate.radius * away, 0.5)
    assert (worst[certificate.certified_in] > 0.5).all()
    assert (worst[certificate.certified_out] < 0.5).all()
    sets = certificate.chosen  # at most one entry each: its share there is the expected overlap
    assert (certificate.expected_overlap <= np.where(sets, worst, 0).sum(axis=1) + 1e-9).all()
    assert certificate.expected_overlap[2] > 0.7


def test_the_certified_overlap_holds_for_the_true_sets():
    points = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)
    explainer = plain(sigma=0.2, nb_samples=400, top=0.25, tau=0.65)
    certificate = explainer.certify(points)
    generator = np.random.default_rng(2)
    ways = generator.normal(size=(20, *points.shape))
    ways *= certificate.radius / np.linalg.norm(ways, axis=-1, keepdims=True)
    near = (points + ways).reshape(-1, 12).astype(np.float32)
    before, after = (
        plain(sigma=0.2, nb_samples=1000, top=0.25, seed=1).explain(some) > 0.5
        for some in (points, near)
    )
    after = after.reshape(20, 3, 12)
    overlaps = (before & after).sum(axis=-1) / (before | after).sum(axis=-1)
    assert (overlaps >= certificate.overlap).all() and (certificate.overlap > 0.3).any()
    assert after[:, certificate.certified_in].all()
    assert not after[:, certificate.certified_out].any()


def test_an_attack_finds_what_is_not_certified():
    def squares(points):  # whose gradient times input is the square of each entry
        half = tf.reduce_sum(points**2, axis=1, keepdims=True) / 2
        return tf.concat([half, 0 * half], axis=1)

    points = np.array([[5.15, 5.0], [5.9, 5.0]], np.float32)
    settings = {"sigma": 0.2, "tau": 0.95, "nb_samples": 1000, "top": 0.5, "attack": True}
    explainer = SmoothedAttribution(GradientInput(squares, reducer=None), **settings)
    certificate = explainer.certify(points, [0, 0])
    certificate.check()
    # both are 0.11 and 0.64 from where the entries are equal; the radius is 0.33
    assert certificate.flipped[0].all() and not certificate.flipped[1].any()
    assert certificate.abstained[0].all() and not certificate.abstained[1].any()
    np.testing.assert_array_equal(certificate.attacked, [1.0, 0.0])
    np.testing.assert_array_equal(certificate.certified, [1.0, 0.0])


# --- what samples depend on ---------------------------------------------------------------------


def test_neither_batches_nor_order_nor_neighbours_matter(model, images):
    settings = {"sigma": 0.1, "nb_samples": 40, "tau": 0.6}
    whole = SmoothedAttribution(Saliency(model), batch_size=7, **settings).certify(images)
    for batch_size in (1, None):
        other = SmoothedAttribution(Saliency(model), batch_size=batch_size, **settings)
        part = other.certify(images[[3, 1]])
        np.testing.assert_array_equal(part.counts, whole.counts[[3, 1]])
        np.testing.assert_array_equal(part.chosen, whole.chosen[[3, 1]])
        np.testing.assert_array_equal(part.radii, whole.radii[[3, 1]])
    again = SmoothedAttribution(Saliency(model), seed=1, **settings).certify(images)
    assert (again.counts != whole.counts).any()


def test_choosing_and_testing_samples_are_others():
    explainer = plain(sigma=1.0, nb_samples=10, nb_choosing=10, top=0.3)
    seen = []
    explainer.explainer = lambda inputs, targets: seen.append(inputs) or inputs
    with pytest.warns(VacuousWarning, match="nb_samples must be at least"):
        explainer.certify(np.zeros((1, 3), np.float32))
    _, choosing, testing = seen[-3:] if len(seen) > 2 else (None, *seen)
    assert choosing.shape == testing.shape == (10, 3)
    assert not np.isin(choosing, testing).any()


def test_an_answer_is_the_majority_of_the_choosing_samples_and_a_tie_is_out():
    # the map of a point is 1 where its first entry is positive: which is so for half of the noise
    def signs(inputs, targets):
        return np.stack([inputs[:, 0] > 0, inputs[:, 0] <= 0], axis=1) * 1.0

    inputs = np.linspace(-0.5, 0.5, 40, dtype=np.float32)[:, None].repeat(2, axis=1)
    explainer = SmoothedAttribution(
        signs, 1.0, model=tf.identity, nb_samples=20, nb_choosing=4, top=0.5, tau=0.51, alpha=0.9
    )
    certificate = explainer.certify(inputs)
    ties = ~certificate.chosen.any(axis=1)
    assert 0 < ties.sum() < 40 and not certificate.chosen.all(axis=1).any()
    np.testing.assert_array_equal(certificate.counts[ties].sum(axis=1), 20)


def test_noise_is_normal_in_units_of_the_inputs_and_cut_to_the_range():
    seen = []

    def kept(inputs, targets):
        seen.append(np.array(inputs))
        return inputs

    inputs = np.full((1, 3), 0.5, np.float32)
    SmoothedAttribution(kept, 0.3, nb_samples=4000, model=tf.identity, batch_size=None).explain(
        inputs
    )
    (points,) = (some for some in seen if len(some) == 4000)
    assert stats.kstest(((points - 0.5) / 0.3).ravel(), "norm").pvalue > 1e-3
    seen.clear()
    cut = SmoothedAttribution(kept, 0.3, nb_samples=50, model=tf.identity, clip=(0.0, 1.0))
    cut.explain(inputs)
    points = np.concatenate(seen)
    assert points.min() == 0 and points.max() == 1
    with pytest.raises(ValueError, match="inputs leave the valid range"):
        cut.explain(inputs + 1)
    cut.outside = "clip"
    certificate = SmoothedAttribution(
        identity, model=tf.identity, clip=(0.0, 1.0), outside="clip", tau=0.6, top=0.4
    ).certify(np.array([[7.0, 0.2, -3.0]], np.float32))
    np.testing.assert_array_equal(certificate.region.center, np.float32([[1, 0.2, 0]]))
    assert certificate.region.clip is None and certificate.clip.tolist() == [0, 1]


def test_targets_are_those_of_the_input_for_all_points(images):
    seen = []

    def kept(inputs, targets):
        seen.append(targets)
        return np.asarray(inputs)[..., :1]

    model = small(head="softmax")
    explainer = SmoothedAttribution(kept, 1.0, nb_samples=30, model=model)
    explainer.explain(images)
    classes = model(images).numpy().argmax(axis=1)
    targets = np.concatenate([some for some in seen if len(some) == 120])
    np.testing.assert_array_equal(targets, np.eye(3)[classes].repeat(30, axis=0))
    seen.clear()
    explainer.explain(images, [2, 2, 1, 0])
    assert (np.concatenate(seen)[-1] == [1, 0, 0]).all()
    # points of another class than that of the input were among them
    noise = np.random.default_rng(0).normal(size=(30, *SHAPE)).astype(np.float32)
    assert len(set(model(images[:1] + noise).numpy().argmax(axis=1))) > 1


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", [Saliency, Occlusion, EVA, MarginGradientRange])
def test_maps_are_those_that_the_explainer_gives_alone(kind, outputs, images):
    network = small(outputs)
    explainer = kind(network, **({"grid_size": 2, "epsilon": 1e-3} if kind is EVA else {}))
    images, labels = images[:2], np.array([1, 0])
    found = SmoothedAttribution(explainer, 0.1, nb_samples=2).explain(images, labels)

    def by_calls(inputs, rows):
        classes = rows.argmax(axis=1) if rows.shape[1] > 1 else (rows[:, 0] > 0).astype(int)
        return explainer.explain(inputs, classes)

    outside = SmoothedAttribution(by_calls, 0.1, nb_samples=2, model=network)
    np.testing.assert_array_equal(outside.explain(images, labels), found)


def test_xplique(images, model):
    xplique = pytest.importorskip("xplique.attributions")
    theirs = SmoothedAttribution(xplique.Saliency(model), 0.1, nb_samples=40, tau=0.6)
    ours = SmoothedAttribution(Saliency(model), 0.1, nb_samples=40, tau=0.6)
    found, expected = theirs.certify(images), ours.certify(images)
    assert found.counts.reshape(4, -1).shape == expected.counts.reshape(4, -1).shape
    assert (found.counts.ravel() != expected.counts.ravel()).mean() < 0.02
    assert found.origin.in_words == ("of",)
    assert expected.origin.in_words == ()


def test_rise_of_xplique_shares_its_masks_in_a_call(images, model):
    xplique = pytest.importorskip("xplique.attributions")
    rise = xplique.Rise(model, nb_samples=4, grid_size=2)
    explainer = SmoothedAttribution(rise, nb_samples=3)
    with pytest.raises(ValueError, match="draws are the same for all points.*batch_size=1"):
        explainer.explain(images[:1])
    explainer.batch_size = 1
    assert explainer.explain(images[:1]).shape == (1, 6, 5, 1)


def test_votes_at_points_are_those_that_everything_is_made_of(model, images):
    explainer = SmoothedAttribution(Saliency(model), 0.1, nb_samples=40, tau=0.6)
    certificate = explainer.certify(images)
    votes = explainer.votes(images, purpose="test")
    assert votes.dtype == np.int64 and votes.max() <= 40
    np.testing.assert_array_equal(votes, 40 * certificate.votes)
    np.testing.assert_array_equal((votes / 40).astype(np.float32), explainer.explain(images))
    first = explainer.votes(images, purpose="choose", nb_samples=10)
    np.testing.assert_array_equal(first > 5, certificate.chosen)
    # rows of the certificate stand for the class of the input; other words, other noise
    again = explainer.votes(images, certificate.targets, purpose="test")
    np.testing.assert_array_equal(again, votes)
    others = explainer.votes(images, certificate.targets)
    assert (others != votes).any() and abs(others - votes).max() < 30
    with pytest.raises(ValueError, match="nb_samples must be a whole number"):
        explainer.votes(images, nb_samples=0)
    with pytest.raises(ValueError, match="inputs must have the shape"):
        explainer.votes(images[:, 1:])


def test_votes_of_known_shares_also_outside_of_the_range():
    explainer = plain(sigma=0.5, top=0.5, clip=(-9.0, 9.0))
    votes = explainer.votes(POINTS + np.float32([10, 0]), nb_samples=50)
    np.testing.assert_array_equal(votes, [[50, 0]] * 4)  # 9 against less, of the cut points
    votes = explainer.votes(POINTS, nb_samples=4000)
    share = true_shares(POINTS, 0.5)
    np.testing.assert_allclose(votes / 4000, share, atol=4 * 0.5 / np.sqrt(4000))


def test_votes_of_models_with_channels_first(model, images):
    first = keras.Input((2, 6, 5))
    moved = keras.Model(first, model(L.Permute((2, 3, 1))(first)))
    settings = {"sigma": 0.1, "nb_samples": 40, "tau": 0.6}
    explainer = SmoothedAttribution(Saliency(moved), **settings)
    certificate = explainer.certify(np.moveaxis(images, -1, 1))
    found = explainer.votes(certificate.region.center, certificate.targets, purpose="test")
    np.testing.assert_array_equal(found, 40 * certificate.votes)


# --- settings -----------------------------------------------------------------------------------


def test_levels_of_images_and_of_calls(model, images):
    settings = {"sigma": 0.1, "nb_samples": 60, "tau": 0.6, "alpha": 0.05}
    each, shared, of_call = (
        SmoothedAttribution(Saliency(model), nb_inputs=nb, **settings) for nb in (1, 40, None)
    )
    certificates = [one.certify(images) for one in (each, shared, of_call)]
    assert [c.nb_inputs for c in certificates] == [1, 40, 4]
    np.testing.assert_allclose([c.level for c in certificates], [0.05, 0.05 / 40, 0.05 / 4])
    amounts = [(~c.abstained).sum() for c in certificates]
    assert amounts[0] > amounts[2] > amounts[1]
    radii = [c.radii.sum() for c in certificates]
    assert radii[0] > radii[2] > radii[1]
    with pytest.raises(ValueError, match="nb_inputs must be at least the number of inputs, 4"):
        SmoothedAttribution(Saliency(model), nb_inputs=3, **settings).certify(images)


def test_made_again_by_its_origin(model, images, tmp_path):
    explainer = SmoothedAttribution(
        Occlusion(model, patch_size=2, patch_stride=1), 0.2, nb_samples=30, tau=0.6
    )
    certificate = explainer.certify(images)
    origin = certificate.origin
    again = getattr(attributions, origin.explainer).of_model(model, **origin.settings)
    assert again.explainer.patch_size == 2
    same(again.certify(images), certificate)
    np.save(tmp_path / "images.npy", images)
    source = open_source(str(tmp_path / "images.npy"))
    of = {"of": "Occlusion", "of_settings": {"patch_size": 2, "patch_stride": 1}}
    job = Job(
        "certify",
        "SmoothedAttribution",
        of | {"sigma": 0.2, "nb_samples": 30, "tau": 0.6},
        model,
        source,
        "unused",
    )
    found = job.make_explainer(model).certify(images)
    np.testing.assert_array_equal(found.counts, certificate.counts)
    with pytest.raises(ValueError, match="nb_inputs=None.*of each batch.*nb_inputs=4"):
        Job("certify", "SmoothedAttribution", {"nb_inputs": None}, model, source, "un")


def test_settings_and_models_may_change(model, images):
    explainer = SmoothedAttribution(Saliency(model), 0.1, nb_samples=10)
    other = small(seed=5)
    expected = SmoothedAttribution(Saliency(other), 0.1, nb_samples=10).explain(images)
    assert (explainer.explain(images) != expected).any()
    first = explainer.explainer
    explainer.model = other  # the explainer that was given keeps its own
    np.testing.assert_array_equal(explainer.explain(images), expected)
    assert first.model is model and explainer.explainer is not first
    explainer.explainer = first
    assert explainer.model is model
    first.model = other
    np.testing.assert_array_equal(explainer.explain(images), expected)
    assert explainer.model is other
    explainer.explainer = Occlusion(model)
    assert explainer.model is model and explainer.explain(images).shape == (4, 6, 5, 1)
    with pytest.raises(ValueError, match="tau must be between 0.5 and 1"):
        explainer.tau = 0.5
    both = SmoothedAttribution(Saliency(model), model=other, nb_samples=10, sigma=0.1)
    np.testing.assert_array_equal(both.explain(images), expected)
    ranged = SmoothedAttribution(Saliency(model), perturbation=Perturbation(clip=(0.0, 1.0)))
    assert ranged.clip == (0.0, 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma must be a number above 0"),
        ({"top": 1.0}, "top must be between 0 and 1"),
        ({"tau": 0.5}, "tau must be between 0.5 and 1"),
        ({"alpha": 0.0}, "alpha must be a number above 0"),
        ({"alpha": 1.5}, "alpha must be between 0 and 1"),
        ({"nb_samples": 0}, "nb_samples must be a whole number"),
        ({"nb_choosing": 0}, "nb_choosing must be a whole number"),
        ({"nb_inputs": 0}, "nb_inputs must be a whole number"),
        ({"correction": "none"}, "correction must be one of 'holm'"),
        ({"clip": "auto"}, "clip must be a pair"),
        ({"outside": "cut"}, "outside must be 'error'"),
        ({"model": None}, "model must be given where the explainer has none"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message + ".*Received: "):
        plain_of(**settings)


def plain_of(**settings):
    return SmoothedAttribution(identity, **({"model": tf.identity} | settings))


def test_what_is_no_explainer(model):
    with pytest.raises(ValueError, match="of a model write SmoothedAttribution.of_model"):
        SmoothedAttribution(model)
    with pytest.raises(ValueError, match="explainer must be an explainer"):
        SmoothedAttribution("Saliency", model=model)
    for of in ("Deletion", "TargetedExplanation", "base", 3):
        with pytest.raises(ValueError, match="of must be the name of an explainer"):
            SmoothedAttribution.of_model(model, of=of)


# --- explainers that are refused ----------------------------------------------------------------


def test_explainers_whose_maps_depend_on_the_batch(images, model):
    def by_mean(inputs, targets):
        inputs = np.asarray(inputs)
        return inputs - inputs.mean(axis=0)

    generator = np.random.default_rng(0)

    def shared_draws(inputs, targets):
        return np.asarray(inputs) * generator.random(SHAPE)

    def small_shared_draws(inputs, targets):  # beside a number added to all, as scores have
        return 5 + 0.01 * shared_draws(inputs, targets)

    def own_draws(inputs, targets):
        return np.asarray(inputs) * generator.random(inputs.shape)

    for function, message in [
        (by_mean, "another map of a point alone than beside others"),
        (small_shared_draws, "its random draws are the same for all points of a batch"),
        (shared_draws, "its random draws are the same for all points of a batch"),
        (RandomMap(model), "another map of a point alone"),
    ]:
        explainer = SmoothedAttribution(function, nb_samples=5, model=model)
        with pytest.raises(ValueError, match=f"independent of the batch: .*{message}"):
            explainer.explain(images)
        explainer.batch_size = 1
        assert explainer.explain(images).shape[:3] == (4, 6, 5)

    def by_mean_where_bright(inputs, targets):
        bright = np.mean(inputs, axis=(1, 2, 3), keepdims=True) > 0.2
        return bright * by_mean(inputs, targets)

    explainer = SmoothedAttribution(by_mean_where_bright, nb_samples=5, model=model)
    with pytest.raises(ValueError, match="independent of the batch"):
        explainer.explain(np.concatenate([0 * images[:1], images]))  # of the first all are 0
    maps = SmoothedAttribution(own_draws, 0.1, nb_samples=50, model=model).explain(images)
    assert 0 < maps.mean() <= 0.2


@pytest.mark.usefixtures("eager")
def test_explainers_with_a_range_of_their_own(images, model):
    eva = EVA(model, epsilon=0.01, clip=(0.0, 1.0), grid_size=2)
    with pytest.raises(ValueError, match=r"noisy points would leave.*clip=\(0.0, 1.0\)"):
        SmoothedAttribution(eva, nb_samples=3).explain(images)
    with pytest.raises(ValueError, match=r"noisy points would leave.*clip=\(0.0, 2.0\)"):
        SmoothedAttribution(eva, nb_samples=3, clip=(0.0, 2.0)).explain(images)
    inside = SmoothedAttribution(eva, nb_samples=3, clip=(0.0, 1.0)).explain(images)
    eva.outside = "clip"  # which makes the same cut
    cut = SmoothedAttribution(eva, nb_samples=3).explain(images)
    np.testing.assert_array_equal(cut, inside)
    with pytest.raises(ValueError, match=r"give it clip=\(low, high\). Received: 'auto'"):
        SmoothedAttribution(GreedyAS(model), nb_samples=3).explain(images)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, t: np.full(x.shape, np.nan), "NaN or infinite values at a noisy point"),
        (lambda x, t: np.full(x.shape, np.inf), "NaN or infinite values at a noisy point"),
        (lambda x, t: np.asarray(x)[0], "one map for each point"),
        (lambda x, t: np.zeros(len(x)), "one map for each point"),
    ],
)
def test_maps_that_are_none(function, message, images, model):
    with pytest.raises(ValueError, match=message):
        SmoothedAttribution(function, nb_samples=3, model=model).certify(images)


def test_numbers_in_float32_are_not_computed_with_in_float32(model, images, tmp_path):
    settings = {"sigma": 0.1, "tau": 0.7, "alpha": 0.01, "top": 0.3}
    rounded = {name: np.float32(value) for name, value in settings.items()}
    certificate = SmoothedAttribution(Saliency(model), **rounded).certify(images)
    exact = {name: float(value) for name, value in rounded.items()}
    same(certificate, SmoothedAttribution(Saliency(model), **exact).certify(images))
    assert certificate.radius <= exact["sigma"] * stats.norm.ppf(exact["tau"])
    certificate.save(tmp_path / "certificate.npz")
    same(type(certificate).load(tmp_path / "certificate.npz"), certificate)


def test_words_take_no_noise():
    words = keras.Input((5,), dtype="int32")
    of_words = keras.Model(words, L.Dense(3)(L.Flatten()(L.Embedding(9, 2)(words))))
    with pytest.raises(ValueError, match=r"real numbers.*behind\(model, layer\).*int32"):
        SmoothedAttribution(Rise(of_words)).certify(np.ones((1, 5), int))


def test_an_explainer_that_refuses_a_noisy_point(images, model):
    explainer = SmoothedAttribution(SufficientReason(model, epsilon=0.01), sigma=3.0, nb_samples=50)
    with pytest.raises(ValueError, match="must explain every noisy point, for the targets of the"):
        explainer.certify(images)


def test_a_constant_map_is_all_out(images, model):
    explainer = SmoothedAttribution(lambda x, t: np.zeros((len(x), 7)), nb_samples=100, model=model)
    certificate = explainer.certify(images)
    assert certificate.certified_out.all() and (certificate.overlap == 1).all()
    assert (certificate.expected_overlap == 1).all()


# --- warnings -----------------------------------------------------------------------------------


def test_too_few_samples_are_said_with_how_many_are_needed(model, images):
    explainer = SmoothedAttribution(Saliency(model), 1e-4, nb_samples=5)
    with pytest.warns(VacuousWarning, match="no pixel of 4 inputs is certified.*at least 36") as w:
        explainer.certify(images)
    assert w[0].filename == __file__
    explainer.nb_samples = 36  # ln(0.001 / 30) / ln(0.75) is 35.8
    assert not explainer.certify(images).vacuous.all()


# --- models -------------------------------------------------------------------------------------


def test_models_of_other_types_and_axes():
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    layers = [L.Rescaling(1 / 255), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(3)]
    stored, scaled = inputs, keras.Input((8, 8, 3))
    again = scaled
    for layer in layers:
        stored, again = layer(stored), layer(again)
    of_pixels, of_numbers = keras.Model(inputs, stored), keras.Model(scaled, again)
    settings = {"sigma": 20.0, "nb_samples": 40, "tau": 0.6, "clip": (0, 255)}
    found, expected = (
        SmoothedAttribution(Saliency(one), **settings).certify(images)
        for one in (of_pixels, of_numbers)
    )
    np.testing.assert_array_equal(found.counts, expected.counts)  # noise is of pixels, not cut
    first = keras.Input((3, 8, 8))
    moved = keras.Model(first, of_numbers(L.Permute((2, 3, 1))(first)))
    turned = np.moveaxis(images, -1, 1)
    found = SmoothedAttribution(Saliency(moved), **settings).certify(turned)
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_array_equal(found.region.center, images)


def test_series_and_tables():
    for shape in [(12,), (6, 2)]:
        model = sequential(shape, L.Flatten(), L.Dense(4, "tanh"), L.Dense(2))
        inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
        certificate = SmoothedAttribution(Saliency(model), 0.05).certify(inputs)
        assert certificate.chosen.shape == inputs.shape and not certificate.vacuous.any()
        assert isinstance(certificate.region, Ball)


def test_maps_of_outputs_are_weighted_as_rows_are(images):
    """A place of a map of outputs, and the same one in a row."""
    inputs = keras.Input(SHAPE)
    places = keras.layers.Conv2D(3, 3, padding="same")(L.Conv2D(2, 2, activation="tanh")(inputs))
    dense, flat = keras.Model(inputs, places), keras.Model(inputs, L.Flatten()(places))
    weights = np.zeros((len(images), *places.shape[1:]), "float32")
    weights[:, 2, 1, 2] = 1.0
    for kind in (Saliency, Rise):
        settings = {"nb_samples": 30} if kind is Rise else {}
        of_map, of_row = (
            SmoothedAttribution(kind(net, **settings), nb_samples=30, top=0.4, tau=0.5001)
            for net in (dense, flat)
        )
        rows = weights.reshape(len(images), -1)
        expected = of_row.certify(images, rows)
        certificate = of_map.certify(images, weights)
        np.testing.assert_array_equal(certificate.counts, expected.counts)
        assert certificate.certified_out.any()
        np.testing.assert_array_equal(of_map.explain(images, weights), of_row.explain(images, rows))


def test_an_attack_holds_no_more_points_than_maps_of_one_take(model):
    """A mean of ten gradients takes ten points."""
    for steps, nb_points in ((10, 51), (1000, 1)):
        explainer = SmoothedAttribution(attributions.IntegratedGradients(model, steps=steps))
        assert explainer._nb_climbed(SHAPE) == nb_points
    assert SmoothedAttribution(Saliency(model))._nb_climbed(SHAPE) == 512
