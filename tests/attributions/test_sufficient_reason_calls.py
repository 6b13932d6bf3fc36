"""Calls of `SufficientReason`: batches, repeats, limits, what is refused, maps, and files."""

import dataclasses
import json
import signal

import keras
import numpy as np
import pytest
from networks import functional, sequential
from reasons_asked import Asked, check, same
from tiny_networks import draw_weights

from xcertify.attributions import EVA, SufficientReason
from xcertify.bounds import Verifier
from xcertify.certificates import ReasonCertificate
from xcertify.radii import Interval
from xcertify.recheck import recheck
from xcertify.regions import Ball
from xcertify.testing import check_explainer
from xcertify.testing.examples import SHAPES, small_model, some_inputs

L = keras.layers
EPSILON = 0.25


@pytest.fixture(scope="module")
def net():
    """A model, its explainer without a limit of time, inputs, and what is asked."""
    inputs = keras.Input((8,))
    x = L.Dense(9, "relu")(L.Dense(9, "relu")(inputs))
    model = draw_weights(functional(inputs, L.Dense(3)(x)), 11)
    points = np.random.default_rng(4).uniform(-1, 1, (6, 8)).astype("float32")
    explainer = SufficientReason(model, EPSILON, time_limit=None)
    return model, explainer, points, Asked.of(model, Ball(points, EPSILON))


@pytest.fixture(scope="module")
def certificate(net):
    _, explainer, points, asked = net
    found = explainer.certify(points)
    check(found, asked)
    assert found.needed.any() and found.irrelevant.any() and found.minimal.all()
    return found


# --- batches and repeats ------------------------------------------------------------------------


def test_inputs_one_by_one(net, certificate):
    _, explainer, points, asked = net
    for sample in range(len(points)):
        some = slice(sample, sample + 1)
        single = explainer.certify(points[some])
        check(single, asked[some])
        same(certificate, single, some)


@pytest.mark.parametrize("batch_size", [1, 5, None])
def test_batch_sizes(net, certificate, batch_size):
    model, _, points, asked = net
    explainer = SufficientReason(model, EPSILON, time_limit=None, batch_size=batch_size)
    found = explainer.certify(points)
    check(found, asked)
    same(certificate, found)


def test_another_order_of_inputs(net, certificate):
    _, explainer, points, _ = net
    turned = explainer.certify(points[::-1])
    same(certificate, turned, slice(None, None, -1))


def test_repeats(net, certificate):
    model, explainer, points, _ = net
    again = explainer.certify(points)
    same(certificate, again)
    same(certificate, SufficientReason(model, EPSILON, time_limit=None).certify(points))
    for ours, theirs in zip(certificate.witnesses, again.witnesses):
        for label in ours:
            np.testing.assert_array_equal(ours[label], theirs[label])


@pytest.mark.parametrize("seed", [1, 2**31 - 1])
def test_other_seeds_are_right_too(net, seed):
    model, _, points, asked = net
    check(SufficientReason(model, EPSILON, time_limit=None, seed=seed).certify(points), asked)


def test_nothing_else_changes(net):
    model, explainer, points, _ = net
    weights, before = [w.copy() for w in model.get_weights()], points.copy()
    state = np.random.get_state()[1].copy()
    explainer.certify(points)
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    for ours, theirs in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_other_weights_count(net):
    model, _, points, _ = net
    copy = keras.models.clone_model(model)
    explainer = SufficientReason(copy, EPSILON, time_limit=None)
    for seed in (1, 2):
        draw_weights(copy, seed)
        check(explainer.certify(points), Asked.of(copy, Ball(points, EPSILON)))


def test_no_inputs(net):
    _, explainer, points, _ = net
    try:
        EVA(net[0], EPSILON).certify(points[:0])
    except ValueError:
        with pytest.raises(ValueError):
            explainer.certify(points[:0])
    else:
        assert len(explainer.certify(points[:0]).sizes) == 0


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")  # nothing is known yet
@pytest.mark.parametrize("time_limit", [0, 0.0, 1e-6, 1e-3, 0.02])
def test_little_time(net, time_limit):
    model, _, points, asked = net
    found = SufficientReason(model, EPSILON, time_limit=time_limit).certify(points)
    check(found, asked, decided=False)
    words = {found.reason[i] for i in np.flatnonzero(~found.minimal)}
    assert all("time" in reason for reason in words)
    maps = SufficientReason(model, EPSILON, time_limit=time_limit).explain(points)
    assert set(np.unique(maps)) <= {0, 0.5, 1}


