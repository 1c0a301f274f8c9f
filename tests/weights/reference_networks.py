"""Every architecture's own network in its own library, with one block a stage or whole."""

from dataclasses import replace

import torch


def small(name: str) -> torch.nn.Module:
    """timm's network called `name` with one block in each stage, and two in the second."""
    import timm
    from timm.models import byobnet

    blocks = (1, 2, 1, 1)
    if name in byobnet.model_cfgs:
        whole = byobnet.model_cfgs[name]
        stages = tuple(replace(stage, d=d) for stage, d in zip(whole.blocks, blocks, strict=True))
        return byobnet.ByobNet(replace(whole, blocks=stages), num_classes=10)
    return timm.create_model(name, pretrained=False, layers=blocks, num_classes=10)
