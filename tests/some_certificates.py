"""One small certificate of each kind, made by hand: nothing is proved, all parts fit each other."""

from dataclasses import replace

import numpy as np

from xcertify.answers import Answers
from xcertify.bounds import Decision
from xcertify.certificates import (
    CosineCertificate,
    DeviationCertificate,
    GradientCertificate,
    MaskCertificate,
    Origin,
    OverlapCertificate,
    RadiusCertificate,
    ReasonCertificate,
    SmoothedCertificate,
    TopKCertificate,
)
from xcertify.certificates.smoothed import decide_pixels, expected_overlaps, pixel_radii
from xcertify.criteria import Within, farthest
from xcertify.radii import Interval
from xcertify.regions import Ball

N, SHAPE = 3, (4, 2, 1)
_DRAWS = np.random.default_rng(0)
CENTER = _DRAWS.random((N, *SHAPE), dtype=np.float32)
CLIP = [0.0, 1.0]
VERSIONS = {"xcertify": "0.1.0", "keras": "3.15.0", "tensorflow": "2.21.0", "numpy": "2.4.0"}


def origin(explainer, **settings):
    settings = {"norm": np.inf, "clip": CLIP, "method": "crown"} | settings
    return Origin(explainer, settings, "a" * 64, "b" * 64, VERSIONS)


def common(explainer, certified, attacked=None, radius=0.1, **settings):
    """What all kinds have."""
    return {
        "region": Ball(CENTER, radius, np.inf, CLIP),
        "method": "crown",
        "arithmetic": "real",
        "interval": Interval(np.asarray(certified), attacked),
        "origin": origin(explainer, **settings),
    }


def overlap():
    points = np.full((N, *SHAPE), np.nan, np.float32)
    points[1] = CENTER[1]
    words = [np.array(words, object) for words in (["holds", "violated", "unknown"], ["", "a", ""])]
    numbers = [np.array([0.5, -1.0, -np.inf]), np.array([np.inf, -1.0, 2.0]), np.arange(N)]
    decision = Decision(words[0], points, *numbers, np.array([0.1, 0.2, 0.3]), words[1])
    return OverlapCertificate(
        **common("EVA", [-1.0, 2.0, np.inf], np.array([-2.0, 1.0, -np.inf]), epsilon=0.1),
        cell_overlaps=np.array([[-2.0, -3.0], [1.0, 1.5], [np.inf, 4.0]]),
        cells=np.array([[0, 0], [0, 0], [1, 1], [1, 1]]),
        targets=np.array([0, 1, 2]),
        nominal=np.array([-3.0, 1.0, -1.0]),
        attained=np.array([-2.0, 1.0, -np.inf]),
        decision=decision,
    )


def gradient():
    explanation = _DRAWS.random((N, *SHAPE), dtype=np.float32) + 1
    lower, upper = explanation - 0.5, explanation + np.float32(0.25)
    settings = {"norm": np.inf, "clip": CLIP, "epsilon": 0.1, "gamma": 0.0, "bias_radius": None}
    proved = farthest(lower, upper, explanation, "l2_ratio")
    return GradientCertificate(
        **common("CertifiedGradient", proved, epsilon=0.1),
        lower=lower,
        upper=upper,
        explanation=explanation,
        targets=np.eye(N, dtype=np.float32),
        settings=settings | {"attribution": "gradient"},
        fingerprint="b" * 64,
        attained=np.array([0.1, np.nan, 0.0]),
    )


def radius():
    radii = np.array([0.0, 0.125, 0.25])
    return RadiusCertificate(
        **common("CertifiedGradient", radii, np.array([np.inf, 0.25, 0.5]), radii, epsilon=0.9),
        varied="epsilon",
        settings={"gamma": 0.0, "bias_radius": None},
        targets=np.eye(N, dtype=np.float32),
        search={"largest": 1.0, "nb_halvings": 10, "attack_steps": 20},
        **RadiusCertificate.asking(Within(0.5), (N, *SHAPE)),
    )


def deviation():
    radii = np.array([0.1, 0.2, 0.3])
    return DeviationCertificate(
        **common("AttributionBound", [1.0, 2.0, np.inf], np.ones(N), radii, epsilon=radii.tolist()),
        beta=np.array([np.inf, 20.0, 20.0]),
        kinks=("pool",),
        epsilon=radii,
        explanation=np.ones((N, 2, 2, 1), np.float32),
        euclidean_estimate=np.ones(N),
        singular_value_lower=np.ones(N),
        singular_value_upper=np.full(N, 2.0),
        decided=("theorem 1", "corollary 1", "theorem 1"),
        direction=np.ones((N, *SHAPE)),
        reached=np.ones(N),
        attained=np.array([True, False, True]),
        factor=np.ones(N),
        proved_cosine=np.array([0.1, 0.2, 2.0]),
        targets=np.eye(N, dtype=np.float32),
    )


