"""What a1, a2 and a3 are made of is timm's, number by number: LAMB, BCE, repeats, layer decay, drop path."""

import keras
import numpy as np
import pytest
import torch

from keras_resnext import ResNeXt
from keras_resnext.data import Plan
from keras_resnext.network.input_preprocessing import get_preprocessing
from keras_resnext.training.losses import BinaryCrossEntropy, CrossEntropy
from keras_resnext.training.optimizers import SGD, AdamW, Lamb, layer_scales
from keras_resnext.training.recipes import RECIPES, find_recipe
from keras_resnext.training.setup import build_model
from keras_resnext.training.train_options import NetworkOptions
from tests.references import small_timm_model

SMALL = {"base_channels": 8, "groups": 2, "width_per_group": 4, "classes": 3, "input_shape": (32, 32, 3)}


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_lamb_is_timms(clip):
    """A kernel that decays, a bias that does not, and one that starts at zero, where there is no ratio yet."""
    from timm.optim import Lamb as Reference

    rng = np.random.default_rng(0)
    starts = [rng.normal(size=(4, 3)), rng.normal(size=3), np.zeros((2, 2))]
    starts = [start.astype("float32") for start in starts]
    ours = [keras.Variable(s, name=name) for s, name in zip(starts, ("kernel", "bias", "kernel"), strict=True)]
    theirs = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    groups = [{"params": [theirs[0], theirs[2]]}, {"params": [theirs[1]], "weight_decay": 0.0}]
    reference = Reference(groups, lr=0.05, weight_decay=0.1, max_grad_norm=clip)
    optimizer = Lamb(0.05, decay=0.1, global_clipnorm=clip)
    optimizer.build(ours)
    for step in range(8):
        if step == 4:
            optimizer.learning_rate = 0.01
            for group in reference.param_groups:
                group["lr"] = 0.01
        gradients = [rng.normal(size=start.shape).astype("float32") for start in starts]
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        reference.step()
        optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients])
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(numbers(a), b.detach().numpy(), rtol=2e-5, atol=1e-6)
    again = Lamb.from_config(optimizer.get_config())
    assert (again.decay, again.decay_norm_and_bias, again.global_clipnorm) == (0.1, False, clip)


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("summed", [False, True])
def test_bce_is_timms(threshold, summed):
    """On single classes with smoothing, mixed ones, several labels, and weights of the positive terms."""
    from timm.data.mixup import mixup_target
    from timm.loss import BinaryCrossEntropy as Reference

    rng = np.random.default_rng(1)
    logits, classes = rng.normal(size=(6, 5)).astype("float32") * 3, rng.integers(0, 5, 6)
    hot, several = np.eye(5, dtype="float32")[classes], rng.integers(0, 2, (6, 5)).astype("float32")
    x, weights = torch.tensor(logits), [0.5, 1, 2, 3, 4]
    shared = {"target_threshold": threshold, "sum_classes": summed}
    ours = {"from_logits": True, "threshold": threshold, "summed": summed}

    expected = Reference(smoothing=0.1, **shared)(x, torch.tensor(classes)).item()
    assert float(BinaryCrossEntropy(0.1, one_of=True, **ours)(hot, logits)) == pytest.approx(expected, rel=1e-5)

    mixed = mixup_target(torch.tensor(classes), 5, lam=0.7, smoothing=0.1)
    expected = Reference(smoothing=0.1, **shared)(x, mixed).item()
    loss = BinaryCrossEntropy(0.1, one_of=True, **ours)
    assert float(loss(0.7 * hot + 0.3 * hot[::-1], logits)) == pytest.approx(expected, rel=1e-5)

    reference = Reference(smoothing=0.1, smooth_dense=True, pos_weight=torch.tensor(weights), **shared)
    loss = BinaryCrossEntropy(0.1, weights=weights, **ours)
    expected = reference(x, torch.tensor(several)).item()
    assert float(loss(several, logits)) == pytest.approx(expected, rel=1e-5)
    probabilities = 1 / (1 + np.exp(-logits))
    loss = BinaryCrossEntropy.from_config({**loss.get_config(), "from_logits": False})
    assert float(loss(several, probabilities)) == pytest.approx(expected, rel=1e-4)


