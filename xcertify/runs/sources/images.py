"""Inputs of a folder of pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from xcertify.runs.sources.base import Batch, Source
from xcertify.runs.sources.scale import Scale

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Channels -> Pillow's mode.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ImageFolder(Source):
    """The pictures of a folder and of its sub-folders, in the order of their relative paths.

    Files that do not end like a picture, and hidden ones, are passed over. Of each picture:

    * Grey or colour as the model takes it: grey is made of colour by 0.299 R + 0.587 G + 0.114 B
      (Pillow's "L"), colour of grey by three equal channels; palettes become colours.
    * It is turned as its EXIF orientation says, as viewers show it. (Keras' own loaders do not turn
      it: a picture with an orientation then is not the array that was trained on.)
    * It is resized, with smoothing (Pillow's bilinear), only if `size` is given; else another size
      than the model's is an error of that picture.
    * Transparency that is used is an error of that picture, as nobody knows what lies behind;
      an alpha channel that is opaque everywhere is left out.
    * Pixels of more than 8 bits are an error of that picture.
    * Of an animation the first frame is taken.

    Parameters
    ----------
    folder
        The folder, or one picture.
    shape
        Of one input as the model takes it: (H, W, C) or (H, W), None where it is free. What is free
        is that of the first picture that can be read.
    size
        (H, W) to which every picture is resized.
    scale, offset
        A pixel is ``byte * scale + offset``, as in `keras.layers.Rescaling`. Default: 1/255 and 0.
    labels
        Whether the targets are the numbers of the sub-folders of `folder`, in the order of names.

    Raises
    ------
    FileNotFoundError, ValueError
        For a folder without pictures, models that take none, sizes that contradict each other, and
        labels of pictures that lie in no sub-folder.
    """

    kind = "images"

    def __init__(
        self,
        folder: str,
        *,
        shape: tuple[int | None, ...] | None = None,
        size: tuple[int, int] | None = None,
        scale: float | None = None,
        offset: float | None = None,
        labels: bool = False,
    ):
        self.path = str(Path(folder).absolute())
        self._scale = Scale.of(scale, offset, default=1 / 255)
        one = Path(folder).is_file()
        self._root = Path(self.path).parent if one else Path(self.path)
        self._names = [Path(folder).name] if one else list(_pictures_under(self._root))
        if not self._names:
            raise FileNotFoundError(
                f"{folder} has no pictures: files that end in {', '.join(SUFFIXES)}"
            )
        self._size = None if size is None else _checked_size(size)
        self.shape = self._whole_shape(shape)
        self._classes = self._sub_folders() if labels else None

    def __len__(self) -> int:
        return len(self._names)

    def _files(self) -> list[Path]:
        return [self._root / name for name in self._names]

    def _options(self) -> dict[str, Any]:
        size = None if self._size is None else list(self._size)
        options = {"size": size, **self._scale.options(), "targets": None}
        return options | ({"targets": "labels", "classes": self._classes} if self._classes else {})

    def _read(self, first: int, last: int) -> Batch:
        names = self._names[first:last]
        inputs: list[np.ndarray | None] = []
        errors: list[str | None] = []
        for name in names:
            try:
                inputs.append(self._scale(self._pixels(name)))
                errors.append(None)
            except ValueError as error:
                inputs.append(None)
                errors.append(str(error))
        printable = [os.fsencode(name).decode("utf-8", "replace") for name in names]
        targets = None
        if self._classes is not None:
            targets = [self._classes.index(name.split("/")[0]) for name in names]
        return Batch(inputs, errors, list(printable), targets)

    def _pixels(self, name: str) -> np.ndarray:
        """(H, W, C) or (H, W) uint8 of one picture."""
        picture = _opened(self._root / name)
        height, width = self.shape[:2]
        if self._size is None and picture.size != (width, height):
            raise ValueError(
                f"is {picture.size[1]} x {picture.size[0]} pixels, and {height} x {width} are "
                f"taken: resize with --size {height} {width} (in Python, size=({height}, {width}))"
            )
        channels = self.shape[2] if len(self.shape) == 3 else 1
        picture = _without_alpha(picture) if channels < 4 else picture
        picture = picture.convert(_MODES[channels])
        if self._size is not None and picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(self.shape)

    def _whole_shape(self, shape: tuple[int | None, ...] | None) -> tuple[int, ...]:
        """The model's shape, with the size where it is free, then that of the first picture."""
        wanted = (None, None, None) if shape is None else shape
        if len(wanted) not in (2, 3) or wanted[2:] not in ((), (None,), (1,), (3,), (4,)):
            raise ValueError(
                f"pictures are (H, W, C) with 1, 3 or 4 channels, or (H, W), and the model takes "
                f"{shape}: give the inputs as a .npy file. Received: {self.path}"
            )
        if self._size is not None:
            if any(free not in (None, n) for free, n in zip(wanted, self._size)):
                raise ValueError(
                    f"size must be the {wanted[0]} x {wanted[1]} pixels that the model takes. "
                    f"Received: {self._size[0]} x {self._size[1]}"
                )
            wanted = (*self._size, *wanted[2:])
        if None in wanted:
            picture = self._first_readable()
            channels = 1 if picture.mode in ("1", "L", "LA") else 3
            own = (picture.size[1], picture.size[0], channels)
            wanted = tuple(n if free is None else free for free, n in zip(wanted, own))
        return tuple(n for n in wanted if n is not None)

    def _first_readable(self) -> Image.Image:
        for name in self._names:
            try:
                return _opened(self._root / name)
            except ValueError:
                continue
        raise ValueError(f"none of the {len(self)} pictures of {self.path} can be read")

    def _sub_folders(self) -> list[str]:
        alone = [name for name in self._names if "/" not in name]
        if alone:
            raise ValueError(
                f"labels are the sub-folders that pictures lie in. Received: {alone[0]} in none"
            )
        return sorted(
            entry.name
            for entry in self._root.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )


def _pictures_under(root: Path) -> list[str]:
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [
            (Path(folder) / name).relative_to(root).as_posix()
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def _checked_size(size: Any) -> tuple[int, int]:
    try:
        height, width = (int(n) for n in size if n == int(n) and n > 0)
    except (TypeError, ValueError):
        raise ValueError(f"size must be H and W, two whole numbers. Received: {size!r}") from None
    return height, width


def _opened(file: Path) -> Image.Image:
    """The picture as it is to be seen.

    Raises
    ------
    ValueError
        In words that follow the file's name.
    """
    try:
        with Image.open(file) as picture:
            deep = _has_deep_pixels(picture)
            picture.load()
            turned = ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        raise ValueError("is no picture that Pillow can read") from None
    except Exception as error:  # Pillow raises whatever the bytes make go wrong
        raise ValueError(f"cannot be read: {error}") from error
    if deep:
        raise ValueError(
            f"has pixels of more than 8 bits (Pillow's mode {picture.mode}): store it with 8, or "
            f"give the inputs as a .npy file"
        )
    return turned


def _has_deep_pixels(picture: Image.Image) -> bool:
    """Whether Pillow would cut or clip values: asked before loading, which forgets it."""
    stored = " ".join(str(tile[3]) for tile in getattr(picture, "tile", ()))
    return picture.mode[0] in "IF" or re.search(r";(16|32)[BLN]|;12", stored) is not None


def _without_alpha(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    if picture.getchannel("A").getextrema() != (255, 255):
        raise ValueError("is transparent in places: lay it over a background first")
    return picture.convert("RGB")
