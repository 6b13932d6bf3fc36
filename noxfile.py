"""The tests on every supported version: ``pip install nox && nox`` (``nox --list`` names them).

Each session makes an environment of its own. TensorFlow 2.21 goes without Xplique, which takes
TensorFlow up to 2.20: the tests beside it are skipped there.
"""

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["newest", "oldest"]

# TensorFlow -> the versions of Python that it supports and the oldest Keras that goes with it
SUPPORTED = {
    "2.18": (["3.10", "3.11", "3.12"], "3.10"),
    "2.19": (["3.10", "3.11", "3.12"], "3.10"),
    "2.20": (["3.10", "3.11", "3.12", "3.13"], "3.10"),
    "2.21": (["3.10", "3.11", "3.12", "3.13"], "3.10"),
}
TESTS = ["pytest>=8", "pytest-xdist>=3.6", "nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"]
EVERY = [
    nox.param(python, tensorflow, keras, id=f"python{python}-tensorflow{tensorflow}-keras{keras}")
    for tensorflow, (pythons, oldest) in SUPPORTED.items()
    for python in pythons
    for keras in (oldest, "newest")
]


def run_tests(session: nox.Session, tensorflow: str, keras: str) -> None:
    """Install these versions and run the default tests."""
    pins = [f"tensorflow=={tensorflow}.*"] + ([] if keras == "newest" else [f"keras=={keras}.*"])
    session.install(".[demo]", *TESTS, *pins)
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="venv")
@nox.parametrize("python,tensorflow,keras", EVERY)
def every(session: nox.Session, tensorflow: str, keras: str) -> None:
    """All that go together, a session each: ``nox --session every``; hours."""
    run_tests(session, tensorflow, keras)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """The newest of everything."""
    run_tests(session, "2.21", "newest")


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The oldest of everything."""
    run_tests(session, "2.18", "3.10")
