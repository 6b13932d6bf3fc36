"""Certificates from samples: what they are worth and what they cost, part by part.

    python benchmarks/statistical.py errors              # measure and print
    python benchmarks/statistical.py maps --save         # and store, in results/statistical
    python benchmarks/statistical.py --tables            # print the tables of what is stored
    python benchmarks/statistical.py --quick             # every part, small: does it run?

Parts, each a module `statistical_PART.py` beside this one, whose first lines say what it measures:

- *errors*: how often certificates are wrong, by simulations whose truth is known;
- *maps*: certified shares of pixels, seconds and memory, for several explainers and networks;
- *noise*: the same of networks that were trained with noise, or have a blur in front;
- *attacks*: attacks on smoothed maps, inside and outside of what is certified;
- *stability*: soft stability of the masks of several explainers;
- *sets*: probably sufficient sets, beside proved ones and attacks;
- *uniform*: certified cosines of uniformly smoothed maps.

Each has `run(quick)`, which gives the rows (dictionaries of what JSON holds), and `tables(rows)`,
which writes them as Markdown. What is stored names the commit, the versions, the processor, its
load when the part began, and the seconds that it took. What `--quick` stores says so in its tables.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from protocol.records import Record, read, recorded, where, write

PARTS = ("errors", "maps", "noise", "attacks", "stability", "sets", "uniform")
FOLDER = Path(__file__).parent / "results" / "statistical"


def main() -> None:
    """Measure parts, or take what is stored, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; or all")
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    parser.add_argument("--save", action="store_true", help="store what is measured")
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing, print what is there"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of what is stored")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"parts must be of {PARTS}. Received: {unknown}")
    for part in arguments.parts or PARTS:
        path = arguments.folder / f"{part}.json"
        if not arguments.tables:
            stored = measured(part, arguments.quick)
            if arguments.save:
                write(path, stored)
        elif path.exists():
            stored = read(path)
        else:
            print(f"{part}: nothing is stored in {arguments.folder}\n", flush=True)
            continue
        print(shown(part, stored), flush=True)


def module_of(part: str) -> Any:
    """The module that measures a part."""
    return importlib.import_module(f"statistical_{part}")


def measured(part: str, quick: bool) -> Record:
    """The rows of a part, and on what they were measured."""
    return recorded(lambda: module_of(part).run(quick), quick=quick)


def shown(part: str, stored: Record) -> str:
    """The tables of a part, and below them on what they were measured."""
    quick = " --quick" if stored["quick"] else ""
    return (
        f"## {part}\n\n{module_of(part).tables(stored['rows']).strip()}\n\n"
        f"*`python benchmarks/statistical.py {part}{quick}`, {where(stored)}.*\n"
    )


if __name__ == "__main__":
    main()
