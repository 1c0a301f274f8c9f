"""How good a classifier is on a set of images."""

from .measure import evaluate
from .result import Evaluation

__all__ = ["Evaluation", "evaluate"]
