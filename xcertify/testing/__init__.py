"""A check that an explainer keeps the rules that all explainers of the package keep.

For explainers of one's own: in a test, ``check_explainer(MyExplainer)``.
"""

from xcertify.testing.contract import RULES, check_explainer

__all__ = ["RULES", "check_explainer"]
