"""What a model allows and what it costs, before work starts: layers, bound methods, explainers.

A few short measurements (one evaluation, one gradient, one bound by each method) are the units in
which the cost of all explainers is counted.
"""

from xcertify.estimates.costs import Cost
from xcertify.estimates.of_model import Estimate, estimate

__all__ = ["Cost", "Estimate", "estimate"]
