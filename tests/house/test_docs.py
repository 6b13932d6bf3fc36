"""The documentation: examples run as they are printed, and no page or picture is left over."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from networks import sequential

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("engine",)  # tests/bounds/test_layer_table.py runs these and looks at what they give
PAGES = [
    path
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if "```python" in path.read_text() and path.stem not in ELSEWHERE
]


def examples(path):
    return re.findall(r"^```python\n(.+?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_examples_run_as_printed(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import keras

    layers = [keras.layers.Flatten(), keras.layers.Dense(3)]
    sequential((6, 6, 1), *layers).save("model.keras")
    np.save("images.npy", np.random.default_rng(0).random((2, 6, 6, 1), dtype="float32"))
    names = {}
    for code in examples(path):  # later ones of a page use what earlier ones have made
        exec(compile(code, str(path), "exec"), names)


def test_every_page_and_picture_is_used():
    listed = (ROOT / "mkdocs.yml").read_text()
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert all(path.relative_to(ROOT / "docs").as_posix() in listed for path in pages)
    text = "".join(path.read_text() for path in pages)
    pictures = (ROOT / "docs" / "images").glob("*.png")
    assert all(f"images/{picture.name}" in text for picture in pictures)


def test_the_map_of_the_house_is_up_to_date():
    grimp = pytest.importorskip("grimp", reason="reads the imports; it comes with import-linter")
    generator = runpy.run_path(str(ROOT / "docs" / "generate_house.py"))
    current = generator["page"](grimp.build_graph("xcertify"))
    assert generator["PAGE"].read_text() == current, "run: python docs/generate_house.py"
