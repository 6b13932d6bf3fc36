"""Rows of runs whose columns were changed by somebody are refused."""

import numpy as np
import pyarrow as pa
import pytest
from networks import sequential

from xcertify.attributions import EVA
from xcertify.runs.rows import check_proved, rows_of

NUMBERS = np.arange(4, 7)


@pytest.fixture(scope="module")
def rows():
    """Rows of three inputs, and their certificate."""
    import keras

    model = sequential((5,), keras.layers.Dense(3))
    inputs = np.random.default_rng(0).random((3, 5), dtype="float32")
    certificate = EVA(model, epsilon=0.1, clip=(0.0, 1.0)).certify(inputs)
    targets = certificate.targets.tolist()
    return rows_of(NUMBERS, [None] * 3, [None] * 3, targets, 0.1, certificate), certificate


def with_column(table, name, values):
    place = table.column_names.index(name)
    return table.set_column(place, table.field(place), pa.array(values, table.field(place).type))


def test_rows_as_they_were_written_are_taken(rows):
    table, certificate = rows
    check_proved(table, NUMBERS, certificate)


@pytest.mark.parametrize("name", ["target", "certified", "looseness", "vacuous", "robust"])
def test_a_column_that_is_not_of_the_certificate_is_refused(rows, name):
    table, certificate = rows
    values = table[name].to_pylist()
    values[1] = not values[1] if isinstance(values[1], bool) else values[1] + 1
    with pytest.raises(ValueError, match=f"row of input 5 was changed: {name}"):
        check_proved(with_column(table, name, values), NUMBERS, certificate)


def test_each_input_has_an_error_or_a_certificate(rows):
    table, certificate = rows
    with pytest.raises(ValueError, match="row of input 6 has both an error and a certificate"):
        check_proved(table.slice(0, 2), NUMBERS, certificate)
    with pytest.raises(ValueError, match="row of input 6 has neither an error nor"):
        check_proved(table, NUMBERS[:2], certificate[:2])
