"""A run's figures for TensorBoard, on any backend."""

from collections.abc import Callable, Mapping
from pathlib import Path

from .tasks import TITLES

INSTALL = "pip install 'keras_resnext[tensorboard]'"


def open_board(folder: Path) -> Callable[[Mapping[str, float]], None]:
    """What writes the figures of an epoch (a row of `history.csv`) into `folder`, one curve a figure.

    Training and validation share a chart: `loss/train` and `loss/val`. A resumed run writes a file of its own beside
    the first one's, as TensorBoard expects it.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    try:
        from tensorboard.summary import Writer
    except ImportError as error:
        raise ImportError(f"tensorboard=True needs TensorBoard ({error}): {INSTALL}") from error
    writer = Writer(str(folder))

    def write(row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(_tag(name, f"val_{name}" in row), value, step=int(row["epoch"]))
        writer.flush()

    return write


def _tag(name: str, has_validation: bool) -> str:
    if name.startswith("val_"):
        return f"{name.removeprefix('val_')}/val"
    return f"{name}/train" if has_validation or name in TITLES else name
