"""The head of a network: one linear layer on the pooled features, whatever it is called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The first part of a head's name that says it is one.
_HEAD = re.compile(
    r"(fc|classifier|classif|cls|head|heads|last_linear|linear|logits|output|out|final|dense|top)_?\d*$|.*(?<!roi)_fc$"
    r"|(fc|cls|class|classification|linear)_(head|layer|classifier|\d+)$"
)
# Parts of detectors, of segmentation and of self-supervised networks, none of which classifies an image.
_OTHER = re.compile(
    r"neck|proj|roi|rpn|fpn|mask|bbox|decod|aux|seg|loss|criterion|queue|memory|proto|preprocessor|momentum|"
    r"teacher|student|encoder_[qk]|text|discriminator"
)
_PREDICTOR = re.compile(r"pred")


@dataclass(frozen=True)
class Head:
    name: str = ""  # the module, as the checkpoint has it; "" for none
    problem: str = ""  # what was found instead of one linear layer


def is_head_name(word: str) -> bool:
    """Whether a module of this name, one part of a dotted one, classifies."""
    return _HEAD.match(word.lower()) is not None and _OTHER.search(word.lower()) is None


def find_head(beside: Mapping[str, Any], prefix: str, features: int) -> Head:
    """The linear layer among the entries beside a network that takes its `features` pooled numbers.

    Args:
        beside: entries that are no part of the network, by their names in the checkpoint.
        prefix: what stands before the network's names.
        features: channels of its last stage; 0 if unknown.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, value in beside.items():
        if hasattr(value, "shape"):
            groups.setdefault(_root(name, prefix), {})[name] = value
    named, unnamed, unknown, misshaped = list[str](), list[str](), list[str](), list[str]()
    for root, entries in groups.items():
        word = root.rsplit(".", 1)[-1].lower()
        if _OTHER.search(word):
            continue
        is_head = _HEAD.match(word) is not None
        module = _single(entries)
        weight = entries[f"{module}.weight"] if module else None
        if weight is not None and len(weight.shape) == 2 and features in (0, weight.shape[1]):
            (named if is_head else unnamed).append(module)
        elif word == "fc" and weight is not None and module == root and len(weight.shape) != 4:
            misshaped.append(module)  # whoever compares shapes says so
        elif is_head or (features and not _PREDICTOR.search(word) and _begins_on(entries, features)):
            kernels = [value for value in entries.values() if len(value.shape) == 4]
            if not kernels or (weight is not None and tuple(weight.shape[1:]) == (features, 1, 1)):
                unknown.append(f"{root} ({_describe(entries)})")
    heads = named or unnamed or misshaped
    if unknown and not named:
        return Head(problem=f"{'; '.join(unknown[:4])}, and not one linear layer on {features} features")
    if len(heads) > 1:
        return Head(problem=f"{len(heads)} linear layers stand on the same features, {', '.join(heads[:4])}")
    if not heads:
        return Head()
    if len(beside[f"{heads[0]}.weight"].shape) != 2:
        return Head(heads[0])
    classes = beside[f"{heads[0]}.weight"].shape[0]
    norms = [
        name
        for root, entries in groups.items()
        if not _OTHER.search(root.rsplit(".", 1)[-1].lower().replace("neck", ""))
        if not any(len(value.shape) == 4 for value in entries.values())
        for name, value in entries.items()
        if name.endswith(".running_mean") and tuple(value.shape) == (features,)
    ]
    if norms:  # BNNeck, for one
        return Head(problem=f"{norms[0].removesuffix('.running_mean')} normalises the features before {heads[0]}")
    behind = [
        name
        for root, entries in groups.items()
        if not _OTHER.search(root.rsplit(".", 1)[-1].lower())
        for name, value in entries.items()
        if name.endswith(".weight") and len(value.shape) == 2 and value.shape[1] == classes
        if not name.startswith(f"{heads[0]}.") and not _PREDICTOR.search(root.lower())
    ]
    if behind and classes != features:
        return Head(problem=f"{behind[0].removesuffix('.weight')} stands on the {classes} outputs of {heads[0]}")
    return Head(heads[0])


def _root(name: str, prefix: str) -> str:
    """The module beside the network that an entry is in: "head" of "head.fc.weight"."""
    parts, shared = name.split(".", 20), prefix.split(".", 20)[:-1]
    common = 0
    while common < min(len(shared), len(parts) - 2) and parts[common] == shared[common]:
        common += 1
    return ".".join(parts[: common + 1])


def _single(entries: Mapping[str, Any]) -> str:
    """The one module whose weight, or weight and bias, these are; "" if there is more, or something else."""
    modules = {name.rpartition(".")[0] for name in entries}
    kinds = {name.rpartition(".")[2] for name in entries}
    return modules.pop() if len(modules) == 1 and "weight" in kinds and kinds <= {"weight", "bias"} else ""


def _begins_on(entries: Mapping[str, Any], features: int) -> bool:
    """Whether a linear layer takes the features: pooled, pooled in two ways (fastai), or flattened."""
    return any(len(v.shape) == 2 and v.shape[1] and v.shape[1] % features == 0 for v in entries.values())


def _describe(entries: Mapping[str, Any]) -> str:
    shown = [f"{name} {tuple(value.shape)}" for name, value in list(entries.items())[:4]]
    return ", ".join(shown) + (f" and {len(entries) - 4} more" if len(entries) > 4 else "")
