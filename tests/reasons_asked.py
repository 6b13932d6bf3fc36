"""Questions of `SufficientReason` to tiny networks, and what every certificate has to pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from brute_force import Area, Net, property_values, read
from conformance import logits_of
from subsets import Property, Subsets, class_stays

from xcertify.regions import Region

CLOSE = 1e-3  # worst values beyond this have to be decided where there is no limit of time


@dataclass(frozen=True)
class Asked:
    """N inputs, regions around them, and of each what must not change.

    labels (N, *features): the group of each feature.
    """

    model: keras.Model
    net: Net
    region: Region
    labels: np.ndarray
    properties: list[Property]
    found: dict[int, Subsets] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        model: keras.Model,
        region: Region,
        labels: Any = None,
        property_of: Callable[[int, np.ndarray], Property] | None = None,
        targets: Any = None,
    ) -> Asked:
        """`property_of` gives the property of a class and the outputs (K,); None: it stays.

        `labels` (*features) or (N, *features); None: every feature is its own.
        """
        plain = logits_of(model)  # which may be a Sequential model, that has no list of layers
        net = read(keras.Model(plain.inputs[0], plain.outputs[0]))
        outputs = net.values(region.center.astype("f8").reshape(len(region), -1))
        nb = outputs.shape[1]
        predicted = outputs.argmax(1) if nb > 1 else (outputs[:, 0] > 0).astype(int)
        property_of = property_of or (lambda own, values: class_stays(own, nb))
        classes = predicted if targets is None else np.asarray(targets)
        features = region.shape[:2]
        if labels is None:
            labels = np.arange(np.prod(features)).reshape(features)
        labels = np.broadcast_to(labels, (len(region), *features))
        properties = [property_of(int(c), values) for c, values in zip(classes, outputs)]
        return cls(model, net, region, labels, properties)

    def __getitem__(self, some: slice) -> Asked:
        arrays = self.region[some], self.labels[some], self.properties[some]
        return Asked(self.model, self.net, *arrays)

    @property
    def predicted(self) -> np.ndarray:
        outputs = self.net.values(self.region.center.astype("f8").reshape(len(self.region), -1))
        return outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).astype(int)

    def entries(self, maps: np.ndarray) -> np.ndarray:
        """Values (*features) of one input at the entries of inputs (*shape)."""
        shape = self.region.shape
        return np.broadcast_to(maps[..., None], shape) if len(shape) == 3 else maps

    def subsets(self, sample: int) -> Subsets:
        """All subsets of the groups of one input, in the order of their labels."""
        if sample not in self.found:
            numbers = np.unique(self.labels[sample], return_inverse=True)[1]
            numbers = self.entries(numbers.reshape(self.labels[sample].shape)).ravel()
            area = Area.of(self.region, sample)
            self.found[sample] = Subsets(self.net, area, numbers, *self.properties[sample])
        return self.found[sample]

    def answers(self, sample: int, points: np.ndarray) -> np.ndarray:
        """The property at points (B, *shape), by one call of the user's model."""
        outputs = self.model.predict_on_batch(points.astype("f4"))
        if _is_probability(self.model):
            outputs = outputs - 0.5
        return property_values(*self.properties[sample], outputs)


def _is_probability(model: keras.Model) -> bool:
    sigmoid = getattr(model.layers[-1], "activation", None) is keras.activations.sigmoid
    return sigmoid and model.output_shape[-1] == 1


