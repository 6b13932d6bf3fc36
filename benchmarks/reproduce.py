"""What the documentation shows of each paper, measured again: from data to tables and pictures.

    python benchmarks/reproduce.py all --quick              # ten minutes: does everything run?
    python benchmarks/reproduce.py eva --data-dir DIR       # measure what is not stored yet
    python benchmarks/reproduce.py eva --again fresh-dense-1
    python benchmarks/reproduce.py all --list               # pieces, and which are stored
    python benchmarks/reproduce.py --tables                 # write tables and pictures of the docs
    python benchmarks/reproduce.py --tables --check         # say whether they would differ

A paper is measured in pieces of some minutes. What is stored is not measured again, so that a run
that was interrupted goes on where it was; delete the file of a piece, or name it after --again.
Results are in `benchmarks/results/reproduced`; those of --quick, and its tables and pictures, in
the folder `reproduced-quick`. A piece that fails says why, and the others go on.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from protocol.data import NotAtHand
from protocol.pieces import Context, Piece, Records, run_piece
from protocol.tables import DOCS, filled
from protocol.versions import versions_table

from xcertify.commands.quiet import without_tracing_advice

PAPERS = ("engine", "eva", "certified-gradient", "corgi", "attribution-bound", "relex")
FOLDER = Path(__file__).parent / "results" / "reproduced"
QUICK_FOLDER = Path("reproduced-quick")
MODELS = Path(tempfile.gettempdir()) / "xcertify-networks"


def main() -> int:
    """Measure, or write tables; 1 if a piece failed or a page differs."""
    arguments = parsed()
    if arguments.tables:
        return write_pages(arguments.check)
    papers = PAPERS if "all" in arguments.papers else arguments.papers
    if arguments.list:
        for paper in papers:
            show_pieces(paper, arguments)
        return 0
    with without_tracing_advice():
        failed = [name for paper in papers for name in measure(paper, arguments)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("papers", nargs="*", metavar="PAPER", help=f"of {', '.join(PAPERS)}; all")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--tables", action="store_true", help="write those of the docs, only")
    parser.add_argument("--check", action="store_true", help="with --tables: write nothing")
    parser.add_argument("--list", action="store_true", help="show pieces, measure nothing")
    parser.add_argument("--again", nargs="+", default=[], metavar="PIECE", help="measure again")
    parser.add_argument("--only", nargs="+", default=[], metavar="PIECE", help="no other pieces")
    parser.add_argument("--data-dir", help="folder of prepared data sets (tensorflow_datasets)")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of trained networks")
    parser.add_argument("--folder", type=Path, help="of results")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.papers) - {*PAPERS, "all"})
    if unknown:
        parser.error(f"papers must be of {', '.join(PAPERS)}, all. Received: {', '.join(unknown)}")
    if not arguments.papers and not arguments.tables:
        parser.error(f"name a paper, of {', '.join(PAPERS)}, or all")
    arguments.folder = arguments.folder or (QUICK_FOLDER if arguments.quick else FOLDER)
    return arguments


def module_of(paper: str) -> Any:
    """The module of a paper."""
    return importlib.import_module(f"papers.{paper.replace('-', '_')}")


def context_of(paper: str, arguments: argparse.Namespace) -> Context:
    """What its pieces have at hand."""
    records = Records(arguments.folder / paper)
    return Context(paper, records, arguments.models, arguments.data_dir, arguments.quick)


def measure(paper: str, arguments: argparse.Namespace) -> list[str]:
    """Measure the pieces of a paper that are not stored, and draw; the names of what failed."""
    module, context = module_of(paper), context_of(paper, arguments)
    pieces: list[Piece] = module.pieces(arguments.quick)
    failed = []
    for piece in pieces:
        name = f"{paper}/{piece.name}"
        if arguments.only and piece.name not in arguments.only:
            continue
        if piece.name in context.records and piece.name not in arguments.again:
            print(f"{name}: stored already", flush=True)
            continue
        print(f"{name}: begins {time.strftime('%H:%M')}", flush=True)
        try:
            seconds = run_piece(piece, context)["seconds"]
        except NotAtHand as error:
            print(f"{name}: left out, {error}", flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(name)
        else:
            print(f"{name}: {seconds:g} s", flush=True)
    if arguments.quick:
        for block, text in blocks_of(paper, context.records).items():
            path = arguments.folder / f"{block}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text.strip()}\n")
    if not arguments.only:
        draw(paper, context.records, arguments.folder if arguments.quick else DOCS / "images")
    return failed


def draw(paper: str, records: Records, folder: Path) -> None:
    """Write the pictures of what is stored of a paper."""
    module = module_of(paper)
    if hasattr(module, "figures"):
        module.figures(records, folder)


def show_pieces(paper: str, arguments: argparse.Namespace) -> None:
    """Print the pieces of a paper."""
    records = context_of(paper, arguments).records
    for piece in module_of(paper).pieces(arguments.quick):
        state = "stored" if piece.name in records else f"about {piece.minutes:g} min"
        print(f"{paper}/{piece.name}: {state}")


def blocks_of(paper: str, records: Records) -> dict[str, str]:
    """What a paper writes into the documentation, by "paper/block"."""
    blocks = module_of(paper).blocks(records)
    return {f"{paper}/{name}": text for name, text in blocks.items()}


def pages() -> dict[Path, str]:
    """The pages of the documentation as they must be."""
    blocks = {"versions": versions_table(FOLDER.parent / "versions")}
    for paper in PAPERS:
        blocks |= blocks_of(paper, Records(FOLDER / paper))
    return {path: filled(path.read_text(), blocks) for path in sorted(DOCS.rglob("*.md"))}


def write_pages(check: bool) -> int:
    """Write, pictures too, or only compare."""
    stale = [path for path, text in pages().items() if path.read_text() != text]
    for paper in () if check else PAPERS:
        draw(paper, Records(FOLDER / paper), DOCS / "images")
    for path in stale:
        print(f"{'differs' if check else 'written'}: {path.name}")
        if not check:
            path.write_text(pages()[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
