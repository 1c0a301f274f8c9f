"""torchvision and timm as truth: models with random weights and random statistics, their files and outputs."""

from pathlib import Path

import numpy as np
import torch

_LIBRARY = torch.library.Library("torchvision", "DEF")
for _op in ("nms", "qnms"):  # declared so that torchvision imports on a CPU build of PyTorch
    _LIBRARY.define(_op + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every weight and statistic random, none at its initial value, so that nothing agrees by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, generator=generator)
            if "running_mean" in name or (tensor.ndim == 1 and name.endswith("bias")):
                tensor.copy_(noise - 0.5)
            elif tensor.ndim == 1:
                tensor.copy_(noise + 0.5)
            else:
                tensor.copy_((noise - 0.5) * 2 * (3 / tensor[0].numel()) ** 0.5)
    return module.eval()


def torchvision_model(name: str, **options) -> torch.nn.Module:
    import torchvision

    return randomise(torchvision.models.get_model(name, weights=None, **options))


def timm_model(name: str, **options) -> torch.nn.Module:
    import timm

    return randomise(timm.create_model(name, pretrained=False, **options))


def small_timm_model(
    *, deep: bool = False, squeeze: bool = False, blocks: tuple[int, ...] = (1, 1, 1, 1), **options
) -> torch.nn.Module:
    """timm's own ResNet with few blocks: ResNet-D's stem and shortcuts, squeeze-and-excitation or neither."""
    from timm.models.resnet import Bottleneck, ResNet

    if deep:
        options |= {"stem_type": "deep", "stem_width": 32, "avg_down": True}
    if squeeze:
        options["block_args"] = {"attn_layer": "se"}
    return randomise(ResNet(Bottleneck, list(blocks), **options))


def logits(module: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """Of images (batch, height, width, channels)."""
    with torch.no_grad():
        return module(torch.tensor(x).permute(0, 3, 1, 2)).numpy()


def save_all(module: torch.nn.Module, folder: Path) -> list[Path]:
    """The state_dict in every format and wrapper that is published: paths."""
    from safetensors.torch import save_file

    state = module.state_dict()
    files = {
        "zip.pth": state,
        "wrapped.pth": {"state_dict": state, "meta": {"epoch": 3, "CLASSES": ["a", "b"]}},
        "model.pt": {"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 1},
        "model_ema.pth": {"model_ema": {f"module.{k}": v for k, v in state.items()}},
        "ema.pth": {"state_dict_ema": state},
    }
    for name, content in files.items():
        torch.save(content, folder / name)
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "weights.safetensors")
    return [folder / name for name in (*files, "legacy.pth", "weights.safetensors")]
