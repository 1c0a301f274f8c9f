"""Recipes, optimizer, schedule and loss compute what their references do."""

import keras
import numpy as np
import pytest
import torch

from keras_resnext.training.losses import CrossEntropy
from keras_resnext.training.optimizers import SGD, Schedule, make_schedule
from keras_resnext.training.recipe import Recipe
from keras_resnext.training.recipes import RECIPES, find_recipe


def test_sgd_is_pytorchs():
    for options in ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}):
        start = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
        theirs, ours = torch.nn.Parameter(torch.tensor(start)), keras.Variable(start, name="kernel")
        reference = torch.optim.SGD([theirs], lr=0.1, weight_decay=0.05, **options)
        optimizer = SGD(0.1, l2=0.05, **options)
        optimizer.build([ours])
        for i in range(12):
            rate = 0.1 if i < 6 else 0.01
            reference.param_groups[0]["lr"] = optimizer.learning_rate = rate
            gradient = np.cos(start * i).astype("float32")
            theirs.grad = torch.tensor(gradient)
            reference.step()
            optimizer.apply([keras.ops.convert_to_tensor(gradient)])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(ours), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_decay_leaves_norms_and_biases_alone_if_told():
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in ("kernel", "gamma", "beta", "bias")]
    optimizer = SGD(1.0, l2=0.1, decay_norm_and_bias=False)
    optimizer.build(variables)
    optimizer.apply([keras.ops.zeros(2)] * 4)
    values = [float(keras.ops.convert_to_numpy(variable)[0]) for variable in variables]
    np.testing.assert_allclose(values, [0.9, 1, 1, 1], rtol=1e-6)
    assert SGD.from_config(optimizer.get_config()).decay_norm_and_bias is False


def test_schedules():
    paper = Schedule(0.1, 10, 100, "step", (30, 60, 90))
    rates = [float(paper(epoch * 10 + 9)) for epoch in (0, 29, 30, 59, 60, 89, 90, 99)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 1e-4, 1e-4], rtol=1e-5)
    cosine = Schedule(0.5, 10, 12, "cosine", warmup_epochs=2)
    np.testing.assert_allclose(
        [float(cosine(step)) for step in (0, 10, 20, 70, 120)], [0.005, 0.2525, 0.5, 0.25, 0], atol=1e-6
    )
    again = Schedule.from_config(cosine.get_config())
    assert float(again(33)) == float(cosine(33))
    with pytest.raises(ValueError, match="schedule='linear' must be one of step, cosine, constant"):
        Schedule(0.1, 10, 10, "linear")
    with pytest.raises(ValueError, match="warmup_epochs=10"):
        Schedule(0.1, 10, 10, warmup_epochs=10)


def test_recipes_are_those_of_the_references():
    paper = find_recipe("paper")
    assert paper == RECIPES["mmcls"] == RECIPES["paper"]
    assert (paper.peak_rate, paper.momentum, paper.weight_decay, paper.epochs) == (0.1, 0.9, 1e-4, 100)
    assert find_recipe("paper", batch_size=64).peak_rate == pytest.approx(0.025)
    assert find_recipe("paper", batch_size=64, accumulate=4).peak_rate == pytest.approx(0.1)
    assert find_recipe("cifar", epochs=30).milestones == (15, 22)
    assert find_recipe("paper", epochs=1).milestones == (1, 1, 1)  # none is from the start on
    assert find_recipe("finetune", epochs=1).head_epochs == 1
    stepped = find_recipe("finetune", schedule="step", milestones=(5,), head_epochs=2, warmup_epochs=0)
    schedule = make_schedule(stepped, 10)
    assert float(schedule(29)) == pytest.approx(10 * float(schedule(30)))
    modern = find_recipe("modern", flip=0.0)
    assert (modern.augmentation.flip, modern.augmentation.cutmix, modern.ema) == (0.0, 1.0, 0.04)


def test_recipes_name_their_source():
    assert all(isinstance(recipe, Recipe) and recipe.source for recipe in RECIPES.values())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("best", {}, "recipe='best' must be one of paper, mmcls"),
        ("paper", {"epochs": 0}, "epochs=0 must be at least 1"),
        ("paper", {"learning_rate": 0}, "learning_rate=0 must be above 0"),
        ("paper", {"optimizer": "lion"}, "must be one of sgd, adamw, lamb"),
        ("paper", {"label_smoothing": 1.0}, "below 1"),
        ("paper", {"head_epochs": 101}, "head_epochs=101"),
        ("paper", {"clip_norm": -1}, "clip_norm=-1"),
        ("paper", {"clip_norm": float("nan")}, "clip_norm=nan must be a finite number"),
        ("paper", {"schedule": "linear"}, "schedule='linear' must be one of step, cosine, constant"),
        ("finetune", {"schedule": "step"}, "schedule='step' needs milestones"),
        ("paper", {"milestones": (30, 20)}, "in ascending order"),
        ("paper", {"milestones": (0,)}, "epochs from 1 on"),
        ("paper", {"weight_decay": -1}, "weight_decay=-1"),
        ("paper", {"magic": 1}, "magic: no field of a recipe; choose from epochs,"),
        ("paper", {"leraning_rate": 1}, "leraning_rate: no field of a recipe; did you mean learning_rate?"),
        ("papr", {}, r"did you mean paper\?"),
        ("paper", {"epochs": "many"}, "epochs='many' must be a whole number"),
        ("paper", {"mixup": "a"}, "mixup='a' must be a number"),
        ("paper", {"crop_ratio": [1]}, r"crop_ratio=\(1,\) must be a list of 2 numbers"),
        ("paper", {"flip": None}, "flip=None must be a number"),
        ("paper", {"loss": "hinge"}, "loss='hinge' must be one of cross_entropy, bce, focal"),
        ("paper", {"layer_decay": 0.0}, "layer_decay=0.0 must be above 0"),
        ("paper", {"progressive_size": 256}, r"progressive_size=256 must lie in 1\.\.224"),
        ("paper", {"policy": "rand-m7-x5"}, "policy='rand-m7-x5' must be rand_augment, trivial_augment, none or"),
    ],
)
def test_bad_recipes(name, changes, message):
    with pytest.raises(ValueError, match=message):
        find_recipe(name, **changes)


def test_cross_entropy_is_pytorchs_and_teaches_the_hopeless():
    logits = np.array([[30.0, -30, 0], [1, 2, 3]], "float32")
    targets = np.array([[0, 1, 0], [0.2, 0.8, 0]], "float32")
    probabilities = keras.ops.softmax(logits)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(torch.tensor(logits), torch.tensor(targets)).item()
    assert float(CrossEntropy(0.1)(targets, probabilities)) == pytest.approx(expected, rel=1e-5)
    assert float(CrossEntropy(0.1, from_logits=True)(targets, logits)) == pytest.approx(expected, rel=1e-5)
    again = CrossEntropy.from_config(CrossEntropy(0.1, True).get_config())
    assert (again.label_smoothing, again.from_logits) == (0.1, True)