def test_a_hopeless_label_still_teaches():
    """Of logits far off: a probability of them would be 1, and its logarithm cut off."""
    loss = BinaryCrossEntropy(from_logits=True)
    assert float(loss(np.zeros((1, 1)), np.full((1, 1), 50.0))) == pytest.approx(50)


def test_focal_losses_are_keras_own():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(6, 4)).astype("float32")
    hot, several = np.eye(4, dtype="float32")[rng.integers(0, 4, 6)], rng.integers(0, 2, (6, 4)).astype("float32")
    expected = keras.losses.CategoricalFocalCrossentropy(alpha=[1, 2, 3, 4], gamma=2.0, from_logits=True)(hot, logits)
    ours = CrossEntropy(from_logits=True, weights=[1, 2, 3, 4], gamma=2.0)(hot, logits)
    np.testing.assert_allclose(float(ours), float(expected), rtol=1e-5)
    expected = keras.losses.BinaryFocalCrossentropy(gamma=2.0, from_logits=True)(several, logits)
    ours = BinaryCrossEntropy(from_logits=True, gamma=2.0)(several, logits)
    np.testing.assert_allclose(float(ours), float(expected), rtol=1e-5)


def test_weights_of_classes_are_pytorchs():
    logits = np.random.default_rng(3).normal(size=(5, 3)).astype("float32")
    targets = np.eye(3, dtype="float32")[[0, 1, 2, 2, 1]]
    reference = torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2, 5]), label_smoothing=0.1)
    expected = reference(torch.tensor(logits), torch.tensor(targets)).item()
    assert float(CrossEntropy(0.1, True, [1, 2, 5])(targets, logits)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_repeated_augmentation_is_timms(replicas):
    """The order of an epoch and what each process gets of it; timm's shuffle is ours, by what it permutes."""
    from timm.data.distributed_sampler import RepeatAugSampler

    images, batch = 1024, 64
    order = [Plan(images, images, 5).step(1).indices][0]  # of epoch 1
    for rank in range(replicas):
        sampler = RepeatAugSampler(range(images), replicas, rank, shuffle=False, num_repeats=3)
        theirs = order[list(sampler)]
        plan = Plan(images, batch, 5, repeats=3, shard=(rank, replicas))
        spe = plan.steps_per_epoch
        ours = np.concatenate([plan.step(step).indices for step in range(spe, 2 * spe)])
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("deep", [False, True])
def test_layer_decay_is_timms(deep):
    from timm.optim import param_groups_layer_decay

    theirs = small_timm_model(blocks=(1, 2, 1, 1), deep=deep)
    groups = param_groups_layer_decay(theirs, weight_decay=0.05, layer_decay=0.7)
    expected = sorted((p.numel(), g["lr_scale"]) for g in groups for p in g["params"])
    model = ResNeXt(groups=1, width_per_group=64, blocks=(1, 2, 1, 1), deep_stem=deep, avg_down=deep)
    scales = layer_scales(model, 0.7)
    sizes = [int(np.prod(variable.shape)) for variable in model.trainable_variables]
    found = sorted(zip(sizes, scales, strict=True))
    assert [size for size, _ in found] == [size for size, _ in expected]
    np.testing.assert_allclose([scale for _, scale in found], [scale for _, scale in expected], rtol=1e-12)


@pytest.mark.parametrize("kind", [SGD, AdamW, Lamb])
def test_each_variable_learns_at_its_own_rate(kind):
    """With decay: a share of the rate does what an optimizer with that rate does."""

    def run(rate, scales):
        variables = [keras.Variable(np.full(3, 2.0, "float32"), name="kernel") for _ in scales]
        options = {"l2": 0.1} if kind is SGD else {"decay": 0.1} if kind is Lamb else {"weight_decay": 0.1}
        optimizer = kind(rate, rate_scales=scales, **options)
        optimizer.build(variables)
        for _ in range(2):
            optimizer.apply([keras.ops.convert_to_tensor(np.array([1.0, -2, 0.5], "float32"))] * len(variables))
        assert kind.from_config(optimizer.get_config()).rate_scales == scales
        return [numbers(variable) for variable in variables]

    slow, fast = run(0.1, [0.25, 1.0])
    np.testing.assert_allclose(slow, run(0.025, [1.0])[0], rtol=1e-6)
    np.testing.assert_allclose(fast, run(0.1, [1.0])[0], rtol=1e-6)
    assert not np.allclose(slow, fast)


def test_layer_decay_needs_blocks():
    inputs = keras.Input((8, 8, 3))
    other = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)), name="other")
    with pytest.raises(ValueError, match=r"layer_decay=0.7 is for models of ResNeXt; 'other' has no blocks"):
        layer_scales(other, 0.7)


