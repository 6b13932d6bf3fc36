"""Certificates of sets of features that are enough for an answer."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xcertify.answers import Answers
from xcertify.certificates.base import Certificate, plain
from xcertify.radii import Interval
from xcertify.regions import Ball, Box, Region

_ARRAYS = (
    *("irrelevant", "needed", "unknown", "features", "sizes", "smallest", "targets"),
    *("contributions", "seconds", "reason"),
)
_WORDS = ("method", "arithmetic", "settings", "fingerprint")
_NOT_WRITTEN = "only the regions of a Ball or a Box can be written, not parts of them. Received: {}"


@dataclass(frozen=True, repr=False)
class ReasonCertificate(Certificate):
    """Which features are enough for the answer of a model, one set per input (SufficientReason).

    Features come in groups that are freed together: without groups each is one of its own.
    *features is (H, W) for images (channels together), (T, W) for time series, (W,) for tables.

    Attributes
    ----------
    interval
        The size of the smallest sufficient set: `certified` (N,), that of the one found (`sizes`),
        `attacked` (N,), what every sufficient set needs at least (`smallest`).
    irrelevant, needed, unknown
        (N, *features) bool, exactly one of them True for each feature.
    features
        (N, *features) int: the label of each feature's group; without groups its flat row-major
        index.
    sizes
        (N,) int: the number of groups that are needed or unknown.
    smallest
        (N,) int: no sufficient set has fewer groups.
    witnesses
        N dictionaries {label of a needed group: an input (*input) float32}. It differs from the
        input only in irrelevant features and in this group, and has another answer.
    targets
        (N,) int: the class, or the number of the output, that is asked about.
    answers
        What must not change, see `xcertify.reasons.Answers`.
    contributions
        (N, *features) float32: what each contributes to the bound, which `ranked` maps show.
    seconds
        (N,) float64: time that each input took.
    reason
        (N,) words: why features are unknown ("time limit", "interrupted", "bounds", and "branches"
        for near ties); "" where none is.
    settings
        Arguments of the explainer that matter, by name.
    fingerprint
        Hash of the model's weights, see `fingerprint`.

    Guarantee
    ---------
    Of `irrelevant`: no point of the region that differs from the input only in these features, all
    of them at once, has another answer, for the network in the arithmetic that `arithmetic` names;
    a tie counts as another answer. Hence `kept` is a sufficient set.

    Of `needed`: without this group `kept` is not sufficient. The witness shows it: it lies in the
    region, and the model itself gives another answer for it. Where `minimal`, no part of `kept`
    is sufficient.

    Of `smallest`: every sufficient set has at least so many groups, since it holds for every
    witness a group in which that differs from the input.

    **No guarantee** about `unknown` features, nor that there is no smaller set, unless `sizes` and
    `smallest` are equal.
    """

    irrelevant: np.ndarray
    needed: np.ndarray
    unknown: np.ndarray
    features: np.ndarray
    sizes: np.ndarray
    smallest: np.ndarray
    witnesses: list[dict[int, np.ndarray]]
    targets: np.ndarray
    answers: Answers
    contributions: np.ndarray
    seconds: np.ndarray
    reason: np.ndarray
    settings: dict[str, Any]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: slice | np.ndarray) -> ReasonCertificate:
        """What is said of some inputs, by a slice or an array of indices."""
        some = {name: getattr(self, name)[index] for name in (*_ARRAYS, "interval", "answers")}
        witnesses = [self.witnesses[n] for n in np.arange(len(self))[index]]
        return replace(self, region=self.region[index], witnesses=witnesses, **some)

    @property
    def inputs(self) -> np.ndarray:
        """(N, *input): the centers of the regions, with channels last."""
        return self.region.center

    @property
    def kept(self) -> np.ndarray:
        """(N, *features) bool: the sufficient set, needed or unknown."""
        return self.needed | self.unknown

    @property
    def minimal(self) -> np.ndarray:
        """(N,) bool: the set is proved subset-minimal, as nothing is unknown."""
        return np.logical_not(self.unknown).reshape(len(self.unknown), -1).all(axis=1)

    @property
    def vacuous(self) -> np.ndarray:
        """(N,) bool: no group is known to be irrelevant, and none to be needed."""
        known = self.irrelevant | self.needed
        return np.logical_not(known).reshape(len(known), -1).all(axis=1)

    @property
    def nb_groups(self) -> np.ndarray:
        """(N,) int: groups of features that each input has."""
        ordered = np.sort(self.features.reshape(len(self.features), -1), axis=1)
        return 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)

    @property
    def needed_share(self) -> np.ndarray:
        """(N,) float64: the share of an input's groups that is needed."""
        return np.array([len(found) for found in self.witnesses], int) / self.nb_groups

    @property
    def unknown_share(self) -> np.ndarray:
        """(N,) float64: the share that is unknown; with the needed one, that of the set."""
        return self.sizes / self.nb_groups - self.needed_share

    def maps(self, *, ranked: bool = False) -> np.ndarray:
        """What `SufficientReason.explain` shows: 1 needed, .5 unknown, 0 irrelevant.

        Parameters
        ----------
        ranked
            Whether to show, within each word, what features contribute to the bound: then needed
            ones are from .75 to 1, unknown ones from .375 to .625 and irrelevant ones below .25.

        Returns
        -------
        maps
            (N, H, W, 1) for images, else the shape of the inputs.
        """
        words = np.stack([self.irrelevant, self.unknown, self.needed])
        maps = np.tensordot([0.0, 0.5, 1.0], words, 1)
        if ranked:
            flat = self.contributions.reshape(len(maps), -1)
            ordered = np.sort(flat, axis=1)  # equal contributions have equal ranks
            below = np.stack([np.searchsorted(all_, own) for all_, own in zip(ordered, flat)])
            ranks = (below / flat.shape[1]).reshape(maps.shape)
            maps = np.tensordot([0.0, 0.375, 0.75], words, 1) + 0.25 * ranks
        return maps[..., None] if self.region.center.ndim == 4 else maps

    def entries(self, features: np.ndarray) -> np.ndarray:
        """Values (N, *features) at the entries of the inputs, (N, *input)."""
        if features.ndim < self.region.center.ndim:
            features = features[..., None]
        return np.broadcast_to(features, self.region.center.shape)

    def check(self) -> None:
        """Refuse fields that contradict each other, before anything is proved of them.

        Raises
        ------
        ValueError
            Naming the first input of which something is wrong.
        """
        self._check_shapes()
        words = np.stack([self.irrelevant, self.needed, self.unknown])
        _refuse((words.sum(axis=0) != 1), "a feature is not exactly one of the three words")
        _refuse((self.smallest < 0) | (self.smallest > self.sizes), "smallest is not up to sizes")
        if self.answers.delta is None or self.answers.nb_outputs > 1:
            _refuse(self.targets != self.answers.classes, "the targets are not those of answers")
        labels = [
            np.unique(own[kept], return_index=False) for own, kept in zip(self.features, self.kept)
        ]
        sizes = np.array([len(some) for some in labels], int)
        _refuse(sizes != self.sizes, "sizes are not the numbers of groups that are kept")
        for word in words:
            mixed = [np.isin(own[~mask], own[mask]).any() for own, mask in zip(self.features, word)]
            _refuse(np.array(mixed), "a group of features has more than one word")
        asked = [
            set(found) != set(own[mask].tolist())
            or any(np.shape(point) != self.region.shape for point in found.values())
            for found, own, mask in zip(self.witnesses, self.features, self.needed)
        ]
        _refuse(np.array(asked), "witnesses are not one input for each group that is needed")

    def _check_shapes(self) -> None:
        """A ValueError for arrays that are not what the class says."""
        shape = self.region.center.shape
        maps = shape[:-1] if len(shape) == 4 else shape
        for names, kinds, wanted in (
            (("irrelevant", "needed", "unknown"), "b", maps),
            (("features",), "iu", maps),
            (("contributions",), "f", maps),
            (("sizes", "smallest", "targets"), "iu", shape[:1]),
            (("seconds",), "f", shape[:1]),
            (("reason",), "UO", shape[:1]),
        ):
            for name in names:
                array = np.asarray(getattr(self, name))
                if array.dtype.kind not in kinds or array.shape != wanted:
                    raise ValueError(
                        f"{name} of the certificate must have the shape {wanted}. Received: "
                        f"{array.dtype} of shape {array.shape}"
                    )
        if not len(self.witnesses) == len(self.answers) == len(self.region):
            raise ValueError(
                f"the certificate must have witnesses and an answer for each of the "
                f"{len(self.region)} inputs. Received: {len(self.witnesses)} and "
                f"{len(self.answers)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields with arrays as nested lists, ready for JSON; regions and answers, too."""
        found = [{label: x.tolist() for label, x in own.items()} for own in self.witnesses]
        return super().to_dict() | {"witnesses": found, "settings": _written(self.settings)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one .npz file, which `load` reads without executing anything.

        Raises
        ------
        ValueError
            For regions that are neither a `Ball` nor a `Box`.
        """
        with open(path, "wb") as file:
            np.savez_compressed(file, **self.arrays())

    def arrays(self) -> dict[str, Any]:
        """What `save` writes, by name; a file may hold further arrays beside these.

        Raises
        ------
        ValueError
            For regions that are neither a `Ball` nor a `Box`.
        """
        arrays: dict[str, Any] = {n: np.asarray(getattr(self, n)) for n in _ARRAYS}
        samples = [n for n, own in enumerate(self.witnesses) for _ in own]
        points = [point for own in self.witnesses for point in own.values()]
        arrays["witness_samples"] = np.array(samples, np.int64)
        arrays["witness_groups"] = np.array([g for own in self.witnesses for g in own], np.int64)
        arrays["witness_inputs"] = np.array(points, np.float32).reshape(-1, *self.region.shape)
        text: dict[str, Any] = {name: getattr(self, name) for name in _WORDS}
        text["answers"] = self.answers.to_dict()
        region_arrays, text["region"] = _parts(self.region)
        return arrays | region_arrays | {"text": np.array(json.dumps(_written(text)))}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ReasonCertificate:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is not a certificate of sufficient reasons, or was changed so that its parts
            contradict each other.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        try:
            text = json.loads(str(arrays["text"]))
            region = _region_of(arrays, text["region"])
            witnesses: list[dict[int, np.ndarray]] = [{} for _ in range(len(region))]
            places = arrays["witness_samples"], arrays["witness_groups"], arrays["witness_inputs"]
            for sample, group, point in zip(*places):
                witnesses[sample][int(group)] = point
            fields = {name: arrays[name] for name in _ARRAYS} | {n: text[n] for n in _WORDS}
            sizes, smallest = (fields[name].astype(np.float64) for name in ("sizes", "smallest"))
            found = cls(
                region=region,
                interval=Interval(sizes, smallest),
                witnesses=witnesses,
                answers=Answers.from_dict(text["answers"]),
                **fields,
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"the file must be a certificate of sufficient reasons. Received: "
                f"{os.fspath(path)!r} with {', '.join(arrays)}"
            ) from error
        found.check()
        return found

    def __repr__(self) -> str:
        shares = [f"{np.median(self.sizes):g} of {np.median(self.nb_groups):g} features"]
        shares += [f"fewer than {np.median(self.smallest):g} are not"]
        return (
            f"<ReasonCertificate: {shares[0]} are proved to be enough, {shares[1]} (medians of "
            f"{len(self.sizes)}), so that the {self.answers.describe()} on {self.region}; "
            f"{int(self.minimal.sum())} sets proved minimal; {self._how}>"
        )


def _parts(region: Region) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `_region_of` makes the same regions of: arrays, and a dictionary for JSON."""
    if getattr(region, "nb_changed", None) is not None:
        raise ValueError(_NOT_WRITTEN.format(region))
    if region.epsilon is None:
        return {name: getattr(region, name) for name in ("center", "lower", "upper")}, {}
    arrays = {"center": region.center, "epsilon": np.asarray(region.epsilon)}
    words = {"norm": region.norm, "clip": region.clip}
    again = _region_of(arrays, words)
    same = zip((again.lower, again.upper), (region.lower, region.upper))
    if not all(np.array_equal(*sides) for sides in same):
        raise ValueError(_NOT_WRITTEN.format(region))
    return arrays, words


def _region_of(arrays: dict[str, np.ndarray], words: dict[str, Any]) -> Region:
    """Made anew, so that no file says one region and has another."""
    if "epsilon" not in arrays:
        return Box(arrays["lower"], arrays["upper"], arrays["center"])
    return Ball(arrays["center"], arrays["epsilon"], words["norm"], words["clip"])


def _written(value: Any) -> Any:
    """A setting as JSON has it; in words where it is an object."""
    if isinstance(value, dict):
        return {name: _written(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    value = plain(value)
    known = isinstance(value, (bool, int, float, str, list, dict, type(None)))
    return value if known else repr(value)


def _refuse(wrong: np.ndarray, problem: str) -> None:
    """A ValueError that names the first input with anything wrong, (N, ...) bool."""
    samples = wrong.reshape(len(wrong), -1).any(axis=1)
    if samples.any():
        raise ValueError(
            f"the certificate contradicts itself: {problem}, for input {int(np.argmax(samples))}. "
            f"It was changed since it was made"
        )
