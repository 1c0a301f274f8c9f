"""State_dicts of small networks, changed by what they mean: names, shapes, prefixes, wrappers, neighbours."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np

from keras_resnext.network.structure import Structure
from keras_resnext.weights.expected import expected_shapes

SMALL: dict[str, Any] = {"blocks": (1, 1, 1, 1), "groups": 2, "base_channels": 8, "stem_channels": 8, "classes": 3}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"blocks": (2, 1, 1, 1)},
    {"deep_stem": True, "avg_down": True},
    {"se_ratio": 4},
    {"attention": "eca"},
    {"attention": "sk"},
    {"norm_cfg": {"type": "GN", "num_groups": 2}},
    {"include_top": False},
    {"stem": "cifar", "blocks": (1, 1, 1)},
)
PREFIXES = ("module.", "backbone.", "encoder_q.", "model.", "_orig_mod.", "student.", "net.0.", "a" * 50 + ".")
WRAPPERS = ("state_dict", "model", "model_state", "state_dict_ema", "net", "weird key", "ema_state_dict", "optimizer")
SIZES = (0, 1, 2, 3, 5, 8, 64, 4096, 1 << 20)
BESIDE: dict[str, Any] = {
    "optimizer": {"state": {0: {"exp_avg": np.zeros(3, "float32")}}, "param_groups": [{"lr": 0.1}]},
    "epoch": 3,
    "arch": "resnext50_32x4d",
    "labels": ["cat", "\x1b[31mdog", "\u202e"],
    "meta": {"CLASSES": ("a", "b", "c"), "config": "x" * 3000},
}


def _base(rng: random.Random) -> dict[str, tuple[int, ...]]:
    structure = Structure.of(**{**SMALL, **rng.choice(KINDS)})
    names = expected_shapes(structure)
    rules = (
        (r"(^|\.)norm(\d)\.", r"\1bn\2."),
        (r"\.downsample\.conv\.", ".downsample.0."),
        (r"\.downsample\.norm\.", ".downsample.1."),
        (r"\.norm\.", ".bn."),
        (r"\.se\.conv([12])\.", r".se_layer.conv\1.conv."),
    )
    result = {}
    for name, shape in names.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        result[name] = shape
    return result


def _array(rng: random.Random, shape: tuple[int, ...], usual: str) -> np.ndarray:
    """Random numbers, or where there would be very many one number seen under all indices."""
    dtype = usual if rng.random() < 0.998 else rng.choice(("float64", "int64", "bool"))
    count = int(np.prod(shape, dtype=object))
    if count > 1 << 16:
        return np.broadcast_to(np.zeros((), "int8"), shape)
    return (np.frombuffer(rng.randbytes(count), np.uint8) / 64 - 1).astype(dtype).reshape(shape)


def state(rng: random.Random, most: int) -> Any:
    """What a checkpoint may hold after up to `most` changes of its meaning."""
    shapes: dict[str, Any] = dict(_base(rng))
    for _ in range(rng.randrange(most + 1)):
        name = rng.choice(list(shapes)) if shapes else "conv1.weight"
        shape = shapes.get(name, ())
        kind = rng.randrange(12)
        if kind == 0:
            shapes.pop(name, None)
        elif kind == 1 and isinstance(shape, tuple) and shape:
            at = rng.randrange(len(shape))
            shapes[name] = (*shape[:at], rng.choice(SIZES), *shape[at + 1 :])
        elif kind == 2 and isinstance(shape, tuple):
            shapes[name] = rng.choice((shape[::-1], shape[:-1], (*shape, 1), ()))
        elif kind == 3:
            at = rng.randrange(len(name) + 1)
            shapes[name[:at] + rng.choice((".", "", "0", "\x1b", "é", "layer9.", name)) + name[at:]] = shapes.pop(
                name, ()
            )
        elif kind == 4:
            shapes[re.sub(r"\d", lambda m: str(rng.randrange(12)), name)] = shape
        elif kind == 5:
            shapes = {rng.choice(PREFIXES) * rng.choice((1, 1, 2, 300)) + name: s for name, s in shapes.items()}
        elif kind == 6:
            shapes |= {rng.choice(PREFIXES) + name: s for name, s in shapes.items()} if len(shapes) < 400 else {}
        elif kind == 7:
            shapes[name] = rng.choice((1, None, "text", [1, 2], {"a": 1}, 1e308, float("nan"), b"x", 1 << 70))
        elif kind == 8:
            count = rng.choice((3, 40, 2000))
            shapes |= {f"layer{rng.randrange(6)}.{i}.conv1.weight": (2, 2, 1, 1) for i in range(count)}
        elif kind == 9:
            shapes |= {
                name: (1 << rng.choice((4, 10, 16, 20)), *(s[1:] if isinstance(s, tuple) else ()))
                for name, s in shapes.items()
            }
        elif kind == 10:
            shapes[rng.choice(("num_batches_tracked", "total_ops", "ema_conv1_weight", "fc.2.weight"))] = ()
        elif kind == 11:
            shapes["layer1.0.se.conv1.weight"] = (rng.choice(SIZES), rng.choice(SIZES), 1, 1)
    usual = rng.choice(("float32", "float32", "float32", "float16", "float64"))
    value: Any = {n: _array(rng, s, usual) if isinstance(s, tuple) else s for n, s in shapes.items()}
    if most and rng.random() < 0.2:
        value = {"model": value, "ema": value}
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 30)) if most else 0):
        beside = {k: v for k, v in BESIDE.items() if rng.random() < 0.3}
        value = rng.choice(({rng.choice(WRAPPERS): value} | beside, [value, beside]))
    return value
