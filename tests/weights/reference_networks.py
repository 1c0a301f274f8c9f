"""The sources' own networks of every architecture: whole without numbers, and small with random ones."""

from dataclasses import replace
from typing import Any

import torch

from keras_resnext.network.architectures import ARCHITECTURES, Architecture
from tests import references

BLOCKS, CLASSES, NARROWER = (1, 2, 1, 1), 7, 4


def whole(source: str, row: Architecture, classes: int) -> torch.nn.Module:
    """The network of a source that calls it by name; torchvision's stands for mmcls's and open-mmlab's."""
    import timm
    from torchvision.models.resnet import Bottleneck, ResNet

    with torch.device("meta"):
        if source == "timm" and timm.is_model(row.name):
            return timm.create_model(row.name, num_classes=classes)
        norm = {"norm_layer": lambda channels: torch.nn.GroupNorm(32, channels)} if "norm_cfg" in row.options else {}
        blocks = list(row.structure.blocks)
        return ResNet(Bottleneck, blocks, groups=row.groups, width_per_group=row.width_per_group, **norm)


def small(row: Architecture) -> torch.nn.Module:
    """timm's network of the same kind with few blocks a quarter as wide, all its numbers random.

    senet's has no option for its widths and stays as wide as it is.
    """
    import timm
    from timm.models import byobnet

    if row.name in byobnet.model_cfgs:
        kind = byobnet.model_cfgs[row.name]
        stages = tuple(
            replace(stage, d=d, c=stage.c // NARROWER, gs=stage.gs // NARROWER)
            for stage, d in zip(kind.blocks, BLOCKS, strict=True)
        )
        return references.randomise(byobnet.ByobNet(replace(kind, blocks=stages), num_classes=CLASSES))
    options: dict[str, Any] = {"layers": BLOCKS, "num_classes": CLASSES}
    if not row.name.startswith("legacy"):
        options["channels"] = tuple(channels // NARROWER for channels in (64, 128, 256, 512))
    if not timm.is_model(row.name):  # such as the 32x48d, whose weights timm lists and whose network it does not
        options |= {"cardinality": row.groups, "base_width": row.width_per_group}
    return references.randomise(
        timm.create_model(row.name if timm.is_model(row.name) else "resnext50_32x4d", **options)
    )


def kind(row: Architecture) -> tuple[Any, ...]:
    """Equal for architectures that differ in their depth alone."""
    options = {name: value for name, value in row.options.items() if name != "blocks"}
    return row.groups, row.width_per_group, *sorted(map(repr, options.items()))


# The first architecture of each kind that timm has; those of mmcls with other norms are in its golden files.
_OF_TIMM = [row for row in ARCHITECTURES.values() if row.image_size > 32 and row.source not in ("PaddleClas", "mmcls")]
KINDS = {kind(row): row for row in reversed(_OF_TIMM) if "norm_cfg" not in row.options}
