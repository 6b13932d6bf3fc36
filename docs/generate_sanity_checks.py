"""Measures the tables, and draws the picture, of the pages on stability and randomisation.

    python docs/generate_sanity_checks.py

The network and the digits are those of `xcertify demo`. Guided backpropagation is Xplique's, and
left out where that is not installed. A few minutes on two cores.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from xcertify import attributions, metrics, plots
from xcertify.commands.demo.demonstration import train
from xcertify.commands.images import one_of_each, split_digits
from xcertify.commands.networks import predict

IMAGES = Path(__file__).with_name("images")
CLIP = (0.0, 1.0)
RADII = (0.001, 0.003, 0.01)
NB_DIGITS, NB_CERTIFIED = 30, 10


def main() -> None:
    """Print the tables and draw the picture."""
    train_digits, (images, labels) = split_digits(0)
    model = train(*train_digits, 0)
    digits = images[one_of_each(labels, NB_DIGITS)]
    classes = predict(model, digits)
    measure_stability(model, digits[:NB_CERTIFIED], classes[:NB_CERTIFIED])
    check_randomization(model, digits, classes)


def measure_stability(model, digits: np.ndarray, classes: np.ndarray) -> None:
    """Average, attacked and certified distances of maps, for growing radii."""
    explainers = {
        "Saliency": attributions.Saliency(model),
        "GradientInput": attributions.GradientInput(model),
        "IntegratedGradients": attributions.IntegratedGradients(model, steps=20),
        "SmoothGrad": attributions.SmoothGrad(model, nb_samples=20),
    }
    print("\n| explainer | length of a map | radius | average | attacked | certified | looser |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, explainer in explainers.items():
        maps = explainer(digits, classes).reshape(len(digits), -1)
        length = np.linalg.norm(maps, axis=1).mean()
        for radius in RADII:
            about = (model, digits, classes)
            average = metrics.AverageStability(*about, radius=radius, clip=CLIP, two_sided=True)
            result = metrics.CertifiedStability(*about, radius=radius, clip=CLIP).detailed_evaluate(
                explainer
            )
            print(
                f"| `{name}` | {length:.2f} | {radius} | {average(explainer):.4f} "
                f"| {result.attacked_curves.mean():.4f} | {result.score:.4f} "
                f"| {np.median(result.looseness):.1f} times |",
                flush=True,
            )


def check_randomization(model, digits: np.ndarray, classes: np.ndarray) -> None:
    """Similarity of maps to those of random models, and to those of another class."""
    explainers = {
        "Saliency": attributions.Saliency(model),
        "GradientInput": attributions.GradientInput(model),
        "IntegratedGradients": attributions.IntegratedGradients(model, steps=20),
        "GradCAM": attributions.GradCAM(model),
        "GradCAMPP": attributions.GradCAMPP(model),
        "Occlusion": attributions.Occlusion(model, patch_size=4, patch_stride=2),
        "EVA": attributions.EVA(model, epsilon=0.02, clip=CLIP),
        "RandomMap": attributions.RandomMap(model),
    }
    try:
        from xplique.attributions import GuidedBackprop
    except ImportError:
        print("without guided backpropagation: Xplique is not installed")
    else:
        explainers["GuidedBackprop (Xplique)"] = GuidedBackprop(model)
    metric = metrics.ModelRandomization(model, digits, classes)
    logit = metrics.RandomLogit(model, digits, classes)
    results = {}
    print("\n| explainer | Spearman | of magnitudes | SSIM | all layers random | another class |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, explainer in explainers.items():
        results[name] = found = metric.detailed_evaluate(explainer)
        means = [found.similarities[one].mean() for one in found.similarities]
        last = found.mean_curve[-1]
        cells = " | ".join(f"{value:.2f}" for value in [*means, last, logit(explainer)])
        print(f"| `{name}` | {cells} |", flush=True)
    print("layers:", ", ".join(found.layers))
    panels = {
        title: {
            name: replace(result, curves=result.similarities[measure])
            for name, result in results.items()
        }
        for title, measure in {"Rank correlation": "spearman", "SSIM": "ssim"}.items()
    }
    figure = plots.plot_curves(panels)
    for axes in figure.axes:
        axes.set_xticks(found.axis)
    figure.savefig(IMAGES / "randomization.png", dpi=110)


if __name__ == "__main__":
    main()
