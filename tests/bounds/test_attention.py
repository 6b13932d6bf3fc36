"""Rules of attention, embeddings and masks, in the manner of `test_rules`."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from networks import functional, randomize
from rotation import in_turn
from test_rules import assert_agrees, assert_refused, graph_values, network

from xcertify.bounds import UnsupportedLayerError, Verifier, stays_in_class
from xcertify.bounds.graph.masks import Indicator, Masked
from xcertify.bounds.graph.operations import Enclosure, Options
from xcertify.bounds.graph.translation import build_graph
from xcertify.bounds.rules.registry import find_rule
from xcertify.regions import Ball

# Keras says where a layer loses a mask.
pytestmark = [
    pytest.mark.usefixtures("eager"),
    pytest.mark.filterwarnings(r"ignore:Layer .* was passed an input with a mask:UserWarning"),
]

SERIES = (4, 3)
NEWER = ("shares_of_groups", "joined")
HAS_WINDOWS = "sliding_window" in inspect.signature(L.MultiHeadAttention).parameters
SOME = np.array([[[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]]], bool)
NO_ROW = np.array([[[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]]], bool)
PLACES = np.array([[1, 1, 0, 1]], bool)


def some(nb_drawn: int, **layers: Any) -> Any:
    """Parametrised over shape and builder, of which the default run draws some.

    Keras 3.10 returns no shares of groups, and joins masks by a function that is refused.
    """
    if not HAS_WINDOWS:
        layers = {name: case for name, case in layers.items() if name not in NEWER}
    return pytest.mark.parametrize(
        ("shape", "build"), in_turn([*layers.values()], nb_drawn), ids=[*layers]
    )


def heads(**settings: Any) -> Any:
    return lambda h, *others, **call: L.MultiHeadAttention(2, 2, **settings)(
        h, *(others or [h]), **call
    )


def shares(build: Any) -> Any:
    """What a layer returns as its shares."""
    return lambda h: build(h, return_attention_scores=True)[1]


@some(
    5,
    itself=(SERIES, heads()),
    causal=(SERIES, lambda h: heads()(h, use_causal_mask=True)),
    causal_by_layer=(SERIES, lambda h: heads(dropout=0.1)(h, use_causal_mask=True)),
    shares=(SERIES, shares(heads(use_bias=False))),
    sizes=(SERIES, heads(value_dim=3, output_shape=(2, 2))),
    value_and_key=(SERIES, lambda h: heads()(h, L.Dense(2)(h)[:, 1:], L.Dense(3)(h)[:, :-1])),
    longer=(SERIES, lambda h: heads()(h[:, :2], h, use_causal_mask=True)),
    mask=(SERIES, lambda h: heads()(h, attention_mask=SOME)),
    mask_of_two_axes=(SERIES, lambda h: heads()(h, attention_mask=SOME[0], use_causal_mask=True)),
    mask_of_numbers=(SERIES, lambda h: heads()(h, attention_mask=3.0 * SOME)),
    hidden_row=(SERIES, lambda h: heads()(h, attention_mask=NO_ROW)),
    hidden_row_by_layer=(SERIES, lambda h: heads(dropout=0.1)(h, attention_mask=NO_ROW)),
    places=(SERIES, lambda h: heads()(h, value_mask=PLACES)),
    places_of_keys=(SERIES, lambda h: heads()(h, h, h, key_mask=PLACES)),
    mask_of_network=(SERIES, lambda h: heads()(h, attention_mask=(h @ L.Permute((2, 1))(h)) > 0)),
    images=((2, 2, 3), heads()),
    rows_of_images=((2, 2, 3), heads(attention_axes=2)),
)
def test_attention_of_heads(shape, build):
    """MultiHeadAttention: `num_heads`, `key_dim`, `value_dim`, `dropout`, which chooses between two
    ways that treat hidden rows differently, as `return_attention_scores` and other ranks do,
    `use_bias`, `output_shape`, `attention_axes`, `sliding_window` and `use_gate` of newer versions;
    of the call `key`, `attention_mask`, `value_mask`, `key_mask`, `use_causal_mask`. `query_mask`
    is refused; `flash_attention` is refused by Keras.
    """
    assert_agrees(network(shape, build), method="crown-ibp")


@some(
    1,
    grouped=(SERIES, lambda h: L.GroupQueryAttention(2, 4, 2)(h, h)),
    masked=(SERIES, lambda h: L.GroupQueryAttention(2, 2, 1)(h, h, attention_mask=SOME)),
    shares_of_groups=(
        SERIES,
        shares(lambda h, **call: L.GroupQueryAttention(2, 2, 1)(h, h, **call)),
    ),
    causal=(
        SERIES,
        lambda h: L.GroupQueryAttention(2, 2, 2, use_bias=False)(h, h, h, use_causal_mask=True),
    ),
)
def test_attention_of_groups(shape, build):
    """As `test_attention_of_heads`; `num_query_heads`, `num_key_value_heads`, `head_dim`."""
    assert_agrees(network(shape, build), method="crown-ibp")


@pytest.mark.skipif(not HAS_WINDOWS, reason="a newer version of Keras has windows and gates")
@some(
    1,
    heads=(SERIES, heads(sliding_window=2, use_gate=True)),
    causal=(
        SERIES,
        lambda h: L.GroupQueryAttention(2, 2, 1, use_gate=True, sliding_window=2)(
            h, h, use_causal_mask=True
        ),
    ),
)
def test_windows_and_gates(shape, build):
    assert_agrees(network(shape, build), method="crown-ibp")


@some(
    3,
    itself=(SERIES, lambda h: L.Attention()([h, h])),
    scaled=(SERIES, lambda h: L.Attention(use_scale=True)([h, L.Dense(3)(h)[:, 1:]])),
    causal=(SERIES, lambda h: L.Attention(dropout=0.1)([h, h, h * h], use_causal_mask=True)),
    shares=(SERIES, shares(lambda h, **call: L.Attention()([h, h], **call))),
    summed=(SERIES, lambda h: L.Attention(score_mode="concat")([h, h])),
    summed_and_scaled=(SERIES, lambda h: L.Attention(use_scale=True, score_mode="concat")([h, h])),
    masks=(
        SERIES,
        lambda h: L.Attention()([h, h], mask=[PLACES, PLACES[:, ::-1]], use_causal_mask=True),
    ),
    additive=(SERIES, lambda h: L.AdditiveAttention()([h, L.Dense(3)(h)[:, 1:], h[:, 1:]])),
    additive_without_scale=(SERIES, lambda h: L.AdditiveAttention(use_scale=False)([h, h])),
)
def test_attention_without_heads(shape, build):
    """Attention and AdditiveAttention: `use_scale`, `score_mode`, `dropout`, which does nothing; of
    the call two or three tensors, `mask`, `return_attention_scores`, `use_causal_mask`.
    """
    assert_agrees(network(shape, build), method="crown-ibp")


def test_attention_that_is_refused():
    assert_refused(network(SERIES, lambda h: heads()(h, query_mask=PLACES)), "query_mask")
    of_samples = np.repeat(SOME, 3, axis=0)
    assert_refused(network(SERIES, lambda h: heads()(h, attention_mask=of_samples)), "all samples")
    images = network((2, 2, 3), lambda h: heads()(h, attention_mask=np.ones((1, 2, 2, 2, 2), bool)))
    assert_refused(images, "with masks")


# --- masks ---------------------------------------------------------------------------------------


@some(
    4,
    softmax=(SERIES, lambda h: L.Softmax()(h, mask=ops.not_equal(h, 0.1))),
    softmax_of_places=(SERIES, lambda h: L.Softmax(axis=1)(h, mask=PLACES[..., None])),
    softmax_of_all=(SERIES, lambda h: L.Softmax(axis=(1, 2))(h, mask=PLACES[..., None])),
    softmax_of_nothing=(SERIES, lambda h: L.Softmax()(h, mask=0 * PLACES[..., None] > 0)),
    average=(SERIES, lambda h: _pooled(h, mask=PLACES)),
    average_of_channels_first=(
        SERIES,
        lambda h: L.GlobalAveragePooling1D("channels_first", True)(h, mask=PLACES[:, :3]),
    ),
    statistics=(SERIES, lambda h: L.BatchNormalization()(h, mask=PLACES)),
    masking=(SERIES, lambda h: _pooled(L.Dense(2)(L.Masking()(h)))),
    masking_of_a_number=(SERIES, lambda h: L.Masking(0.25)(ops.relu(h) + 0.25)),
    merged=(
        SERIES,
        lambda h: _pooled(L.Add()([L.Masking()(h), L.Masking()(h)])),
    ),
    half_merged=(SERIES, lambda h: _pooled(L.Multiply()([L.Masking()(h), h]))),
    joined=(SERIES, lambda h: _pooled(L.Concatenate(1)([L.Masking()(h), h]))),
    # Attention takes away the masks of what it is given, for all that is computed behind it.
    taken_away=(SERIES, lambda h: _residual(L.Masking()(h))),
    nested=(SERIES, lambda h: _pooled_by_a_nested_model(L.Masking()(h))),
)
def test_masks(shape, build):
    """Softmax, GlobalAveragePooling1D and BatchNormalization with `mask`, given or carried; the
    masks that Masking (`mask_value`), merging layers, attention and nested models give on.
    """
    assert_agrees(network(shape, build), method="crown-ibp")


def _pooled(x: Any, **call: Any) -> Any:
    return L.GlobalAveragePooling1D()(x, **call)


def _residual(x: Any) -> Any:
    return _pooled(L.Add()([x, L.MultiHeadAttention(1, 2)(x, x)]))


def _pooled_by_a_nested_model(x: Any) -> Any:
    inputs = keras.Input(SERIES)
    return keras.Model(inputs, _pooled(L.Dense(2)(inputs)), name="inner")(x)


def test_masks_that_are_refused():
    assert_refused(network(SERIES, lambda h: L.Softmax()(h, mask=ops.relu(h))), "of type float32")
    assert_refused(network((3, 4), lambda h: L.Maximum()([L.Masking()(h), h])), "mask")

    class Odd(L.Masking):
        def compute_mask(self, inputs, mask=None):
            return None

    from xcertify.bounds import register_affine

    register_affine(Odd)
    odd = lambda h: _pooled(Odd()(L.Masking()(h)))  # noqa: E731
    assert_refused(network(SERIES, odd), "is not known")


@pytest.mark.parametrize("shifts", [False, True])
def test_masked_entries_between_both_values(shifts):
    """Intervals and lines of known and unknown entries, by hand."""
    x = Enclosure(*(np.array([v]) for v in ([1.0, 2.0, 3.0], [-0.1] * 3, [0.2] * 3)))
    mask = Enclosure(
        np.array([[1.0, 0.0, 1.0]]), *(np.array([v]) for v in ([0.0, 0, -1], [0.0] * 3))
    )
    masked, options = Masked(-5.0, shifts), Options("float64")
    reference = masked.evaluate(ops.convert_to_tensor(x.reference), mask.reference)
    found = masked.interval([x, mask], reference, options)
    lower, upper = (np.asarray(side)[0] for side in found.absolute())
    hidden = (-3.1, -2.8) if shifts else (-5.0, -5.0)
    unknown = (-2.1, 3.2) if shifts else (-5.0, 3.2)
    sides = [(0.9, 1.2), hidden, unknown]
    np.testing.assert_allclose(np.transpose([lower, upper]), sides, atol=1e-5)
    relaxed = masked.relax([x, mask], found, options)
    np.testing.assert_array_equal(relaxed.slopes[0], [[1, 1 if shifts else 0, 0]])


def test_scores_as_low_as_what_is_hidden():
    """Nothing is said of them: they may be the largest that are shown."""
    low = Enclosure(np.array([[-7e8, 1.0]]), np.array([[-1.0, -1.0]]), np.array([[1.0, 1.0]]))
    mask = Enclosure(np.ones((1, 2)), np.zeros((1, 2)), np.zeros((1, 2)))
    reference = ops.convert_to_tensor(low.reference)
    found = Masked(-1e9).interval([low, mask], reference, Options("float32"))
    np.testing.assert_array_equal(np.isinf(found.lower), [[True, False]])


@pytest.mark.parametrize("comparison", ["!=", ">", ">="])
def test_indicators(comparison):
    """What is true of all and of some values of an interval, with the number at its ends."""
    sides = np.array([(a, b) for a in range(-2, 3) for b in range(a, 3)], float)
    x = Enclosure(
        *(np.array([v]) for v in (sides[:, 0], 0 * sides[:, 0], sides[:, 1] - sides[:, 0]))
    )
    indicator = Indicator(comparison)
    reference = indicator.evaluate(ops.convert_to_tensor(x.reference))
    found = indicator.interval([x], reference, Options("float64"))
    function = {"!=": np.not_equal, ">": np.greater, ">=": np.greater_equal}[comparison]
    for (low, high), least, most in zip(sides, *(np.asarray(s)[0] for s in found.absolute())):
        values = function(np.arange(low, high + 0.25, 0.25), 0)
        assert least == values.min() and most == values.max()


# --- words ---------------------------------------------------------------------------------------

WORDS = np.array([[1, 2, 3, 0], [4, 5, 6, 7]])


def text(build: Any) -> keras.Model:
    """A model of four words, of which 0 is none; `build` takes them and their embedding."""
    words = keras.Input((4,), dtype="int32")
    embedded = L.Embedding(8, 3, mask_zero=True, name="embedding")(words)
    return randomize(keras.Model(words, L.Dense(2)(build(words, embedded))), 0)


TEXTS = {
    "average": (lambda words, x: _pooled(L.Dense(3, "relu")(x)), 1),
    "attention": (lambda words, x: _pooled(heads()(x)), 1),
    "positions": (
        lambda words, x: _pooled(x + L.Embedding(4, 3)(ops.arange(4))),
        0,
    ),
    "branch": (lambda words, x: L.Flatten()(L.Add()([x, L.Embedding(8, 3)(words)])), 1),
    "mask": (
        lambda words, x: L.Flatten()(
            heads()(x, attention_mask=ops.expand_dims(ops.not_equal(words, 0), 1))
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_bounds_behind_an_embedding(name):
    """Words are inputs beside it where masks and branches need them, and only there."""
    build, nb_constants = TEXTS[name]
    model = text(build)
    embedded = np.asarray(keras.Model(model.input, model.get_layer("embedding").output)(WORDS))
    verifier, constants = Verifier(model, "crown-ibp", start_layer="embedding"), [WORDS]
    constants = constants[:nb_constants]
    assert verifier.nb_constants == nb_constants
    np.testing.assert_allclose(verifier.evaluate(embedded, constants), model(WORDS), atol=1e-5)
    region = Ball(embedded, 0.05)
    lower, upper = verifier.bound_outputs(region, constants)
    generator = np.random.default_rng(0)
    for _ in range(6):
        side = generator.random(embedded.shape) < 0.5
        outputs = verifier.evaluate(np.where(side, region.lower, region.upper), constants)
        assert (lower - 1e-5 <= outputs).all() and (outputs <= upper + 1e-5).all()
    wrong = [np.zeros((2, 1), int)] if nb_constants else [WORDS]
    with pytest.raises(ValueError, match="constants"):
        verifier.bound_outputs(region, wrong)


def test_constants_have_the_type_of_their_input():
    vectors, words = keras.Input((2,)), keras.Input((1,), dtype="int32")
    shown = keras.Input((1,), dtype="bool")
    x = L.Softmax()(vectors + L.Flatten()(L.Embedding(3, 2)(words)), mask=shown)
    verifier = Verifier(randomize(keras.Model([vectors, words, shown], L.Dense(1)(x)), 0))
    region = Ball(np.zeros((1, 2), "float32"), 0.1)
    lower, upper = verifier.bound_outputs(region, [[[2]], [[True]]])
    assert (lower <= upper).all()
    with pytest.raises(ValueError, match="whole numbers"):
        verifier.bound_outputs(region, [[[0.5]], [[True]]])
    with pytest.raises(ValueError, match="0 or 1"):
        verifier.bound_outputs(region, [[[2]], [[3]]])


def test_decisions_behind_an_embedding():
    model = text(TEXTS["attention"][0])
    embedded = np.asarray(keras.Model(model.input, model.get_layer("embedding").output)(WORDS))
    verifier = Verifier(model, "crown-ibp", start_layer="embedding")
    rows, limits = stays_in_class(np.asarray(model(WORDS)).argmax(axis=1), 2)
    decision = verifier.decide(Ball(embedded, 1e-3), rows, limits, constants=[WORDS])
    assert (decision.status == "holds").all()


def test_words_that_vary_are_refused():
    with pytest.raises(UnsupportedLayerError, match="start_layer='embedding'"):
        Verifier(text(TEXTS["average"][0]))


def test_embeddings_of_constants_and_lora():
    """Embedding: `mask_zero`, `lora_rank`; words below 0 count from the end, as in Keras."""
    place = keras.Input((4,), dtype="int32")
    inputs = keras.Input((4, 3))
    layer = L.Embedding(8, 3, lora_rank=2)
    model = randomize(keras.Model([inputs, place], L.Flatten()(inputs * layer(place))), 0)
    values = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    words = WORDS - 1
    lower, upper = Verifier(model).bound_outputs(Ball(values, 0.0), [words])
    outputs = np.asarray(model([values, words]))
    np.testing.assert_allclose(lower, outputs, atol=1e-4)
    np.testing.assert_allclose(upper, outputs, atol=1e-4)


def test_masks_come_in_the_order_of_calls():
    """A pooling of what attention takes the mask of has it, if it is called before."""

    def build(h):
        x = L.Masking()(h)
        first = _pooled(x)
        return L.Concatenate()([first, _pooled(L.MultiHeadAttention(1, 2)(x, x))])

    model = network(SERIES, build)
    inputs = np.zeros((1, *SERIES), "float32")
    inputs[0, 0] = 1.0
    np.testing.assert_allclose(graph_values(model, inputs), model(inputs), atol=1e-5)
    graph = build_graph(model, find_rule)
    assert graph.masks


def test_what_is_hidden_has_no_gradient():
    inputs = keras.Input((2, 2))
    shown = L.Masking()(inputs)
    outputs = L.Dense(1)(ops.reshape(shown + L.Dense(2, "tanh")(shown), (-1, 4)))
    model = functional(inputs, outputs)
    center = np.array([[[0.4, -0.3], [0.0, 0.0]]], "float32")
    region = Ball(center, 0.1).fix(center == 0)
    for method in ("ibp", "crown"):
        lower, upper = Verifier(model, method).bound_gradient(region, [[1.0]])
        np.testing.assert_allclose(lower[0, 0, 1], 0, atol=1e-6)
        np.testing.assert_allclose(upper[0, 0, 1], 0, atol=1e-6)
        assert (np.abs(lower[0, 0, 0]) > 0.1).any()