def test_enough_time(net, certificate):
    model, _, points, asked = net
    found = SufficientReason(model, EPSILON, time_limit=600.0).certify(points)
    check(found, asked)
    same(certificate, found)


def test_without_branch_and_bound(net):
    model, _, points, _ = net
    found = SufficientReason(model, 2 * EPSILON, time_limit=None, complete=False).certify(points)
    check(found, Asked.of(model, Ball(points, 2 * EPSILON)), decided=False)
    words = {found.reason[i] for i in np.flatnonzero(~found.minimal)}
    assert words <= {"bounds"}


def test_branch_and_bound_is_left_out(net, monkeypatch):
    """But for the last proof, which is in float64."""
    model, _, points, _ = net
    decide, asked = Verifier.decide, []

    def noted(self, *arguments, **settings):
        asked.append(self.dtype)
        return decide(self, *arguments, **settings)

    monkeypatch.setattr(Verifier, "decide", noted)
    SufficientReason(model, 2 * EPSILON, time_limit=None, complete=False).certify(points)
    assert set(asked) <= {"float64"}


PLACES = [
    (Verifier, "linear_bounds"),
    (Verifier, "linear_bounds_in_parts"),
    (Verifier, "bound_rows"),
    (Verifier, "attack"),
    (Verifier, "decide"),
    (Verifier, "evaluate"),
]


def interrupt(monkeypatch, owner, name, number):
    """KeyboardInterrupt in one call of a method; returns the list of calls."""
    original, calls = getattr(owner, name), []

    def interrupted(*arguments, **settings):
        calls.append(name)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    monkeypatch.setattr(owner, name, interrupted)
    return calls


@pytest.mark.filterwarnings("ignore::xcertify.usefulness.VacuousWarning")  # nothing is known yet
@pytest.mark.parametrize("number", [1, 2, 4, 8])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
def test_an_interrupted_call(net, monkeypatch, place, number):
    """What is proved so far comes back, wherever the key is hit."""
    model, _, points, asked = net
    calls = interrupt(monkeypatch, *place, number)
    explainer = SufficientReason(model, EPSILON, time_limit=None)
    try:
        found = explainer.certify(points)
    except KeyboardInterrupt:  # which would end pytest; inputs are looked at before anything else
        if (place[1], number) == ("evaluate", 1):
            return
        pytest.fail(f"{place[1]}: what is proved so far was lost")
    monkeypatch.undo()
    was = len(calls) >= number
    check(found, asked, decided=not was)
    words = {found.reason[i] for i in np.flatnonzero(~found.minimal)}
    assert words <= ({"interrupted"} if was else set())
    check(explainer.certify(points), asked)  # works on after it


# --- what is refused ----------------------------------------------------------------------------


def test_targets_that_are_not_predicted(net):
    model, explainer, points, _ = net
    predicted = model.predict_on_batch(points).argmax(1)
    explainer.certify(points[:2], predicted[:2])
    wrong = predicted.copy()
    wrong[3] = (wrong[3] + 1) % 3
    for call in (explainer.certify, explainer.explain):
        with pytest.raises(ValueError, match="sample 3"):
            call(points, wrong)


def test_single_logits_that_are_not_predicted():
    model = sequential((2,), L.Dense(1))
    model.set_weights([np.ones((2, 1)), np.zeros(1)])
    explainer = SufficientReason(model, 0.1)
    with pytest.raises(ValueError, match="sample 1"):
        explainer.certify(np.float32([[1, 1], [-1, -1]]), [1, 1])
    with pytest.raises(ValueError, match="sample 1"):  # a tie
        explainer.certify(np.float32([[1, 1], [1, -1]]))


