"""Inputs go straight from `certify` to the engine: few functions on the way, none going back up."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from walk import Stay, certificates, is_attack, nb_climbs, walk

MOST_STAYS = 5
CERTIFICATES = dict(certificates())


@pytest.mark.parametrize("name", CERTIFICATES)
def test_walks_are_short_and_straight(name):
    chains = [chain for chain in walk(CERTIFICATES[name]) if not is_attack(chain)]
    assert chains, "the engine was not asked"
    for chain in chains:
        assert len(chain) <= MOST_STAYS and not nb_climbs(chain), chain


def test_a_climb_is_a_file_that_had_been_left():
    chain = [Stay(file, "f") for file in ("a.py", "a.py", "b.py", "a.py", "c.py", "b.py")]
    assert nb_climbs(chain) == 2
    assert nb_climbs(chain[:3]) == 0
