"""Where branch and bound splits the intervals of activations."""

import numpy as np
import pytest

from xcertify.bounds.branching.bounding import split_points
from xcertify.bounds.graph.activations import RELU


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_part_is_not_split_again_at_its_kink(dtype):
    """Its side is beyond the kink by roundings."""
    lower, upper = np.array([-1, -1e-9, -3, 0, 1], dtype), np.array([2, 2, 1e-9, 2, 2], dtype)
    points, can_split = split_points(RELU, lower, upper)
    assert np.asarray(can_split).tolist() == [True, False, False, False, False]
    assert points[0] == 0