def check(certificate: Any, asked: Asked, *, decided: bool = True) -> None:
    """Nothing in a certificate is wrong; with `decided` only near ties are unknown."""
    nb, features = len(asked.region), asked.labels.shape[1:]
    words = {name: getattr(certificate, name) for name in ("irrelevant", "needed", "unknown")}
    for name, maps in words.items():
        assert maps.shape == (nb, *features) and maps.dtype == bool, name
    assert (sum(maps.astype(int) for maps in words.values()) == 1).all()
    np.testing.assert_array_equal(certificate.features, asked.labels)
    np.testing.assert_array_equal(certificate.kept, ~certificate.irrelevant)
    assert len(certificate.witnesses) == len(certificate.reason) == nb
    for name in ("sizes", "smallest", "minimal", "targets", "seconds"):
        assert np.shape(getattr(certificate, name)) == (nb,), name
    np.testing.assert_array_equal(certificate.interval.certified, certificate.sizes)
    np.testing.assert_array_equal(certificate.interval.attacked, certificate.smallest)
    assert (np.asarray(certificate.seconds) >= 0).all()
    np.testing.assert_array_equal(certificate.region.lower, asked.region.lower)
    np.testing.assert_array_equal(certificate.region.upper, asked.region.upper)
    for sample in range(nb):
        _check_sample(certificate, asked, sample, decided)


def _check_sample(certificate: Any, asked: Asked, sample: int, decided: bool) -> None:
    labels, subsets = asked.labels[sample], asked.subsets(sample)
    names = np.unique(labels)
    flags = {}
    for name in ("irrelevant", "needed", "unknown"):
        values = getattr(certificate, name)[sample]
        flags[name] = np.array([values[labels == label].all() for label in names])
        ours = np.isin(labels, names[flags[name]])
        np.testing.assert_array_equal(values, ours, f"a group is part {name}")
    free = subsets.mask_of(flags["irrelevant"])
    assert subsets.immovable & ~free == 0, "what cannot move is irrelevant"
    assert subsets.enough(free) is not False, f"sample {sample}: the set is not enough"

    needed = {int(label) for label in names[flags["needed"]]}
    assert set(certificate.witnesses[sample]) == needed, "one witness for each needed group"
    for label, witness in certificate.witnesses[sample].items():
        allowed = np.isin(labels, names[flags["irrelevant"]]) | (labels == label)
        _check_witness(witness, asked, sample, asked.entries(allowed))

    nb_unknown = int(flags["unknown"].sum())
    assert certificate.sizes[sample] == len(needed) + nb_unknown
    assert bool(certificate.minimal[sample]) == (nb_unknown == 0)
    assert bool(certificate.reason[sample]) == (nb_unknown > 0), certificate.reason[sample]
    assert 0 <= certificate.smallest[sample] <= certificate.sizes[sample]
    assert not subsets.smaller_than(int(certificate.smallest[sample])), "a smaller set is enough"
    if decided:
        for number in np.flatnonzero(flags["unknown"]):
            lowest, highest = subsets.worst(free | 1 << int(number))
            assert lowest < CLOSE and highest > -CLOSE, ("undecided", lowest, highest)


def _check_witness(witness: np.ndarray, asked: Asked, sample: int, allowed: np.ndarray) -> None:
    """Inside the region, the nominal input elsewhere, and another answer as the model computes."""
    assert witness.shape == asked.region.shape and np.isfinite(witness).all()
    assert witness.dtype == asked.region.center.dtype
    point, area = witness.astype("f8").reshape(1, -1), Area.of(asked.region, sample)
    assert area.contains(point, 1e-12).all(), "a witness outside the region"
    np.testing.assert_array_equal(witness[~allowed], asked.region.center[sample][~allowed])
    assert asked.answers(sample, witness[None])[0] <= 0, "a witness that changes nothing"
    (value,) = property_values(*asked.properties[sample], asked.net.values(point))
    assert value <= 1e-6


def same(first: Any, second: Any, some: slice = slice(None)) -> None:
    """Two certificates say the same, the second of some of the inputs of the first."""
    names = ("irrelevant", "needed", "unknown", "features", "sizes", "smallest", "targets")
    for name in names:
        expected, found = getattr(first, name)[some], getattr(second, name)
        np.testing.assert_array_equal(found, expected, name)
    assert list(first.reason[some]) == list(second.reason)
    np.testing.assert_allclose(
        second.contributions, first.contributions[some], rtol=1e-4, atol=1e-6
    )
    for ours, theirs in zip(first.witnesses[some], second.witnesses):
        assert ours.keys() == theirs.keys()
