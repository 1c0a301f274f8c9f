"""A small network, a short recipe and a few digits, for everything here that trains."""

import keras
from rich.console import Console

from keras_resnext import ResNeXt
from keras_resnext.data import Plan
from keras_resnext.training import session
from keras_resnext.training.recipes import find_recipe
from keras_resnext.training.train_options import RunOptions

QUIET = Console(quiet=True)
SMALL = ("--model", "resnext29_8x64d", "--option", "blocks=[1,1]", "--option", "strides=[2,2]")
SMALL += ("--option", "dilations=[1,1]", "--option", "num_stages=2", "--option", "groups=4")
SMALL += ("--option", "width_per_group=2", "--option", "stem_channels=8", "--option", "base_channels=8")
SMALL += ("--recipe", "cifar", "--image-size", "8", "--flip", "0", "--crop-padding", "1")


def build(**options):
    keras.utils.set_random_seed(1)
    options = {"blocks": (1, 1), "strides": (2, 2), "dilations": (1, 1), "num_stages": 2, "base_channels": 8} | options
    options = {"input_shape": (8, 8, 3)} | options
    return ResNeXt(groups=4, width_per_group=2, stem="cifar", stem_channels=8, classes=10, **options)


RECIPE = find_recipe("cifar", epochs=3, batch_size=32, size=8, flip=0.0, crop_padding=1, ema=0.3, mixup=0.2)


def weights(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def make_session(recipe, folder):
    return session.Session(build(), Plan(200, 32, 0), recipe, folder, QUIET, RunOptions())
