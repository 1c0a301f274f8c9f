"""config.json as timm writes it on Hugging Face's hub: a network's architecture, preprocessing and classes."""

import json
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..labels import labels_beside
from ..network.architectures import ARCHITECTURES, describe_changes, identify
from ..network.checks import describe_choices
from ..network.structure import Structure
from ..preprocessing import INTERPOLATIONS, Preprocessing
from .infer import shown_by_weights
from .layouts import family
from .lookalikes import unseen_options
from .published import PUBLISHED

CONFIG = "config.json"
MAX_BYTES = 1 << 24
_OLD = re.compile(r"^(ig|ssl|swsl|tv|gluon)_(?=resnext|seresnext)")  # timm's names before 0.9 began with the training
# Arguments of timm's networks that weights show, and those that make no difference to what a trained one computes.
_SHOWN = ("layers", "cardinality", "base_width", "channels", "stem_width", "stem_type", "avg_down", "block_args")
_IGNORED = ("in_chans", "num_classes", "drop_rate", "drop_path_rate", "zero_init_last", "pretrained")
_BASE = "resnext50_32x4d"  # whose arguments make the networks that have no name


@dataclass(frozen=True)
class HubConfig:
    """What config.json says.

    Attributes:
        architecture: a name of `list_architectures()`.
        arguments: of timm's `create_model`, over those of the architecture.
        preprocessing: None where it says nothing of it.
        labels: the classes' names; None where it has none.
        path: of the file.
    """

    architecture: str
    arguments: Mapping[str, Any]
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    path: Path

    def unseen(self, structure: Structure) -> dict[str, Any]:
        """The options that the configuration has and the weights of `structure` do not show.

        Weights of another architecture count for more than its name, and a warning says so.

        Raises:
            ValueError: an argument that no option of `ResNeXt` is.
        """
        row = ARCHITECTURES[self.architecture]
        given = {name: value for name, value in self.arguments.items() if name not in _IGNORED}
        stride = {"output_stride": given.pop("output_stride")} if "output_stride" in given else {}
        odd = {name: value for name, value in given.items() if name not in _SHOWN}
        if given.get("block_args", {"attn_layer": "se"}) not in ({"attn_layer": "se"}, {"attn_layer": "eca"}):
            odd["block_args"] = given["block_args"]
        if odd:
            raise ValueError(f"{self.path}: model_args={odd!r} cannot be read; give the weights' own path and options")
        if not given and shown_by_weights(structure).weights_key != shown_by_weights(row.structure).weights_key:
            found = identify(structure)
            warnings.warn(
                f"{self.path} says {self.architecture}, but the weights are those of a "
                f"{found.name if found else structure.variant}, which is what is built",
                stacklevel=3,
            )
            return stride
        return {**({} if given else unseen_options(row, structure)), **stride}


def read_hub_config(folder: Any) -> HubConfig | None:
    """What the config.json in a folder says; None where there is none, or none of timm's.

    Raises:
        ValueError: it cannot be read, or is of a network that is no ResNeXt.
    """
    path = Path(folder, CONFIG) if isinstance(folder, (str, os.PathLike)) else None
    if path is None or not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        whole = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(whole, dict) or not isinstance(whole.get("architecture"), str):
            return None
        own = whole.get("pretrained_cfg", whole)  # timm before 0.9 had all in one dictionary
        arguments = whole.get("model_args") or {}
        pooling = whole.get("global_pool", "avg")
        preprocessing, labels = _preprocessing(own), _labels({**own, **whole})
        arguments.items()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read as timm's config.json: {error}") from error
    architecture = _OLD.sub("", whole["architecture"].split(".")[0])
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{path} is of architecture {whole['architecture']!r}, which is no ResNeXt that is known; "
            f"{describe_choices(architecture, ARCHITECTURES)}"
        )
    if pooling not in ("avg", "fast", ""):
        raise ValueError(f"{path} has global_pool={pooling!r}; a ResNeXt here pools by 'avg'")
    return HubConfig(architecture, arguments, preprocessing, labels, path)


def _preprocessing(own: Mapping[str, Any]) -> Preprocessing | None:
    if "input_size" not in own:
        return None
    size = min(own["input_size"][1:])
    interpolation = own.get("interpolation", "bilinear")
    if interpolation not in INTERPOLATIONS:
        warnings.warn(f"config.json has interpolation={interpolation!r}; images are resized by 'bicubic'", stacklevel=2)
        interpolation = "bicubic"
    if own.get("crop_mode", "center") not in ("center", ""):
        warnings.warn(f"config.json has crop_mode={own['crop_mode']!r}; images are cropped at the centre", stacklevel=2)
    colours: dict[str, Any] = {
        name: tuple(round(255 * value, 6) for value in own[name])
        for name in ("mean", "std")
        if own.get(name) and len(own[name]) == 3
    }
    return Preprocessing(size, math.floor(size / own.get("crop_pct", 0.875) + 1e-6), interpolation, **colours)


