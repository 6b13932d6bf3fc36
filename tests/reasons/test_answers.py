"""Answers: questions as properties, against what they say in words."""

import json

import numpy as np
import pytest

from xcertify.reasons import Answers

GROUPS = [4, 4, 9, 4, 9, 1]


def is_violated(answers, outputs):
    """By the rows and limits, as `Verifier.decide` reads them."""
    rows, limits = answers.property()
    values = np.einsum("npjk,nk->npj", rows.astype(float), outputs)
    return (values <= limits).all(axis=2).any(axis=1)


def asked(name, nb_samples, nb_outputs, generator):
    """Answers, and a function that says of other outputs of sample n whether they are the same."""
    outputs = generator.normal(size=(nb_samples, nb_outputs))
    classes = outputs.argmax(axis=1)
    if name == "class":
        return Answers.of(outputs, classes), lambda n, f: all(
            f[classes[n]] > f[k] for k in range(nb_outputs) if k != classes[n]
        )
    if name == "towards":
        towards = (classes + generator.integers(1, nb_outputs, nb_samples)) % nb_outputs
        answers = Answers.of(outputs, classes, towards=towards)
        return answers, lambda n, f: f[classes[n]] > f[towards[n]]
    if name == "groups":
        groups = np.array(GROUPS)
        answers = Answers.of(outputs, classes, class_groups=GROUPS)
        return answers, lambda n, f: groups[f.argmax()] == groups[classes[n]]
    delta = generator.uniform(0.1, 2, nb_samples)
    answers = Answers.of(outputs, classes, delta=delta)
    return answers, lambda n, f: abs(f[classes[n]] - outputs[n, classes[n]]) < delta[n]


@pytest.mark.parametrize("name", ["class", "towards", "groups", "delta"])
def test_properties_are_what_the_words_say(name):
    generator = np.random.default_rng(0)
    answers, stays = asked(name, 300, 6, generator)
    outputs = generator.normal(size=(300, 6))
    outputs[:100, 0] += 3
    expected = np.array([stays(n, own) for n, own in enumerate(outputs)])
    assert 30 < expected.sum() < 270
    np.testing.assert_array_equal(answers.stay(outputs), expected)
    np.testing.assert_array_equal(is_violated(answers, outputs), ~expected)
    some = np.array([7, 200, 7])
    np.testing.assert_array_equal(answers[some].stay(outputs[some]), expected[some])
    again = Answers.from_dict(json.loads(json.dumps(answers.to_dict())))
    for own, other in zip(again.property(), answers.property()):
        np.testing.assert_array_equal(own, other)
    assert repr(again) == repr(answers)


@pytest.mark.parametrize("name", ["class", "towards", "groups", "delta"])
def test_rows_fit_decide(name):
    answers, _ = asked(name, 20, 6, np.random.default_rng(1))
    rows, limits = answers.property()
    nb, most = {"class": (5, 1), "towards": (1, 1), "groups": (5, 3), "delta": (2, 1)}[name]
    assert rows.shape == (20, nb, most, 6) and rows.dtype == np.float32
    assert limits.shape == (20, nb, most) and limits.dtype == np.float64


def test_ties_are_another_answer():
    outputs = np.array([[1.0, 0.0, 0.5]])
    tie = np.array([[1.0, 1.0, 0.5]])
    for answers in (
        Answers.of(outputs, np.array([0])),
        Answers.of(outputs, np.array([0]), towards=1),
        Answers.of(outputs, np.array([0]), class_groups=[0, 1, 0]),
    ):
        assert not answers.stay(tie)[0] and is_violated(answers, tie)[0]
    assert Answers.of(outputs, np.array([0]), class_groups=[0, 0, 1]).stay(tie)[0]
    assert Answers.of(outputs, np.array([0]), towards=2).stay(tie)[0]


def test_single_logit():
    outputs = np.array([[2.0], [-1.0]])
    for answers in (
        Answers.of(outputs, np.array([1, 0])),
        Answers.of(outputs, np.array([1, 0]), towards=np.array([0, 1])),
        Answers.of(outputs, np.array([1, 0]), class_groups=[3, 5]),
    ):
        assert answers.property()[0].shape == (2, 1, 1, 1)
        np.testing.assert_array_equal(answers.stay(np.array([[0.1], [-0.1]])), [True, True])
        np.testing.assert_array_equal(answers.stay(np.array([[-0.1], [0.0]])), [False, False])
        np.testing.assert_array_equal(
            is_violated(answers, np.array([[0.0], [-0.1]])), [True, False]
        )


