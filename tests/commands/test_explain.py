"""The command explain: it saves what the explainer returns, and errors are one line."""

import keras
import numpy as np
import pytest

from xcertify.attributions import EVA, EVAHybrid, SufficientReason
from xcertify.certificates import ReasonCertificate
from xcertify.commands import explain, main
from xcertify.recheck import recheck


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, inputs and targets, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    start = [keras.initializers.GlorotUniform(seed=seed) for seed in range(2)]
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(2, 3, activation="relu", kernel_initializer=start[0]),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(3, kernel_initializer=start[1]),
        ]
    )
    model.save("model.keras")
    images = np.random.default_rng(0).random((4, 6, 6, 1)).astype(np.float32)
    np.save("images.npy", images)
    np.savez("both.npz", x=images, y=np.array([0, 2, 1, 0]))
    (tmp_path / "text.npy").write_text("1 2 3")
    return tmp_path


def error_of(capsys, *arguments):
    """The message of a call that must fail with code 2 and one line, without a traceback."""
    assert main(list(arguments)) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("xcertify: error: ")
    return message


def test_explain_saves_what_the_explainer_returns(folder, capsys):
    command = "explain model.keras images.npy --epsilon 0.05 --clip 0 1 --grid-size 3"
    assert main([*command.split(), "--figure", "maps.png"]) == 0
    model = keras.models.load_model("model.keras")
    images = np.load("images.npy")
    explainer = EVA(model, epsilon=0.05, clip=(0, 1), grid_size=3)
    certificate = explainer.certify(images)
    saved = np.load("maps.npz")
    np.testing.assert_array_equal(saved["explanations"], explainer.explain(images))
    np.testing.assert_allclose(saved["overlap"], certificate.overlap, rtol=1e-6)
    np.testing.assert_array_equal(saved["robust"], certificate.robust)
    assert saved["cell_overlaps"].shape == (4, 9)
    words = [str(saved[name]) for name in ("region", "method", "arithmetic")]
    assert words == [str(certificate.region), "crown", certificate.arithmetic]
    assert set(saved.files) == {"explanations", *explain.ARRAYS, *explain.WORDS}
    shown = capsys.readouterr().out
    assert f"{sum(certificate.robust)} of 4 predictions proved constant" in shown
    lines = [line.split() for line in shown.splitlines() if line.startswith("    ")]
    assert [line[3:] for line in lines] == [
        ["proved"] if robust else ["not", "proved"] for robust in certificate.robust
    ]
    assert (folder / "maps.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("targets", [["0", "2"], ["both.npz:y"]])
def test_targets_are_integers_or_a_file(folder, targets):
    command = "explain model.keras both.npz:x --first 2 --no-certify --epsilon 0.1 --grid-size none"
    assert main([*command.split(), "--output", "out.npz", "--targets", *targets]) == 0
    explainer = EVA(keras.models.load_model("model.keras"), epsilon=0.1, grid_size=None)
    saved = np.load("out.npz")
    assert saved.files == ["explanations"]
    images = np.load("images.npy")[:2]
    np.testing.assert_array_equal(saved["explanations"], explainer.explain(images, [0, 2]))


def test_settings_reach_the_explainer(folder):
    command = (
        "explain model.keras images.npy --mode exact --overlap separate --method ibp --norm 2 "
        "--epsilon 0.3 --batch-size 7 --grid-size 2 --temperature 0.5"
    )
    assert main(command.split()) == 0
    settings = {"mode": "exact", "overlap": "separate", "method": "ibp", "norm": 2}
    settings["temperature"] = 0.5
    model = keras.models.load_model("model.keras")
    explainer = EVA(model, epsilon=0.3, batch_size=7, grid_size=2, **settings)
    saved = np.load("maps.npz")
    np.testing.assert_array_equal(saved["explanations"], explainer.explain(np.load("images.npy")))


def test_explainer_without_certificates(folder):
    command = (
        "explain model.keras images.npy --explainer eva-hybrid --latent-layer flatten "
        "--nb-samples 5 --seed 3"
    )
    assert main(command.split()) == 0
    model = keras.models.load_model("model.keras")
    maps = EVAHybrid(model, "flatten", nb_samples=5, seed=3).explain(np.load("images.npy"))
    saved = np.load("maps.npz")
    assert saved.files == ["explanations"]
    np.testing.assert_array_equal(saved["explanations"], maps)


def test_features_that_are_enough_are_saved_as_a_certificate_that_can_be_read(folder, capsys):
    command = (
        "explain model.keras images.npy --explainer sufficient-reason --epsilon 0.1 --clip 0 1 "
        "--time-limit none --first 2"
    )
    assert main([*command.split(), "--figure", "maps.png"]) == 0
    certificate = ReasonCertificate.load("maps.npz")
    assert certificate.minimal.all() and (certificate.sizes > 0).any()
    assert recheck(certificate, keras.models.load_model("model.keras")).all()
    np.testing.assert_array_equal(certificate.inputs, np.load("images.npy")[:2])
    saved = np.load("maps.npz")
    np.testing.assert_array_equal(saved["explanations"], certificate.maps())
    words = [str(saved[name]) for name in explain.WORDS]
    assert words == [str(getattr(certificate, name)) for name in explain.WORDS]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = [
        [int(word) for word in line[:6]] for line in lines if len(line) >= 6 and line[0].isdigit()
    ]
    counts = certificate.targets, certificate.sizes, certificate.smallest
    assert [[line[1], line[2], line[5]] for line in shown] == np.transpose(counts).tolist()
    assert all(line[2] == line[3] + line[4] for line in shown)
    assert (folder / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_questions_about_what_is_enough(folder):
    command = "explain model.keras images.npy --explainer SufficientReason --epsilon 0.1 --first 2"
    question = ["--towards", "1", "--no-complete", "--no-certify"]
    assert main([*command.split(), *question]) == 0
    explainer = SufficientReason(
        keras.models.load_model("model.keras"), 0.1, towards=1, complete=False
    )
    maps = explainer.explain(np.load("images.npy")[:2])
    np.testing.assert_array_equal(np.load("maps.npz")["explanations"], maps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.keras images.npy", "no such file: none.keras"),
        ("model.keras none.npy", "no such file: none.npy"),
        ("images.npy images.npy", "images.npy cannot be loaded as a Keras model"),
        ("model.keras model.keras", ".npy or .npz files. Received: model.keras"),
        ("model.keras text.npy", "text.npy is not a readable .npy or .npz file"),
        ("model.keras both.npz", "several arrays: say which, as both.npz:NAME. It has x, y"),
        ("model.keras both.npz:z", "both.npz has no array 'z'"),
        ("model.keras both.npz:y", "inputs must"),
        ("model.keras images.npy --targets 1 a", "integers or one file. Received: 1 a"),
        ("model.keras images.npy --targets 1 2", "targets must be one per input, 4"),
        ("model.keras images.npy --targets 1 2 0 9", "Received: 9 for sample 3"),
        ("model.keras images.npy --epsilon -1", "epsilon is negative"),
        ("model.keras images.npy --mode fast", "mode must be 'one-pass' or 'exact'"),
        ("model.keras images.npy --method magic --mode exact", "method must be one of"),
        ("model.keras images.npy --clip 0 0.5", "inputs leave the valid range"),
        ("model.keras images.npy --nb-samples 5", "EVA has no setting --nb-samples"),
        ("model.keras images.npy --explainer eva-hybrid", "EVAHybrid needs --latent-layer"),
        ("model.keras images.npy --delta 1", "EVA has no setting --delta"),
        ("model.keras images.npy --output none/maps.npz", "no such folder: none"),
    ],
)
def test_errors_say_what_is_wrong_in_one_line(folder, capsys, arguments, message):
    assert message in error_of(capsys, "explain", *arguments.split())


def test_object_arrays_are_refused(folder, capsys):
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "objects.npy is not a readable" in error_of(
        capsys, "explain", "model.keras", "objects.npy"
    )
