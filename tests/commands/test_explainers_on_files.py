"""explain and certify: every explainer, what they write and print, and what they refuse."""

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from rotation import rotating

from xcertify import attributions
from xcertify.commands import main
from xcertify.commands.explainers import explainers
from xcertify.runs import Run

DIGITS = ("digits.keras", "digits.npy")
TABLE = ("table.keras", "table.csv", "--one-hot", "job", "--target-column", "good")
# Settings with which explainers are quick, or that they need.
QUICK = {
    "AttributionBound": "--steps 2 --nb-products 5",
    "CORGI": "--attack none",
    "EVAHybrid": "--nb-samples 5 --grid-size {grid} --latent-layer {latent}",
    "GreedyAS": "--clip 0 1 --nb-subsets 20 --steps 2",
    "RelEx": "--steps 3 --nb-samples 3 --nb-halvings 3",
    "Rise": "--nb-samples 20 --grid-size 2",
    "SampledEVA": "--nb-samples 5 --grid-size {grid}",
    "SmoothGrad": "--nb-samples 3",
    "SmoothedAttribution": "--of GradientInput --of-settings.reducer max --nb-samples 40",
    "SufficientReason": "--epsilon 0.01 --time-limit none",
    "UniformlySmoothedAttribution": "--of Saliency --nb-samples 20 --nb-choosing 10",
}
OF_IMAGES = ("CORGI", "GradCAM", "GradCAMPP")
KINDS = explainers()
ALL = [
    (command, name, table)
    for name, kind in KINDS.items()
    for command in ("explain", "certify")[: 1 + hasattr(kind, "certify")]
    for table in (False, True)
]
EVERY_DAY = [ALL[place] for place in rotating(len(ALL), 5)]


def words_for(command, name, table):
    settings = QUICK.get(name, "").format(
        grid="none" if table else 2, latent="hidden" if table else "flatten"
    )
    files = TABLE if table else DIGITS
    return [command, *files, "--explainer", name, *settings.split(), "--no-verbose"]


def check_run(command, name, table):
    """A run of a command line has the maps and certificates that Python has."""
    assert main([*words_for(command, name, table), "--output", "run"]) == 0
    run = Run.open("run")
    assert not run.missing
    assert run.table(["error"])["error"].null_count == 3
    assert Path("run/config.yaml").is_file()
    assert Path("run/maps.png").read_bytes().startswith(b"\x89PNG")
    source = run.source()
    inputs = np.stack(source.read(0, 3).inputs)
    model = keras.models.load_model(TABLE[0] if table else DIGITS[0])
    settings = {
        name: np.inf if value == "inf" else value
        for name, value in run.settings["settings"].items()
    }
    explainer = KINDS[name].of_model(model, **settings)
    np.testing.assert_allclose(run.maps(), explainer.explain(inputs), rtol=1e-5, atol=1e-6)
    if command == "certify":
        (numbers, certificate), *_ = run.certificates()
        np.testing.assert_array_equal(numbers, range(3))
        expected = explainer.certify(inputs)
        assert type(certificate) is type(expected)
        assert certificate.origin.explainer == name
        np.testing.assert_array_equal(certificate.vacuous, expected.vacuous)


@pytest.mark.filterwarnings("ignore::xcertify.VacuousWarning")
@pytest.mark.parametrize(("command", "name", "table"), EVERY_DAY)
def test_some_explainers_of_digits_and_of_a_table(folder, error_of, command, name, table):
    if table and name in OF_IMAGES:
        message = error_of(*words_for(command, name, table), "--output", "run")
        assert "Grad-CAM needs a convolution of images or time series" in message
    else:
        check_run(command, name, table)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::xcertify.VacuousWarning")
@pytest.mark.parametrize(("command", "name", "table"), [case for case in ALL])
def test_every_explainer_of_digits_and_of_a_table(folder, error_of, command, name, table):
    test_some_explainers_of_digits_and_of_a_table(folder, error_of, command, name, table)


def test_one_hot_columns_are_one_feature_of_what_is_enough(folder):
    words = words_for("certify", "SufficientReason", table=True)
    assert main([*words, "--output", "run"]) == 0
    assert Run.open("run").settings["settings"]["groups"] == [0, 1, 2, 2, 2]


