"""The published checkpoints as a table: where each is, what it is, how its images are prepared, who may use it.

The table is `assets/published.tsv`, of which `PublishedWeights` describes the columns.
"""

import csv
import difflib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources

from ..network.checks import match_names
from ..preprocessing import Preprocessing

FREE = ("Apache-2.0", "BSD-3-Clause", "MIT")  # licences that allow commercial use
IMAGENET = 1000  # classes


@dataclass(frozen=True)
class PublishedWeights:
    """One row: a checkpoint that its makers publish.

    Attributes:
        source: "torchvision", "mmcls", "mmpretrain", "timm" or "open-mmlab".
        architecture: a name of `list_architectures()`.
        tag: the source's own name for this training; "" where there is one only.
        url: address of the original file; of what only Hugging Face's hub has, of the file there.
        top1, top5: accuracy in percent on ImageNet's validation set as published, at `preprocessing`; None: unknown.
        licence: SPDX name; "unknown" where the source states none.
        preprocessing: what the accuracy was measured with.
        classes: of the head; 0 for a backbone without one.
        test_preprocessing: a larger size that the source tests at; None for none.
        test_top1: accuracy in percent there; None: unknown.
        hub: "owner/name" on Hugging Face's hub; "" for none.
        bgr: whether the network takes BGR images; loading turns its first kernel round.
        title: the source's own name of the checkpoint where that is not architecture and tag.
        at: pixels of the test size, where that was asked for and `preprocessing` and `top1` are its; else 0.
    """

    source: str
    architecture: str
    tag: str
    url: str
    top1: float | None
    top5: float | None
    licence: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    classes: int = IMAGENET
    test_preprocessing: Preprocessing | None = None
    test_top1: float | None = None
    hub: str = ""
    bgr: bool = False
    title: str = ""
    at: int = 0

    @property
    def name(self) -> str:
        """Such as "torchvision/resnext50_32x4d.imagenet1k_v2", unique in the table; "…@288" at the test size."""
        return f"{self.source}/{self.own_name}" + (f"@{self.at}" if self.at else "")

    @property
    def own_name(self) -> str:
        """The name without its source, as timm and mmpretrain themselves write it."""
        return self.title or f"{self.architecture}{'.' * bool(self.tag)}{self.tag}"

    @property
    def names(self) -> tuple[str, ...]:
        """All that name this row alone: with and without its source, and torchvision's enumeration.

        That is "ResNeXt50_32X4D_Weights.IMAGENET1K_V2". An architecture's own name stands for the architecture.
        """
        own = (self.own_name,) if self.own_name != self.architecture else ()
        network, _, width = self.architecture.removeprefix("resnext").partition("_")
        enumeration = f"ResNeXt{network}_{width.upper()}_Weights.{self.tag.upper()}"
        return self.name, *own, *((enumeration,) if self.source == "torchvision" else ())

    @property
    def file(self) -> str:
        """The original file's own name; on the hub, where all files have one name, that of the checkpoint."""
        return self.url.rsplit("/", 1)[1] if self.sha256_prefix else f"{self.own_name}.safetensors"

    @property
    def sha256_prefix(self) -> str:
        """The hex digits in the file's name that begin its SHA-256, as `torch.hub` has it; "" where it has none."""
        stem, dash, end = self.url.rsplit("/", 1)[-1].rpartition("-")
        return end.split(".")[0] if stem and dash else ""

    @property
    def commercial(self) -> bool:
        """Whether the licence is known to allow commercial use."""
        return self.licence in FREE