def top_k():
    radii = np.array([0.0, 0.125, 0.25])
    return TopKCertificate(
        **common("CORGI", radii, np.array([np.inf, 0.25, 0.5]), radii, k=2),
        explanation="cam",
        form="pairwise",
        k=2,
        k2=3,
        prediction_radius=np.array([0.0, 0.5, np.inf]),
        gap=np.array([0.1, 0.2, 0.3]),
        cells=np.array([[0, 1], [3, 2], [1, 0]]),
        map_shape=(2, 2),
        targets=np.array([0, 1, 2]),
    )


def mask():
    radii = np.array([0.0, 0.125, 0.25])
    return MaskCertificate(
        **common("RelEx", radii, np.array([np.inf, 0.25, 0.5]), radii, steps=3),
        masks=_DRAWS.random((N, *SHAPE), dtype=np.float32),
        neutral_value=np.zeros(SHAPE, np.float32),
        targets=np.array([0, 1, 2]),
    )


def reason():
    words = np.zeros((3, N, 4, 2), bool)  # irrelevant, needed, unknown
    words[0, :, 1:] = words[1, 0, 0, 0] = words[2, 0, 0, 1] = words[2, 1:, 0] = True
    sizes, smallest = np.array([2, 2, 2]), np.array([1, 0, 0])
    return ReasonCertificate(
        **common("SufficientReason", sizes * 1.0, smallest * 1.0, epsilon=0.1),
        irrelevant=words[0],
        needed=words[1],
        unknown=words[2],
        features=np.tile(np.arange(8).reshape(4, 2), (N, 1, 1)),
        sizes=sizes,
        smallest=smallest,
        witnesses=[{0: CENTER[0] + np.float32(0.1)}, {}, {}],
        targets=np.array([0, 1, 1]),
        answers=Answers(np.array([0, 1, 1]), 3, class_groups=np.array([0, 1, 1])),
        contributions=np.ones((N, 4, 2), np.float32),
        seconds=np.array([0.1, 0.2, 0.3]),
        reason=np.array(["bounds", "time limit", ""]),
        settings={"complete": True},
        fingerprint="b" * 64,
    )


def smoothed():
    settings = {"sigma": 0.25, "tau": 0.75, "correction": "holm", "nb_samples": 40}
    chosen = np.zeros((N, 4, 2, 1), bool)
    chosen[:, 0] = True
    counts = np.full(chosen.shape, 40)
    counts[1], counts[2, :, 0] = 20, 33
    rows, level = counts.reshape(N, -1), 0.05 / 3
    common = {"nb_samples": 40, "alpha": level}
    certified = decide_pixels(rows, tau=0.75, correction="holm", **common).reshape(chosen.shape)
    sets = chosen.reshape(N, -1)
    found = SmoothedCertificate(
        region=Ball(CENTER, 0.0, 2),
        method="sampling",
        arithmetic="sampled",
        interval=Interval(1 - certified.reshape(N, -1).mean(axis=1), np.array([0.0, 0.25, 0.0])),
        origin=Origin(
            "SmoothedAttribution",
            {"of": "Saliency", "of_settings": {}, "clip": [-np.inf, 1.0]} | settings,
            *("a" * 64, "b" * 64, VERSIONS),
        ),
        certified_in=certified & chosen,
        certified_out=certified & ~chosen,
        chosen=chosen,
        counts=counts,
        radii=pixel_radii(rows, sigma=0.25, **common).reshape(chosen.shape),
        expected_overlap=expected_overlaps(sets, rows, tau=0.75, **common),
        targets=np.eye(N, dtype=np.float32),
        **settings,
        alpha=0.05,
        top=0.25,
        nb_choosing=5,
        nb_inputs=3,
        seed=0,
        clip=np.array([-np.inf, 1.0]),
        flipped=np.zeros(chosen.shape, bool),
    )
    return replace(found, region=Ball(CENTER, found.radius, 2))


def turned():
    settings = {"noise": "uniform", "noise_radius": 4.0, "threshold": 0.8, "nb_samples": 40}
    found = CosineCertificate(
        region=Ball(CENTER, 0.125, 2),
        method="sampling",
        arithmetic="sampled",
        interval=Interval(np.full(N, 2.0)),
        origin=Origin(
            "UniformlySmoothedAttribution",
            {"of": "Saliency", "of_settings": {}, "epsilon": 0.125, "norm": 2}
            | {"clip": [-np.inf, 1.0]}
            | settings,
            *("a" * 64, "b" * 64, VERSIONS),
        ),
        explanation=np.full((N, 4, 2, 1), 0.25, np.float32),
        projections=np.tile([[0.9], [0.6], [0.0]], (1, 40)),
        targets=np.eye(N, dtype=np.float32),
        **settings,
        alpha=0.05,
        nb_inputs=3,
        nb_choosing=100,
        seed=0,
        clip=np.array([-np.inf, 1.0]),
    )
    certified = 1 - found.cosine_within(found.epsilon)
    return replace(found, interval=Interval(certified, np.array([0.01, 0.02, 0.03])))


KINDS = {
    make.__name__: make
    for make in (overlap, gradient, radius, deviation, top_k, mask, reason, smoothed, turned)
}
