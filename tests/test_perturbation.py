"""`Perturbation`: in the place of epsilon, norm and clip, wherever these are settings."""

import inspect

import numpy as np
import pytest
from networks import sequential
from test_settings import images, network

import xcertify.attacks
import xcertify.attributions
import xcertify.metrics
from xcertify.attacks import PGD, MinimalPerturbation
from xcertify.attributions import (
    CORGI,
    EVA,
    AttributionBound,
    CertifiedGradient,
    GreedyAS,
    MarginGradientRange,
    RelEx,
    Saliency,
    SampledEVA,
    SufficientReason,
)
from xcertify.attributions.base import Explainer
from xcertify.metrics import RobustnessSr
from xcertify.perturbation import OF_REGIONS, RADII, Perturbation
from xcertify.regions import Ball
from xcertify.settings import Settings, setting_names

P = Perturbation(0.1, norm=2, clip=(0.0, 1.0))


def test_a_ball_without_its_centre():
    region, stated = P.around(images()), Ball(images(), 0.1, 2, (0.0, 1.0))
    for name in ("center", "lower", "upper", "epsilon"):
        np.testing.assert_array_equal(getattr(region, name), getattr(stated, name))
    assert region.norm == 2
    assert P.describe() == str(region) == "l2 balls of radius 0.1 within (0.0, 1.0)"
    assert Perturbation(np.array([0.1, 0.3])).describe() == "linf balls of radius 0.1 to 0.3"
    some = region[np.array([0, 2])]
    assert str(some) == str(region)
    assert str(some.resized([0.2, 0.4])) == "l2 balls of radius 0.2 to 0.4 within (0.0, 1.0)"
    assert P == Perturbation(0.1, 2, (0.0, 1.0)) != Perturbation(0.1)
    assert len({P, Perturbation(0.1, 2, (0.0, 1.0))}) == 1
    assert Perturbation(0.1, "inf") == Perturbation(0.1, np.inf) != Perturbation(0.1, 2)
    radii = np.full((40, 40, 1), 0.1)  # numpy does not print all of them
    others = radii.copy()
    others[20, 20] = 0.2
    assert Perturbation(radii) == Perturbation(radii.copy()) != Perturbation(others)
    assert Perturbation(0.1, clip=(radii, 1.0)) != Perturbation(0.1, clip=(others, 1.0))


def test_regions_say_what_they_are_in_json():
    found = P.around(np.float32([[0.05, 0.5]])).to_dict()
    assert found["description"] == P.describe()
    assert found["norm"] == 2
    np.testing.assert_allclose(found["lower"], [[0.0, 0.4]], atol=1e-6)
    np.testing.assert_allclose(found["epsilon"], [[0.1, 0.1]])


def classes_with_parts():
    modules = (xcertify.attributions, xcertify.attacks, xcertify.metrics)
    found = {getattr(m, name) for m in modules for name in m.__all__}
    kinds = [c for c in found if isinstance(c, type) and issubclass(c, Settings)]
    return sorted(
        (c for c in kinds if OF_REGIONS & set(setting_names(c))), key=lambda c: c.__name__
    )


def test_which_classes_take_one():
    names = {kind.__name__ for kind in classes_with_parts()}
    explainers = [c for c in classes_with_parts() if issubclass(c, Explainer)]
    assert all({"clip", "outside"} <= {*setting_names(c)} for c in explainers)
    assert {"EVA", "EVAHybrid", "SampledEVA", "CertifiedGradient", "CORGI"} <= names
    assert {"AttributionBound", "RelEx", "GreedyAS", "MarginGradientRange"} <= names
    assert {"RobustnessSr", "MinimalPerturbation", "MinimalTopK"} <= names


@pytest.mark.parametrize("kind", classes_with_parts(), ids=lambda kind: kind.__name__)
def test_every_constructor_takes_one_and_shows_it(kind):
    names = set(setting_names(kind))
    assert "perturbation" in inspect.signature(kind).parameters
    radius = [name for name in RADII if name in names]
    stated = Perturbation(
        0.25 if radius else np.inf,
        norm=2 if "norm" in names else np.inf,
        clip=(0.0, 2.0) if "clip" in names else None,
    )
    given = {
        "model": network(),
        "inputs": images(),
        "targets": np.array([0, 1, 2]),
        "maps": abs,
        "exact": abs,
        "latent_layer": "flatten",
        "explainer": Saliency(network()),
        **{"explanation": abs, "noise": abs, "sigma": 0.1, "k": 2},
    }
    required = {
        name: given[name]
        for name, p in inspect.signature(kind).parameters.items()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    }
    made = kind(**required, perturbation=stated)
    assert made.perturbation == stated
    for name in radius:
        assert getattr(made, name) == 0.25
    # assigned afterwards, as any other setting
    other = Perturbation(0.5, stated.norm, stated.clip) if radius else stated
    made.perturbation = other
    assert made.perturbation == other


def test_the_radius_of_a_search_is_its_largest():
    model, inputs = network(), images()
    assert RelEx(model, perturbation=P).largest_radius == 0.1
    assert CORGI(model, perturbation=Perturbation(norm=2)).largest_radius == 1.0
    robustness = RobustnessSr(
        model, inputs, None, perturbation=Perturbation(norm=1, clip=(-1.0, 1.0))
    )
    assert (robustness.norm, robustness.clip) == (1, (-1.0, 1.0))


