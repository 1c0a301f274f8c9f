"""Data sets by their name in tensorflow_datasets, which keeps them as TFRecords."""

import os
import textwrap
from pathlib import Path

PREFIX = "tfds:"  # tfds:cifar10, tfds:imagenet2012:5.1.0, tfds:cmaterdb/bangla


def is_name(data: str | os.PathLike[str]) -> bool:
    """Whether `data` names a data set of tensorflow_datasets, not a place."""
    return os.fspath(data).startswith(PREFIX)


def prepare(data: str | os.PathLike[str]) -> Path:
    """The folder of TFRecords of a data set, which is downloaded and prepared first where it is not yet.

    It lies under TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Args:
        data: `tfds:NAME`, with configuration and version as `tfds.builder` takes them.

    Raises:
        ImportError: tensorflow_datasets is not installed.
        ValueError: there is no such data set, it cannot be prepared, or it is not kept as TFRecords on this machine.
    """
    name = os.fspath(data)
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"data={name!r} needs tensorflow_datasets ({error}): pip install 'keras_resnext[tfds]'"
        ) from None
    try:
        # The variable as it is now; by itself tensorflow_datasets has it as it was when it was imported.
        place = os.environ.get("TFDS_DATA_DIR")
        builder = tensorflow_datasets.builder(name.removeprefix(PREFIX), data_dir=place)
        builder.download_and_prepare()  # returns at once where that was done before
        folder, kind = Path(builder.data_path), builder.info.file_format.value
    except Exception as error:  # a builder runs the data set's own code, which raises anything at all
        reason = textwrap.shorten(str(error) or type(error).__name__, 400)  # some list all data sets there are
        raise ValueError(f"data={name!r} cannot be had from tensorflow_datasets: {reason}") from error
    if kind != "tfrecord":
        raise ValueError(f"data={name!r} is kept as {kind} in {str(folder)!r}; only tfrecord can be read")
    if not folder.is_dir():
        raise ValueError(f"data={name!r} is kept in {os.fspath(builder.data_path)!r}, not on this machine")
    return folder
