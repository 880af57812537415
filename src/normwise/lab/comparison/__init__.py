"""The lab's method on the user's own model: which normalizer, where, at which rate, with which inference statistics."""

from normwise.lab.comparison.comparing import compare
from normwise.lab.comparison.found import Comparison, Finalist

__all__ = ["Comparison", "Finalist", "compare"]
