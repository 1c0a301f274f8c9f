"""Runs a PyTorch checkpoint in torchvision's or timm's own network, and compares it with a Keras model."""

import importlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .pytorch.checkpoint import read_checkpoint
from .pytorch.inference import infer_options
from .pytorch.layouts import layout_names
from .pytorch.names import canonical_names, find_state_dict, shortcut_indices
from .pytorch.weights import state_dict

BATCH = 2
TOLERANCE = 1e-4  # relative; float32 gives about 1e-6, other weights about 1
INSTALL = "pip install 'keras_resnext[pytorch]'"

# What both libraries' ResNeXt have in common, and what torchvision's has beside: options of `ResNeXt`.
COMMON = {"stem": "imagenet", "stem_channels": 64, "base_channels": 64, "num_stages": 4, "norm_cfg": {"type": "BN"}}
PLAIN = {"deep_stem": False, "avg_down": False, "se_ratio": None, "in_channels": 3}


@dataclass(frozen=True)
class Agreement:
    """How well two implementations agree on the same random pictures.

    Attributes:
        library: whose network ran the PyTorch file, "torchvision" or "timm".
        outputs: what was compared, "logits" or "pooled features".
        largest_difference: max |a - b|.
        relative_difference: the same over max |b|, b being PyTorch's.
    """

    library: str
    outputs: str
    largest_difference: float
    relative_difference: float


def verify(
    model: keras.Model, checkpoint: str | os.PathLike[str], *, ema: bool = False, bgr: bool = False
) -> Agreement:
    """Compares `model` with the reference implementation, which reads `checkpoint` by itself.

    Args:
        model: built by `ResNeXt`.
        checkpoint: .pth, .pt or .safetensors file with the same weights.
        ema, bgr: as in `from_pytorch`.

    Raises:
        ImportError: PyTorch, or both torchvision and timm, are not installed.
        ValueError: no library has such a network, or the outputs differ by more than `TOLERANCE`.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"verifying needs PyTorch and torchvision or timm: {INSTALL}") from error
    weights = _load(checkpoint, ema)
    canonical = canonical_names(weights)
    shapes = {name: tuple(weights[original].shape) for original, name in canonical.items()}
    options = infer_options(shapes, 1 in shortcut_indices(weights).values())
    library, module = _build_reference(options)
    own = {name: original for original, name in canonical_names(state_dict(model)).items()}
    names = layout_names(own.values(), library)
    state = {names[own[name]]: weights[original] for original, name in canonical.items() if name in own}
    counters = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
    module.load_state_dict({**counters, **state}, strict=True)
    side = model.input_shape[1] or 224
    pictures = np.random.default_rng(0).standard_normal((BATCH, side, side, options["in_channels"])).astype("float32")
    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(pictures[..., ::-1] if bgr else pictures))
        expected = module.float().eval()(x.permute(0, 3, 1, 2)).numpy()
    actual = _scores(model, pictures)
    difference = float(np.abs(actual - expected).max())
    relative = difference / float(np.abs(expected).max())
    if not relative <= TOLERANCE:
        raise ValueError(
            f"the weights do not agree: on the same pictures {library} and Keras differ by {difference:.2e}, "
            f"relatively {relative:.1e}, and at most {TOLERANCE:.0e} is right"
        )
    return Agreement(library, "logits" if options["include_top"] else "pooled features", difference, relative)


def _load(checkpoint: str | os.PathLike[str], ema: bool) -> dict[str, Any]:
    """The weights as PyTorch's own safe readers give them; as ours does where those refuse what stands beside."""
    import torch

    if Path(checkpoint).suffix == ".safetensors":
        from safetensors.torch import load_file

        return find_state_dict(load_file(checkpoint), ema)[1]
    try:
        data = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # such as timm's argparse.Namespace
        arrays = find_state_dict(read_checkpoint(checkpoint).data, ema)[1]
        return {name: torch.from_numpy(array.astype("float32")) for name, array in arrays.items()}
    return find_state_dict(data, ema)[1]


def _build_reference(options: Mapping[str, Any]) -> tuple[str, Any]:
    """(library, module) of the first library that is installed and has such a network."""
    if any(options[name] != value for name, value in COMMON.items()) or options["se_ratio"] not in (None, 16):
        raise ValueError("verify=True: neither torchvision nor timm has such a network (stem, widths, stages or norms)")
    classes = options.get("classes", 0)
    plain = all(options[name] == value for name, value in PLAIN.items())
    if plain and _import("torchvision"):
        from torch import nn
        from torchvision.models.resnet import Bottleneck, ResNet

        module = ResNet(
            Bottleneck,
            list(options["blocks"]),
            num_classes=classes or 1,
            groups=options["groups"],
            width_per_group=options["width_per_group"],
        )
        if not classes:
            module.fc = nn.Identity()
        return "torchvision", module
    if _import("timm"):
        from timm.models.resnet import Bottleneck, ResNet

        return "timm", ResNet(
            Bottleneck,
            list(options["blocks"]),
            num_classes=classes,
            in_chans=options["in_channels"],
            cardinality=options["groups"],
            base_width=options["width_per_group"],
            stem_type="deep" if options["deep_stem"] else "",
            stem_width=options["stem_channels"] // 2,
            avg_down=options["avg_down"],
            block_args=dict(attn_layer="se") if options["se_ratio"] else None,
        )
    raise ImportError(f"verifying needs {'torchvision or ' * plain}timm: {INSTALL}")


def _import(library: str) -> bool:
    """Whether `library` is installed and imports. A torchvision of another build than PyTorch's lacks its detection
    operators, and says so with a RuntimeError; no ResNeXt uses them, so declaring them is enough.
    """
    import torch

    for operators in ((), ("nms", "qnms")):
        if operators:
            _DECLARED.append(torch.library.Library("torchvision", "DEF"))
        for operator in operators:
            _DECLARED[-1].define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        try:
            importlib.import_module(library)
            return True
        except ImportError:
            return False
        except RuntimeError as error:
            if "torchvision::" not in str(error) or operators:
                raise
    return False


_DECLARED: list[Any] = []  # declarations last as long as their object


def _scores(model: keras.Model, pictures: np.ndarray) -> np.ndarray:
    """Logits, whatever activation the head has; pooled features of a model without one."""
    layers = {layer.name: layer for layer in model.layers}
    if "fc" not in layers:
        features = keras.ops.convert_to_numpy(model(pictures, training=False))
        return features.mean((1, 2)) if features.ndim == 4 else features
    features = keras.Model(model.inputs[0], layers["avgpool"].output)(pictures, training=False)
    kernel, bias = layers["fc"].get_weights()
    return keras.ops.convert_to_numpy(features) @ kernel + bias