def test_ties(net):
    model = sequential((3,), L.Dense(3))
    model.set_weights([np.eye(3), np.zeros(3)])
    explainer = SufficientReason(model, 0.1)
    inputs = np.float32([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="sample 1"):
        explainer.certify(inputs)
    with pytest.raises(ValueError, match="sample 1"):
        SufficientReason(model, 0.1, towards=[1, 1, 1]).certify(inputs, [0, 0, 2])
    # A tie within a group of classes, or with a class that is not asked about, is none.
    explainer = SufficientReason(model, 0.1, class_groups=[0, 0, 1], time_limit=None)
    assert explainer.certify(inputs).irrelevant.all()
    explainer = SufficientReason(model, 0.1, towards=[1, 2, 0], time_limit=None)
    assert explainer.certify(inputs, [0, 0, 2]).irrelevant.all()


def test_numbers_that_are_none(net):
    model, explainer, points, _ = net
    for wrong in (np.nan, np.inf):
        inputs = points.copy()
        inputs[2, 1] = wrong
        with pytest.raises(ValueError, match="2"):
            explainer.certify(inputs)
    copy = keras.models.clone_model(model)
    copy.set_weights([w * np.nan for w in model.get_weights()])
    with pytest.raises(ValueError, match="NaN"):
        SufficientReason(copy, EPSILON).certify(points)


def test_an_output_that_is_nan_for_some_inputs():
    inputs = keras.Input((2,))
    model = functional(inputs, L.Dense(2)(L.Dense(2, "exponential")(inputs)))
    model.set_weights([100 * np.eye(2), np.zeros(2), np.array([[1, -1], [-1, 1]]), np.zeros(2)])
    points = np.float32([[0.1, 0.05], [5, 5]])  # inf - inf
    with pytest.raises(ValueError, match="sample 1"):
        SufficientReason(model, 0.01).certify(points)


WRONG = {
    "epsilon": [-0.1, np.nan, np.ones(5), "small"],
    "norm": [3, "l2", 0],
    "clip": [(1.0, 0.0), 0.5, (0.5, 1.0)],
    "groups": [np.zeros(7, int), np.zeros(8), np.zeros((5, 8), int), -np.ones(8, int), "columns"],
    "order": [np.zeros(7), np.full(8, np.nan), "saliency", [], [np.zeros(8), np.zeros(7)], 3],
    "towards": [3, -1, [0, 1], 0.5, "dog"],
    "delta": [0.0, -1.0, np.nan, "small"],
    "class_groups": [[0, 1], [0, 0, 0], [0.5, 1, 2], "animals"],
    "time_limit": [-1.0, np.nan, "long"],
    "method": ["exact", "decomon:crown", "ibp-ibp", None],
    "batch_size": [0, -1, 1.5],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]], ids=repr
)
def test_wrong_arguments(net, name, value):
    model, _, points, _ = net
    settings = {"epsilon": EPSILON} | {name: value}
    with pytest.raises(ValueError, match=name if name != "clip" else "clip|inside"):
        SufficientReason(model, **settings).certify(points)


@pytest.mark.parametrize("grid_size", [0, 1.5, "all", (2, 0)])
def test_wrong_grids(grid_size):
    model = sequential((3, 3, 1), L.Flatten(), L.Dense(2))
    with pytest.raises(ValueError, match="grid_size"):
        SufficientReason(model, 0.1, grid_size=grid_size).certify(np.ones((1, 3, 3, 1)))


def test_questions_that_exclude_each_other(net):
    model, _, points, _ = net
    values = {"towards": np.zeros(6, int), "delta": 0.1, "class_groups": [0, 1, 1]}
    for first, second in (("towards", "delta"), ("delta", "class_groups")):
        settings = {name: values[name] for name in (first, second)}
        with pytest.raises(ValueError, match=f"{first}.*{second}|{second}.*{first}"):
            SufficientReason(model, EPSILON, **settings).certify(points, np.ones(6, int))
    with pytest.raises(ValueError, match="groups and grid_size|grid_size and groups"):
        SufficientReason(model, EPSILON, groups=np.zeros(8, int), grid_size=2).certify(points)


def test_a_class_against_itself(net):
    model, _, points, _ = net
    predicted = model.predict_on_batch(points).argmax(1)
    towards = (predicted + 1) % 3
    towards[4] = predicted[4]
    with pytest.raises(ValueError, match="sample 4"):
        SufficientReason(model, EPSILON, towards=towards).certify(points)


def test_towards_for_another_number_of_inputs(net):
    model, _, points, _ = net
    with pytest.raises(ValueError, match="towards"):
        SufficientReason(model, EPSILON, towards=[0, 1]).certify(points)


# --- maps ---------------------------------------------------------------------------------------


def test_maps_are_the_words(net, certificate):
    _, explainer, points, _ = net
    maps = explainer.explain(points)
    assert maps.shape == points.shape and maps.dtype == np.float32
    np.testing.assert_array_equal(maps, certificate.needed + 0.5 * certificate.unknown)


