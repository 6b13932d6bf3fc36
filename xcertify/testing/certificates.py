"""The rule about certificates."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import tensorflow as tf

from xcertify.certificates import Certificate
from xcertify.certificates.stored import restored, stored
from xcertify.testing.case import Case, arrays_of


def check_certificate(case: Case) -> bool:
    """What `certify` gives, in all forms of inputs and targets; False without `certify`."""
    if len(case.methods(case.explainer)) == 1:
        return False
    certify = case.explainer.certify
    certificate = case.call(certify, case.inputs, case.labels)
    _check_dataclass(case, certificate)
    if isinstance(certificate, Certificate):
        _check_file(case, certificate)
    whole = arrays_of(certificate)
    pairs = tf.data.Dataset.from_tensor_slices((case.inputs, case.labels)).batch(2)
    for what, arguments in {
        "a second call": (case.inputs, case.labels),
        "tensors and one-hot rows": (tf.constant(case.inputs), tf.constant(case.one_hot)),
        "a data set": (pairs, None),
    }.items():
        case.agree_in(what, arrays_of(case.call(certify, *arguments)), whole)
    expected = arrays_of(case.call(certify, case.inputs, case.predicted))
    case.agree_in("targets=None", arrays_of(case.call(certify, case.inputs)), expected)
    single = arrays_of(case.call(certify, case.inputs[:1], case.labels[:1]))
    of_inputs = [name for name, array in whole.items() if len(array) == len(case.inputs)]
    if not of_inputs:
        case.fail(f"a certificate must have arrays with N first. Received: {certificate!r}")
    for name, array in whole.items():
        shape = (1, *array.shape[1:])
        if single[name].shape != shape and not np.array_equal(single[name], array):
            case.fail(
                f"the array {name!r} of a certificate must have N first, {shape} for one input, or "
                f"be the same for all inputs. Received: {single[name].shape} for one, "
                f"{array.shape} for {len(case.inputs)}"
            )
    return True


def _check_dataclass(case: Case, certificate: Any) -> None:
    """Refuse what is no frozen dataclass with a repr and `to_dict`."""
    kind = type(certificate).__name__
    if not hasattr(certificate, "__dataclass_fields__"):
        case.fail(f"a certificate must be a frozen dataclass. Received: {kind}")
    name = dataclasses.fields(certificate)[0].name
    try:
        setattr(certificate, name, getattr(certificate, name))
    except AttributeError:
        pass
    else:
        case.fail(
            f"a certificate must be a frozen dataclass. Received: {kind}, whose {name!r} can be set"
        )
    text = repr(certificate)
    if " at 0x" in text or "array(" in text:
        case.fail(f"a certificate must have a repr that sums it up. Received: {text[:200]}")
    try:
        json.dumps(certificate.to_dict())
    except (AttributeError, TypeError) as error:
        case.fail(f"a certificate must have to_dict(), ready for JSON. Received: {error}")


def _check_file(case: Case, certificate: Certificate) -> None:
    """Refuse a certificate that a file does not hold, or that does not say where it comes from."""
    again = restored(stored(certificate))
    if repr(again.to_dict()) != repr(certificate.to_dict()):
        case.fail(f"a certificate must be the same from a file. Received: {again!r}")
    kind = type(case.explainer).__name__
    if certificate.origin is None or certificate.origin.explainer != kind:
        case.fail(f"a certificate must have an origin that names {kind}. Received: {certificate!r}")
