"""Training from images on disk, by recipes, resumable at any step, on one device or many."""

from .recipes import RECIPES, Recipe, find_recipe
from .run import TrainingResult, train

__all__ = ["RECIPES", "Recipe", "TrainingResult", "find_recipe", "train"]
