"""``xcertify recheck``: certificates verified again, by other means than made them."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xcertify.commands.files import check_file, open_run
from xcertify.commands.parsing import CommandLine
from xcertify.commands.quiet import start_tensorflow

if TYPE_CHECKING:
    from xcertify.verdicts import Verdict

SUMMARY = "verify the certificates of a run again, by other means"
USAGE = "FOLDER|FILE.npz --model MODEL [options]"
DESCRIPTION = """\
Verifies the certificates of a run, or those of a file that Certificate.save wrote, by other means
than made them, and attacks them again. Of a run the verdicts are written to FOLDER/recheck.parquet.
The exit code is 0 if all are confirmed, 1 if something is refuted, 2 if something is not checked or
cannot be read."""
EXAMPLE = "xcertify recheck run --model model.keras"

FILE = "recheck.parquet"
STATUS = ("confirmed", "refuted", "not checked")
_MOST_SHOWN = 10  # inputs that are refuted, and reasons


def add_arguments(line: CommandLine) -> None:
    """Certificates, and the model that they are for."""
    line.add(
        "certificates",
        type=str,
        needed=True,
        metavar="FOLDER|FILE.npz",
        help="folder of a run of xcertify certify, or a certificate",
    )
    line.add("--model", type=str, needed=True, metavar="MODEL", help="the model of the run")
    line.add(
        "--custom", type=list[str], metavar="MODULE:CLASS", default=[], help="layers of your own"
    )
    line.add("--attack", type=bool, default=True, help="attack again, too (default: --attack)")
    line.add("--verbose", type=bool, default=True, help="show a progress bar")


def run(arguments: Namespace) -> int:
    """Verify, print a table and return the exit code."""
    start_tensorflow()
    from xcertify.runs.loading import load_model

    if Path(arguments.certificates).is_dir():
        opened = open_run(arguments.certificates)
        parts, nb, missing = opened.certificates(), len(opened), bool(opened.missing)
        nb_errors = opened.nb_errors
        path = Path(arguments.certificates) / FILE
    else:
        check_file(arguments.certificates)
        certificate = _loaded(arguments.certificates)
        parts, nb, missing = iter([(np.arange(len(certificate)), certificate)]), 0, False
        path, nb_errors = None, 0
    model = load_model(arguments.model, arguments.custom)
    counts, shown = Counter[str](), list[str]()
    with _Writer(path) as writer:
        for numbers, verdict in _verdicts(parts, model, arguments, nb):
            counts.update(map(str, verdict.status))
            writer.write(numbers, verdict)
            shown += _to_show(numbers, verdict)[: _MOST_SHOWN - len(shown)]
    _print(counts, shown, missing)
    if nb_errors:
        print(f"{nb_errors:,} more have an error in the place of a certificate")
    if path is not None and counts:
        print(f"rows: {path}")
    if counts["refuted"]:
        return 1
    return 2 if counts["not checked"] or missing or not counts else 0


def _loaded(path: str) -> Any:
    """The certificate of a file.

    Raises
    ------
    ValueError
        For what is none, with the path.
    """
    from xcertify.certificates import Certificate

    try:
        return Certificate.load(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _verdicts(
    parts: Iterator[tuple[np.ndarray, Any]], model: Any, arguments: Namespace, nb: int
) -> Iterator[tuple[np.ndarray, Verdict]]:
    """Numbers of inputs and what is found of their certificates, part by part."""
    from xcertify.progress import progress_bar
    from xcertify.verdicts import recheck

    with progress_bar(nb or None, verbose=arguments.verbose) as bar:
        for numbers, certificate in parts:
            yield numbers, recheck(certificate, model, attack=arguments.attack)
            bar.update(len(numbers))


def _to_show(numbers: np.ndarray, verdict: Verdict) -> list[str]:
    """Lines about inputs that are not confirmed."""
    found = zip(numbers, verdict.status, verdict.reason)
    return [f"  input {n}: {s}: {reason}" for n, s, reason in found if s != "confirmed"]


def _print(counts: Counter[str], shown: list[str], missing: bool) -> None:
    print()
    for status in STATUS:
        print(f"{status:<12}{counts[status]:>10,}")
    if missing:
        print("The run is not finished: of some inputs there is no certificate yet")
    if not counts:
        print("There are no certificates: nothing is confirmed")
    others = counts["refuted"] + counts["not checked"]
    print("\n".join(shown))
    if others > len(shown):
        print(f"  and {others - len(shown):,} more")


class _Writer:
    """Verdicts to a Parquet file, part by part; to nowhere without a path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: Any = None  # opened by the first rows

    def __enter__(self) -> _Writer:
        self._discard()  # earlier verdicts are not those of now
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            if kind is not None:
                self._discard()

    def _discard(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def write(self, numbers: np.ndarray, verdict: Verdict) -> None:
        """Add rows, one for each input."""
        if self._path is None:
            return
        import pyarrow
        from pyarrow import parquet

        words = {
            name: pyarrow.array([str(word) for word in getattr(verdict, name)], pyarrow.string())
            for name in ("status", "means", "reason")
        }
        values = {
            name: np.asarray(getattr(verdict, name), np.float64) for name in ("proved", "attained")
        }
        table = pyarrow.table({"input": np.asarray(numbers, np.int64)} | words | values)
        if self._file is None:
            self._file = parquet.ParquetWriter(self._path, table.schema)
        self._file.write_table(table)
