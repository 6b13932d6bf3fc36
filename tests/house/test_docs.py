"""The documentation: examples run as they are printed, and no page or picture is left over."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from networks import sequential
from rotation import in_turn

ROOT = Path(__file__).parents[2]
# run by tests/bounds/test_layer_table.py and test_command_line_page.py, which look at results
ELSEWHERE = ("engine", "command-line")
PAGES = [
    path
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if "```python" in path.read_text() and path.stem not in ELSEWHERE
]
LONG = [path for path in PAGES if path.stem in ("attribution-bound", "sufficient-reason")]
QUICK = [path for path in PAGES if path not in LONG]

# A block of code, and the block of text right below it that says what it prints.
EXAMPLE = re.compile(
    r"^```python\n(.+?)^```\n(?:\n```text\n(.+?)^```\n)?", flags=re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize("path", [*QUICK, *in_turn(LONG, 1)], ids=lambda path: path.stem)
def test_examples_run_as_printed(path, tmp_path, monkeypatch, capsys):
    if "from xplique" in path.read_text():
        pytest.importorskip("xplique", reason="Xplique is not installed")
    monkeypatch.chdir(tmp_path)
    import keras

    layers = [keras.layers.Flatten(), keras.layers.Dense(3)]
    sequential((6, 6, 1), *layers).save("model.keras")
    np.save("images.npy", np.random.default_rng(0).random((2, 6, 6, 1), dtype="float32"))
    names = {}
    # Later examples of a page use what earlier ones have made.
    for code, printed in EXAMPLE.findall(path.read_text()):
        capsys.readouterr()
        exec(compile(code, str(path), "exec"), names)
        if printed:  # on the page, lines are broken where they are too long for a screen
            assert capsys.readouterr().out.split() == printed.split()


def test_every_page_and_picture_is_used():
    listed = (ROOT / "mkdocs.yml").read_text()
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert all(path.relative_to(ROOT / "docs").as_posix() in listed for path in pages)
    text = "".join(path.read_text() for path in pages)
    pictures = [p for end in ("png", "svg") for p in (ROOT / "docs" / "images").glob(f"*.{end}")]
    assert all(f"images/{picture.name}" in text for picture in pictures)


def test_the_map_of_the_house_is_up_to_date():
    grimp = pytest.importorskip("grimp", reason="reads the imports; it comes with import-linter")
    generator = runpy.run_path(str(ROOT / "docs" / "generate_house.py"))
    current = generator["page"](grimp.build_graph("xcertify"))
    assert generator["PAGE"].read_text() == current, "run: python docs/generate_house.py"


def test_badges_and_citation_are_up_to_date():
    generator = runpy.run_path(str(ROOT / "docs" / "generate_badges.py"))
    for name, value in generator["badges"]().items():
        drawn = (generator["IMAGES"] / f"badge-{name}.svg").read_text()
        assert drawn == generator["draw"](name, value), "run: python docs/generate_badges.py"
    version = generator["badges"]()["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        assert f"version = {{{version}}}" in page.read_text()
