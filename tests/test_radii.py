"""Certified against attacked: one comparison, one message."""

import numpy as np
import pytest

from xcertify.radii import ContradictionError, compare_bounds, compare_radii, largest_proved

STATED = {"what": "another class", "method": "crown", "region": "l2 balls"}


def test_the_largest_radius_is_the_largest_that_was_tried_and_proved():
    limits, tried = np.array([0.3, 2.0, 5.0, 0.0, 0.7]), []

    def holds(samples, radii):
        tried.append((samples, radii))
        proved = radii < limits[samples]
        return proved & ~((samples == 4) & (radii > 0.45) & (radii < 0.55))  # not monotone

    ends = np.array([1.0, 1.0, 4.0, 1.0, 1.0])
    found = largest_proved(holds, ends, 6)
    # the ends themselves where nothing failed, nothing where nothing was proved
    np.testing.assert_array_equal(found, [0.296875, 1, 4, 0, 0.4375])
    for sample, radius in enumerate(found):
        radii = [r[s == sample] for s, r in tried if (s == sample).any()]
        assert radius in [0, *radii]
    assert sum(len(samples) for samples, _ in tried) == 6 * 5 + 2
    nothing = largest_proved(holds, np.zeros(3), 4)
    np.testing.assert_array_equal(nothing, np.zeros(3))


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
