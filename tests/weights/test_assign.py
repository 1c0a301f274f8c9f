"""Weights from torchvision and timm, live and full-size; inference of options; every way to fail."""

import keras
import numpy as np
import pytest
import torch

from keras_resnext import ResNeXt, create, from_pytorch, load_pytorch_weights
from keras_resnext.pytorch import CheckpointError, write_checkpoint
from keras_resnext.weights.assign import structure_of
from keras_resnext.weights.infer import infer_from_names
from tests import references
from tests.support import randomise, relative_error
from tests.weights.small_states import make_state


def images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("torchvision", "resnext50_32x4d"),
        ("timm", "resnext50d_32x4d"),
        ("torchvision", "resnext101_32x8d"),
        ("timm", "seresnext50_32x4d"),
    ],
)
def test_full_size_models_agree(library, name, tmp_path):
    reference = getattr(references, f"{library}_model")(name)
    x = images(1, 224, 224, 3)
    expected = references.logits(reference, x)
    torch.save(reference.state_dict(), tmp_path / "zip.pth")
    del reference
    model = from_pytorch(tmp_path / "zip.pth", classifier_activation=None)
    assert model.name == name.replace("50d_", "50_")
    assert relative_error(model(x, training=False), expected) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        dict(cardinality=4, base_width=8, num_classes=7),
        dict(cardinality=32, base_width=4, num_classes=0),
        dict(cardinality=2, base_width=4, num_classes=3, in_chans=1, deep=True),
        dict(cardinality=8, base_width=4, num_classes=3, squeeze=True),
        dict(cardinality=32, base_width=4, num_classes=3, deep=True, blocks=(2, 1, 2, 1)),
        dict(cardinality=1, base_width=64, num_classes=4),
    ],
)
def test_timm_variants(options, tmp_path):
    """In every format and wrapper that is published."""
    reference = references.small_timm_model(**options)
    x = images(1, 65, 97, options.get("in_chans", 3))
    model = from_pytorch(dict(reference.state_dict()), classifier_activation=None, pooling=None)
    if not options["num_classes"]:
        assert model.output_shape == (None, None, None, 2048)
        expected = reference.forward_features(torch.tensor(x).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1)
    else:
        expected = references.logits(reference, x)
    assert relative_error(model(x, training=False), expected) < 1e-5
    loaded = model.get_weights()
    for path in references.save_all(reference, tmp_path):
        for variable in model.variables:
            variable.assign(np.zeros(variable.shape))
        load_pytorch_weights(model, path)
        assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), loaded, strict=True)), path.name
        path.unlink()


def test_table_agrees_with_torchvision_on_resnext26():
    import torchvision

    block = torchvision.models.resnet.Bottleneck
    reference = torchvision.models.ResNet(block, [2, 2, 2, 2], groups=32, width_per_group=4)
    model = from_pytorch(dict(references.randomise(reference).state_dict()), classifier_activation=None)
    x = images(1, 64, 64, 3)
    assert relative_error(model(x, training=False), references.logits(reference, x)) < 1e-5
    assert sum(p.numel() for p in reference.parameters()) == 15_389_480


@pytest.fixture(scope="module")
def tiny():
    """A small state_dict under torchvision's names, with what torchvision's own code makes of an image."""
    import torchvision

    block = torchvision.models.resnet.Bottleneck
    module = torchvision.models.ResNet(block, [1, 1, 1, 1], groups=4, width_per_group=4, num_classes=5)
    references.randomise(module)
    return {k: v.numpy() for k, v in module.state_dict().items()}


TINY = dict(blocks=(1, 1, 1, 1), groups=4, width_per_group=4, classes=5)


def test_options_win_over_what_was_read(tiny):
    model = from_pytorch(tiny, input_shape=(64, 64, 3), style="caffe", with_cp=True, name="mine")
    assert (model.input_shape, model.name) == ((None, 64, 64, 3), "mine")
    assert model.get_layer("layer2_0_conv1").strides == (2, 2)
    assert from_pytorch(tiny).input_shape == (None, None, None, 3)
    assert from_pytorch(tiny).predict(images(2, 40, 40, 3), verbose=0).sum(1) == pytest.approx(1, abs=1e-5)


def test_parts_that_options_leave_out(tiny):
    assert len(from_pytorch(tiny, out_indices=(0, 2)).outputs) == 2
    assert from_pytorch(tiny, include_top=False, pooling="avg").output_shape == (None, 2048)
    three = from_pytorch(tiny, num_stages=3)
    assert three.output_shape[-1] == 1024
    full = from_pytorch(tiny, out_indices=(2,))
    x = images(1, 64, 64, 3)
    assert np.array_equal(three(x, training=False), full(x, training=False))


