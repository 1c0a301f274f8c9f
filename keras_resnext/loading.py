"""A model from whatever names one: an architecture, published weights, a PyTorch checkpoint or a file of Keras."""

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import keras

from .model import ResNeXt, create
from .network.architectures import ARCHITECTURES
from .network.checks import describe_choices, describe_unknown
from .network.initializers import weights_follow
from .network.layer_cfg import read_norm_cfg
from .pytorch.checkpoint import CheckpointError
from .pytorch.folder import PYTORCH_SUFFIXES, is_checkpoint_folder
from .weights.assign import Source, assign, read_entries
from .weights.fit import blaming_the_checkpoint, check_structure
from .weights.hub import fetch_from_hub, is_on_hub
from .weights.hub_config import read_hub_config
from .weights.infer import infer_structure
from .weights.keras_files import KERAS_SUFFIXES, read_keras_weights
from .weights.keras_models import load_keras_model
from .weights.lookalikes import options_by_file_name, options_by_looks
from .weights.names import options_by_names
from .weights.published import find_by_file_name, find_published, list_pretrained
from .weights.sources import mark_as_configured, mark_as_published, tell_what_was_taken

BEST = "best.keras"  # in the folder of a training run


def find_model_file(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The best model in the folder of a training run; any other name as it is."""
    best = Path(name, BEST)
    return best if best.is_file() else name


def load_model(
    name: str | os.PathLike[str], *, ema: bool = False, bgr: bool = False, prefix: str | None = None, **options: Any
) -> keras.Model:
    """The model that `name` stands for.

    Args:
        name: an architecture (random weights), a published checkpoint, a file (.keras, .weights.h5 or a PyTorch
            checkpoint), "hf://owner/name@revision" on Hugging Face's hub, a folder of one checkpoint, as the hub has
            them, or that of a training run, of which the best model is taken.
        ema, bgr, prefix: as in `from_pytorch`, for PyTorch checkpoints alone.
        options: of `ResNeXt`, where the model is built; a .keras file holds its own.

    Raises:
        FileNotFoundError: a path to nothing.
        OSError: a published checkpoint that cannot be downloaded.
        ValueError: none of these, a file that cannot be read as what its name says, or options that do not fit.
    """
    name = fetch_from_hub(find_model_file(name))
    text, path = os.fspath(name), Path(name)
    given = "ema=True" if ema else "bgr=True" if bgr else f"prefix={prefix!r}" if prefix is not None else ""
    if given and not (path.name.lower().endswith(PYTORCH_SUFFIXES) or is_checkpoint_folder(path)):
        raise ValueError(f"{given} is for PyTorch checkpoints; MODEL={text!r} is none")
    if problem := describe_unknown(options, tuple(inspect.signature(ResNeXt).parameters), "ResNeXt"):
        raise ValueError(problem)
    if text in ARCHITECTURES:
        print(f"keras-resnext: {text} has random weights; `keras-resnext list` names trained ones", file=sys.stderr)
        return create(text, **options)
    if is_checkpoint_folder(path):
        return from_pytorch(path, ema=ema, bgr=bgr, prefix=prefix, **options)
    known = (*KERAS_SUFFIXES, *PYTORCH_SUFFIXES)
    if not path.name.lower().endswith(known):
        try:
            find_published(text)
        except ValueError:
            if path.is_dir():
                raise ValueError(
                    f"MODEL={text!r} is a folder without a model: neither {BEST} of a training run nor a SavedModel"
                ) from None
            choices = describe_choices(text, ARCHITECTURES, list_pretrained())
            raise ValueError(
                f"MODEL={text!r} is neither a file ending in {', '.join(known)}, nor published weights "
                f"(`keras-resnext list` shows them), nor an architecture; {choices}"
            ) from None
        return from_pretrained(text, **options)
    if path.is_dir():
        raise ValueError(f"MODEL={text!r} is a folder, not a file")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"MODEL={text!r}: not a regular file")
    if not path.is_file():
        raise FileNotFoundError(f"MODEL={text!r}: there is no such file")
    if path.suffix == ".keras":
        if options:
            raise ValueError(f"MODEL={text!r} is a Keras model as it is; {', '.join(options)} cannot change it")
        return load_keras_model(path)
    source = read_keras_weights(path) if path.name.endswith(KERAS_SUFFIXES) else path
    model = from_pytorch(source, ema=ema, bgr=bgr, prefix=prefix, **options)
    if known_row := find_by_file_name(path.name):
        mark_as_published(model, known_row)
    return model


def describe_model(name: str | os.PathLike[str]) -> dict[str, Any]:
    """What a manifest says of where a model came from: its source, and what is published of it."""
    if is_on_hub(name) or is_checkpoint_folder(name):
        config = read_hub_config(fetch_from_hub(name))
        named = {"architecture": config.architecture} if config and not config.arguments else {}
        return {"source": os.fspath(name), **named}
    name = find_model_file(name)
    text = os.fspath(name)
    row = find_by_file_name(Path(name).name)
    if not text.lower().endswith((*KERAS_SUFFIXES, *PYTORCH_SUFFIXES)) and text not in ARCHITECTURES:
        row = find_published(text)
    facts: dict[str, Any] = {"source": Path(name).name if row is None else row.name}
    if row is not None:
        facts |= {
            "architecture": row.architecture,
            "licence": row.licence,
            "accuracy": {"top1": row.top1, "top5": row.top5},
        }
    return facts


def from_pytorch(
    source: Source, *, ema: bool = False, bgr: bool = False, prefix: str | None = None, **options: Any
) -> keras.Model:
    """Builds the ResNeXt that a PyTorch checkpoint holds and loads it; PyTorch is not needed.

    Args:
        source: path of a .pth, .pt, .ckpt, .bin, .pkl or .safetensors file or of a folder as on Hugging Face's hub,
            "hf://owner/name@revision" there, or {name: array}. The network is found under any keys and
            prefixes; a warning tells what is left out. Depth, groups, widths, stem, squeeze-and-excitation, classes and
            head are read off the weights; what they do not show, and the preprocessing, off a config.json beside them.
        ema: takes the moving average that the file holds beside the weights (`model_ema`, `state_dict_ema`, `ema_…`).
            mmengine, and mmcv after each epoch, have the average in `state_dict` itself and the weights beside it.
        bgr: the network was trained on BGR images; the model takes RGB ones.
        prefix: which network, where the file holds several, as the error lists them: "encoder_q", "teacher".
        options: of `ResNeXt`, over what was read. Style, dilations, strides, ConvWS and GroupNorm leave no trace in
            weights and must be given where they are not the default. Images may have any size unless `input_shape`
            is given. Other `classes` than the checkpoint's start with a random head, and other input channels adapt
            the first convolution; a warning says so.

    Returns:
        A model as of `ResNeXt`; with a head it ends in softmax (`classifier_activation=None` for logits).

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: no readable checkpoint, or no ResNeXt in it. It is a ValueError.
        ValueError: options that do not fit the weights.
    """
    headless = options.get("include_top") is False or any(
        options.get(name) is not None for name in ("classes", "pooling", "out_indices")
    )
    source = fetch_from_hub(source)
    config = read_hub_config(source)
    entries = read_entries(source, ema=ema, bgr=bgr, prefix=prefix, headless=headless)
    shapes = {name: tuple(array.shape) for name, (_, array) in entries.items()}
    norm = read_norm_cfg(options["norm_cfg"]) if "norm_cfg" in options else None
    named = options_by_names(original for original, _ in entries.values())
    with blaming_the_checkpoint():
        structure = infer_structure(shapes, named, norm)
    check_structure(structure, entries, head=not headless)
    inferred = structure.options()
    unseen = options_by_file_name(os.path.basename(source), structure) if isinstance(source, (str, os.PathLike)) else {}
    inferred |= config.unseen(structure) if config else unseen or options_by_looks(structure, options)
    for per_stage in ("blocks", "strides", "dilations"):  # the caller may want the first stages alone
        inferred[per_stage] = inferred[per_stage][: options.get("num_stages")]
    if options.get("input_tensor") is None:
        inferred["input_shape"] = (None, None, structure.in_channels)
    whole = len(inferred["blocks"]) == inferred["num_stages"]
    inferred["include_top"] = (inferred["include_top"] and whole) or options.get("classes") is not None
    if options.get("out_indices") is not None or options.get("pooling") is not None:
        inferred["include_top"] = False
    with weights_follow():
        model = ResNeXt(**{**inferred, **options})
    assign(model, entries, adapting=True)
    mark_as_configured(model, config)
    return model


def from_pretrained(name: str, **options: Any) -> keras.Model:
    """Builds the model that a published checkpoint is for, with its weights and its preprocessing.

    Args:
        name: one of `list_pretrained()`, such as "torchvision/resnext50_32x4d.imagenet1k_v2", or a short name,
            "mmcls/resnext50_32x4d" or "imagenet/resnext50_32x4d", for the most accurate of those that may be used
            commercially; a line on standard error says which that is. "@288" behind it asks for the test size. Or
            "hf://owner/name@revision", as in `from_pytorch`.
        options: of `ResNeXt`, such as `classes=10`, `include_top=False` or `input_shape`. Classes, head and image size
            are those of the checkpoint where no option says otherwise; a checkpoint of a backbone gives feature maps.

    Raises:
        ValueError: an unknown name, or options with which the weights do not fit.
        OSError: the file cannot be downloaded; the message says where to put it by hand.
    """
    if not isinstance(name, str):
        raise ValueError(f"name={name!r} must be a text; choose one of {', '.join(list_pretrained())}")
    if "weights" in options:
        raise ValueError(f"weights={options['weights']!r} cannot be given beside name={name!r}")
    if is_on_hub(name):
        return from_pytorch(name, **options)
    row = find_published(name)
    size = row.preprocessing.size
    given = any(options.get(option) is not None for option in ("input_shape", "input_tensor", "pooling", "out_indices"))
    usual: dict[str, Any] = {"classes": row.classes} if row.classes else {"include_top": "classes" in options}
    if options.get("include_top", usual.get("include_top", True)) and not given:
        usual["input_shape"] = (size, size, 3)
    model = create(row.architecture, **{**usual, **options, "weights": row.name})
    tell_what_was_taken(name, row)
    return model
