"""Inputs of a data set of tensorflow_datasets that is prepared on this machine."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xcertify import datasets
from xcertify.inputs import check_input_shape
from xcertify.runs.sources.base import Batch, Source, nameless
from xcertify.runs.sources.scale import Scale

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


class PreparedImages(Source):
    """Labelled images of tensorflow_datasets, in the order of its files; nothing is downloaded.

    Reading from the middle of a file passes over what stands before: this is quick where files are
    of the usual size, some hundred MB.

    Parameters
    ----------
    text
        ``tfds:NAME/SPLIT``, such as ``tfds:mnist/test`` or ``tfds:mnist/test[:100]``; without
        ``/SPLIT`` the split is "test".
    shape
        Of one input as the model takes it, None where it is free; None: not checked.
    scale, offset
        A pixel is ``byte * scale + offset``. Default: 1/255 and 0.
    data_dir
        As for `xcertify.datasets.load`.
    labels
        Whether the targets are the labels of the data set.

    Raises
    ------
    FileNotFoundError, ValueError
        As `xcertify.datasets.load`, and for a split or images that do not fit.
    """

    kind = "tfds"

    def __init__(
        self,
        text: str,
        *,
        shape: tuple[int | None, ...] | None = None,
        scale: float | None = None,
        offset: float | None = None,
        data_dir: str | None = None,
        labels: bool = False,
    ):
        self.path = text
        self._name, _, split = text.removeprefix("tfds:").partition("/")
        if not self._name[:1].isalpha():
            raise ValueError(f"inputs must name a data set, tfds:NAME/SPLIT. Received: {text!r}")
        self._data_dir = None if data_dir is None else str(Path(data_dir).absolute())
        self._labels = labels
        self._scale = Scale.of(scale, offset, default=1 / 255)
        self.shape = tuple(self._builder.info.features["image"].shape)
        self._pieces = self._pieces_of(split or "test")
        check_input_shape((len(self), *self.shape), shape)

    @cached_property
    def _builder(self) -> tfds.core.DatasetBuilder:
        return datasets.prepared(self._name, data_dir=self._data_dir)

    def __len__(self) -> int:
        return sum(last - first for _, first, last in self._pieces)

    def _files(self) -> list[Path]:
        return sorted(path for path in Path(self._builder.data_dir).iterdir() if path.is_file())

    def _options(self) -> dict[str, Any]:
        return {
            **self._scale.options(),
            "data_dir": self._data_dir,
            "version": str(self._builder.version),
            "targets": "labels" if self._labels else None,
        }

    def _pieces_of(self, split: str) -> list[tuple[str, int, int]]:
        """What a split is, as (name, first, last) of those in the files."""
        import tensorflow_datasets as tfds

        try:
            asked = tfds.core.ReadInstruction.from_spec(split).to_absolute(
                self._builder.info.splits
            )
        except Exception as error:  # tensorflow_datasets has errors of many kinds for it
            splits = ", ".join(self._builder.info.splits)
            raise ValueError(
                f"the split must be one of {splits}, or a part of it such as test[:100]. "
                f"Received: {split!r}"
            ) from error
        sizes = {name: facts.num_examples for name, facts in self._builder.info.splits.items()}
        return [
            (
                piece.splitname,
                piece.from_ or 0,
                sizes[piece.splitname] if piece.to is None else piece.to,
            )
            for piece in asked
        ]

    def _read(self, first: int, last: int) -> Batch:
        images: list[np.ndarray | None] = []
        targets: list[Any] = []
        for split, begin, end in self._pieces:
            if first < end - begin and last > 0:
                for example in self._examples(split, begin + max(first, 0), min(end, begin + last)):
                    images.append(self._scale(example["image"]))
                    targets.append(int(example["label"]))
            first, last = first - (end - begin), last - (end - begin)
        return nameless(images, targets if self._labels else None)

    def _examples(self, split: str, first: int, last: int) -> Any:
        import tensorflow_datasets as tfds

        part = tfds.core.ReadInstruction(split, from_=first, to=last, unit="abs")
        reading = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        return tfds.as_numpy(self._builder.as_dataset(split=part, read_config=reading))