@pytest.mark.parametrize("complete", [True, False])
def test_ranked_maps_keep_the_words_apart(net, complete):
    model, _, points, _ = net
    settings = {"time_limit": None, "complete": complete, "epsilon": 2 * EPSILON}
    ranked = SufficientReason(model, ranked=True, **settings).explain(points)
    plain = SufficientReason(model, **settings).explain(points)
    found = SufficientReason(model, **settings).certify(points)
    assert np.isfinite(ranked).all()
    for sample in range(len(points)):
        for upper, lower in ((1, 0.5), (0.5, 0), (1, 0)):
            above, below = (ranked[sample][plain[sample] == v] for v in (upper, lower))
            if len(above) and len(below):
                assert above.min() > below.max()
        for word in (0, 0.5, 1):
            within = plain[sample] == word
            order = np.argsort(found.contributions[sample][within], kind="stable")
            values = ranked[sample][within][order]
            assert (np.diff(values) >= 0).all()


def test_ranked_certificates_are_the_same(net, certificate):
    model, _, points, _ = net
    same(
        certificate, SufficientReason(model, EPSILON, time_limit=None, ranked=True).certify(points)
    )


def test_maps_of_images_and_groups():
    inputs = keras.Input((4, 4, 2))
    x = L.Conv2D(3, 2, activation="relu")(inputs)
    model = draw_weights(functional(inputs, L.Dense(3)(L.Flatten()(x))), 5)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 2)).astype("f4")
    for ranked in (False, True):
        explainer = SufficientReason(
            model, 0.2, grid_size=2, time_limit=None, ranked=ranked, clip=(-1, 1)
        )
        maps, found = explainer.explain(images), explainer.certify(images)
        assert maps.shape == (2, 4, 4, 1)
        blocks = maps.reshape(2, 2, 2, 2, 2)
        np.testing.assert_array_equal(blocks.min((2, 4)), blocks.max((2, 4)))
        if not ranked:
            np.testing.assert_array_equal(maps[..., 0], found.needed + 0.5 * found.unknown)


