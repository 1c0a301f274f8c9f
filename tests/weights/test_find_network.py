"""The network is found wherever training code keeps it, with its head; what cannot be told apart is asked about."""

import re
from collections import namedtuple

import numpy as np
import pytest

from keras_resnext.pytorch.rebuild import Namespace
from keras_resnext.weights.find_network import find_network
from keras_resnext.weights.infer import infer_from_names
from keras_resnext.weights.names import canonical_names
from keras_resnext.weights.states import MAX_ENTRIES, MAX_NAME
from tests.weights.small_states import make_state

STATE, OTHER = make_state(0), make_state(1)
HEAD = {"weight": STATE["fc.weight"], "bias": STATE["fc.bias"]}
BODY = {name: value for name, value in STATE.items() if not name.startswith("fc.")}
FEATURES = HEAD["weight"].shape[1]
OPTIMIZER = {"state": {0: {"exp_avg": np.ones(3), "step": 1}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
Saved = namedtuple("Saved", "epoch weights")


def under(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


def head(name):
    return {f"{name}.{kind}": value for kind, value in HEAD.items()}


def linear(name, *shape):
    return {f"{name}.weight": np.ones(shape, "float32"), f"{name}.bias": np.ones(shape[0], "float32")}


def norm(name, channels):
    return {f"{name}.{kind}": np.ones(channels, "float32") for kind in ("weight", "bias", "running_mean")}


def nested(state):
    tree = {}
    for name, value in state.items():
        *parts, last = name.split(".")
        place = tree
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def renamed(*rules, state=STATE):
    result = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


def positions(prefix=""):
    rules = (r"^conv1", f"{prefix}0"), (r"^bn1", f"{prefix}1"), (r"^layer(\d)", lambda m: f"{prefix}{int(m[1]) + 3}")
    return renamed(*rules, state=BODY)


def namespace(**attributes):
    made = Namespace()
    made.attributes.update(attributes)
    return made


TRANSFORMERS = (
    (r"^conv1", "resnet.embedder.embedder.convolution"),
    (r"^bn1", "resnet.embedder.embedder.normalization"),
    (r"^layer(\d)\.(\d)", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}"),
    (r"(layers\.\d)\.conv(\d)", lambda m: f"{m[1]}.layer.{int(m[2]) - 1}.convolution"),
    (r"(layers\.\d)\.bn(\d)", lambda m: f"{m[1]}.layer.{int(m[2]) - 1}.normalization"),
    (r"downsample\.0", "shortcut.convolution"),
    (r"downsample\.1", "shortcut.normalization"),
    (r"^fc", "classifier.1"),
)

PYTORCHCV = (
    (r"^(conv|bn)1", r"features.init_block.conv.\1"),
    (r"^layer(\d)\.(\d)", lambda m: f"features.stage{m[1]}.unit{int(m[2]) + 1}"),
    (r"(unit\d)\.(conv|bn)(\d)", r"\1.body.conv\3.\2"),
    (r"downsample\.0", "identity_conv.conv"),
    (r"downsample\.1", "identity_conv.bn"),
    (r"^fc", "output"),
)
AUGMIX = (
    (r"^conv1", "conv_1_3x3"),
    (r"^bn1", "bn_1"),
    (r"^layer(\d)", r"stage_\1"),
    (r"\.conv1", ".conv_reduce"),
    (r"\.bn1", ".bn_reduce"),
    (r"\.conv2", ".conv_conv"),
    (r"\.bn2", ".bn"),
    (r"\.conv3", ".conv_expand"),
    (r"\.bn3", ".bn_expand"),
    (r"^fc", "classifier"),
)
PRLZ77 = (
    *AUGMIX,
    (r"^(stage_\d)\.(\d)", r"\1.\1_bottleneck_\2"),
    (r"downsample\.0", "shortcut.shortcut_conv"),
    (r"downsample\.1", "shortcut.shortcut_bn"),
    (r"^", "module."),
)
TORCH7 = (
    (r"^conv1", "features.0"),
    (r"^bn1", "features.1"),
    (r"^layer(\d)\.(\d)\.downsample", lambda m: f"features.{int(m[1]) + 3}.{m[2]}.0.1"),
    (r"^layer(\d)\.(\d)\.(conv|bn)3", lambda m: f"features.{int(m[1]) + 3}.{m[2]}.0.0.{1 + (m[3] == 'bn')}"),
    (
        r"^layer(\d)\.(\d)\.(conv|bn)(\d)",
        lambda m: f"features.{int(m[1]) + 3}.{m[2]}.0.0.0.{3 * int(m[4]) - 3 + (m[3] == 'bn')}",
    ),
    (r"^fc", "last_linear"),
)

# What the checkpoint holds, and the options with which the network is STATE.
FOUND = {
    "a list": ([STATE], {}),
    "a list of pairs": (list(STATE.items()), {}),
    "a tuple with an epoch": ((12, STATE, OPTIMIZER), {}),
    "a named tuple": (Saved(12, STATE), {}),
    "a namespace": (namespace(epoch=1, model=STATE), {}),
    "an ensemble in a list": ({"models": [OTHER, STATE]}, {"prefix": "models.1"}),
    "folds by number": ({0: STATE, 1: OTHER}, {"prefix": "0"}),
    "five wrappers": ({"a": {"b": {"c": {"d": {"e": STATE}}}}}, {}),
    "a wrapper with a dot": ({"a.b": {"module": STATE}}, {}),
    "a key like an optimizer's": ({"optimized_model": STATE}, {}),
    "an optimizer that keeps a copy": ({"net": STATE, "optimizer": {"slow": OTHER}}, {}),
    "backbone and head": ({"backbone": BODY, "head": head("fc"), "optimizer": OPTIMIZER}, {}),
    "encoder and classifier": ({"epoch": 1, "encoder": under("module.", BODY), "classifier": HEAD}, {}),
    "backbone beside a head": ({"backbone": BODY, **head("fc")}, {}),
    "vissl": ({"model": {"trunk": under("_feature_blocks.", BODY), "heads": head("0.clf.0")}}, {}),
    "a dictionary a layer": ({"model": nested(STATE)}, {}),
    "shadow": ({"model": OTHER, "shadow_params": STATE}, {"ema": True}),
    "an averaged model": ({"model": OTHER, "averaged_model": {"n_averaged": 3, **under("module.")}}, {"ema": True}),
    "an average by prefix": (under("model.") | under("ema_model.module.", OTHER), {}),
    "that average": (under("model.", OTHER) | under("ema_model.module."), {"ema": True}),
    "the only average": (under("ema_model."), {}),
    "FSDP inside": (under("_fsdp_wrapped_module.", renamed((r"^(layer\d\.0)", r"\1._fsdp_wrapped_module"))), {}),
    "fairscale inside": (renamed((r"^(layer\d\.0)", r"\1._fpw_module")), {}),
    "DDP inside": (renamed((r"^(layer\d)", r"\1.module")), {}),
    "DINO's teacher": ({"student": under("module.backbone."), "teacher": under("backbone.")}, {"prefix": "teacher"}),
    "transformers": (renamed(*TRANSFORMERS), {}),
    "Cadene": (renamed((r"^(conv1|bn1)", r"layer0.\1"), (r"^fc", "last_linear")), {}),
    "Cadene's port from Torch7": (renamed(*TORCH7), {}),
    "pytorchcv": (renamed(*PYTORCHCV), {}),
    "pytorchcv's stem for CIFAR": (renamed(*PYTORCHCV, (r"init_block\.conv", "init_block")), {}),
    "AugMix's ResNeXt for CIFAR": (renamed(*AUGMIX), {}),
    "prlz77's ResNeXt for CIFAR": (renamed(*PRLZ77), {}),
    "a Sequential": (positions() | head("10"), {}),
    "a Sequential in features": (positions("features.") | head("classifier.1"), {}),
    **{
        f"a head called {name}": (under("net.", BODY) | head(name), {})
        for name in (
            "net.fc.1",
            "net.head.fc",
            "net.last_linear",
            "net.fc.linear",
            "cls_head.fc_cls",
            "out",
            "net.pred",
        )
    },
}


def canonical(state):
    return {name: state[original] for original, name in canonical_names(state).items()}


CANONICAL = canonical(STATE)


@pytest.mark.parametrize("case", FOUND)
def test_the_network_is_found(case):
    data, options = FOUND[case]
    found = find_network(data, **options)
    assert not found.head_problem
    assert canonical(found.weights).keys() == CANONICAL.keys()
    assert all(np.array_equal(value, CANONICAL[name]) for name, value in canonical(found.weights).items())
    assert infer_from_names({name: value.shape for name, value in found.weights.items()}).classes == 5


ASKED = {
    "an ensemble": ([STATE, OTHER], r"2 networks.*prefix='0', prefix='1'"),
    "BYOL": (under("online_encoder.net.") | under("target_encoder.net."), "2 networks.*prefix='online_encoder.net'"),
    "nothing": ({"epoch": 3, "lr": [0.1]}, "no state_dict in the checkpoint"),
    "too many entries": ({str(i): {} for i in range(MAX_ENTRIES + 1)}, f"more than {MAX_ENTRIES} arrays"),
    "too long a name": ({"a" * (MAX_NAME + 1): HEAD}, f"more than {MAX_NAME} characters"),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_cannot_be_told_apart_is_an_error(case):
    data, message = ASKED[case]
    with pytest.raises(ValueError, match=message):
        find_network(data)


UNREADABLE = {
    "two layers": {"head": linear("0", 8, FEATURES) | linear("2", 5, 8)},
    "BatchNorm first": {"fc": norm("0", FEATURES) | head("1")},
    "a neck of BatchNorm": {"bottleneck": norm("bn", FEATURES), "classifier": HEAD},
    "weight norm": {"fc": {"weight_g": np.ones((5, 1)), "weight_v": HEAD["weight"], "bias": HEAD["bias"]}},
    "two heads": {"fc_a": dict(HEAD), "fc_b": dict(HEAD)},
    "low-rank additions": {"fc": HEAD | {"lora_A": np.ones((2, FEATURES)), "lora_B": np.ones((5, 2))}},
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("is_nested", [False, True])
def test_other_heads_are_not_loaded(case, is_nested):
    parts = UNREADABLE[case]
    flat = {f"{part}.{name}": value for part, entries in parts.items() for name, value in entries.items()}
    found = find_network({"backbone": BODY} | parts if is_nested else BODY | flat)
    assert "the head of the checkpoint cannot be read" in found.head_problem
    assert found.weights.keys() == BODY.keys()
