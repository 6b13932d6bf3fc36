"""The tests on every supported version: ``pip install nox uv && nox`` (``nox --list`` names them).

Each session makes an environment of its own. TensorFlow 2.21 goes without Xplique, which takes
TensorFlow up to 2.20: the tests beside it are skipped there. What follows ``--`` goes to pytest:
``nox --session oldest -- tests/bounds``.
"""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import nox

nox.needs_version = ">=2025.2.9"  # sessions that require others
nox.options.default_venv_backend = "uv|venv"  # uv, where it is installed, takes a tenth of the time
nox.options.sessions = ["newest", "oldest"]

# TensorFlow -> the versions of Python that it supports
SUPPORTED = {
    "2.18": ["3.10", "3.11", "3.12"],
    "2.19": ["3.10", "3.11", "3.12"],
    "2.20": ["3.10", "3.11", "3.12", "3.13"],
    "2.21": ["3.10", "3.11", "3.12", "3.13"],
}
TESTS = ["pytest>=8", "pytest-xdist>=3.6", "nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"]
EVERY = [
    nox.param(python, tensorflow, age, id=f"python{python}-tensorflow{tensorflow}-{age}")
    for tensorflow, pythons in SUPPORTED.items()
    for python in pythons
    for age in ("oldest", "newest")
]
DIST = Path("dist")
RESULTS = Path("benchmarks/results/versions")
VERSIONS = """
import json, platform
from importlib.metadata import version
found = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
print(json.dumps({"python": platform.python_version()} | found))
"""


def run_tests(session: nox.Session, python: str, tensorflow: str, age: str, *options: str) -> None:
    """Install TensorFlow with the oldest or newest Keras and NumPy that go with it, and test."""
    pins = [f"tensorflow=={tensorflow}.*"]
    if age == "oldest":  # TensorFlow 2.21 needs Keras 3.12, Python 3.13 NumPy 2.1
        pins.append("keras==3.12.*" if tensorflow == "2.21" else "keras==3.10.*")
        pins.append("numpy==2.1.*" if python == "3.13" else "numpy==1.26.*")
    session.install(".[demo]", *TESTS, *pins)
    session.run("pytest", *options, *session.posargs)


def store_result(session: nox.Session, name: str, report: Path) -> None:
    """Keep how many tests passed, and with which versions, for the table of the documentation."""
    versions = json.loads(session.run("python", "-c", VERSIONS, silent=True))
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    commit = session.run("git", "rev-parse", "--short=10", "HEAD", silent=True, external=True)
    about = {
        **versions,
        **counts,
        "of": " ".join(word for word in session.posargs if word.startswith("tests")) or "all",
        "seconds": round(float(suite.get("time"))),
        "commit": commit.strip(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")


@nox.session
@nox.parametrize("python,tensorflow,age", EVERY)
def every(session: nox.Session, tensorflow: str, age: str) -> None:
    """All that go together, a session each: ``nox --session every``; hours. Results are stored."""
    report = Path(session.create_tmp()).resolve() / "report.xml"
    report.unlink(missing_ok=True)  # of an earlier run
    try:
        run_tests(session, session.python, tensorflow, age, f"--junit-xml={report}")
    finally:
        if report.exists():
            store_result(session, f"python{session.python}-tensorflow{tensorflow}-{age}", report)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """The newest of everything."""
    run_tests(session, session.python, "2.21", "newest")


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The oldest of everything."""
    run_tests(session, session.python, "2.18", "oldest")


@nox.session
def reproduce(session: nox.Session) -> None:
    """What the documentation shows of each paper, small, with nothing else to download."""
    session.install(".[benchmark]")
    script = str(Path("benchmarks/reproduce.py").resolve())
    session.chdir(session.create_tmp())
    session.run("python", script, "all", "--quick", "--models", "models", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, in which a warning is an error."""
    session.install(".[docs]")
    site = session.create_tmp()
    # not --quiet: with it, --strict lets warnings pass
    environment = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", "build", "--strict", "--site-dir", site, env=environment)


@nox.session
def dist(session: nox.Session) -> None:
    """Wheel and source archive in ``dist``, checked."""
    session.install("build", "twine>=6")
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(DIST))
    session.run("twine", "check", "--strict", *map(str, DIST.iterdir()))


@nox.session(requires=["dist"], venv_backend="venv")  # with the pip that comes with Python
def wheel(session: nox.Session) -> None:
    """The demonstration, from the wheel alone in an empty environment."""
    (path,) = DIST.resolve().glob("*.whl")
    session.install(f"{path}[demo]")
    session.chdir(session.create_tmp())
    session.run("xcertify", "demo")
