"""Certificates of sets of features that are enough for an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xcertify.answers import Answers
from xcertify.certificates.base import Certificate
from xcertify.certificates.forms import BOOLEANS, FLOATS, INTEGERS, WORDS, Form, Rows, refuse_inputs
from xcertify.certificates.origins import as_json, numbers_of
from xcertify.certificates.stored import header_from
from xcertify.regions import Ball, Box, Region


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

    _rows: ClassVar[dict[str, Form]] = {
        "irrelevant": Form(BOOLEANS, ("features",)),
        "needed": Form(BOOLEANS, ("features",)),
        "unknown": Form(BOOLEANS, ("features",)),
        "features": Form(INTEGERS, ("features",)),
        "sizes": Form(INTEGERS),
        "smallest": Form(INTEGERS),
        "targets": Form(INTEGERS),
        "contributions": Form(FLOATS, ("features",), "infinite"),
        "seconds": Form(FLOATS),
        "reason": Form(WORDS),
        "witness_groups": Form(INTEGERS, ragged=True),
        "witness_inputs": Form(FLOATS, ("input",), ragged=True),
    }
    _earlier: ClassVar[frozenset[str]] = frozenset({"text", "irrelevant", "witness_samples"})
    _words: ClassVar[dict[str, Any]] = {"settings": dict, "fingerprint": str}

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

    @property
    def witness_groups(self) -> list[np.ndarray]:
        """N arrays (M,) int: the labels of the groups that witnesses are for."""
        return [np.array([*own], np.int64) for own in self.witnesses]

    @property
    def witness_inputs(self) -> list[np.ndarray]:
        """N arrays (M, *input) float32: the witnesses, in the order of `witness_groups`."""
        shape = (-1, *self.region.shape)
        return [np.array([*own.values()], np.float32).reshape(shape) for own in self.witnesses]

    @classmethod
    def _fields(cls, rows: Rows, shared: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
        found = super()._fields(rows, shared, words)
        pairs = zip(found.pop("witness_groups"), found.pop("witness_inputs"))
        return found | {"witnesses": [dict(zip(g.tolist(), points)) for g, points in pairs]}

    @classmethod
    def _of_parts(
        cls, rows: Rows, shared: dict[str, Any], words: dict[str, Any], **common: Any
    ) -> ReasonCertificate:
        found = super()._of_parts(rows, shared, words, **common)
        if found.attacked is None:
            raise ValueError("attacked (rows of the certificate) must be given. Received: none")
        for side, name in (("certified", "sizes"), ("attacked", "smallest")):
            differ = getattr(found, side) != getattr(found, name)
            refuse_inputs(differ, f"{side} is not {name}")
        return found

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
        refuse_inputs((words.sum(axis=0) != 1), "a feature is not exactly one of the three words")
        beyond = (self.smallest < 0) | (self.smallest > self.sizes)
        refuse_inputs(beyond, "smallest is not up to sizes")
        if self.answers.delta is None or self.answers.nb_outputs > 1:
            differ = self.targets != self.answers.classes
            refuse_inputs(differ, "the targets are not those of answers")
        labels = [
            np.unique(own[kept], return_index=False) for own, kept in zip(self.features, self.kept)
        ]
        sizes = np.array([len(some) for some in labels], int)
        refuse_inputs(sizes != self.sizes, "sizes are not the numbers of groups that are kept")
        for word in words:
            mixed = [np.isin(own[~mask], own[mask]).any() for own, mask in zip(self.features, word)]
            refuse_inputs(np.array(mixed), "a group of features has more than one word")
        asked = [
            set(found) != set(own[mask].tolist())
            or any(np.shape(point) != self.region.shape for point in found.values())
            for found, own, mask in zip(self.witnesses, self.features, self.needed)
        ]
        refuse_inputs(np.array(asked), "witnesses are not one input for each group that is needed")

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
        return super().to_dict() | {"witnesses": found, "settings": as_json(self.settings)}

    @classmethod
    def _of_earlier(cls, arrays: dict[str, np.ndarray]) -> ReasonCertificate:
        text = header_from(str(arrays["text"]))
        try:
            radius = arrays.get("epsilon")
            if radius is None:
                region: Region = Box(arrays["lower"], arrays["upper"], arrays["center"])
            else:
                norm, clip = (numbers_of(text["region"][name]) for name in ("norm", "clip"))
                region = Ball(arrays["center"], radius, norm, clip)
            answers = Answers.from_dict(text["answers"])
            samples = [arrays["witness_samples"] == n for n in range(len(region))]
            rows: Rows = {name: arrays[name] for name in cls._rows if name in arrays}
            for name in ("witness_groups", "witness_inputs"):
                rows[name] = [arrays[name][own] for own in samples]
            rows["certified"], rows["attacked"] = (
                rows[name].astype(np.float64) for name in ("sizes", "smallest")
            )
            words = {name: text[name] for name in cls._words}
            common = {"method": text["method"], "arithmetic": text["arithmetic"], "origin": None}
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"the file must be of sufficient reasons: {error!r}") from error
        for name, value in vars(answers).items():
            if isinstance(value, np.ndarray) and name != "class_groups":
                rows[f"answers.{name}"] = value
        words["answers.nb_outputs"] = answers.nb_outputs
        groups = answers.class_groups
        shared = {} if groups is None else {"answers.class_groups": groups}
        return cls._of_parts(rows, shared, words, region=region, **common)

    def __repr__(self) -> str:
        shares = [f"{np.median(self.sizes):g} of {np.median(self.nb_groups):g} features"]
        shares += [f"fewer than {np.median(self.smallest):g} are not"]
        return (
            f"<ReasonCertificate: {shares[0]} are proved to be enough, {shares[1]} (medians of "
            f"{len(self.sizes)}), so that the {self.answers.describe()} on {self.region}; "
            f"{int(self.minimal.sum())} sets proved minimal; {self._how}>"
        )
