"""Weights between PyTorch checkpoints and Keras models."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ..files import placed_whole
from ..labels import class_names
from ..network.input_preprocessing import get_preprocessing
from ..network.layers import CeilAveragePooling2D
from ..network.structure import Structure
from ..pytorch.checkpoint import CheckpointError, write_checkpoint
from ..pytorch.folder import list_weights_files, read_weights
from .adapt import Entries, Shape, adapt, swap_red_and_blue
from .find_network import WAYS_OUT, find_network
from .fit import blaming_the_checkpoint, check_entries, check_overlap
from .hub import fetch_from_hub
from .hub_config import CONFIG, is_folder_name, make_hub_config
from .infer import infer_built, infer_from_names, infer_norm, shown_by_weights
from .layouts import layout_names
from .names import PART, canonical_names, module_name, options_by_names, shortcut_indices

Array = Any
Source = str | os.PathLike[str] | Mapping[str, Array]

# Keras variable -> entry in PyTorch. Kernels are transposed by rank: OIHW to HWIO (grouped too), OIK to KIO, OI to IO.
ENTRIES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
TO_KERAS: Mapping[int, tuple[int, ...]] = {4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0)}
TO_PYTORCH: Mapping[int, tuple[int, ...]] = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0)}
STRIP = 64  # columns that a transposed copy takes at a time, so that what it reads stays in the processor's cache


def load_pytorch_weights(
    model: keras.Model,
    source: Source,
    *,
    ema: bool = False,
    bgr: bool = False,
    prefix: str | None = None,
    adapting: bool = False,
) -> None:
    """Loads a PyTorch checkpoint into a model of `ResNeXt`: all of it or, on any mismatch, nothing.

    What the model leaves out by its options is not missed: the head with `include_top=False`, stages behind the last.

    Args:
        model: built by `ResNeXt`, `create` or `from_pytorch`.
        source, ema, bgr, prefix: as in `from_pytorch`.
        adapting: whether other classes and other input channels are adapted, with a warning, or refused.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: no readable checkpoint, or entries that are missing, unexpected or of another shape; all are
            listed. It is a ValueError.
    """
    headless = adapting or "fc.weight" not in model_variables(model)
    assign(model, read_entries(source, ema=ema, bgr=bgr, prefix=prefix, headless=headless), adapting)


def save_pytorch_weights(
    model: keras.Model,
    path: str | os.PathLike[str],
    layout: str = "torchvision",
    *,
    labels: Sequence[str] | None = None,
) -> None:
    """Writes the weights of a model of `ResNeXt` as a state_dict that PyTorch loads, whole or not at all.

    `torch.load(path, weights_only=True)` reads the file (.pth, .pt), or safetensors does, and `load_state_dict` with
    strict=True accepts it in the library's own ResNeXt of the same options. `num_batches_tracked` is 0 everywhere.

    A folder gets model.safetensors and config.json, as on Hugging Face's hub: `timm.create_model("local-dir:FOLDER")`
    builds the network, and so does `from_pytorch`.

    Args:
        model: built by `ResNeXt`, `create` or `from_pytorch`.
        path: ends in .pth, .pt or .safetensors; an existing file is replaced. With layout="timm" also a new or empty
            folder, whose name ends in no suffix.
        layout: whose names the entries get, "torchvision", "mmcls" (an ImageClassifier's), "timm" or "open-mmlab"
            (a backbone's of mmcls, mmdet and mmseg).
        labels: the classes' names, for config.json.

    Raises:
        ValueError: another suffix, a model that is no ResNeXt, or a layout whose library has no such network.
        FileExistsError: the folder is not empty.
    """
    folder = layout == "timm" and is_folder_name(path)
    if labels is not None and not folder:
        raise ValueError(f"labels need a folder and layout='timm'; path={os.fspath(path)!r}, layout={layout!r}")
    state, structure = state_dict(model), structure_of(model)
    names = layout_names(state, layout, structure)
    tensors: dict[str, np.ndarray] = {}
    for name, array in state.items():
        tensors[names[name]] = array
        if name.endswith(".running_var"):
            tensors[names[name].replace("running_var", "num_batches_tracked")] = np.array(0, np.int64)
    if not folder:
        write_checkpoint(path, tensors)
        return
    named = class_names(labels, structure.classes) if labels is not None else None
    config = make_hub_config(structure, get_preprocessing(model), named, names)
    with placed_whole(path, folder=True) as aside:
        write_checkpoint(aside / "model.safetensors", tensors)
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """mmcls's name of each entry, without `backbone.` and with the head as `fc`, to the array as PyTorch has it."""
    arrays = {name: keras.ops.convert_to_numpy(variable) for name, variable in _named_variables(model).items()}
    return {name: array.transpose(TO_PYTORCH.get(array.ndim)) for name, array in arrays.items()}


def structure_of(model: keras.Model) -> Structure:
    """What a built model is, read off its weights and layers.

    Raises:
        ValueError: the model is not built by `ResNeXt`.
    """
    shapes = {name: _pytorch_shape(variable) for name, variable in _named_variables(model).items()}
    layers = {layer.name: {"class_name": type(layer).__name__, "config": layer.get_config()} for layer in model.layers}
    try:
        return infer_built(infer_from_names(shapes, infer_norm(layers)), layers)
    except KeyError as error:
        raise ValueError(f"model={model.name!r} is not built by ResNeXt: it has no layer {error}") from None


def unshown_options(model: keras.Model, layout: str = "mmcls") -> dict[str, Any]:
    """Options of `ResNeXt` that the weights of `model`, written in `layout`, cannot show, if they are not the default.

    Raises:
        ValueError: as `layout_names`.
    """
    structure = structure_of(model)
    names = layout_names(state_dict(model), layout, structure).values() if layout == "timm" else ()
    own, usual = structure.options(), shown_by_weights(structure, names).options()
    return {name: value for name, value in own.items() if value != usual[name]}


def read_entries(
    source: Source, *, ema: bool = False, bgr: bool = False, prefix: str | None = None, headless: bool = False
) -> Entries:
    """Canonical name -> (name in the checkpoint, array) of the network in `source`; a warning tells what is left out.

    Args:
        source, ema, bgr, prefix: as in `from_pytorch`.
        headless: whether a head that cannot be read is left out with the rest, or an error.
    """
    if not isinstance(source, (str, os.PathLike, Mapping)):
        raise ValueError(f"source must be a path or {{name: array}}; got {type(source).__name__}")
    source = fetch_from_hub(source)
    data = source if isinstance(source, Mapping) else read_weights(source).data
    with blaming_the_checkpoint():
        network = find_network(data, ema, prefix)
    if network.head_problem and not headless:
        raise CheckpointError(f"{network.head_problem}. {WAYS_OUT}")
    for note in network.notes:
        warnings.warn(note, stacklevel=3)
    told = [network.head_problem] if network.head_problem else []
    told += [f"left out: {left_out}"] if (left_out := network.describe_left_out()) else []
    if "fc.weight" not in network.weights and not headless:
        told.append("the checkpoint holds a backbone without a head")
    if told:
        warnings.warn("; ".join(told), stacklevel=3)
    entries: Entries = {}
    for plain, name in canonical_names(network.weights).items():
        if name in entries:
            raise CheckpointError(f"the checkpoint names one entry twice: {entries[name][0]} and {plain}")
        entries[name] = plain, _as_numpy(network.weights[plain])
    if not isinstance(source, Mapping):
        check_overlap(entries, sum(file.stat().st_size for file in list_weights_files(source)))
    with blaming_the_checkpoint():
        return swap_red_and_blue(entries) if bgr else entries


def _as_numpy(value: Array) -> np.ndarray:
    if hasattr(value, "detach"):  # a PyTorch tensor handed over in memory
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Canonical entry name -> variable, of every layer with weights.

    Raises:
        ValueError: a layer with weights that no ResNeXt has.
    """
    variables = _named_variables(model)
    return {name: variables[original] for original, name in canonical_names(variables).items()}


def _named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """The same by mmcls's names, which the layers carry."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model built by ResNeXt; got {type(model).__name__}")
    variables: dict[str, keras.Variable] = {}
    for layer in model.layers:
        own = {f"{module_name(layer.name)}.{ENTRIES.get(v.name, v.name)}": v for v in layer.weights}
        if len(own) < len(layer.weights) or not all(map(PART.fullmatch, canonical_names(own).values())):
            raise ValueError(
                f"model={model.name!r} is not built by ResNeXt: layer {layer.name!r} has no PyTorch counterpart"
            )
        variables |= own
    return variables


def assign(model: keras.Model, entries: Entries, adapting: bool) -> None:
    variables = model_variables(model)
    wanted: dict[str, Shape] = {name: _pytorch_shape(variable) for name, variable in variables.items()}
    entries, kept, notes = adapt(entries, wanted) if adapting else (entries, set(), [])
    check_entries(
        entries,
        wanted,
        f"model={model.name!r}",
        kept=kept,
        ignored=[name for name in entries if name not in variables and _left_out(name, variables)],
        mismatches=_shortcut_mismatches(model, entries) + _option_mismatches(model, entries),
    )
    for note in notes:
        warnings.warn(note, stacklevel=3)
    # TensorFlow copies a NumPy array in Python before it copies it into the variable; an operation on the array skips
    # the first. For 334 MB: 0.25 s instead of 0.43 s in a fresh process, where torch.load takes 0.19 s.
    to_tensor = keras.ops.stop_gradient if keras.backend.backend() == "tensorflow" else np.asarray
    for name, variable in variables.items():
        if name not in kept:
            variable.assign(
                to_tensor(_to_keras(entries[name][1], "float64" if variable.dtype == "float64" else "float32"))
            )


def _pytorch_shape(variable: keras.Variable) -> Shape:
    shape = tuple(int(n) for n in variable.shape)
    return tuple(shape[axis] for axis in TO_PYTORCH.get(len(shape), range(len(shape))))


def _to_keras(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array as Keras has it, contiguous where it was transposed."""
    if array.ndim not in TO_KERAS:
        return array.astype(dtype, copy=False)
    transposed = array.transpose(TO_KERAS[array.ndim])
    copy: np.ndarray = np.empty(transposed.shape, dtype)
    for start in range(0, transposed.shape[-1], STRIP):
        copy[..., start : start + STRIP] = transposed[..., start : start + STRIP]
    return copy


def _shortcut_mismatches(model: keras.Model, entries: Mapping[str, tuple[str, np.ndarray]]) -> list[str]:
    """Shortcuts that pool in the file and not in the model or the other way round: same shapes, other numbers."""
    mismatches = []
    layers = {layer.name: layer for layer in model.layers}
    for block, index in shortcut_indices(original for original, _ in entries.values()).items():
        first = layers.get(f"{block.replace('.', '_')}_downsample_0")
        if first is None:
            continue
        pools = isinstance(first, CeilAveragePooling2D)
        if pools != bool(index) and (pools or max(first.strides) > 1):
            has = "" if index else "no "
            mismatches.append(f"{block}.downsample: {has}average pooling in the checkpoint; set avg_down={bool(index)}")
    return mismatches


def _option_mismatches(model: keras.Model, entries: Mapping[str, tuple[str, np.ndarray]]) -> list[str]:
    """What the names of a library say of its network, where the model is another: same shapes, other numbers."""
    named = options_by_names(original for original, _ in entries.values())
    told = {name: value for name, value in named.items() if name != "avg_down"}
    if not told:
        return []
    own = structure_of(model).options()
    if own["attention"] is None and own["se_ratio"] is None:
        told.pop("attention_last", None)
    return [
        f"{name}={own[name]!r} in the model; set {name}={value!r}" for name, value in told.items() if own[name] != value
    ]


def _left_out(name: str, variables: Mapping[str, keras.Variable]) -> bool:
    """Whether the model has no such part by its options: no head, or no stage so late."""
    part = name.split(".")[0]
    if part == "fc":
        return not any(n.startswith("fc.") for n in variables)
    return part.startswith("layer") and not any(n.split(".")[0] >= part for n in variables if n.startswith("layer"))
