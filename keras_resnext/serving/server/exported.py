"""A model that is no export yet, exported to a cache once, so that it can be served."""

import hashlib
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from ...export import SavedModelOptions, export_version
from ...export.version_folder import find_versions
from ...loading import describe_model, load_model
from ...network.input_preprocessing import Given, named_preprocessing
from ...weights.download import sha256
from ...weights.sources import cache_folder

SERVED = "served"
LABELS = "labels.txt"


def export_to_cache(
    model: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    image_size: int | None = None,
    preprocessing: Given = None,
    kind: str | None = None,
    tell: Callable[[str], None] = print,
) -> Path:
    """The folder of a model with one version, which is exported unless that was done before.

    It lies in the cache of published weights, named by what the model's file holds, so that a changed file is exported
    again; the Keras model is kept beside the graph, for Grad-CAM.

    Args:
        model: as `loading.load_model` takes it.
        labels: class names; default those in labels.txt beside the file, where training writes them.
        image_size: height and width, where the model leaves them free.
        preprocessing, kind: as in `export.ExportOptions`; needed where the model does not say it.
        tell: called with a line when there is something to export, which takes seconds.

    Raises:
        FileNotFoundError, OSError, ValueError: as `load_model` and `export_version`.
    """
    path = Path(model)
    if labels is None and path.is_file() and path.with_name(LABELS).is_file():
        labels = path.with_name(LABELS).read_text(encoding="utf-8", errors="replace").splitlines()
    content = sha256(path) if path.is_file() else os.fspath(model)
    how = None if preprocessing is None else named_preprocessing(preprocessing)  # a file's content may change
    facts = (version("keras_resnext"), content, labels, image_size, how, kind)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    name = path.name.partition(".")[0] if path.is_file() else os.fspath(model).rpartition("/")[2]
    name = "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in name) or "model"
    folder = cache_folder() / SERVED / key[:16] / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not find_versions(folder):
            loaded = load_model(model)
            tell(f"exporting {os.fspath(model)} to {folder}")
            classes = loaded.output_shape[-1]
            fitting = labels if labels is None or len(labels) == classes else None
            export_version(
                loaded,
                folder,
                SavedModelOptions(
                    version=1,
                    labels=fitting,
                    image_size=image_size,
                    preprocessing=preprocessing,
                    kind=kind,
                    keras_file=True,
                ),
                manifest=describe_model(model),
            )
    return folder
