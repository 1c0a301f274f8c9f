"""Runs a PyTorch checkpoint in torchvision's or timm's own network, and compares it with a Keras model."""

import importlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from .loading import from_pytorch
from .network.architectures import identify
from .network.layer_cfg import BATCH_NORM
from .network.structure import Structure
from .pytorch.checkpoint import read_checkpoint
from .weights.adapt import FIRST_CONVOLUTIONS
from .weights.assign import state_dict, structure_of, unshown_options
from .weights.find_network import find_network
from .weights.layouts import layout_names
from .weights.names import canonical_names

BATCH, SIDE = 2, 224
TOLERANCE = 1e-4  # relative; float32 gives about 1e-6, other weights about 1
INSTALL = "pip install 'keras_resnext[pytorch]'"


@dataclass(frozen=True)
class Agreement:
    """How well two implementations agree on the same random images.

    Attributes:
        library: whose network ran the PyTorch file, "torchvision" or "timm".
        outputs: what was compared, "logits" or "pooled features".
        largest_difference: `max |a - b|`.
        relative_difference: the same over `max |b|`, b being PyTorch's.
    """

    library: str
    outputs: str
    largest_difference: float
    relative_difference: float


def verify(
    model: keras.Model,
    checkpoint: str | os.PathLike[str],
    *,
    ema: bool = False,
    bgr: bool = False,
    prefix: str | None = None,
) -> Agreement:
    """Compares the weights of `model` with the reference implementation, which reads `checkpoint` by itself.

    The entries must be equal, and the outputs of both networks agree, in float32 on square images.

    Args:
        model: built by `ResNeXt`.
        checkpoint: .pth, .pt or .safetensors file with the same weights.
        ema, bgr, prefix: as in `from_pytorch`.

    Raises:
        ImportError: PyTorch, or both torchvision and timm, are not installed.
        ValueError: no library has such a network, entries differ, or the outputs by more than `TOLERANCE`.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"verifying needs PyTorch and torchvision or timm: {INSTALL}") from error
    structure, unshown = structure_of(model), unshown_options(model)
    row = identify(structure)
    if unknown := {name: value for name, value in unshown.items() if row is None or name not in row.options}:
        given = ", ".join(f"{name}={value!r}" for name, value in unknown.items())
        raise ValueError(f"verify=True: neither torchvision nor timm has a network with {given}")
    weights = _load(checkpoint, ema, prefix)
    library, module = _build_reference(structure)
    own = state_dict(model)
    names, state = layout_names(own, library, structure), {}
    originals = {name: original for original, name in canonical_names(weights).items()}
    for name, canonical in canonical_names(own).items():
        state[names[name]] = weights[originals[canonical]]
        array = state[names[name]].float().numpy()
        if not np.array_equal(own[name], array[:, ::-1] if bgr and canonical in FIRST_CONVOLUTIONS else array):
            raise ValueError(f"the weights do not agree: {originals[canonical]} is not the same in both")
    counters = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
    module.load_state_dict({**counters, **state}, strict=True)
    images = np.random.default_rng(0).standard_normal((BATCH, SIDE, SIDE, structure.in_channels)).astype("float32")
    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(images[..., ::-1] if bgr else images))
        expected = module.float().eval()(x.permute(0, 3, 1, 2)).numpy()
    actual = _run_keras(own, images, unshown)
    difference = float(np.abs(actual - expected).max())
    relative = difference / max(float(np.abs(expected).max()), 1e-30)
    if not relative <= TOLERANCE:
        raise ValueError(
            f"the weights do not agree: on the same images {library} and Keras differ by {difference:.2e}, "
            f"relatively {relative:.1e}, and at most {TOLERANCE:.0e} is right"
        )
    return Agreement(library, "logits" if structure.include_top else "pooled features", difference, relative)


def _load(checkpoint: str | os.PathLike[str], ema: bool, prefix: str | None) -> dict[str, Any]:
    """The weights as PyTorch's own safe readers give them; as ours does where those refuse what stands beside."""
    import torch

    found = read_checkpoint(checkpoint)  # by content: a name may lie
    if found.format == "safetensors":
        from safetensors.torch import load_file

        return find_network(load_file(checkpoint), ema, prefix).weights
    try:
        with open(checkpoint, "rb") as file:  # not by name, by which torch takes a .safetensors for what it says
            data = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # such as timm's argparse.Namespace
        arrays = find_network(found.data, ema, prefix).weights
        return {name: torch.from_numpy(array.astype("float32")) for name, array in arrays.items()}
    return find_network(data, ema, prefix).weights


# What torchvision's and timm's ResNet have alike; timm alone has architectures with others.
_OF_TIMM = ("group_size", "tiered_stem", "stem_pool", "antialias", "activation", "attention", "attention_last")
_USUAL: dict[str, Any] = {name: getattr(Structure, name) for name in _OF_TIMM}


def _build_reference(structure: Structure) -> tuple[str, Any]:
    """(library, module) of the first library that is installed and has such a network."""
    blocks = structure.blocks
    classes = structure.classes if structure.include_top else 0
    row = identify(structure)
    if row is not None and row.options.keys() & _OF_TIMM and blocks == row.structure.blocks and _import("timm"):
        import timm

        if timm.is_model(row.name):
            sizes: dict[str, Any] = {"num_classes": classes, "in_chans": structure.in_channels}
            return "timm", timm.create_model(row.name, pretrained=False, **sizes)
    usual = replace(structure, stem="imagenet", stem_channels=64, base_channels=64, norm=BATCH_NORM, **_USUAL)
    if structure != usual or len(blocks) != 4 or structure.se_ratio not in (None, 16):
        raise ValueError("verify=True: neither torchvision nor timm has such a network (stem, widths, stages or norms)")
    plain = structure == replace(structure, deep_stem=False, avg_down=False, se_ratio=None, in_channels=3)
    if plain and _import("torchvision"):
        from torch import nn
        from torchvision.models.resnet import Bottleneck, ResNet

        module = ResNet(
            Bottleneck,
            list(blocks),
            num_classes=classes or 1,
            groups=structure.groups,
            width_per_group=structure.width_per_group,
        )
        if not classes:
            module.fc = nn.Identity()
        return "torchvision", module
    if _import("timm"):
        from timm.models.resnet import Bottleneck, ResNet

        return "timm", ResNet(
            Bottleneck,
            list(blocks),
            num_classes=classes,
            in_chans=structure.in_channels,
            cardinality=structure.groups,
            base_width=structure.width_per_group,
            stem_type="deep" if structure.deep_stem else "",
            stem_width=structure.stem_channels // 2,
            avg_down=structure.avg_down,
            block_args=dict(attn_layer="se") if structure.se_ratio else None,
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


def _run_keras(state: Mapping[str, np.ndarray], images: np.ndarray, unshown: Mapping[str, Any]) -> np.ndarray:
    """Logits, or pooled features without a head, of the same weights in float32: a model may compute in less.

    `unshown` are the options of the model that its weights cannot show.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        head = {"classifier_activation": None} if "fc.weight" in state else {"pooling": "avg"}
        model = from_pytorch({name: array.astype("float32") for name, array in state.items()}, **head, **unshown)
    finally:
        keras.config.set_dtype_policy(policy)
    return np.asarray(keras.ops.convert_to_numpy(model(images, training=False)))