def test_single_output_within_delta():
    answers = Answers.of(np.array([[2.0], [-1.0]]), np.array([1, 0]), delta=0.5)
    np.testing.assert_array_equal(answers.classes, [0, 0])
    np.testing.assert_array_equal(answers.stay(np.array([[2.4], [-0.4]])), [True, False])


def test_limits_of_delta_miss_nothing():
    """|f - value| = delta in real numbers is another answer, though the sums round."""
    from fractions import Fraction

    generator = np.random.default_rng(2)
    values, delta = generator.normal(size=(200, 1)), generator.uniform(1e-3, 1e3, 200)
    _, limits = Answers.of(values, np.zeros(200, int), delta=delta).property()
    for value, step, (high, low) in zip(values[:, 0], delta, limits[:, :, 0]):
        assert Fraction(high) >= -(Fraction(value) + Fraction(step))
        assert Fraction(low) >= Fraction(value) - Fraction(step)


def test_nan_is_no_answer():
    answers = Answers.of(np.array([[1.0, 0.0]]), np.array([0]), towards=1)
    assert not answers.stay(np.array([[np.nan, 0.0]]))[0]
    assert not answers.stay(np.array([[np.inf, 0.0]]))[0]


def test_refused_where_the_answer_is_not_given():
    outputs = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    answers = Answers.of(outputs, np.array([0, 1]))
    answers[:1].check(outputs[:1])
    with pytest.raises(
        ValueError, match=r"class stays. Received: target 1 for sample 1, .* \[0. 2."
    ):
        answers.check(outputs)
    Answers.of(outputs, np.array([0, 1]), towards=[1, 0]).check(outputs)
    Answers.of(outputs, np.array([0, 1]), class_groups=[7, 8, 8]).check(outputs)
    with pytest.raises(ValueError, match="target 2 for sample 0"):
        Answers.of(outputs, np.array([2, 1]), towards=0).check(outputs)
    outputs[1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite.*sample 1"):
        answers.check(outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"towards": 1}, "another class than the target. Received: 1 for sample 1"),
        ({"towards": 3}, "towards must be from 0 to 2. Received: 3 for sample 0"),
        ({"towards": [-1, 0]}, "towards must be from 0 to 2. Received: -1 for sample 0"),
        ({"towards": [1, 0, 0]}, r"one number for all inputs or one for each, \(2,\)"),
        ({"towards": 1.0}, "towards must be integers"),
        ({"class_groups": [0, 1]}, "one integer label for each of the 3 classes"),
        ({"class_groups": [0.0, 1.0, 1.0]}, "one integer label for each of the 3 classes"),
        ({"class_groups": [1, 1, 1]}, r"more than one group.* Received: \[1, 1, 1\]"),
        ({"delta": 0}, "delta must be a number above 0. Received: 0 for sample 0"),
        ({"delta": [1.0, np.nan]}, "delta must be a number above 0. Received: nan for sample 1"),
        ({"delta": np.inf}, "delta must be a number above 0"),
        ({"delta": [[1.0]]}, "one number for all inputs or one for each"),
        ({"delta": "1"}, "one number for all inputs or one for each"),
        ({"delta": 1, "towards": 2}, "give at most one of them"),
        ({"class_groups": [0, 1, 1], "towards": 2}, "give at most one of them"),
    ],
)
def test_refused(options, message):
    outputs = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    with pytest.raises(ValueError, match=message):
        Answers.of(outputs, np.array([0, 1]), **options)


def test_refused_classes():
    outputs = np.zeros((2, 3))
    with pytest.raises(ValueError, match="targets must be from 0 to 2. Received: 3 for sample 1"):
        Answers.of(outputs, np.array([0, 3]))
    with pytest.raises(ValueError, match="targets must be integers"):
        Answers.of(outputs, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="towards must be from 0 to 1"):
        Answers.of(np.ones((1, 1)), np.array([1]), towards=2)
    with pytest.raises(ValueError, match="belong together"):
        Answers(np.array([0]), 3, delta=np.array([1.0]))


def test_words():
    outputs, classes = np.array([[3.0, 1.0, 0.0]]), np.array([0])
    assert Answers.of(outputs, classes).describe() == "class stays"
    assert Answers.of(outputs, classes, towards=2).describe() == "class stays above class 2"
    words = Answers.of(outputs, classes, delta=0.25).describe()
    assert words == "output stays within 0.25 of its value"
    words = Answers.of(outputs, classes, class_groups=[0, 0, 1]).describe()
    assert words == "class stays in its group, of the groups [0, 0, 1]"
