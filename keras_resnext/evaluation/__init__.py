"""How good a classifier is on a set of images."""

from .measure import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
