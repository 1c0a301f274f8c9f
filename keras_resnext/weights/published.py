"""The published checkpoints as a table: where each is, what it is, how its images are prepared, who may use it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..preprocessing import Preprocessing


@dataclass(frozen=True)
class PublishedWeights:
    """One row: a checkpoint that its makers publish.

    Attributes:
        source: "torchvision", "mmcls" or "timm".
        architecture: a name of `list_architectures()`.
        tag: the source's own name for this training; "" where there is one only.
        url: address of the original file.
        top1, top5: accuracy in percent on ImageNet's validation set as published, at `preprocessing`; None: unknown.
        licence: SPDX name.
        preprocessing: what the accuracy was measured with.
    """

    source: str
    architecture: str
    tag: str
    url: str
    top1: float
    top5: float | None
    licence: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def name(self) -> str:
        """Such as "torchvision/resnext50_32x4d.imagenet1k_v2", unique in the table."""
        return f"{self.source}/{self.architecture}{'.' * bool(self.tag)}{self.tag}"

    @property
    def file(self) -> str:
        """The original file's own name."""
        return self.url.rsplit("/", 1)[1]

    @property
    def sha256_prefix(self) -> str:
        """The eight hex digits in the file's name that begin its SHA-256, as `torch.hub` has it."""
        return self.file.rsplit("-", 1)[1].split(".")[0]

    @property
    def commercial(self) -> bool:
        """Whether the licence allows commercial use."""
        return "-NC-" not in self.licence


_TORCHVISION = "https://download.pytorch.org/models/"
_MMCLS = "https://download.openmmlab.com/mmclassification/v0/resnext/"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/"
_SWSL = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files/semi_weakly_supervised_"
_NC = "CC-BY-NC-4.0"
_V2 = Preprocessing(resize=232)
_BICUBIC = Preprocessing(interpolation="bicubic")
_CROP_95 = Preprocessing(resize=235, interpolation="bicubic")  # timm's crop_pct 0.95: floor(224 / 0.95)


def _torchvision(
    architecture: str, version: int, end: str, top1: float, top5: float, **options: Any
) -> PublishedWeights:
    url = f"{_TORCHVISION}{architecture}-{end}.pth"
    return PublishedWeights(
        "torchvision", architecture, f"imagenet1k_v{version}", url, top1, top5, "BSD-3-Clause", **options
    )


def _mmcls(architecture: str, end: str, top1: float, top5: float) -> PublishedWeights:
    return PublishedWeights(
        "mmcls", architecture, "", f"{_MMCLS}{architecture}_b32x8_imagenet_{end}.pth", top1, top5, "Apache-2.0"
    )


def _wsl(width: int, end: str, top1: float) -> PublishedWeights:
    url = f"{_TORCHVISION}ig_resnext101_32x{width}-{end}.pth"
    return PublishedWeights("timm", f"resnext101_32x{width}d", "fb_wsl_ig1b_ft_in1k", url, top1, None, _NC)


def _swsl(architecture: str, end: str, top1: float) -> PublishedWeights:
    return PublishedWeights(
        "timm", architecture, "fb_swsl_ig1b_ft_in1k", f"{_SWSL}{architecture[:-1]}-{end}.pth", top1, None, _NC
    )


def _timm(
    architecture: str, tag: str, end: str, top1: float, top5: float | None, preprocessing: Preprocessing
) -> PublishedWeights:
    return PublishedWeights("timm", architecture, tag, f"{_TIMM}{end}.pth", top1, top5, "Apache-2.0", preprocessing)