def test_what_is_printed(folder, capsys):
    words = "certify digits.keras digits.npy --epsilon 0.001 --clip 0 1 --output run --no-verbose"
    assert main([*words.split(), "--report", "pages/of/run.html"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    certificate = next(Run.open("run").certificates())[1]
    nb_proved = int(certificate.robust.sum())
    assert re.search(r"^inputs: +3$", printed.out, flags=re.MULTILINE)
    assert f"proved:  {nb_proved} of 3 ({nb_proved / 3:.1%}): the prediction stays" in printed.out
    assert f"certified {np.median(certificate.overlap):.4g}" in printed.out
    assert "check:   xcertify recheck run --model digits.keras" in printed.out
    assert "report:  pages/of/run.html" in printed.out
    assert "again:   xcertify certify --config run/config.yaml --output ..." in printed.out
    assert Path("pages/of/run.html").read_text().startswith("<!DOCTYPE html>")


def test_bad_inputs_are_counted_and_the_others_explained(folder, capsys):
    images = np.load("digits.npy")
    images[1, 2, 3] = np.nan
    np.save("bad.npy", images)
    words = "explain digits.keras bad.npy --explainer saliency --output run --no-verbose"
    assert main(words.split()) == 0
    assert "inputs:  3, 1 with an error" in capsys.readouterr().out
    errors = Run.open("run").table(["error"])["error"].to_pylist()
    assert [error is None for error in errors] == [True, False, True]


def test_targets_are_integers_or_a_file(folder):
    for targets, name in (["1", "2", "9"], "a"), (["1"], "b"), (["both.npz:y"], "c"):
        words = ["explain", *DIGITS, "--explainer", "Saliency", "--output", name]
        assert main([*words, "--no-verbose", "--targets", *targets]) == 0
    classes = [Run.open(name).table(["target"])["target"].to_pylist() for name in "abc"]
    assert classes == [[1, 2, 9], [1, 1, 1], [0, 4, 7]]


def test_a_run_is_repeated_by_its_configuration(folder):
    settings = "--explainer eva --epsilon 0.02 --norm inf --clip 0 1 --grid_size 2 2 --first 2"
    words = ["certify", *DIGITS, *settings.split(), "--no-verbose", "--targets", "3"]
    assert main([*words, "--output", "a"]) == 0
    assert main(["certify", "--config", "a/config.yaml", "--output", "b"]) == 0
    first, second = Run.open("a"), Run.open("b")
    assert first.settings == second.settings
    assert (first.settings["settings"]["grid_size"], len(first)) == ([2, 2], 2)
    np.testing.assert_array_equal(first.maps(), second.maps())
    assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()
    assert main(["explain", "--config", "a/config.yaml", "--output", "c", "--epsilon", "0.5"]) == 0
    assert Run.open("c").settings["settings"]["epsilon"] == 0.5


def test_environment_variables(folder, monkeypatch):
    monkeypatch.setenv("XCERTIFY_EXPLAIN_EXPLAINER", "random-map")
    monkeypatch.setenv("XCERTIFY_EXPLAIN_SEED", "7")
    monkeypatch.setenv("XCERTIFY_EXPLAIN_OUTPUT", "run")
    assert main(["explain", *DIGITS, "--no-verbose"]) == 0
    settings = Run.open("run").settings
    assert (settings["explainer"], settings["settings"]["seed"]) == ("RandomMap", 7)


def test_a_run_goes_on_where_it_was(folder, capsys, error_of):
    words = ["explain", *DIGITS, "--explainer", "RandomMap", "--no-verbose", "--output", "run"]
    words += ["--batch", "1", "--part", "1"]
    assert main(words) == 0
    run = Run.open("run")
    maps = run.maps()
    kept, lost, _ = sorted(Path("run/rows").iterdir())
    lost.unlink()
    written = kept.stat().st_mtime_ns
    assert Run.open("run").missing
    assert "run" in error_of(*words)
    assert main([*words, "--resume"]) == 0
    assert not Run.open("run").missing
    np.testing.assert_array_equal(Run.open("run").maps(), maps)
    assert kept.stat().st_mtime_ns == written
    assert "seed" in error_of(*words, "--resume", "--seed", "1")


def test_layers_of_ones_own(folder, error_of):
    (folder / "mine.py").write_text(
        "import keras\n\n\n"
        "class Doubled(keras.layers.Layer):\n"
        "    def call(self, inputs):\n"
        "        return 2 * inputs\n"
    )
    spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
    mine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    dense = keras.layers.Dense(3)
    keras.Sequential([keras.Input((7, 7, 1)), keras.layers.Flatten(), mine.Doubled(), dense]).save(
        "custom.keras"
    )
    words = "explain custom.keras digits.npy --explainer Saliency --no-verbose --output run"
    assert "Doubled" in error_of(*words.split())
    assert main([*words.split(), "--custom", "mine.py:Doubled"]) == 0
    weights = np.abs(2 * dense.get_weights()[0])
    classes = Run.open("run").table(["target"])["target"].to_numpy()
    np.testing.assert_allclose(
        Run.open("run").maps().reshape(3, 49), weights[:, classes].T, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none.keras digits.npy", "no such file: none.keras"),
        ("digits.npy digits.npy", "digits.npy cannot be read as a model"),
        ("digits.keras none.npy", "no such file or folder: none.npy"),
        ("digits.keras digits.keras", "inputs must be"),
        ("digits.keras text.npy", "text.npy"),
        ("digits.keras both.npz", "both.npz:NAME. It has x, y"),
        ("digits.keras both.npz:z", "'z'"),
        ("digits.keras both.npz:y", "digits.keras|shape"),
        ("digits.keras table.csv", "shape|features"),
        ("table.keras table.csv --columns age none", "none"),
        ("digits.keras digits.npy --size 7 7", "size is not for arrays"),
        ("digits.keras digits.npy --targets 1 a", "targets must be integers"),
        ("digits.keras digits.npy --targets 1 2", "targets must be"),
        ("digits.keras digits.npy --epsilon -1", "epsilon"),
        ("digits.keras digits.npy --mode fast", "mode must be 'one-pass' or 'exact'"),
        ("digits.keras digits.npy --method magic --mode exact", "method must be one of"),
        (
            "digits.keras digits.npy --explainer lime",
            "explainer must be one of AttributionBound.*lime",
        ),
        ("digits.keras digits.npy --nb-samples 5", "EVA has no setting --nb-samples"),
        ("digits.keras digits.npy --norm two", "--norm takes a number. Received: two"),
        ("digits.keras digits.npy --explainer eva-hybrid", "EVAHybrid needs --latent-layer"),
        ("digits.keras digits.npy --explainer GreedyAS", "clip"),
        ("digits.keras digits.npy --workers 0", "workers must be a whole number above 0"),
        ("digits.keras digits.npy --batch 0", "batch must be a whole number above 0"),
        ("digits.keras digits.npy --part 0", "part must be a whole number above 0"),
        ("digits.keras digits.npy --report .", "error: . is a folder, and a file is taken"),
        ("digits.keras digits.npy --report=", "a file must have a name"),
        ("digits.keras digits.npy --output text.txt", "error: text.txt is a file, and a folder"),
        ("digits.keras digits.npy --seed -1", "seed must be a whole number of at least 0"),
        ("digits.keras digits.npy --output digits.npy/run", "digits.npy"),
        ("digits.keras", "explain needs INPUTS"),
        ("", "explain needs MODEL"),
        ("digits.keras digits.npy --figure a.png", "maps.png, into the folder of --output"),
        ("digits.keras digits.npy --no-certify", "xcertify certify for certificates"),
        ("digits.keras digits.npy --verifier ibp", "write --method"),
        ("digits.keras digits.npy --method EVA", "write --explainer EVA"),
        ("digits.keras digits.npy --output maps.npz", "output is a folder now.* --output maps. "),
    ],
)
def test_errors_say_what_is_wrong_in_one_line(folder, error_of, words, message):
    words = words.split()
    if "--output" not in words:
        words += ["--output", "run"]
    assert re.search(message, error_of("explain", *words))
    assert not Path("run/rows").exists() or not list(Path("run/rows").iterdir())


def test_after_a_wrong_value_the_same_folder_is_taken(folder, error_of):
    words = ["explain", *DIGITS, "--explainer", "EVA", "--output", "run", "--no-verbose"]
    assert "epsilon" in error_of(*words, "--epsilon", "-1")
    assert main([*words, "--epsilon", "0.01"]) == 0
    assert "epsilon: 0.01\n" in Path("run/config.yaml").read_text()
    assert "there is a run in" in error_of(*words, "--epsilon", "0.02")
    assert "epsilon: 0.01\n" in Path("run/config.yaml").read_text()


def test_output_is_needed(folder, error_of):
    assert "explain needs --output FOLDER" in error_of("explain", *DIGITS)


@pytest.mark.parametrize("name", ["Saliency", "rise", "eva-hybrid"])
def test_explainers_without_proofs_do_not_certify(folder, error_of, name):
    words = ("certify", *DIGITS, "--explainer", name, "--output", "run")
    message = error_of(*words)
    assert "proves nothing: write xcertify explain" in message
    assert "CertifiedGradient, CORGI, EVA" in message


def test_object_arrays_are_refused(folder, error_of):
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "objects.npy" in error_of("explain", "digits.keras", "objects.npy", "--output", "run")


def test_all_are_tried():
    assert {name for _, name, _ in ALL} == set(attributions.__all__) - {"TargetedExplanation"}
