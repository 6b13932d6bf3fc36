"""Bounds and decisions of texts, beside all texts of their regions one by one."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import sequential
from rotation import in_turn

from xcertify.ascent import arrays_of
from xcertify.attacks import MinimalPerturbation
from xcertify.attributions import SufficientReason
from xcertify.behind import behind
from xcertify.bounds import Verifier, stays_in_class
from xcertify.regions import Box
from xcertify.words import Words

L = keras.layers
NB_POSITIONS, SIZE, NB_WORDS, NB_TEXTS = 5, 4, 30, 8
SHAPE = (NB_POSITIONS, SIZE)


def words(seed=0, scale=0.7):
    generator = np.random.default_rng(seed)
    vectors = scale * generator.normal(size=(NB_WORDS, SIZE))
    tokens = generator.integers(0, NB_WORDS, (NB_TEXTS, NB_POSITIONS))
    synonyms = {t: generator.integers(0, NB_WORDS, t % 4).tolist() for t in range(NB_WORDS)}
    return Words.of_tokens(tokens, synonyms, vectors.astype("float32"))


def attention():
    keras.utils.set_random_seed(0)
    x = keras.Input(SHAPE)
    h = L.Add()([x, L.MultiHeadAttention(2, 2)(x, x)])
    h = L.GlobalAveragePooling1D()(L.Dense(6, activation="relu")(h))
    return keras.Model(x, L.Dense(3)(h))


MODELS = {
    "linear": lambda: sequential(SHAPE, L.Flatten(), L.Dense(3)),
    "pooled": lambda: sequential(
        SHAPE, L.Dense(6, activation="relu"), L.GlobalAveragePooling1D(), L.Dense(3)
    ),
    "convolutions": lambda: sequential(
        SHAPE,
        L.Conv1D(6, 3, padding="same", activation="relu"),
        L.Conv1D(4, 2, strides=2, activation="tanh"),
        L.Flatten(),
        L.Dense(3),
    ),
    "channels first": lambda: sequential(
        SHAPE, L.Permute((2, 1)), L.Conv1D(5, 3, activation="relu"), L.Flatten(), L.Dense(3)
    ),
    "attention": attention,
}


def texts_of(region, sample):
    """All texts (P, T, E) of one of the regions."""
    one = region[sample : sample + 1]
    numbers = itertools.product(*(range(count) for count in one.nb_choices[0]))
    texts = one.chosen(np.array(list(numbers))[:, None])[:, 0]
    if one.nb_changed is None:
        return texts
    return texts[one.count_changed(texts[:, None])[:, 0] <= one.nb_changed[0]]


def extremes(model, region):
    """Least and largest outputs over all texts of each region, (N, K) each."""
    outputs = [model(texts_of(region, n)).numpy() for n in range(len(region))]
    return np.stack([o.min(axis=0) for o in outputs]), np.stack([o.max(axis=0) for o in outputs])


@pytest.mark.parametrize("few", [None, 0, 1, 2])
def test_bounds_of_linear_functions_are_exact(few):
    model, region = MODELS["linear"](), words()
    region = region if few is None else region.at_most(few)
    expected = extremes(model, region)
    for method in ("ibp", "crown"):
        np.testing.assert_allclose(Verifier(model, method).bound_outputs(region), expected, 1e-4)
    lines = Verifier(model, "crown").linear_bounds(region)
    np.testing.assert_allclose(lines.bounds(), expected, 1e-4)


CASES = [
    (name, few, method, dtype)
    for name in ("pooled", "convolutions", "channels first", "attention")
    for few in (None, 1)
    for method, dtype in (
        ("ibp", "float32"),
        ("crown-ibp", "float64"),
        ("crown", "float32"),
        ("alpha-crown", "float32"),
    )
]


@pytest.mark.parametrize(("name", "few", "method", "dtype"), in_turn(CASES, 4))
def test_no_text_leaves_the_bounds(name, few, method, dtype):
    model, region = MODELS[name](), words()[:4]
    region = region if few is None else region.at_most(few)
    least, largest = extremes(model, region)
    verifier = Verifier(model, method, dtype=dtype, nb_steps=3)
    lower, upper = verifier.bound_outputs(region)
    assert (lower <= least + 1e-5).all()
    assert (upper >= largest - 1e-5).all()
    hull = verifier.bound_outputs(Box(region.lower, region.upper, region.center))
    widths = (upper - lower).mean(), (hull[1] - hull[0]).mean()
    assert widths[0] <= widths[1] * (1.001 if method in ("ibp", "crown-ibp") else 0.9)
    if method != "ibp":
        lines = verifier.linear_bounds(region)
        cells = np.repeat(np.arange(NB_POSITIONS)[:, None], SIZE, axis=1)
        _, with_fixed = lines.bounds_with_fixed(cells)
        for position in range(NB_POSITIONS):
            held = region.fix(np.arange(NB_POSITIONS) == position)
            assert (with_fixed[..., position] >= extremes(model, held)[1] - 1e-5).all()


def test_gradients_are_bounded_over_words():
    model, region = MODELS["pooled"](), words()[:2]
    for method in ("crown-ibp", "crown"):
        lower, upper = Verifier(model, method).bound_gradient(region, [[1.0, -1.0, 0.0]])
        for sample in range(2):
            texts = keras.ops.convert_to_tensor(texts_of(region, sample))
            with tf.GradientTape() as tape:
                tape.watch(texts)
                outputs = model(texts)
                value = tf.reduce_sum(outputs[:, 0] - outputs[:, 1])
            found = tape.gradient(value, texts).numpy()
            assert (found >= lower[sample, 0] - 1e-5).all()
            assert (found <= upper[sample, 0] + 1e-5).all()


DECIDED = [
    (name, few, strategy)
    for name in ("pooled", "convolutions")
    for few in (None, 1, 2)
    for strategy in ("inputs", "activations")
]


@pytest.mark.parametrize(("name", "few", "strategy"), in_turn(DECIDED, 2))
def test_decisions_are_those_of_all_texts(name, few, strategy):
    model, region = MODELS[name](), words(seed=1)
    region = region if few is None else region.at_most(few)
    classes = model(region.center).numpy().argmax(axis=1)
    stays = [
        (model(texts_of(region, n)).numpy().argmax(axis=1) == classes[n]).all()
        for n in range(len(region))
    ]
    verifier = Verifier(model)
    question = stays_in_class(classes, nb_outputs=3)
    decision = verifier.decide(region, *question, strategy=strategy)
    np.testing.assert_array_equal(decision.status, np.where(stays, "holds", "violated"))
    some = np.flatnonzero(decision.violated)
    assert region[some].holds(decision.counterexamples[some]).all()
    found = verifier.attack(region, *question)
    assert not found.violated[stays].any()
    assert region.holds(found.points).all()


def test_words_that_can_be_any_synonym():
    tokens = keras.Input((NB_POSITIONS,), dtype="int32")
    embedding = L.Embedding(NB_WORDS, SIZE, name="embedding")
    model = keras.Model(tokens, MODELS["pooled"]()(embedding(tokens)))
    region = words(seed=3)[:4]
    vectors = np.zeros((NB_WORDS, SIZE), "float32")
    vectors[region.tokens] = region.choices
    embedding.set_weights([vectors])
    latent = behind(model, "embedding")
    np.testing.assert_allclose(latent(region.center), model(region.tokens[:, :, 0]))
    certificate = SufficientReason(latent, time_limit=5.0).certify(region)
    irrelevant = certificate.irrelevant[..., 0]
    assert 0 < irrelevant.mean() < 1
    freed = region.fix(~irrelevant)
    for sample in range(4):
        outputs = latent(texts_of(freed, sample)).numpy()
        assert (outputs.argmax(axis=1) == certificate.targets[sample]).all()
        for point in certificate.witnesses[sample].values():
            assert region[sample : sample + 1].holds(point[None]).all()
            assert latent(point[None]).numpy().argmax() != certificate.targets[sample]
    with pytest.raises(ValueError, match="nor words"):
        certificate.save("never.npz")
    # the whole model takes the same regions behind its embedding
    whole = Verifier(model, start_layer="embedding")
    expected = Verifier(latent).bound_outputs(region)
    np.testing.assert_allclose(whole.bound_outputs(region), expected, rtol=1e-4, atol=1e-5)
    question = stays_in_class(certificate.targets, nb_outputs=3)
    changed = [bool(own) for own in certificate.witnesses]
    np.testing.assert_array_equal(whole.attack(region, *question).violated, changed)


def test_what_knows_no_words_refuses_them():
    model, region = MODELS["pooled"](), words()
    classes = model(region.center).numpy().argmax(axis=1)
    question = stays_in_class(classes, nb_outputs=3)
    with pytest.raises(ValueError, match="not available for sets of words"):
        Verifier(model).decide(region, *question, proof=True)
    with pytest.raises(ValueError, match="not available for sets of words"):
        arrays_of(region)
    with pytest.raises(ValueError, match="a search of nearest inputs is not available"):
        MinimalPerturbation(model)(region)


def test_the_part_behind_a_layer_needs_all_that_its_layers_need():
    tokens = keras.Input((NB_POSITIONS,), dtype="int32")
    first, second, masked = (
        L.Embedding(NB_WORDS, SIZE, mask_zero=name == "masked", name=name)(tokens)
        for name in ("first", "second", "masked")
    )
    output = L.Dense(2)(L.GlobalAveragePooling1D()(masked))
    with pytest.raises(ValueError, match="must give no mask"):
        behind(keras.Model(tokens, output), "masked")
    model = keras.Model(tokens, L.Dense(2)(L.Flatten()(L.Add()([first, second]))))
    with pytest.raises(ValueError, match="all ways from the inputs"):
        behind(model, "first")
    with pytest.raises(ValueError, match="one that the model calls once"):
        behind(model, "third")
