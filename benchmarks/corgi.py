"""CORGI on traffic signs: certified radii of the top k cells beside the best attacks found.

    python benchmarks/corgi.py --data-dir tensorflow_datasets --output results

Reproduces the experiments of Gu et al. (2020) with the data set `gtsrb` (signs of 32x32 pixels) as
it lies in the folder of tensorflow_datasets: 8, 8, pool, 16, 16 filters, global average pooling,
43 classes; maps of the predicted class, k = 15, images of classes 12 and 17. With --model a saved
network is taken, or a trained one is saved there.

Prints tables, and writes radii and pictures into the folder. Forms and methods but the last one are
run on the first --nb-few images of each class. The attack "gap" is that of the package, "sum" that
of the paper. Seconds are those of all cores together (CPU time), for one image of a batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from matplotlib.figure import Figure

from xcertify.attributions import CORGI
from xcertify.certificates import TopKCertificate
from xcertify.datasets import load
from xcertify.plots import draw_attribution, draw_cells, draw_image
from xcertify.radii import Interval

K = 15
FORMS = (
    ("per-channel", "ibp"),
    ("per-channel", "crown-ibp"),
    ("map", "crown-ibp"),
    ("pairwise", "crown-ibp"),
    ("per-channel", "crown"),
    ("map", "crown"),
)
TIGHTEST = ("pairwise", "crown")
COLOURS = {12: "#d4722a", 17: "#2a5fb0"}


def main() -> None:
    """Train, certify, attack, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", help="folder of tensorflow_datasets that holds gtsrb")
    parser.add_argument("--model", help="a .keras file to load, or to save the trained net in")
    parser.add_argument("--output", default="corgi", help="folder for radii and pictures")
    parser.add_argument("--nb-images", type=int, default=100, help="of each class")
    parser.add_argument("--nb-few", type=int, default=20, help="of each class, for the other forms")
    parser.add_argument("--epochs", type=int, default=80)
    arguments = parser.parse_args()
    output = Path(arguments.output)
    output.mkdir(exist_ok=True)
    images, labels = load("gtsrb", "test", data_dir=arguments.data_dir)
    if arguments.model and Path(arguments.model).is_file():
        model = keras.models.load_model(arguments.model)
    else:
        model = train(*load("gtsrb", "train", data_dir=arguments.data_dir), arguments.epochs)
        if arguments.model:
            model.save(arguments.model)
    right = np.argmax(model.predict(images, verbose=0), axis=1) == labels
    print(f"{right.mean():.1%} of {len(images)} test images classified rightly\n")
    samples = {c: images[labels == c][: arguments.nb_images] for c in COLOURS}

    print("| class | form | method | attack | images | radius | attack / radius | beaten | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    few = {c: x[: arguments.nb_few] for c, x in samples.items()}
    baseline = {}
    for name, inputs in few.items():
        for form, method in FORMS:
            attacks = ("gap", "sum") if (form, method) == FORMS[-2] else ("gap",)
            baseline[name, form, method] = certify(model, inputs, name, form, method, attacks)
    found = {c: certify(model, x, c, *TIGHTEST, ("gap",)) for c, x in samples.items()}
    for name in few:
        for method in ("crown-ibp", "crown"):
            ratios = (
                baseline[name, "map", method].radius / baseline[name, "per-channel", method].radius
            )
            print(f"class {name}, {method}: map / per-channel {np.nanmedian(ratios):.2f}")
    np.savez(
        output / "radii.npz",
        **{f"radius_{c}": f.radius for c, f in found.items()},
        **{f"attacked_{c}": f.attacked for c, f in found.items()},
    )
    draw_radii(found).savefig(output / "corgi-radii.png")
    # The image whose radius is in the middle.
    one = np.argsort(found[17].radius)[len(found[17].radius) // 2]
    draw_sweeps(model, samples[17][one : one + 1]).savefig(output / "corgi-sweeps.png")
    draw_sign(model, samples[17][one : one + 1]).savefig(output / "corgi-sign.png")


def certify(
    model: keras.Model,
    inputs: np.ndarray,
    name: int,
    form: str,
    method: str,
    attacks: tuple[str, ...],
) -> TopKCertificate:
    """Certificates of the inputs with the first of the attacks, and lines of the table."""
    explainer = CORGI(model, K, form=form, method=method, attack=None, batch_size=20)
    explainer.certify(inputs[:1])  # compiles
    start = time.process_time()
    radius = explainer.certify(inputs).radius
    seconds = (time.process_time() - start) / len(inputs)
    proved = radius > 0
    explainer.form, explainer.method = "map", "ibp"  # the cheapest beside an attack
    certificates = []
    for explainer.attack in attacks:
        certificate = explainer.certify(inputs)
        proof = {"region": certificate.region.resized(radius), "form": form, "method": method}
        interval = Interval(radius, certificate.attacked)
        certificates.append(dataclasses.replace(certificate, interval=interval, **proof))
        ratio = certificate.attacked[proved] / radius[proved]
        low, high = np.quantile(ratio, [0.25, 0.75])
        print(
            f"| {name} | {form} | `{method}` | {explainer.attack} | {proved.sum()} of "
            f"{len(inputs)} | {np.median(radius):.2e} | {np.median(ratio):.2f} (quartiles "
            f"{low:.2f}, {high:.2f}; largest {ratio.max():.2f}) | {(ratio <= 1).sum()} | "
            f"{seconds:.2f} |",
            flush=True,
        )
    return certificates[0]


def draw_radii(found: dict[int, TopKCertificate]) -> Figure:
    """Certified and attacked radii in order, and the histogram of their ratio."""
    figure = Figure(figsize=(9, 3), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(found) + 1)
    for one, (name, certificate) in zip(axes, found.items()):
        order = np.argsort(certificate.radius)
        one.semilogy(certificate.attacked[order], ".", color="#b0482a", label="attacked")
        one.semilogy(certificate.radius[order], ".", color="#2a5fb0", label="certified")
        one.set(title=f"class {name}", xlabel="images, in order of their radius")
        one.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("radius (l_inf)")
    ratios = {c: f.attacked[f.radius > 0] / f.radius[f.radius > 0] for c, f in found.items()}
    edges = np.linspace(1, max(4, *(np.quantile(r, 0.98) for r in ratios.values())), 25)
    for name, ratio in ratios.items():
        label = f"class {name}, median {np.median(ratio):.2f}"
        ratio = np.minimum(ratio, edges[-1])
        axes[-1].hist(ratio, edges, alpha=0.6, color=COLOURS[name], label=label)
    axes[-1].set(title="attacked / certified", xlabel="ratio (largest in the last bar)")
    axes[-1].legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def draw_sweeps(model: keras.Model, image: np.ndarray) -> Figure:
    """Radius against the CAM gap for k = 1..50, and against k2."""
    explainer = CORGI(model, K, form=TIGHTEST[0], method=TIGHTEST[1])
    figure = Figure(figsize=(9, 3.2), layout="constrained", dpi=150)
    axes = figure.subplots(1, 2)
    settings = [[(k, None) for k in range(1, 51)], [(K, k2) for k2 in range(K, K + 26)]]
    for one, sweep, colour_of in zip(axes, settings, ("gap", "k2")):
        certificates = []
        for explainer.k, explainer.k2 in sweep:
            certificates.append(explainer.certify(image))
        along = [c.gap[0] if colour_of == "gap" else c.k2 for c in certificates]
        for name, colour in (("attacked", "#b0482a"), ("radius", "#2a5fb0")):
            radii = [getattr(c, name)[0] for c in certificates]
            label = "certified" if name == "radius" else name
            one.plot(along, radii, "." if colour_of == "gap" else ".-", color=colour, label=label)
        if colour_of == "gap":
            one.set(xscale="log", yscale="log")
        one.legend(frameon=False, fontsize=8)
    axes[0].set(title="k = 1..50", xlabel="CAM gap: value k minus value k + 1", ylabel="radius")
    axes[1].set(title=f"the top {K} within the top k2", xlabel="k2", ylabel="radius")
    tidy(axes)
    return figure


def draw_sign(model: keras.Model, image: np.ndarray) -> Figure:
    """Original and attacked image, map and top k at three radii, by the paper's attack."""
    explainer = CORGI(model, K, form=TIGHTEST[0], method=TIGHTEST[1], clip=(0.0, 1.0))
    certificate = explainer.certify(image)
    radii = {
        "certified": certificate.radius[0],
        "3 x attacked": 3 * certificate.attacked[0],
        "visible": 0.07,
    }
    figure = Figure(figsize=(8, 1.75 * len(radii) + 0.3), layout="constrained", dpi=150)
    axes = figure.subplots(len(radii), 4)
    for row, (name, radius) in zip(axes, radii.items()):
        moved, cells = worst(explainer, image, certificate, radius)
        kept = len(set(cells) & set(certificate.cells[0]))
        draw_image(row[0], image[0])
        draw_image(row[1], moved[0])
        shape = image.shape[1:]
        for one, picture, top in (
            (row[2], image, certificate.cells[0]),
            (row[3], moved, cells),
        ):
            draw_attribution(one, explainer.explain(picture, certificate.targets)[0], picture[0])
            draw_cells(one, top, certificate.map_shape, shape)
        row[0].set_ylabel(f"radius {radius:.2g}\n{name}", fontsize=8)
        row[3].set_xlabel(f"{kept} of {K} cells the same", fontsize=8)
    titles = ("image", "attacked image", "map and top k", "map and top k, attacked")
    for one, title in zip(axes[0], titles):
        one.set_title(title, fontsize=9)
    return figure


def worst(
    explainer: CORGI, image: np.ndarray, certificate: TopKCertificate, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """The image after the paper's attack within a radius, with the fewest cells kept."""
    import tensorflow as tf

    from xcertify.attacks import PGD
    from xcertify.regions import Ball

    weights = explainer._activation.target_rows(certificate.targets)
    top = tf.constant(certificate.cells[0])

    def objective(points: tf.Tensor, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        maps = explainer._maps(points, tf.gather(tf.constant(weights), samples))
        best = tf.math.top_k(maps, K).indices
        same = tf.equal(best[:, :, None], tf.cast(top, tf.int32))
        lost = -tf.reduce_sum(tf.cast(same, tf.float32), axis=(1, 2))
        return lost, -tf.reduce_sum(tf.gather(maps, top, axis=1), axis=1)

    attack = PGD(objective=objective, steps=300, step_size=0.1)
    moved = attack(Ball(image, radius, clip=(0.0, 1.0))).points
    maps = explainer._activation.exact_maps(moved, weights)
    return moved, np.argsort(-maps[0], kind="stable")[:K]


def train(images: np.ndarray, labels: np.ndarray, epochs: int) -> keras.Model:
    """The paper's network."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    settings = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            layers.Conv2D(8, 3, **settings),
            layers.Conv2D(8, 3, **settings),
            layers.MaxPooling2D(2),
            layers.Dropout(0.2),
            layers.Conv2D(16, 3, **settings),
            layers.Conv2D(16, 3, **settings),
            layers.GlobalAveragePooling2D(),
            layers.Dense(43),
        ]
    )
    nb_steps = epochs * -(-len(images) // 32)
    rate = keras.optimizers.schedules.CosineDecay(5e-3, nb_steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(images, labels, batch_size=32, epochs=epochs, verbose=2)
    return model


def tidy(axes: np.ndarray) -> None:
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)


if __name__ == "__main__":
    main()
