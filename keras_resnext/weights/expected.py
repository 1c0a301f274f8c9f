"""The entries of a ResNeXt by its structure, name and shape: known before there is a model."""

from collections.abc import Callable, Mapping

from ..network.stages import SK_DILATIONS, Block
from ..network.structure import Structure
from .adapt import Shape

Module = Mapping[str, Shape]  # the entries of one: "weight", "bias", "running_mean", "running_var"
Norm = Callable[[int], Module]  # the network's norm of so many channels


def expected_shapes(structure: Structure) -> dict[str, Shape]:
    """Canonical name (`names.py`) to PyTorch shape of every entry of a ResNeXt."""
    statistics = ("running_mean", "running_var") if structure.norm.has_statistics else ()

    def norm(channels: int) -> Module:
        return dict.fromkeys(("weight", "bias", *statistics), (channels,))

    modules: dict[str, Module] = {}
    channels = structure.in_channels
    for i, (filters, size, _) in enumerate(structure.stem_convolutions):
        names = (f"stem.{i}.conv", f"stem.{i}.norm") if structure.deep_stem else ("conv1", "norm1")
        modules |= zip(names, (_kernel(filters, channels, size, size), norm(filters)), strict=True)
        channels = filters
    for block in (block for stage in structure.stages for block in stage):
        name = block.name.replace("_", ".")
        modules |= {f"{name}.{part}": module for part, module in _bottleneck(block, norm).items()}
        channels = block.filters
    if structure.include_top:
        modules["fc"] = _biased(structure.classes, channels)
    return {f"{name}.{kind}": shape for name, module in modules.items() for kind, shape in module.items()}


def _bottleneck(block: Block, norm: Norm) -> dict[str, Module]:
    parts = {
        "conv1": _kernel(block.width, block.channels, 1, 1),
        "norm1": norm(block.width),
        **(_selective_kernels if block.attention == "sk" else _grouped)(block, norm),
        "conv3": _kernel(block.filters, block.width, 1, 1),
        "norm3": norm(block.filters),
    }
    if block.projects:
        parts["downsample.conv"] = _kernel(block.filters, block.channels, 1, 1)
        parts["downsample.norm"] = norm(block.filters)
    if (gate := _GATES.get(block.attention or "")) and block.squeezed is not None:
        parts |= gate(block.attended, block.squeezed)
    return parts


def _grouped(block: Block, norm: Norm) -> dict[str, Module]:
    """The 3x3."""
    return {"conv2": _kernel(block.width, block.width // block.groups, 3, 3), "norm2": norm(block.width)}


def _selective_kernels(block: Block, norm: Norm) -> dict[str, Module]:
    """The 3x3s, and what mixes them."""
    parts: dict[str, Module] = {}
    for i in range(len(SK_DILATIONS)):
        parts |= {f"conv2.paths.{i}.{part[:-1]}": module for part, module in _grouped(block, norm).items()}
    squeezed = block.squeezed or 1
    return parts | {
        "conv2.attn.reduce": _kernel(squeezed, block.width, 1, 1),
        "conv2.attn.norm": norm(squeezed),
        "conv2.attn.select": _kernel(block.width * len(SK_DILATIONS), squeezed, 1, 1),
    }


def _kernel(*shape: int) -> Module:
    return {"weight": shape}


def _biased(*shape: int) -> Module:
    return {"weight": shape, "bias": shape[:1]}


# Attention behind a convolution -> its modules, by the channels that it weighs and its inner ones, `Block.squeezed`.
_GATES: dict[str, Callable[[int, int], dict[str, Module]]] = {
    "se": lambda channels, squeezed: {
        "se.conv1": _biased(squeezed, channels, 1, 1),
        "se.conv2": _biased(channels, squeezed, 1, 1),
    },
    "eca": lambda _, size: {"eca.conv": _kernel(1, 1, size)},
    "gca": lambda channels, squeezed: {
        "gc.attn": _biased(1, channels, 1, 1),
        "gc.fc1": _biased(squeezed, channels, 1, 1),
        "gc.norm": {"weight": (squeezed,), "bias": (squeezed,)},
        "gc.fc2": _biased(channels, squeezed, 1, 1),
    },
}
