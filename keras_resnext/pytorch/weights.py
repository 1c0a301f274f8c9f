"""Weights between PyTorch checkpoints and Keras models."""

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from ..layers import CeilAveragePooling2D
from ..model import ResNeXt
from .checkpoint import read_checkpoint
from .inference import infer_options
from .names import (
    EMA_PREFIX,
    IGNORED,
    canonical_layer_name,
    canonical_names,
    find_state_dict,
    shortcut_indices,
)

Array = Any
Source = str | os.PathLike[str] | Mapping[str, Array]

# Keras variable -> entry in PyTorch. Kernels are transposed by rank: OIHW to HWIO (grouped too), OI to IO.
ENTRIES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
TO_KERAS = {4: (2, 3, 1, 0), 2: (1, 0)}


def from_pytorch(source: Source, **options: Any) -> keras.Model:
    """Builds the ResNeXt that a PyTorch checkpoint holds and loads it; PyTorch is not needed.

    Args:
        source: path of a .pth, .pt or .safetensors file, or {name: array}, from mmcls, torchvision or timm. Depth,
            groups, widths, stem, squeeze-and-excitation, classes and head are read off the weights.
        options: of `ResNeXt`, over what was read. Style, dilations, strides, ConvWS and GroupNorm leave no trace in
            weights and must be given where they are not the default. Pictures may have any size unless `input_shape`
            is given.

    Returns:
        A model as of `ResNeXt`; with a head it ends in softmax (`classifier_activation=None` for logits).

    Raises:
        FileNotFoundError: no such file.
        ValueError: no readable checkpoint, no ResNeXt, or options that do not fit the weights.
    """
    entries = read_entries(source)
    shapes = {name: tuple(array.shape) for name, (_, array) in entries.items()}
    avg_down = 1 in shortcut_indices(original for original, _ in entries.values()).values()
    if "norm_cfg" in options:  # then the norm's kind need not be read off the weights
        shapes.setdefault("layer1.0.norm1.running_mean", ())
    inferred = infer_options(shapes, avg_down)
    in_channels = inferred.pop("in_channels")
    for per_stage in ("blocks", "strides", "dilations"):  # the caller may want the first stages alone
        inferred[per_stage] = inferred[per_stage][: options.get("num_stages")]
    if options.get("input_tensor") is None:
        inferred["input_shape"] = (None, None, in_channels)
    if options.get("out_indices") is not None or options.get("pooling") is not None:
        inferred["include_top"] = False
    model = ResNeXt(**{**inferred, **options})
    _assign(model, entries)
    return model


def load_pytorch_weights(model: keras.Model, source: Source) -> None:
    """Loads a PyTorch checkpoint into a model of `ResNeXt`: all of it or, on any mismatch, nothing.

    What the model leaves out by its options is not missed: the head with `include_top=False`, stages behind the last.

    Args:
        model: built by `ResNeXt`, `create` or `from_pytorch`.
        source: as in `from_pytorch`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no readable checkpoint, or entries that are missing, unexpected or of another shape; all are listed.
    """
    _assign(model, read_entries(source))


def read_entries(source: Source) -> dict[str, tuple[str, np.ndarray]]:
    """Canonical name -> (name in the checkpoint, array) of everything but counters and EMA copies."""
    if not isinstance(source, (str, os.PathLike, Mapping)):
        raise ValueError(f"source must be a path or {{name: array}}; got {type(source).__name__}")
    if isinstance(source, Mapping):
        data: Any = source
    elif os.path.isdir(source):
        raise ValueError(f"source={os.fspath(source)!r} is a folder; it must be a checkpoint file")
    else:
        data = read_checkpoint(source).data
    _, state = find_state_dict(data)
    state = {k: v for k, v in state.items() if not IGNORED.search(k) and not k.startswith(EMA_PREFIX)}
    entries: dict[str, tuple[str, np.ndarray]] = {}
    for original, name in canonical_names(state).items():
        if name in entries:
            raise ValueError(f"the checkpoint names one entry twice: {entries[name][0]} and {original}")
        entries[name] = original, _as_numpy(state[original])
    return entries


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
    variables: dict[str, keras.Variable] = {}
    for layer in model.layers:
        if not layer.weights:
            continue
        own = {variable.name: variable for variable in layer.weights}
        name = canonical_layer_name(layer.name, is_norm="gamma" in own)
        if name is None or not set(own) <= set(ENTRIES):
            raise ValueError(
                f"model={model.name!r} is not built by ResNeXt: layer {layer.name!r} has no PyTorch counterpart"
            )
        variables |= {f"{name}.{ENTRIES[kind]}": variable for kind, variable in own.items()}
    return variables


def _assign(model: keras.Model, entries: Mapping[str, tuple[str, np.ndarray]]) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model built by ResNeXt; got {type(model).__name__}")
    variables = model_variables(model)
    unexpected = [
        original for name, (original, _) in entries.items() if name not in variables and not _left_out(name, variables)
    ]
    missing = [name for name in variables if name not in entries]
    converted, misshaped = {}, []
    for name, variable in variables.items():
        if name not in entries:
            continue
        original, array = entries[name]
        value = array.transpose(TO_KERAS[array.ndim]) if array.ndim in TO_KERAS else array
        try:
            value = value.astype("float32", copy=False)
        except (TypeError, ValueError):
            misshaped.append(f"{original}: {array.dtype} is no number")
            continue
        if value.shape != tuple(variable.shape):
            axes = np.argsort(TO_KERAS[len(variable.shape)]) if len(variable.shape) in TO_KERAS else slice(None)
            wanted = tuple(int(n) for n in np.array(variable.shape)[axes])
            misshaped.append(f"{original}: {array.shape} in the checkpoint, {wanted} in the model")
        converted[name] = value
    misshaped += _shortcut_mismatches(model, entries)
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    if any(problems.values()):
        lines = [f"{len(names)} {what}: {'; '.join(names)}" for what, names in problems.items() if names]
        raise ValueError(f"the checkpoint does not fit model={model.name!r}. " + ". ".join(lines))
    for name, value in converted.items():
        variables[name].assign(value)


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


def _left_out(name: str, variables: Mapping[str, keras.Variable]) -> bool:
    """Whether the model has no such part by its options: no head, or no stage so late."""
    part = name.split(".")[0]
    if part == "fc":
        return not any(n.startswith("fc.") for n in variables)
    return part.startswith("layer") and not any(n.split(".")[0] >= part for n in variables if n.startswith("layer"))