def _read_table() -> Iterator[PublishedWeights]:
    """The rows of the table: tab-separated, a number that is not known is empty."""
    with resources.files(__package__.split(".")[0]).joinpath("assets/published.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            top1, top5, test_top1 = (float(row[key]) if row[key] else None for key in ("top1", "top5", "test_top1"))
            tests = int(row["test_size"] or 0), int(row["test_resize"] or 0), row["interpolation"]
            architecture, _, tag = row["name"].partition(".")
            titled = architecture != row["architecture"]
            yield PublishedWeights(
                source=row["source"],
                architecture=row["architecture"],
                tag="" if titled else tag,
                title=row["name"] if titled else "",
                url=row["url"] or f"https://huggingface.co/{row['hub']}/resolve/main/model.safetensors",
                top1=top1,
                top5=top5,
                test_top1=test_top1,
                licence=row["licence"],
                preprocessing=Preprocessing(int(row["size"]), int(row["resize"]), row["interpolation"]),
                classes=int(row["classes"]),
                test_preprocessing=Preprocessing(*tests) if tests[0] else None,
                hub=row["hub"],
                bgr=row["bgr"] == "yes",
            )


# Facts from torchvision/models/resnet.py 0.28, mmcls and mmpretrain configs/resnext/metafile.yml, the default_cfgs of
# timm 1.0.31 with its results-imagenet.csv, and mmcv/model_zoo/open_mmlab.json.
PUBLISHED: tuple[PublishedWeights, ...] = tuple(_read_table())


def list_pretrained(pattern: str | None = None) -> list[str]:
    """Names of the published checkpoints, as `from_pretrained` and `weights=` take them, in the table's order.

    Args:
        pattern: only those whose name, with or without its source, fits: "timm/*seresnext*", "resnext50*".
    """
    return match_names(pattern, {row.name: row.names for row in PUBLISHED})


def warn_of_licence(row: PublishedWeights) -> None:
    """Says what the licence of weights forbids, or that they have none."""
    if row.licence == "unknown":
        warnings.warn(f"the weights {row.name} come without a licence; {row.source} knows whose they are", stacklevel=3)
    elif not row.commercial:
        warnings.warn(f"the weights {row.name} may not be used commercially: {row.licence}", stacklevel=3)


def find_published(name: str, architecture: str | None = None) -> PublishedWeights:
    """The row that `name` means.

    Args:
        name: a row's own name, with its source or as the source itself writes it ("resnext50_32x4d.a1h_in1k",
            "resnext50-32x4d_8xb32_in1k", "ResNeXt50_32X4D_Weights.IMAGENET1K_V2", and where the architecture is known
            "IMAGENET1K_V2"); or a short one for the most accurate row with a free licence:
            "SOURCE/ARCHITECTURE" or, where the architecture is known, "SOURCE"; "imagenet" stands for any source.
            "@288" behind any of them asks for that size: the test size, or the one that the row is for.
        architecture: the row must be of this one.

    Raises:
        ValueError: no row fits; the message lists those that do.
    """
    base, _, size = name.rpartition("@")
    if base and size.isdecimal():
        return _at_size(find_published(base, architecture), int(size))
    fitting = [row for row in PUBLISHED if architecture in (None, row.architecture)]
    for row in fitting:
        if name in row.names:
            return row
    if architecture is not None:  # torchvision's weights="IMAGENET1K_V2"
        for row in fitting:
            if row.source == "torchvision" and row.tag.upper() == name:
                return row
    source, _, wanted = name.partition("/")
    free = [
        row
        for row in fitting
        if row.commercial and row.classes == IMAGENET and row.top1 is not None
        if row.architecture == (wanted or architecture) and source in (row.source, "imagenet")
    ]
    if free:
        return max(free, key=lambda row: row.top1 or 0.0)
    raise ValueError(
        f"{name!r} is no name of published weights{_of(architecture)}; {_choices(name, fitting, architecture)}"
    )


def _at_size(row: PublishedWeights, size: int) -> PublishedWeights:
    if size == row.preprocessing.size:
        return row
    test = row.test_preprocessing
    if test is None or test.size != size:
        sizes = [str(known.size) for known in (row.preprocessing, test) if known is not None]
        raise ValueError(f"{row.name} was not measured at {size} pixels, but at {' and '.join(sizes)}")
    return replace(row, preprocessing=test, top1=row.test_top1, top5=None, at=size)


def find_by_file_name(name: str) -> PublishedWeights | None:
    """The row whose original file is called so, None for none: the name ends in its hash, so it is not by chance."""
    return next((row for row in PUBLISHED if row.file == name), None)


def find_by_sha256(digest: str) -> PublishedWeights | None:
    """The row of whose original file this SHA-256 in hex has the published first digits, None for none."""
    return next((row for row in PUBLISHED if digest.startswith(row.sha256_prefix or "none")), None)


def _of(architecture: str | None) -> str:
    return f" of {architecture}" if architecture else ""


def _choices(name: str, rows: Sequence[PublishedWeights], architecture: str | None) -> str:
    known = {own: row.name for row in rows for own in row.names}
    if near := difflib.get_close_matches(name, known, n=2, cutoff=0.8):
        return f"did you mean {' or '.join(dict.fromkeys(known[own] for own in near))}?"
    names = [row.name + ("" if row.commercial else f" ({row.licence})") for row in rows]
    return f"choose one of {', '.join(names)}" if names else f"none are known{_of(architecture)}"
