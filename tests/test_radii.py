"""Certified against attacked: one comparison, one message."""

import numpy as np
import pytest

from xcertify.radii import ContradictionError, compare_bounds, compare_radii

STATED = {"what": "another class", "method": "crown", "region": "l2 balls"}


def test_attacks_outside_of_certified_radii_pass():
    # equal only where nothing is certified; inf where nothing was found
    compare_radii([0.1, 0.0, 0.0, 0.3], [0.2, 0.0, 0.1, np.inf], **STATED)
    compare_radii([], [], **STATED)


@pytest.mark.parametrize("attacked", [0.2, 0.1999, 0.0])
def test_an_attack_at_or_inside_a_certified_radius_is_refused(attacked):
    with pytest.raises(ContradictionError, match=r"another class at .* for input 1, .*'crown'"):
        compare_radii([0.1, 0.2], [0.15, attacked], **STATED)
    with pytest.raises(RuntimeError, match="input 17.*up to 0.2 .l2 balls.*report it"):
        compare_radii([0.1, 0.2], [0.15, attacked], samples=[4, 17], **STATED)


def test_values_above_a_bound_are_refused():
    compare_bounds([1.0, -0.5, np.inf], [1.0, -np.inf, 7.0], **STATED)
    with pytest.raises(ContradictionError, match=r"at -0.25 for input 1, .*bounds by -0.5"):
        compare_bounds([1.0, -0.5], [1.0, -0.25], **STATED)
