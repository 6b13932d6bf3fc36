import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import xcertify

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_import_is_light(tmp_path):
    code = "import sys, xcertify; print(*{'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(Path(xcertify.__file__).parents[1])}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_version_is_the_one_that_is_installed():
    try:
        installed = importlib.metadata.version("xcertify")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("xcertify is used from the checkout, not installed")
    assert xcertify.__version__ == installed


def test_every_part_of_the_checkout_is_installed():
    installed = Path(xcertify.__file__).parent
    parts = {path.relative_to(ROOT / "xcertify") for path in (ROOT / "xcertify").rglob("*.py")}
    assert not {part for part in parts if not (installed / part).is_file()}


def test_changelog_and_readme_are_about_this_package():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    commands = re.findall(r"```bash\n(.+?)\n```", README, flags=re.DOTALL)
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv ") for command in commands)
    assert not any("\n" in command for command in commands)


def test_code_of_the_readme_runs_as_printed(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.+?)```", README, flags=re.DOTALL)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    np.save("images.npy", np.random.default_rng(0).random((2, 8, 8, 1)))
    names = {}
    exec(code, names)
    assert names["maps"].shape == (2, 8, 8, 1)
    assert names["certificate"].robust.shape == (2,)
    assert (tmp_path / "maps.png").stat().st_size > 1000
