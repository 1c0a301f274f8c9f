from .distillation import Distillation as Distillation
from .rate_finder import find_rate as find_rate
from .recipe import Recipe as Recipe
from .recipes import RECIPES as RECIPES
from .recipes import find_recipe as find_recipe
from .run import TrainingResult as TrainingResult
from .run import train as train
from .train_options import RunOptions as RunOptions