@pytest.mark.parametrize(
    "kind",
    [
        "tabular",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("images", "time series")),
    ],
)
def test_the_contract_of_explainers(kind):
    """With a class that all models of the contract give, since no other target is explained."""
    model = small_model(SHAPES[kind])
    model.layers[-1].bias.assign([0.0, 9.0, 0.0])
    features = SHAPES[kind][:2]
    numbers = np.arange(np.prod(features)).reshape(features)
    changes = {"groups": numbers // 3, "order": numbers, "towards": 2, "delta": 0.01}
    changes |= {"class_groups": [0, 1, 0], "grid_size": 2, "epsilon": 0.9, "clip": (-1.0, 2.0)}
    check_explainer(
        lambda model: SufficientReason(model, 0.02, time_limit=None, ranked=True),
        model,
        some_inputs(SHAPES[kind]),
        np.ones(3, int),
        kind=kind,
        leave_out=("targets",),
        changes=changes,
    )


# --- files --------------------------------------------------------------------------------------


def loaded(certificate, tmp_path):
    certificate.save(tmp_path / "reasons.npz")
    return ReasonCertificate.load(tmp_path / "reasons.npz")


def test_files_hold_everything(net, certificate, tmp_path):
    found = loaded(certificate, tmp_path)
    check(found, net[3])
    same(certificate, found)
    for ours, theirs in zip(certificate.witnesses, found.witnesses):
        for label in ours:
            np.testing.assert_array_equal(ours[label], theirs[label])
    for name in ("method", "arithmetic", "fingerprint"):
        assert getattr(found, name) == getattr(certificate, name)
    assert json.dumps(found.to_dict()) == json.dumps(certificate.to_dict())
    assert repr(found) == repr(certificate)


def test_certificates_are_proved_again(net, certificate, tmp_path):
    for found in (certificate, loaded(certificate, tmp_path)):
        proved = recheck(found, net[0])
        assert proved.shape == (len(net[2]),) and proved.dtype == bool and proved.all()


def changed(certificate, sample, feature, origin, target):
    """A copy where a feature has another word."""
    maps = {name: getattr(certificate, name).copy() for name in (origin, target)}
    maps[origin][sample, feature], maps[target][sample, feature] = False, True
    witnesses = [dict(found) for found in certificate.witnesses]
    witnesses[sample].pop(feature, None)
    sizes = np.array(certificate.sizes)
    sizes[sample] -= target == "irrelevant"
    maps |= {"sizes": sizes, "interval": Interval(sizes * 1.0, certificate.attacked)}
    return dataclasses.replace(certificate, **maps, witnesses=witnesses)


def rechecked(certificate, model):
    """(N,) of `recheck`, or False for all where it refuses the certificate."""
    try:
        return recheck(certificate, model)
    except ValueError:
        return np.zeros(len(certificate.sizes), bool)


def test_features_that_were_moved_are_found(net, certificate, tmp_path):
    for sample, feature in np.argwhere(certificate.needed)[:6]:
        wrong = changed(certificate, sample, feature, "needed", "irrelevant")
        assert not rechecked(wrong, net[0])[sample]
        assert not rechecked(loaded(wrong, tmp_path), net[0])[sample]


def test_witnesses_that_were_changed_are_found(net, certificate):
    model, _, points, _ = net
    sample, feature = map(int, np.argwhere(certificate.needed)[0])
    right = certificate.witnesses[sample][feature]
    other = np.where(certificate.needed[sample], points[sample] + 0.9 * EPSILON, right)
    step = np.sign(right - points[sample])
    wrongs = {
        "nominal": points[sample],
        "outside": (right + EPSILON * step).astype("f4"),
        "needed features moved": other.astype("f4"),
        "NaN": right * np.nan,
    }
    for name, wrong in wrongs.items():
        witnesses = [dict(found) for found in certificate.witnesses]
        witnesses[sample][feature] = wrong
        copy = dataclasses.replace(certificate, witnesses=witnesses)
        assert not rechecked(copy, model)[sample], name


def test_witnesses_that_are_missing_are_found(net, certificate):
    sample, feature = map(int, np.argwhere(certificate.needed)[0])
    witnesses = [dict(found) for found in certificate.witnesses]
    del witnesses[sample][feature]
    copy = dataclasses.replace(certificate, witnesses=witnesses)
    assert not rechecked(copy, net[0])[sample]


def test_sizes_that_were_changed_are_found(net, certificate):
    sample = int(certificate.sizes.argmax())
    for name in ("sizes", "smallest"):
        values = np.array(getattr(certificate, name))
        values[sample] = certificate.sizes[sample] + (1 if name == "smallest" else -1)
        copy = dataclasses.replace(certificate, **{name: values})
        assert not rechecked(copy, net[0])[sample], name


def test_larger_regions_are_found(net, certificate):
    model, _, points, _ = net
    copy = dataclasses.replace(certificate, region=Ball(points, 2.0))
    assert not rechecked(copy, model).all()


def test_other_weights_are_refused(net, certificate):
    model = keras.models.clone_model(net[0])
    model.set_weights([w + 0.01 for w in net[0].get_weights()])
    with pytest.raises(ValueError, match="weights"):
        recheck(certificate, model)


@pytest.mark.parametrize("settings", [{"towards": 1}, {"delta": 0.1}, {"class_groups": [0, 1, 1]}])
def test_every_question_in_files(net, settings, tmp_path):
    model, _, points, _ = net
    predicted = model.predict_on_batch(points).argmax(1)
    some = points[predicted != 1]
    targets = predicted[predicted != 1]
    found = SufficientReason(model, EPSILON, time_limit=None, **settings).certify(some, targets)
    again = loaded(found, tmp_path)
    same(found, again)
    assert recheck(again, model).all()
    assert repr(again) == repr(found)


# --- near ties ----------------------------------------------------------------------------------


@pytest.fixture
def alarm():
    """A call that does not end fails after a minute."""

    def fail(*_):
        raise AssertionError("the call does not end")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("margin", [0.0, 1e-12, -1e-12, 1e-8, 1e-7])
def test_near_ties_do_not_last_for_ever(margin):
    """f_0 - f_1 = |x0| + |x1| / 10 + margin, around (0.5, 0.5): decided, or left unknown."""
    inputs = keras.Input((2,))
    model = functional(inputs, L.Dense(2)(L.Dense(4, "relu")(inputs)))
    kernel = np.array([[1.0, -1, 0, 0], [0, 0, 1, -1]])
    end = np.array([[1.0, 0], [1, 0], [0.1, 0], [0.1, 0]])
    model.set_weights([kernel, np.zeros(4), end, np.array([margin, 0.0])])
    points = np.full((1, 2), 0.5, "f4")
    found = SufficientReason(model, 0.6, time_limit=None).certify(points)
    check(found, Asked.of(model, Ball(points, 0.6)))