def test_it_is_the_same_as_its_parts():
    model, inputs = network(), images()
    first = EVA(model, 0.1, 2, (0.0, 1.0))
    second = EVA(model, perturbation=P)
    np.testing.assert_array_equal(first.explain(inputs), second.explain(inputs))
    found = second.certify(inputs)
    assert str(found.region) == P.describe()
    np.testing.assert_array_equal(found.region.center, inputs)
    np.testing.assert_array_equal(found.overlap, first.certify(inputs).overlap)
    second.perturbation = Perturbation(0.2)
    third = EVA(model, 0.2)
    np.testing.assert_array_equal(second.certify(inputs).overlap, third.certify(inputs).overlap)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: EVA(m, 0.1, perturbation=P), "takes the place of epsilon.*0.1"),
        (lambda m: EVA(m, clip=(0, 1), perturbation=P), "takes the place of clip"),
        (lambda m: EVA(m, perturbation=0.1), r"must be a Perturbation.*Received: 0.1"),
        (lambda m: RobustnessSr(m, images(), None, perturbation=P), "no argument epsilon"),
        (
            lambda m: MinimalPerturbation(m, perturbation=Perturbation(clip=(0, 1))),
            "no argument clip",
        ),
        (lambda m: MarginGradientRange(m, perturbation=P), "no argument norm"),
        (lambda m: PGD(m, perturbation=P), "no argument norm and no clip and no epsilon"),
        (lambda m: Perturbation(0.1, norm="two"), "norm must be"),
        (lambda m: Perturbation(0.1, outside="cut"), "outside must be 'error'.*Received: 'cut'"),
        (lambda m: EVA(m, outside=None), "outside must be 'error'.*Received: None"),
        (lambda m: EVA(m, outside="clip", perturbation=P), "takes the place of outside"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make(network())


def test_objects_without_parts_have_none():
    with pytest.raises(AttributeError, match="PGD has no perturbation"):
        _ = PGD(sequential((2,))).perturbation


OUTSIDE = Perturbation(0.1, clip=(0.0, 1.0), outside="clip")


def outliers():
    """Of which the last one has two values outside of [0, 1]."""
    found = images().clip(0, 1)
    found.reshape(len(found), -1)[-1, [0, 3]] = 1.5, -0.25
    return found


@pytest.mark.parametrize("clip", [(0.0, 1.0), np.array([0.0, 1.0])])
def test_inputs_outside_of_the_valid_range(clip):
    stated, cut = Perturbation(0.1, clip=clip), Perturbation(0.1, clip=clip, outside="clip")
    assert "outside='clip'" in repr(cut) and stated != cut
    for ask in (stated.inside, stated.around):
        with pytest.raises(ValueError, match=r"sample 2 \(2 features\).*outside='clip'.*: 1.5"):
            ask(outliers())
    np.testing.assert_array_equal(cut.inside(outliers()), outliers().clip(0, 1))
    np.testing.assert_array_equal(cut.around(outliers()).center, outliers().clip(0, 1))
    assert cut.inside(outliers().astype(np.float64)).dtype == np.float64
    # what is inside but for a rounding of the range stays
    edge = np.full((1, 2), 0.9, np.float32)
    near = Perturbation(0.1, clip=(0.1, 0.9))
    np.testing.assert_array_equal(near.inside(edge), edge)
    assert Perturbation(0.1).inside(edge) is edge


@pytest.mark.parametrize(
    "make",
    [
        EVA,
        SampledEVA,
        CertifiedGradient,
        MarginGradientRange,
        lambda m, **s: AttributionBound(m, beta=5.0, **s),
        lambda m, **s: RelEx(m, 2, 2, **s),
    ],
)
def test_maps_of_inputs_outside_of_the_valid_range(make):
    model = network()
    for settings in ({"clip": (0.0, 1.0)}, {"perturbation": Perturbation(clip=(0.0, 1.0))}):
        with pytest.raises(ValueError, match=r"leave the valid range.* sample 2 .*outside='clip'"):
            make(model, **settings).explain(outliers())
    explainer = make(model, clip=(0.0, 1.0), outside="clip")
    expected = make(model, clip=(0.0, 1.0)).explain(outliers().clip(0, 1))
    np.testing.assert_array_equal(explainer.explain(outliers()), expected)
    explainer.outside = "error"
    with pytest.raises(ValueError, match="leave the valid range"):
        explainer(outliers())


@pytest.mark.parametrize(
    "make",
    [
        lambda m: EVA(m, perturbation=OUTSIDE),
        lambda m: CertifiedGradient(m, method="ibp", perturbation=OUTSIDE),
        lambda m: SufficientReason(m, grid_size=2, complete=False, perturbation=OUTSIDE),
    ],
)
def test_certificates_are_of_the_inputs_that_were_cut(make):
    certificate = make(network()).certify(outliers())
    np.testing.assert_array_equal(certificate.region.center, outliers().clip(0, 1))
    assert (certificate.region.lower >= 0).all() and (certificate.region.upper <= 1).all()


def test_greedy_keeps_to_a_range_that_is_given():
    with pytest.raises(ValueError, match="leave the valid range"):
        GreedyAS(network(), clip=(0.0, 1.0), nb_subsets=5)(outliers())
