"""Runs mmcls 0.25.0 on derived weights and writes what it computes to tests/golden, for tests/test_golden.py.

    python tools/make_golden.py [NAME ...]

needs an environment of its own, on Python 3.11 with pip alone. mmcv and mmcls name old pins, so nothing is resolved:

    python -m venv golden
    golden/bin/pip install torch==2.13.0 "setuptools<81" wheel
    golden/bin/pip install --no-deps --no-build-isolation mmcv==1.7.2 mmcls==0.25.0 torchvision==0.28.0
    golden/bin/pip install numpy pillow pyyaml addict yapf rich matplotlib packaging opencv-python-headless

Each file holds: `config` (JSON: the mmcls options, input shape, classes), `shapes` (JSON: state_dict name to shape,
counters left out), `stage0`.. (NHWC) and `logits`, or `losses` of SGD steps
and the statistics of some norms after `statistics_step` of them.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

_operators = torch.library.Library("torchvision", "DEF")  # mmcv imports torchvision, which misses them on a CPU torch
for _name in ("nms", "qnms"):
    _operators.define(f"{_name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")

from mmcls.models import BACKBONES, build_classifier  # noqa: E402
from mmcls.models.backbones.resnet import ResLayer  # noqa: E402
from mmcls.models.backbones.seresnext import SEResNeXt  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from golden_weights import (  # noqa: E402
    derived_input,
    derived_labels,
    derived_weights,
    digit_batches,
    digits,
    initial_weights,
    training_weights,
)

GOLDEN = ROOT / "tests" / "golden"
CLASSES = 10
SMALL = {"type": "ResNeXt", "depth": 50, "groups": 8, "width_per_group": 4, "base_channels": 16, "stem_channels": 16}
ALL = {"out_indices": (0, 1, 2, 3)}
ODD = (1, 33, 47, 3)

# name -> (options over SMALL, input shape (N, H, W, C), whether there is a head)
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int, int], bool]] = {
    "default": (ALL, (2, 32, 32, 3), True),
    "full_width": ({**ALL, "groups": 32, "base_channels": 64, "stem_channels": 64}, (1, 17, 15, 3), True),
    "odd": (ALL, (1, 65, 47, 3), True),
    "caffe": ({**ALL, "style": "caffe"}, ODD, True),
    "deep_stem": ({**ALL, "deep_stem": True}, ODD, True),
    "avg_down": ({**ALL, "avg_down": True}, ODD, True),
    "deep_stem_avg_down": ({**ALL, "deep_stem": True, "avg_down": True}, (1, 31, 46, 3), True),
    "caffe_avg_down": ({**ALL, "style": "caffe", "avg_down": True}, ODD, True),
    "dilations": ({**ALL, "dilations": (1, 1, 2, 4)}, (1, 49, 35, 3), True),
    "strides": ({**ALL, "strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)}, (1, 49, 35, 3), True),
    "strides_avg_down": ({**ALL, "strides": (1, 2, 2, 1), "avg_down": True}, (1, 65, 47, 3), True),
    "stride_3_avg_down": ({**ALL, "strides": (1, 3, 2, 2), "avg_down": True}, (1, 53, 44, 3), True),
    "first_stride_2": ({**ALL, "strides": (2, 2, 1, 2), "avg_down": True}, (1, 65, 47, 3), True),
    "one_stage": (
        {"num_stages": 1, "strides": (1,), "dilations": (1,), "out_indices": (0,)},
        ODD,
        True,
    ),
    "three_stages": (
        {"num_stages": 3, "strides": (1, 2, 2), "dilations": (1, 1, 1), "out_indices": (0, 1, 2)},
        ODD,
        True,
    ),
    "groups_1": ({**ALL, "groups": 1}, ODD, True),
    "stem_channels_32": ({**ALL, "stem_channels": 32}, ODD, True),
    "in_channels_1": ({**ALL, "in_channels": 1}, (1, 33, 47, 1), True),
    "group_norm": ({**ALL, "norm_cfg": {"type": "GN", "num_groups": 4}}, ODD, True),
    "layer_norm": ({**ALL, "norm_cfg": {"type": "LN2d", "eps": 1e-5}}, ODD, True),
    "sync_norm_eps": ({**ALL, "norm_cfg": {"type": "SyncBN", "eps": 1e-3}}, ODD, True),
    # Two stages: behind four, mmcls itself in float32 and in float64 differ by 1.5e-5.
    "weight_standardisation": (
        {
            "num_stages": 2,
            "strides": (1, 2),
            "dilations": (1, 1),
            "out_indices": (0, 1),
            "conv_cfg": {"type": "ConvWS"},
            "norm_cfg": {"type": "GN", "num_groups": 8},
        },
        ODD,
        True,
    ),
    "squeeze_excite": ({**ALL, "type": "SEResNeXt"}, ODD, True),
    "squeeze_excite_8": ({**ALL, "type": "SEResNeXt", "se_ratio": 8, "avg_down": True}, ODD, True),
    "depth_101": ({**ALL, "depth": 101}, ODD, True),
    "out_0": ({"out_indices": (0,)}, ODD, False),
    "out_1": ({"out_indices": (1,)}, ODD, False),
    "out_2": ({"out_indices": (2,)}, ODD, False),
    "out_3": ({"out_indices": (3,)}, ODD, False),
    "out_0_2": ({"out_indices": (0, 2)}, ODD, False),
    "out_all": (ALL, (1, 30, 21, 3), False),
}
SGD_STEPS, SGD_INPUT = 20, (8, 64, 64, 3)
STATISTICS_STEP = 3  # later, rounding has grown beyond what statistics are held to
STATISTICS = ("bn1", "layer1.0.bn2", "layer2.0.downsample.1", "layer3.5.bn3", "layer4.2.bn3")
# How the digits are learned. PyTorch's own float32 and float64 drift apart where networks are deep and rates high: four
# stages at 0.05 differ by 2600 % in the end. The decay is large so that its lack is seen.
DIGITS = {"steps": 200, "batch_size": 128, "learning_rate": 0.012, "weight_decay": 1e-2, "milestones": [100, 150]}
DIGITS["label_smoothing"] = 0.1
TWO_STAGES = {**SMALL, "num_stages": 2, "strides": (1, 2), "dilations": (1, 1), "out_indices": (1,)}
TINY = {**SMALL, "groups": 4, "width_per_group": 1, "base_channels": 4, "stem_channels": 8}  # the published checkpoint


def _make_res_layer(self: Any, **options: Any) -> Any:
    shared = {key: getattr(self, key) for key in ("groups", "width_per_group", "base_channels", "se_ratio")}
    return ResLayer(**shared, **options)


SEResNeXt.make_res_layer = _make_res_layer  # mmcls's own, 0.25.0, forgets se_ratio: it is always 16


def build(backbone: dict[str, Any], head: bool, loss: dict[str, Any] | None = None) -> Any:
    backbone = dict(backbone)
    if not head:
        return BACKBONES.build(backbone)
    channels = backbone["base_channels"] * 4 * 2 ** (backbone.get("num_stages", 4) - 1)
    head_cfg = {
        "type": "LinearClsHead",
        "num_classes": CLASSES,
        "in_channels": channels,
        "loss": loss or {"type": "CrossEntropyLoss", "loss_weight": 1.0},
    }
    neck = {"type": "GlobalAveragePooling"}
    return build_classifier({"type": "ImageClassifier", "backbone": backbone, "neck": neck, "head": head_cfg})


def fill(module: Any, derive: Callable[..., dict[str, np.ndarray]] = derived_weights) -> dict[str, list[int]]:
    """Derived weights in every float entry; returns their shapes by name."""
    state = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    for name, array in derive(shapes).items():
        state[name].copy_(torch.from_numpy(array))
    return shapes


def nhwc(tensor: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy().transpose(0, 2, 3, 1))


def images(shape: tuple[int, ...]) -> Any:
    return torch.from_numpy(np.ascontiguousarray(derived_input(shape).transpose(0, 3, 1, 2)))


def logits(module: Any, maps: Any) -> Any:
    return module.head.fc(module.neck(maps)[-1])


def write(name: str, config: dict[str, Any], shapes: dict[str, list[int]], arrays: dict[str, np.ndarray]) -> None:
    path = GOLDEN / f"{name}.npz"
    np.savez_compressed(path, config=json.dumps(config), shapes=json.dumps(shapes), **arrays)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, {', '.join(arrays)}")


def make_case(name: str) -> None:
    options, shape, head = CASES[name]
    backbone = {**SMALL, **options}
    module = build(backbone, head)
    module.eval()
    shapes = fill(module)
    with torch.no_grad():
        maps = getattr(module, "backbone", module)(images(shape))
        arrays = {f"stage{i}": nhwc(m) for i, m in zip(backbone["out_indices"], maps, strict=True)}
        if head:
            arrays["logits"] = logits(module, maps).numpy()
    write(name, {"backbone": backbone, "input": shape, "classes": CLASSES if head else None}, shapes, arrays)


def make_sgd() -> None:
    module = build(SMALL, True)
    shapes = fill(module, training_weights)
    module.double()  # what float32 rounds towards
    module.train()
    inputs, labels = images(SGD_INPUT).double(), torch.from_numpy(derived_labels(SGD_INPUT[0], CLASSES))
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    names = [f"backbone.{norm}.running_{kind}" for norm in STATISTICS for kind in ("mean", "var")]
    losses = []
    for step in range(1, SGD_STEPS + 1):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(module, module.backbone(inputs)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step == STATISTICS_STEP:
            statistics = {name: module.state_dict()[name].float().numpy() for name in names}
    arrays = {"losses": np.array(losses), "statistics_step": np.array(STATISTICS_STEP), **statistics}
    write("sgd", {"backbone": SMALL, "input": SGD_INPUT, "classes": CLASSES}, shapes, arrays)


def train_digits(dtype: Any, **changes: Any) -> tuple[list[float], np.ndarray]:
    """Losses of every step and the classes of the held-out digits, trained as mmcls's recipe says, but shorter."""
    options = {**DIGITS, **changes}
    smoothed = {"type": "LabelSmoothLoss", "label_smooth_val": options["label_smoothing"], "mode": "original"}
    module = build(TWO_STAGES, True, smoothed)
    fill(module, initial_weights)
    module.to(dtype).train()
    optimizer = torch.optim.SGD(
        module.parameters(), options["learning_rate"], momentum=0.9, weight_decay=options["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, options["milestones"])
    losses = []
    for images, labels in digit_batches(options["steps"], options["batch_size"]):
        optimizer.zero_grad()
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(dtype)
        loss = module.forward_train(pixels, torch.from_numpy(labels))["loss"]
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    module.eval()
    held_out = torch.from_numpy(digits(held_out=True)[0].transpose(0, 3, 1, 2).copy()).to(dtype)
    with torch.no_grad():
        return losses, logits(module, module.backbone(held_out)).argmax(1).numpy()


def make_digits() -> None:
    """200 steps on real images, in float64; how far float32 is from that, and what other settings would give."""
    shapes = fill(build(TWO_STAGES, True))
    losses, classes = train_digits(torch.float64)
    labels = digits(held_out=True)[1]
    print(f"top-1 {np.mean(classes == labels):.4f}, losses {losses[0]:.3f} to {losses[-1]:.3f}")
    for name, dtype, changes in (
        ("float32", torch.float32, {}),
        ("no weight decay", torch.float64, {"weight_decay": 0.0}),
        ("one milestone", torch.float64, {"milestones": DIGITS["milestones"][:1]}),
    ):
        other, found = train_digits(dtype, **changes)
        difference = np.abs(np.array(other) / losses - 1)
        print(f"{name}: losses differ by {difference.max():.2%}, top-1 {np.mean(found == labels):.4f}")
    write("digits", {"backbone": TWO_STAGES, "classes": CLASSES, **DIGITS}, shapes, {
        "losses": np.array(losses), "held_out": classes.astype("uint8"),
    })  # fmt: skip


def make_published() -> None:
    """A checkpoint as mmcls publishes it, with its weights, in the format that torch wrote before 1.6."""
    module = build(TINY, True)
    module.eval()
    fill(module)
    meta = {
        "mmcls_version": "0.25.0",
        "CLASSES": [f"class {i}" for i in range(CLASSES)],
        "config": f"model = dict(type='ImageClassifier', backbone={TINY!r})\n",
        "env_info": "sys.platform: linux",
        "hook_msgs": {},
        "time": "Tue Apr 13 12:00:00 2021",
        "epoch": 100,
        "iter": 500400,
    }
    path = GOLDEN / "mmcls_wrapped.pth"
    torch.save({"meta": meta, "state_dict": module.state_dict()}, path, _use_new_zipfile_serialization=False)
    with torch.no_grad():
        scores = logits(module, module.backbone(images((2, 49, 35, 3)))).numpy()
    np.save(GOLDEN / "mmcls_wrapped_logits.npy", scores)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def main(names: list[str]) -> None:
    GOLDEN.mkdir(exist_ok=True)
    special = {"sgd": make_sgd, "digits": make_digits, "mmcls_wrapped": make_published}
    for name in names or [*CASES, *special]:
        special.get(name, lambda name=name: make_case(name))()


if __name__ == "__main__":
    main(sys.argv[1:])