def test_linear_drop_path_is_timms():
    theirs = small_timm_model(blocks=(3, 4, 6, 3), drop_path_rate=0.05)
    expected = [m.drop_prob for m in theirs.modules() if type(m).__name__ == "DropPath"]
    model = ResNeXt(blocks=(3, 4, 6, 3), drop_path_rate=0.05, drop_path_rule="linear", **SMALL)
    ours = [layer.rate for layer in model.layers if layer.name.endswith("drop_path")]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_the_recipes_are_the_papers():
    """arXiv 2110.00476, table 2."""
    table = {  # epochs, side, rate, decay, smoothing, drop path, repeats, policy, mixup
        "a1": (600, 224, 5e-3, 0.01, 0.1, 0.05, 3, "rand-m7-mstd0.5-inc1", 0.2),
        "a2": (300, 224, 5e-3, 0.02, 0.0, 0.05, 3, "rand-m7-mstd0.5-inc1", 0.1),
        "a3": (100, 160, 8e-3, 0.02, 0.0, 0.0, 1, "rand-m6-mstd0.5-inc1", 0.1),
    }
    for name, row in table.items():
        r, a = RECIPES[name], RECIPES[name].augmentation
        found = (r.epochs, a.size, r.peak_rate, r.weight_decay, r.label_smoothing, r.drop_path_rate, a.repeats)
        assert (*found, a.policy, a.mixup) == row
        assert (r.batch_size, r.optimizer, r.loss, r.test_size, r.test_crop, a.cutmix, r.warmup_epochs) == (
            2048, "lamb", "bce", 224, 0.95, 1.0, 5,
        )  # fmt: skip


def test_a_recipe_decides_how_it_is_tested():
    options = {name: SMALL[name] for name in ("base_channels",)} | {"blocks": [1, 1, 1, 1]}
    recipe = find_recipe("a3", drop_path_rate=0.1)
    network = NetworkOptions("resnext50_32x4d", options={**options, "groups": 2, "width_per_group": 4})
    model, recipe = build_model(network, recipe, classes=3, seed=0)
    preprocessing = get_preprocessing(model)
    assert (preprocessing.size, preprocessing.resize, preprocessing.interpolation) == (224, 235, "bicubic")
    rates = [layer.rate for layer in model.layers if layer.name.endswith("drop_path")]
    np.testing.assert_allclose(rates, [0.1 / 3, 0.2 / 3, 0.1])


def test_images_grow_over_the_epochs():
    grown = [find_recipe("paper", epochs=8, progressive_size=128).image_size(epoch) for epoch in range(8)]
    assert grown == [128, 128, 160, 160, 192, 192, 224, 224]
    small = find_recipe("cifar", epochs=3, size=8, progressive_size=4)
    assert [small.image_size(epoch) for epoch in range(3)] == [4, 5, 7]
    assert find_recipe("paper").image_size(3) == 224
