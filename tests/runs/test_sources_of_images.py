"""Pictures become the arrays that the page on inputs promises, or an error of their own."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from xcertify.runs.sources import open_source, reopened

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pictures"


def save(folder, name, pixels, mode=None, **options):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(file, **options)


def pixels(folder, **options):
    """Of the only picture, as bytes again."""
    batch = open_source(str(folder), scale=1, **options).read(0, 1)
    assert batch.errors == [None]
    return batch.inputs[0]


def fault(folder, **options):
    (error,) = open_source(str(folder), **options).read(0, 1).errors
    return error


def test_pictures_of_sub_folders_in_the_order_of_their_paths(folder):
    for name in ("b/2.png", "b/10.png", "a/1.JPG", "b/sub/x.bmp"):
        save(folder, name, GREY)
    for name in ("notes.txt", "b/.hidden.png", ".cache/x.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no picture")
    source = open_source(str(folder), shape=(3, 4, 1), targets="labels")
    batch = source.read(0, 4)
    assert batch.names == ["a/1.JPG", "b/10.png", "b/2.png", "b/sub/x.bmp"]
    assert batch.targets == [0, 1, 1, 1]
    assert source.describe()["classes"] == ["a", "b"]
    np.testing.assert_array_equal(batch.inputs[1][..., 0], GREY / np.float32(255))
    assert reopened(source.describe()).describe() == source.describe()
    assert open_source(str(folder), shape=(3, 4, 1)).read(0, 1).targets is None


def test_one_picture(folder):
    save(folder, "one.png", GREY)
    assert open_source(str(folder / "one.png")).read(0, 1).names == ["one.png"]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 4, 1), (3, 4, 1)), ((3, 4), (3, 4)), ((None, None, 3), (3, 4, 3)), (None, (3, 4, 1))],
)
def test_shape_is_the_models_and_where_that_is_free_the_pictures(folder, shape, expected):
    save(folder, "a.png", GREY)
    source = open_source(str(folder), shape=shape)
    assert source.shape == expected == source.read(0, 1).inputs[0].shape


def test_grey_and_colour_by_the_model(folder):
    save(folder, "a.png", COLOUR)
    np.testing.assert_array_equal(pixels(folder, shape=(3, 4, 3)), COLOUR)
    grey = COLOUR @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(pixels(folder, shape=(3, 4, 1))[..., 0], grey, atol=0.51)
    save(folder, "a.png", GREY)
    np.testing.assert_array_equal(pixels(folder, shape=(3, 4, 3)), np.stack([GREY] * 3, axis=-1))


def test_palettes_and_black_and_white(folder):
    save(folder, "a.gif", GREY, "P")
    np.testing.assert_array_equal(pixels(folder, shape=(3, 4, 1))[..., 0], GREY)
    (folder / "a.gif").unlink()
    save(folder, "a.png", Image.fromarray(GREY).convert("1"))
    assert set(np.unique(pixels(folder))) <= {0, 255}


def test_opaque_alpha_is_left_out_and_transparency_an_error(folder):
    opaque = np.concatenate([COLOUR, np.full((3, 4, 1), 255, np.uint8)], axis=-1)
    save(folder, "a.png", opaque)
    np.testing.assert_array_equal(pixels(folder, shape=(3, 4, 3)), COLOUR)
    np.testing.assert_array_equal(pixels(folder, shape=(3, 4, 4)), opaque)
    opaque[0, 0, 3] = 254
    save(folder, "a.png", opaque)
    assert fault(folder, shape=(3, 4, 3)) == (
        "is transparent in places: lay it over a background first"
    )
    save(folder, "a.png", Image.fromarray(GREY).convert("P"), transparency=0)
    assert "is transparent" in fault(folder, shape=(3, 4, 1))


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_are_an_error(folder, kind):
    save(folder, f"a.{kind}", GREY.astype(np.uint16) * 257)
    assert "pixels of more than 8 bits" in fault(folder, shape=(3, 4, 1))


def test_sixteen_bits_of_colour_are_an_error_though_pillow_would_cut_them(folder):
    import struct
    import zlib

    def chunk(kind, data):
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    rows = b"".join(b"\0" + bytes(4 * 6) for _ in range(3))
    header = struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0)
    folder.mkdir()
    (folder / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert "pixels of more than 8 bits" in fault(folder, shape=(3, 4, 3))


def test_pictures_are_turned_as_their_exif_says(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    save(folder, "a.png", COLOUR, exif=exif)
    turned = pixels(folder)
    assert turned.shape == (4, 3, 3)
    np.testing.assert_array_equal(turned, np.rot90(COLOUR, k=-1))


def test_another_size_is_an_error_of_that_picture_unless_a_size_is_asked(folder):
    save(folder, "a.png", GREY)
    save(folder, "b.png", GREY.T.copy())
    batch = open_source(str(folder), shape=(3, 4, 1)).read(0, 2)
    assert batch.errors[0] is None and batch.inputs[1] is None
    assert batch.errors[1].startswith(
        "is 4 x 3 pixels, and 3 x 4 are taken: resize with --size 3 4"
    )
    source = open_source(str(folder), shape=(None, None, 1), size=(6, 8))
    batch = source.read(0, 2)
    assert source.shape == (6, 8, 1) and batch.errors == [None, None]
    assert {picture.shape for picture in batch.inputs} == {(6, 8, 1)}


def test_unreadable_pictures_are_errors_and_the_others_are_read(folder):
    save(folder, "c.png", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    whole = (folder / "c.png").read_bytes()
    (folder / "a.png").write_bytes(b"no picture at all")
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    batch = open_source(str(folder)).read(0, 3)
    assert batch.errors[0] == "is no picture that Pillow can read"
    assert batch.errors[1].startswith("cannot be read: ")
    assert batch.errors[2] is None and batch.inputs[2] is not None


def test_a_picture_that_is_gone_is_an_error(folder):
    save(folder, "a.png", GREY)
    save(folder, "b.png", GREY)
    source = open_source(str(folder))
    (folder / "b.png").unlink()
    assert [error is None for error in source.read(0, 2).errors] == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (12,)}, r"the model takes \(12,\): give the inputs as a .npy file"),
        ({"shape": (3, 28, 28)}, r"pictures are \(H, W, C\) with 1, 3 or 4 channels"),
        ({"shape": (3, 4, 1), "size": (6, 8)}, "must be the 3 x 4 pixels .* Received: 6 x 8"),
        ({"size": (6,)}, r"size must be H and W, two whole numbers. Received: \(6,\)"),
        ({"size": (6, -8)}, "size must be H and W"),
        ({"columns": ["a"]}, "columns is not for pictures"),
        ({"targets": "labels"}, "labels are the sub-folders .* Received: a.png in none"),
    ],
)
def test_wrong_options(folder, options, message):
    save(folder, "a.png", GREY)
    with pytest.raises(ValueError, match=message):
        open_source(str(folder), **options)


def test_a_folder_without_pictures(folder):
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="has no pictures: files that end in .bmp"):
        open_source(str(folder))


def test_the_folder_is_never_held_whole(folder):
    for number in range(60):
        save(folder, f"{number}.bmp", np.full((64, 64), number, np.uint8))
    source = open_source(str(folder), shape=(64, 64, 1))
    tracemalloc.start()
    for first in range(0, 60, 4):
        source.read(first, first + 4)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 60 * 64 * 64 * 4 / 2  # bytes: half of all inputs in float32
