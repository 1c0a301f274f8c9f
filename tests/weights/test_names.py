"""Every library's names lead to one canonical name, and the network is found by the shape of its names."""

import contextlib
import re
import time

import numpy as np
import pytest

from keras_resnext.pytorch.unpickler import Placeholder
from keras_resnext.weights.find_network import find_network
from keras_resnext.weights.names import canonical_names, strip_prefixes


def test_canonical_names():
    names = ["stem.0.conv.weight", "stem.2.bn.bias", "layer1.0.gn3.weight", "fc.bias"]
    assert list(canonical_names(names).values()) == [
        "stem.0.conv.weight",
        "stem.2.norm.bias",
        "layer1.0.norm3.weight",
        "fc.bias",
    ]
    timm = ["conv1.0.weight", "conv1.4.bias", "conv1.6.weight", "bn1.bias", "layer1.0.downsample.1.weight"]
    timm += ["layer1.0.downsample.2.bias", "layer2.0.se.fc2.bias"]
    assert list(canonical_names(timm).values()) == [
        *("stem.0.conv.weight", "stem.1.norm.bias", "stem.2.conv.weight", "stem.2.norm.bias"),
        *("layer1.0.downsample.conv.weight", "layer1.0.downsample.norm.bias", "layer2.0.se.conv2.bias"),
    ]
    assert strip_prefixes(["module._orig_mod.a", "module._orig_mod.b"]) == {
        "module._orig_mod.a": "a",
        "module._orig_mod.b": "b",
    }


BODY = ["conv1.weight", "bn1.weight", *(f"layer{s}.0.conv{i}.weight" for s in (1, 2) for i in (1, 2, 3))]


def state(prefix="", head="fc", features=8, **more):
    """The names of a network with empty arrays behind them; `features` channels at its end."""
    arrays = {prefix + name: np.zeros((features, 2, 1, 1), "float32") for name in BODY}
    if head:
        arrays |= {f"{head}.weight": np.zeros((5, features)), f"{head}.bias": np.zeros(5)}
    return arrays | {name.replace("__", "."): value for name, value in more.items()}


PLAIN = {*BODY, "fc.weight", "fc.bias"}


@pytest.mark.parametrize("prefix", ["", "net.", "module.", "model.backbone.", "_orig_mod.module.", "0.", "a.b.c.d.e."])
@pytest.mark.parametrize("wrapper", [None, "net", "model_state", "teacher", "a.b.c"])
def test_under_any_prefix_and_key(prefix, wrapper):
    data = state(prefix, head=f"{prefix}fc")
    for key in reversed(wrapper.split(".") if wrapper else []):
        data = {key: data, "epoch": 3}
    network = find_network(data)
    assert set(network.weights) == PLAIN
    assert (network.wrapper, network.prefix) == (wrapper or "", prefix.replace("_orig_mod.", ""))
    assert not network.left_out
    assert not network.head_problem


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_wrappers_inside_names(wrapper):
    data = {name.replace("layer1.0.", f"layer1.{wrapper}0.{wrapper}"): value for name, value in state().items()}
    assert set(find_network(data).weights) == PLAIN


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("", "fc.1"),
        ("", "fc.0"),
        ("", "last_linear"),
        ("", "head.fc"),
        ("", "classifier"),
        ("backbone.", "classifier"),
        ("backbone.", "head.fc"),
        ("model.backbone.", "model.classifier.1"),
        ("encoder.", "linear_probe"),
        ("features.", "output_layer"),
    ],
)
def test_any_single_linear_layer_is_the_head(prefix, head):
    network = find_network(state(prefix, head))
    assert set(network.weights) == PLAIN
    assert network.originals["fc.weight"] == f"{head}.weight"


def test_a_head_without_bias_has_a_bias_of_0():
    data = state()
    del data["fc.bias"]
    network = find_network(data)
    assert network.weights["fc.bias"].tolist() == [0] * 5
    assert "no bias" in network.notes[0]


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"fc.0.weight": (6, 8), "fc.3.weight": (5, 6)}, "fc.3.weight"),
        ({"fc.0.weight": (8,), "fc.0.running_mean": (8,), "fc.2.weight": (5, 8)}, "fc.0.running_mean"),
        ({"mlp.0.weight": (6, 8), "mlp.2.weight": (5, 6)}, "mlp.2.weight"),
        ({"fc.weight_g": (5, 1), "fc.weight_v": (5, 8)}, "fc.weight_v"),
        ({"fc_age.weight": (5, 8), "fc_sex.weight": (2, 8)}, "2 linear layers"),
        ({"fc.weight": (7, 8), "1.weight": (5, 7)}, "1 stands on the 7 outputs of fc"),
        ({"fc.weight": (7, 8), "fc2.weight": (5, 7)}, "fc2 stands on the 7 outputs of fc"),
        ({"1.2.weight": (16,), "1.4.weight": (6, 16), "1.8.weight": (5, 6)}, "1.8.weight"),  # fastai
        ({"classifier.weight": (5, 8, 1, 1)}, "classifier.weight"),
    ],
)
def test_heads_that_are_no_linear_layer_are_named(beside, named):
    network = find_network(state(head="") | {name: np.zeros(shape) for name, shape in beside.items()})
    assert network.head_problem.startswith("the head of the checkpoint cannot be read: ")
    assert named in network.head_problem
    assert "fc.weight" not in network.weights


