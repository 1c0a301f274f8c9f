"""How to train, as data: each recipe is a row with its source."""

import difflib
from dataclasses import replace
from typing import Any

from ..data.augmentation import Augmentation
from .field_types import check_types
from .recipe import Recipe

_PAPER = Recipe(
    schedule="step",
    milestones=(30, 60, 90),
    source="arXiv 1611.05431, section 4; mmcls configs/_base_/schedules/imagenet_bs256.py",
)
# Table 2 of the paper; what it leaves open as in timm: the limit of the norm is its LAMB's own.
_STRIKES_BACK = Recipe(
    batch_size=2048, learning_rate=5e-3, base_batch_size=2048, optimizer="lamb", weight_decay=0.02, clip_norm=1.0,
    decay_norm_and_bias=False, schedule="cosine", warmup_epochs=5, loss="bce", target_threshold=0.2, sum_labels=False,
    drop_path_rule="linear", test_size=224, test_crop=0.95,
    augmentation=Augmentation(policy="rand-m7-mstd0.5-inc1", mixup=0.1, cutmix=1.0, interpolation="bicubic"),
    source="arXiv 2110.00476, table 2; timm's LAMB, RandAugment, RepeatAugSampler and --bce-target-thresh",
)  # fmt: skip
RECIPES: dict[str, Recipe] = {
    "paper": _PAPER,
    "mmcls": _PAPER,
    "cifar": Recipe(
        epochs=300, batch_size=128, base_batch_size=128, weight_decay=5e-4, schedule="step",
        milestones=(150, 225), augmentation=Augmentation(size=32, crop_padding=4),
        source="arXiv 1611.05431, section 5.3",
    ),
    "modern": Recipe(
        epochs=600, batch_size=1024, learning_rate=0.5, base_batch_size=1024, weight_decay=2e-5,
        decay_norm_and_bias=False, schedule="cosine", warmup_epochs=5, label_smoothing=0.1, ema=0.04,
        augmentation=Augmentation(
            size=176, policy="trivial_augment", random_erasing=0.1, mixup=0.2, cutmix=1.0, repeats=4
        ),
        source="torchvision references/classification, ResNeXt101_32X8D_Weights.IMAGENET1K_V2",
    ),
    "a1": replace(
        _STRIKES_BACK, epochs=600, weight_decay=0.01, label_smoothing=0.1, drop_path_rate=0.05, target_threshold=None,
        augmentation=replace(_STRIKES_BACK.augmentation, mixup=0.2, repeats=3),
    ),
    "a2": replace(
        _STRIKES_BACK, epochs=300, drop_path_rate=0.05, augmentation=replace(_STRIKES_BACK.augmentation, repeats=3)
    ),
    "a3": replace(
        _STRIKES_BACK, epochs=100, learning_rate=8e-3,
        augmentation=replace(_STRIKES_BACK.augmentation, size=160, policy="rand-m6-mstd0.5-inc1"),
    ),
    "finetune": Recipe(
        epochs=20, batch_size=32, learning_rate=0.08, schedule="cosine", warmup_epochs=0.5, label_smoothing=0.1,
        decay_norm_and_bias=False, head_epochs=2, augmentation=Augmentation(crop_scale=(0.25, 1.0)),
        patience=6,  # a third of the epochs of the whole network: a cosine's last, low rates often bring the best one
        source="head first, then all at a low rate",
    ),
}  # fmt: skip


def find_recipe(name: str, **changes: Any) -> Recipe:
    """The recipe called `name`, with fields of `Recipe` or of its `Augmentation` changed.

    Another number of epochs stretches the schedule, unless milestones or warm-up are given too.

    Raises:
        ValueError: no such recipe or field, or a value of another type or outside its range.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"recipe={name!r} must be one of {', '.join(RECIPES)}{meant}")
    recipe = RECIPES[name]
    fields = [*Recipe.__dataclass_fields__, *Augmentation.__dataclass_fields__]
    for wrong in sorted(changes.keys() - set(fields)):
        near = difflib.get_close_matches(wrong, fields, 1)
        raise ValueError(f"{wrong}: no field of a recipe; " + (f"did you mean {near[0]}?" if near else
                         f"choose from {', '.join(fields)}"))  # fmt: skip
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    if isinstance(changes.get("epochs"), int):
        if changes["epochs"] < 1:
            raise ValueError(f"epochs={changes['epochs']!r} must be at least 1")
        recipe = recipe.shortened(changes["epochs"])
    of_images = {key: changes.pop(key) for key in list(changes) if key in Augmentation.__dataclass_fields__}
    check_types(Augmentation, of_images)
    check_types(Recipe, changes)
    return replace(recipe, augmentation=replace(recipe.augmentation, **of_images), **changes)
