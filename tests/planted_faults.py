"""Faults that are planted in certificates, in input 1, and the check that each is found."""

import dataclasses

import numpy as np

from xcertify.radii import Interval
from xcertify.regions import Ball
from xcertify.verdicts import recheck


def scaled(name, factor, column=None):
    """A change of one input's numbers: input 1, by a factor."""

    def change(certificate):
        if name in ("certified", "attacked"):
            sides = {side: getattr(certificate, side).copy() for side in ("certified", "attacked")}
            sides[name][1] *= factor
            return dataclasses.replace(certificate, interval=Interval(**sides))
        values = getattr(certificate, name).copy()
        values[(1,) if column is None else (1, column)] *= factor
        return dataclasses.replace(certificate, **{name: values})

    return change


def swapped(name, row=1, other=2):
    def change(certificate):
        order = np.arange(len(certificate))
        order[[row, other]] = order[[other, row]]
        if name == "certified":
            interval = certificate.interval[order]
            return dataclasses.replace(certificate, interval=interval)
        return dataclasses.replace(certificate, **{name: getattr(certificate, name)[order]})

    return change


def in_region(factor):
    def change(certificate):
        radius = np.asarray(certificate.region.epsilon) * np.ones((len(certificate), 1))
        radius[1] *= factor
        region = Ball(certificate.region.center, radius, certificate.region.norm, (0, 1))
        return dataclasses.replace(certificate, region=region)

    return change


def moved_center(certificate):
    center = certificate.region.center.copy()
    center[1] = np.clip(center[1] + 0.01, 0, 1)
    region = Ball(center, certificate.region.epsilon, certificate.region.norm, (0, 1))
    return dataclasses.replace(certificate, region=region)


def of_box(certificate):
    region = certificate.region[:]
    region.upper = region.upper.copy()
    region.upper[1] -= 0.01
    return dataclasses.replace(certificate, region=region)


def not_a_number(name):
    def change(certificate):
        if name == "certified":
            values = certificate.certified.copy()
            values[1] = np.nan
            interval = Interval(values, certificate.attacked)
            return dataclasses.replace(certificate, interval=interval)
        values = getattr(certificate, name).astype(float)
        values[1] = np.nan
        return dataclasses.replace(certificate, **{name: values})

    return change


def other_target(certificate):
    targets = certificate.targets.copy()
    targets[1] = (targets[1] + 1) % 3
    return dataclasses.replace(certificate, targets=targets)


def other_cells(certificate):
    return dataclasses.replace(certificate, cells=certificate.cells[::-1].copy())


def without_sign(certificate):
    values = certificate.certified.copy()
    values[1] = -abs(values[1]) - 0.05
    return dataclasses.replace(certificate, interval=Interval(values, certificate.attacked))


def with_its_radius(certificate):
    """With the regions of its radii, as a file would say them."""
    return dataclasses.replace(
        certificate, region=certificate.region.resized(certificate.certified)
    )


def check_found(certificate, faults, model):
    """Each fault in an input of its own, all of them rechecked together, beside clean inputs."""
    changed = {name: change(certificate)[1:2] for name, change in faults.items()}
    together = type(certificate).concatenate([*changed.values(), certificate])
    verdict = recheck(together, model)
    found = dict(zip(faults, verdict.status))
    assert not [name for name, status in found.items() if status == "confirmed"]
    assert all(verdict.reason[: len(faults)])
    assert verdict.confirmed[len(faults) :].all(), verdict.reason[len(faults) :]
