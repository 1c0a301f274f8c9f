"""A run's figures and mistakes for TensorBoard, on any backend."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

INSTALL = "pip install 'keras_resnext[tensorboard]'"
TRAIN, VALIDATION = "train", "validation"
_VALIDATED = "val_"


class Board:
    """Writes as Keras's own callback does: two runs, `train` and `validation`, with the same tags, share each chart.

    A resumed run writes a file of its own beside the first one's, as TensorBoard expects it.

    Args:
        folder: for both runs.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ImportError(f"tensorboard=True needs TensorBoard ({error}): {INSTALL}") from error
        self.folder, self._open = folder, EventFileWriter
        self._writers: dict[str, Any] = {}

    def add_row(self, row: Mapping[str, float]) -> None:
        """The figures of an epoch, a row of `history.csv`; `val_loss` is `epoch_loss` of the run `validation`."""
        from tensorboard.plugins.scalar.metadata import create_summary_metadata

        for name, value in row.items():
            if name != "epoch":
                run = VALIDATION if name.startswith(_VALIDATED) else TRAIN
                tag = f"epoch_{name.removeprefix(_VALIDATED)}"
                self._add(run, tag, create_summary_metadata("", ""), np.float32(value), int(row["epoch"]))

    def add_image(self, tag: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """A PNG of (width, height) `size`, in the run `validation`."""
        from tensorboard.plugins.image.metadata import create_summary_metadata

        data = np.array([*(str(side).encode() for side in size), png], object)
        self._add(VALIDATION, tag, create_summary_metadata("", ""), data, step)

    def _add(self, run: str, tag: str, metadata: Any, data: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, DATA_CLASS_SCALAR
        from tensorboard.util.tensor_util import make_tensor_proto

        if run not in self._writers:
            self._writers[run] = self._open(str(self.folder / run))
        metadata.data_class = DATA_CLASS_BLOB_SEQUENCE if data.ndim else DATA_CLASS_SCALAR
        event = Event(wall_time=time.time(), step=step)
        event.summary.value.add(tag=tag, tensor=make_tensor_proto(data), metadata=metadata)
        self._writers[run].add_event(event)
        self._writers[run].flush()