def test_every_mismatch_in_one_error_and_nothing_assigned(tiny):
    broken = dict(tiny)
    del broken["layer1.0.conv2.weight"], broken["bn1.running_mean"]
    broken["layer2.0.conv1.weight"] = broken["layer2.0.conv1.weight"][:3]
    broken["layer2.0.attention.weight"] = np.zeros(3)
    model = randomise(ResNeXt(**TINY))
    before = model.get_weights()
    with pytest.raises(ValueError, match="does not fit") as error:
        load_pytorch_weights(model, broken)
    for part in (
        "2 missing: norm1.running_mean; layer1.0.conv2.weight",
        "1 unexpected: layer2.0.attention.weight",
        "layer2.0.conv1.weight: (3, ",
    ):
        assert part in str(error.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_64x4d_into_32x8d_is_refused():
    small = dict(blocks=(1, 1, 1, 1), classes=3)
    source = create("resnext101_64x4d", **small)
    entries = {}
    from keras_resnext.weights.assign import TO_KERAS, model_variables

    for name, variable in model_variables(source).items():
        value = keras.ops.convert_to_numpy(variable)
        entries[name] = value.transpose(np.argsort(TO_KERAS[value.ndim])) if value.ndim in TO_KERAS else value
    with pytest.raises(
        ValueError,
        match=r"4 of another shape: layer1\.0\.conv2\.weight: \(256, 4, 3, 3\) in the checkpoint, \(256, 8, 3, 3\)",
    ):
        load_pytorch_weights(create("resnext101_32x8d", **small), entries)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_cast(tiny, dtype, tmp_path):
    state = {k: torch.tensor(v) for k, v in tiny.items()}
    state = {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(state, tmp_path / "m.pth")
    model = from_pytorch(tmp_path / "m.pth")
    expected = state["conv1.weight"].float().numpy().transpose(2, 3, 1, 0)
    assert np.array_equal(model.get_layer("conv1").get_weights()[0], expected)
    assert np.array_equal(from_pytorch(state).get_layer("conv1").get_weights()[0], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"a": np.zeros(3)}, "no ResNeXt: expected blocks"),
        (lambda s: {}, "no state_dict in the checkpoint"),
        (
            lambda s: {"epoch": 3, "optimizer": {}},
            r"expected weights, or a dictionary of them under any key; found a dict with",
        ),
        (lambda s: {k: v for k, v in s.items() if k != "conv1.weight"}, "it has no conv1.weight"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("layer2")}, "in 1 to 4 stages, found"),
        (lambda s: {k: v for k, v in s.items() if "running" not in k}, "pass norm_cfg="),
        (lambda s: {**s, "conv1.weight": np.zeros((64, 3, 5, 5))}, "conv1 has a 5x5 kernel"),
        (lambda s: {**s, "layer1.0.conv2.weight": np.zeros((16, 16, 3, 3))}, "wide ResNet"),
        (
            lambda s: {**s, "_orig_mod.conv1.weight": s["conv1.weight"]},
            "names one entry twice",
        ),
        (lambda s: {**s, "fc.weight": np.zeros(5)}, r"fc\.weight has shape \(5,\)"),
    ],
)
def test_what_is_no_resnext(tiny, change, message):
    with pytest.raises(ValueError, match=message):
        from_pytorch(change(tiny))


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_pytorch(tmp_path / "nothing.pth")
    for content in (b"", b"<html>", b"\x80\x02}q\x00."):
        (tmp_path / "m.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"m\.pth"):
            from_pytorch(tmp_path / "m.pth")
        with pytest.raises(CheckpointError, match=r"m\.pth"):
            ResNeXt(weights=tmp_path / "m.pth")


def test_weights_option_takes_pytorch_files(tiny, tmp_path):
    torch.save({k: torch.tensor(v) for k, v in tiny.items()}, tmp_path / "m.pth")
    x = images(1, 64, 64, 3)
    one, other = ResNeXt(**TINY, input_shape=(64, 64, 3), weights=tmp_path / "m.pth"), from_pytorch(tiny)
    assert np.array_equal(one(x, training=False), other(x, training=False))


def test_a_foreign_model_is_refused(tiny):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense_of_mine")])
    with pytest.raises(ValueError, match=r"not built by ResNeXt: layer 'dense_of_mine'"):
        load_pytorch_weights(model, tiny)


def test_mmcls_ema_copies_are_left_alone(tiny):
    model = from_pytorch({**tiny, **{f"ema_{k.replace('.', '_')}": v + 1 for k, v in tiny.items()}})
    assert np.array_equal(model.get_layer("fc").get_weights()[1], tiny["fc.bias"])


def mmcls_names(model):
    """The model's weights under mmcls's names."""
    from keras_resnext.weights.assign import ENTRIES, TO_KERAS

    state = {}
    for layer in model.layers:
        for variable in layer.weights:
            name = layer.name.replace("_", ".").replace("se.layer", "se_layer")
            value = keras.ops.convert_to_numpy(variable)
            value = value.transpose(np.argsort(TO_KERAS[value.ndim])) if value.ndim in TO_KERAS else value
            state[f"{'head' if name == 'fc' else 'backbone'}.{name}.{ENTRIES[variable.name]}"] = value
    return state


def test_average_pooling_is_seen_behind_every_prefix():
    model = randomise(ResNeXt(**TINY, avg_down=True, se_ratio=16, deep_stem=True, input_shape=(63, 65, 3)))
    state = mmcls_names(model)
    x = images(1, 63, 65, 3)
    read = from_pytorch(state)
    assert "layer2_0_downsample_2" in [layer.name for layer in read.layers]
    assert np.array_equal(read(x, training=False), model(x, training=False))
    for prefix in ("module.", "model.", "module._orig_mod."):
        structure = infer_from_names({prefix + name: value.shape for name, value in state.items()})
        assert structure == infer_from_names({name: value.shape for name, value in state.items()})
        assert structure.avg_down


def test_average_pooling_in_one_alone_is_refused():
    """The shapes agree and the numbers would not."""
    pooled, plain = (randomise(ResNeXt(**TINY, avg_down=avg_down)) for avg_down in (True, False))
    with pytest.raises(ValueError, match=r"layer2\.0\.downsample: .*average pooling in the checkpoint.*avg_down=True"):
        load_pytorch_weights(plain, mmcls_names(pooled))
    with pytest.raises(
        ValueError, match=r"layer2\.0\.downsample: .*no average pooling in the checkpoint.*avg_down=False"
    ):
        load_pytorch_weights(pooled, mmcls_names(plain))


def test_tensors_beside_the_state_dict_and_a_checkpoint_within_itself(tiny, tmp_path):
    state = {k: torch.tensor(v) for k, v in tiny.items()}
    torch.save({"state_dict": state, "best_acc1": torch.tensor(71.2)}, tmp_path / "model_best.pth.tar")
    ResNeXt(**TINY, weights=tmp_path / "model_best.pth.tar")
    endless: dict[str, object] = {}
    endless["model"] = endless
    with pytest.raises(ValueError, match="no state_dict"):
        from_pytorch(endless)


def test_what_is_no_number_leaves_the_model_alone(tiny):
    model = randomise(ResNeXt(**TINY))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"fc\.bias: <U1 is no number"):
        load_pytorch_weights(model, {**tiny, "fc.bias": np.array(list("abcde"))})
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    for source in (None, 5, [1]):
        with pytest.raises(ValueError, match=r"source must be a path or"):
            from_pytorch(source)
    with pytest.raises(ValueError, match=r"model must be a keras\.Model"):
        load_pytorch_weights(None, tiny)


def test_no_random_numbers_are_drawn_for_what_is_loaded(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "x.pth", make_state(0))
    model = from_pytorch(tmp_path / "x.pth")
    kernels = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", lambda *_, **__: pytest.fail("random numbers"))
    for again in (from_pytorch(tmp_path / "x.pth"), rebuilt(model, weights=tmp_path / "x.pth")):
        for before, after in zip(model.weights, again.weights, strict=True):
            assert np.array_equal(before, after)
    monkeypatch.undo()
    initial = kernels[0].kernel_initializer
    assert np.std(initial((3, 3, 8, 8))) > 0.01
    assert type(initial).from_config(initial.get_config())((3, 3, 8, 8)).shape == (3, 3, 8, 8)
    assert all(np.std(layer.kernel) > 0 for layer in rebuilt(model).layers if isinstance(layer, keras.layers.Conv2D))


def rebuilt(model, **options):
    return ResNeXt(**{**structure_of(model).options(), **options}, input_shape=(None, None, 3))