def test_what_is_left_out_is_counted_in_groups():
    beside = {f"neck.{i}.conv.weight": np.zeros((8, 8, 3, 3)) for i in range(12)}
    beside |= {
        "roi_head.fc_cls.weight": np.zeros((81, 16)),
        "roi_head.fc_cls.bias": np.zeros(81),
        "total_ops": np.zeros(1),
    }
    beside |= {
        "backbone.layer1.0.conv1.total_ops": np.zeros(1),
        "backbone.layer1.0.bn1.num_batches_tracked": np.array(3),
    }
    network = find_network(state("backbone.", head="") | beside)
    assert network.left_out == {"neck.*": 12, "roi_head.*": 2, "total_ops": 2}
    assert network.describe_left_out() == "neck.* (12), roi_head.* (2), total_ops (2)"
    assert not network.head_problem


@pytest.mark.parametrize("pair", [("encoder_q.", "encoder_k."), ("student.", "teacher."), ("module.a.", "module.b.")])
def test_several_networks_are_listed(pair):
    first, second = (state(prefix, head=f"{prefix}fc") for prefix in pair)
    second = {name: value + 1 for name, value in second.items()}
    with pytest.raises(ValueError, match=re.escape(pair[0][:-1]) + ".*" + re.escape(pair[1][:-1])) as error:
        find_network({"state_dict": first | second})
    for prefix in re.findall(r"prefix='([^']+)'", str(error.value)):  # what it lists is what it takes
        network = find_network({"state_dict": first | second}, prefix=prefix)
        assert set(network.weights) == PLAIN
        assert network.weights["conv1.weight"].max() == float(prefix.endswith(pair[1][:-1]))
        assert sum(network.left_out.values()) == len(PLAIN)
    assert find_network({"state_dict": first | second}, prefix=pair[1]).prefix == pair[1]
    with pytest.raises(ValueError, match="prefix='nothing' leads to no network; there is prefix="):
        find_network(first, prefix="nothing")


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "ema", "ema_state_dict"])
def test_the_weights_go_before_their_average(average):
    data = {"state_dict": state(), average: {k: v + 1 for k, v in state().items()}}
    network = find_network(data)
    assert network.wrapper == "state_dict"
    assert "ema=True takes it" in network.notes[0]
    assert find_network(data, ema=True).weights["conv1.weight"].max() == 1
    with pytest.raises(ValueError, match="holds no moving average"):
        find_network(state(), ema=True)


def test_the_usual_key_goes_before_others():
    network = find_network({"best": state(), "state_dict": state()})
    assert network.wrapper == "state_dict"
    assert "the usual place" in network.notes[0]


def test_positions_of_a_sequential():
    names = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5"}
    for prefix, head in [("", ""), ("features.", "classifier"), ("0.", "1")]:
        data = {prefix + re.sub(r"^\w+", lambda m: names[m[0]], name): value for name, value in state(head="").items()}
        if head:
            data |= {f"{head}.weight": np.zeros((5, 8)), f"{head}.bias": np.zeros(5)}
        assert set(find_network(data).weights) == (PLAIN if head else set(BODY)), prefix


def test_detectron2():
    data = {"stem.conv1.weight": 0, "stem.conv1.norm.bias": 0, "res2.0.conv1.weight": 0, "res2.0.conv1.norm.weight": 0}
    data |= {"res2.0.shortcut.weight": 0, "res2.0.shortcut.norm.running_mean": 0, "res5.2.conv3.weight": 0}
    network = find_network({"model": {f"backbone.bottom_up.{name}": np.zeros((4, 4, 1, 1)) for name in data}})
    assert list(network.weights) == [
        *("conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer1.0.bn1.weight"),
        *("layer1.0.downsample.0.weight", "layer1.0.downsample.1.running_mean", "layer4.2.conv3.weight"),
    ]


def test_objects_where_weights_are_needed():
    with pytest.raises(ValueError, match=r"conv1\.weight must be an array and is an object, torch\.Foo"):
        find_network(state() | {"conv1.weight": Placeholder("torch.Foo")})
    with pytest.raises(ValueError, match=r"model \(mine\.Net\).*torch\.save\(model\.state_dict\(\)"):
        find_network({"model": Placeholder("mine.Net"), "epoch": 3})


def seconds(count, make):
    data = make(count)
    start = time.perf_counter()
    with contextlib.suppress(ValueError):
        find_network(data)
    strip_prefixes(data)
    return time.perf_counter() - start


@pytest.mark.parametrize(
    "make",
    [
        lambda n: state("module." * n),
        lambda n: {"module." * (n // 50) + str(i): np.zeros(1) for i in range(50)},
        lambda n: {f"p{i}.layer1.0.conv1.weight": np.zeros(1) for i in range(n)},
        lambda n: state() | {f"layer1.0.conv{i}.x": np.zeros(1) for i in range(n)},
        lambda n: state("0." * n),
    ],
    ids=["long prefix", "many long names", "many networks", "many entries", "numbers"],
)
def test_time_grows_with_the_size_alone(make):
    small = min(seconds(4000, make) for _ in range(3))
    assert min(seconds(16_000, make) for _ in range(3)) < 12 * small + 0.05
