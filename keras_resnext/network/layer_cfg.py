"""mmcls's `norm_cfg` and `conv_cfg`, read and checked; `normalization` and `layers` hold what they stand for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .checks import check_share

CONV_TYPES = ("Conv2d", "ConvWS")

# type -> (prefix of the layer's name as mmcv abbreviates it, keys allowed besides type)
_COMMON = ("eps", "requires_grad")
NORM_TYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "BN": ("bn", (*_COMMON, "momentum")),
    "SyncBN": ("bn", (*_COMMON, "momentum")),
    "GN": ("gn", (*_COMMON, "num_groups")),
    "LN": ("ln", _COMMON),
}


@dataclass(frozen=True)
class Norm:
    """The normalisation behind every convolution.

    Attributes:
        kind: "BN", "SyncBN", "GN" or "LN".
        eps: added to the variance.
        momentum: share of the new batch in BatchNorm's moving statistics, as PyTorch means it.
        requires_grad: whether gamma and beta learn.
        num_groups: of GroupNorm.
    """

    kind: str = "BN"
    eps: float = 1e-5
    momentum: float = 0.1
    requires_grad: bool = True
    num_groups: int = 1

    @property
    def prefix(self) -> str:
        """How the layers' names begin: "bn", "gn" or "ln"."""
        return NORM_TYPES[self.kind][0]

    @property
    def has_statistics(self) -> bool:
        return self.prefix == "bn"

    @property
    def cfg(self) -> dict[str, Any] | None:
        """The `norm_cfg` that gives this; None for the default."""
        changed = {name: value for name, value in vars(self).items() if value != getattr(Norm, name) and name != "kind"}
        return {"type": self.kind, **changed} if self != Norm() else None


BATCH_NORM = Norm()


def read_norm_cfg(norm_cfg: Mapping[str, Any] | None) -> Norm:
    """Reads mmcls's `norm_cfg`.

    Args:
        norm_cfg: `{"type": "BN" | "SyncBN" | "GN" | "LN", "eps": 1e-5, "momentum": 0.1, "requires_grad": True,
            "num_groups": …}`; None is BN. `momentum` is meant as in PyTorch: the share of the new batch.

    Raises:
        ValueError: unknown type or key, GN without num_groups, a number out of range.
    """
    if norm_cfg is None:
        return BATCH_NORM
    if not isinstance(norm_cfg, Mapping):
        raise ValueError(f"norm_cfg={norm_cfg!r} must be None or a dict such as {{'type': 'BN'}}")
    cfg = dict(norm_cfg)
    kind = cfg.pop("type", None)
    if not isinstance(kind, str) or kind not in NORM_TYPES:
        raise ValueError(f"norm_cfg={norm_cfg!r}: type {kind!r} is unknown; choose one of {', '.join(NORM_TYPES)}")
    allowed = NORM_TYPES[kind][1]
    if unknown := sorted(set(cfg) - set(allowed), key=str):
        raise ValueError(f"norm_cfg={norm_cfg!r}: {unknown[0]!r} is no option of {kind}; it takes {', '.join(allowed)}")
    if not isinstance(cfg.get("requires_grad", True), bool):
        raise ValueError(f"norm_cfg={norm_cfg!r}: requires_grad must be True or False")
    eps = cfg.get("eps", Norm.eps)
    if not isinstance(eps, (int, float)) or not eps > 0:
        raise ValueError(f"norm_cfg={norm_cfg!r}: eps must be a number above 0")
    num_groups = cfg.get("num_groups")
    if kind == "GN" and (not isinstance(num_groups, int) or num_groups < 1):
        raise ValueError(f"norm_cfg={norm_cfg!r}: GN needs num_groups, a positive integer")
    check_share("norm_cfg['momentum']", cfg.get("momentum", Norm.momentum), one=True)
    return Norm(kind, **cfg)


def read_conv_cfg(conv_cfg: Mapping[str, Any] | None) -> str:
    """The type that mmcls's `conv_cfg` names; None is Conv2d.

    Raises:
        ValueError: anything but None and `{"type": "Conv2d" | "ConvWS"}`.
    """
    if conv_cfg is None:
        return "Conv2d"
    kind = conv_cfg.get("type") if isinstance(conv_cfg, Mapping) else None
    if kind not in CONV_TYPES or len(conv_cfg) > 1:
        raise ValueError(
            f"conv_cfg={conv_cfg!r} must be None or {{'type': name}} with name one of {', '.join(CONV_TYPES)}"
        )
    return str(kind)
