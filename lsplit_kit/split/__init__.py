"""Cut a model in three: a model in, the same kind of model out, its body elsewhere."""

from .plan import SplitPlan

__all__ = ["SplitPlan"]