# Addresses, accuracies and preprocessing: torchvision/models/resnet.py 0.28, mmcls configs/resnext/metafile.yml 0.25.0,
# timm/models/resnet.py 1.0.31 and the pages of its models. timm's accuracies are those at 224 pixels.
PUBLISHED: tuple[PublishedWeights, ...] = (
    _torchvision("resnext50_32x4d", 1, "7cdf4587", 77.618, 93.698),
    _torchvision("resnext50_32x4d", 2, "1a0047aa", 81.198, 95.340, preprocessing=_V2),
    _torchvision("resnext101_32x8d", 1, "8ba56ff5", 79.312, 94.526),
    _torchvision("resnext101_32x8d", 2, "110c445d", 82.834, 96.228, preprocessing=_V2),
    _torchvision("resnext101_64x4d", 1, "173b62eb", 83.246, 96.454, preprocessing=_V2),
    _mmcls("resnext50_32x4d", "20210429-56066e27", 77.90, 93.66),
    _mmcls("resnext101_32x4d", "20210506-e0fa3dd5", 78.61, 94.17),
    _mmcls("resnext101_32x8d", "20210506-23a247d5", 79.27, 94.58),
    _mmcls("resnext152_32x4d", "20210524-927787be", 78.88, 94.33),
    _timm("resnext50_32x4d", "a1h_in1k", "v0.1-rsb-weights/resnext50_32x4d_a1h-0146ab0a", 81.140, None, _CROP_95),
    _timm("resnext50d_32x4d", "bt_in1k", "v0.1-weights/resnext50d_32x4d-103e99f8", 79.672, 94.878, _BICUBIC),
    _timm("resnext101_64x4d", "c1_in1k", "v0.1-tpu-weights/resnext101_64x4d_c-0d0e0cc0", 82.446, None, _CROP_95),
    _timm("seresnext50_32x4d", "racm_in1k", "v0.1-weights/seresnext50_32x4d_racm-a304a460", 81.268, None, _BICUBIC),
    _wsl(8, "c38310e5", 82.720),
    _wsl(16, "c6f796b0", 84.166),
    _wsl(32, "e4b90b00", 85.090),
    _wsl(48, "3e41cc8a", 85.42),
    _swsl("resnext50_32x4d", "72679e44", 82.162),
    _swsl("resnext101_32x4d", "3f87e46b", 83.268),
    _swsl("resnext101_32x8d", "b4712904", 84.276),
    _swsl("resnext101_32x16d", "f3559a9c", 83.340),
)  # fmt: skip


def list_pretrained() -> list[str]:
    """Names of the published checkpoints, as `from_pretrained` and `weights=` take them, in the table's order."""
    return [row.name for row in PUBLISHED]


def find_published(name: str, architecture: str | None = None) -> PublishedWeights:
    """The row that `name` means.

    Args:
        name: a row's own name, or a short one for the most accurate row that may be used commercially:
            "SOURCE/ARCHITECTURE" or, where the architecture is known, "SOURCE"; "imagenet" stands for any source.
        architecture: the row must be of this one.

    Raises:
        ValueError: no row fits; the message lists those that do.
    """
    fitting = [row for row in PUBLISHED if architecture in (None, row.architecture)]
    for row in fitting:
        if row.name == name:
            return row
    source, _, wanted = name.partition("/")
    free = [
        row
        for row in fitting
        if row.commercial and row.architecture == (wanted or architecture) and source in (row.source, "imagenet")
    ]
    if free:
        return max(free, key=lambda row: row.top1)
    raise ValueError(f"{name!r} is no name of published weights{_of(architecture)}; {_choices(fitting, architecture)}")


def find_by_file_name(name: str) -> PublishedWeights | None:
    """The row whose original file is called so, None for none: the name ends in its hash, so it is not by chance."""
    return next((row for row in PUBLISHED if row.file == name), None)


def find_by_sha256(digest: str) -> PublishedWeights | None:
    """The row whose original file has this SHA-256 in hex, None for none."""
    return next((row for row in PUBLISHED if digest.startswith(row.sha256_prefix)), None)


def _of(architecture: str | None) -> str:
    return f" of {architecture}" if architecture else ""


def _choices(rows: Iterable[PublishedWeights], architecture: str | None) -> str:
    names = [row.name + ("" if row.commercial else f" ({row.licence})") for row in rows]
    return f"choose one of {', '.join(names)}" if names else f"none are known{_of(architecture)}"