def _labels(whole: Mapping[str, Any]) -> tuple[str, ...] | None:
    names, descriptions = whole.get("label_names", whole.get("labels")), whole.get("label_descriptions") or {}
    if not isinstance(names, list) or not names:
        return None
    return tuple(" ".join(str(descriptions.get(name, name)).split()) for name in names)


def known_labels(model: str | os.PathLike[str], classes: int) -> tuple[str, ...] | None:
    """The class names that came with a model: in its config.json, or in labels.txt beside it; None for none."""
    config = read_hub_config(model)
    named = config.labels if config else None
    return named if named and len(named) == classes else labels_beside(model, classes)


def is_folder_name(path: str | os.PathLike[str]) -> bool:
    """Whether `assign.save_pytorch_weights` writes a folder there: there is one, or the name has no suffix."""
    return os.path.isdir(path) or not os.path.splitext(path)[1]


def make_hub_config(
    structure: Structure, preprocessing: Preprocessing, labels: Sequence[str] | None, names: Mapping[str, str]
) -> dict[str, Any]:
    """The config.json with which timm builds the network and prepares its images.

    Args:
        structure: of the network.
        preprocessing: of its images.
        labels: the classes' names; None for none.
        names: mmcls's names of its entries to timm's.

    Raises:
        ValueError: timm has no such network.
    """
    architecture, arguments = _of_timm(structure)
    size, resize = preprocessing.size, preprocessing.resize
    share = round(size / resize, 4)
    first = next(name for name in names if re.match(r"conv1\.|stem\.0\.conv\.", name))
    classes = structure.classes if structure.include_top else 0
    return {
        "architecture": architecture,
        "num_classes": classes,
        "num_features": structure.outputs[-1],
        **({"model_args": arguments} if arguments else {}),
        **({"label_names": list(labels)} if labels else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [structure.in_channels, size, size],
            "fixed_input_size": False,
            "interpolation": preprocessing.interpolation,
            "crop_pct": share if math.floor(size / share) == resize else size / (resize + 0.5),
            "crop_mode": "center",
            "mean": [round(value / 255, 9) for value in preprocessing.mean],
            "std": [round(value / 255, 9) for value in preprocessing.std],
            "num_classes": classes,
            "first_conv": names[first].removesuffix(".weight"),
            "classifier": names.get("fc.weight", "fc.weight").removesuffix(".weight"),
        },
    }


def _of_timm(structure: Structure) -> tuple[str, dict[str, Any]]:
    """timm's name of a network, or of one like it with the arguments that make the difference."""
    row = identify(structure)
    stride = {} if structure.output_stride == 32 else {"output_stride": structure.output_stride}
    stride |= {} if structure.in_channels == 3 else {"in_chans": structure.in_channels}
    known = {row.architecture for row in PUBLISHED if row.source == "timm"}
    alike = Structure.of(
        blocks=structure.blocks,
        **{
            name: getattr(structure, name)
            for name in ("groups", "width_per_group", "stem_channels", "base_channels", "se_ratio", "attention")
        },
        **{name: getattr(structure, name) for name in ("deep_stem", "tiered_stem", "avg_down")},
    )
    usual = ("stem_pool", "antialias", "activation", "conv", "norm", "style", "strides", "dilations", "attention_last")
    if row is not None and row.name in known and row.structure.blocks == structure.blocks:
        changed = describe_changes(structure, row)
        if not changed and (structure.strides, structure.dilations) == (row.structure.strides, row.structure.dilations):
            return row.name, stride
    base, width = structure.base_channels, 64 * structure.width_per_group / structure.base_channels
    fits = structure.groups > 1 and structure.stem == "imagenet" and width == int(width) and not structure.group_size
    fits = fits and structure.se_ratio in (None, 16) and structure.attention in (None, "eca")
    fits = fits and (structure.deep_stem or structure.stem_channels == 64) and len(structure.blocks) == 4
    fits = fits and (not structure.deep_stem or structure.stem_channels % 16 == 0)
    if (
        not fits
        or family(structure, "timm") != "timm"
        or any(getattr(structure, name) != getattr(alike, name) for name in usual)
    ):
        raise ValueError(
            f"timm has no network like {structure.variant} with these options, so no config.json can name it; write "
            "the weights alone to a .safetensors file"
        )
    deep = "deep_tiered" if structure.tiered_stem else "deep"
    gate = "se" if structure.se_ratio else structure.attention
    return _BASE, {
        "layers": list(structure.blocks),
        "cardinality": structure.groups,
        "base_width": int(width),
        **({} if base == 64 else {"channels": [base * 2**stage for stage in range(4)]}),
        **({"stem_type": deep, "stem_width": structure.stem_channels // 2} if structure.deep_stem else {}),
        **({"avg_down": True} if structure.avg_down else {}),
        **({"block_args": {"attn_layer": gate}} if gate else {}),
        **stride,
    }
