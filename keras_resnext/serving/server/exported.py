"""A model that is no export yet, exported to a cache once, so that it can be served."""

import hashlib
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from ...export import SavedModelOptions, export_version
from ...export.version_folder import find_versions
from ...labels import LABELS
from ...loading import describe_model, load_model
from ...network.input_preprocessing import Given, choose_preprocessing, named_preprocessing
from ...weights.download import sha256
from ...weights.hub import fetch_from_hub
from ...weights.hub_config import known_labels
from ...weights.sources import cache_folder

SERVED = "served"


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
        labels: class names; default those that the hub's config.json has, or labels.txt beside the file, where
            training writes them.
        image_size: height and width, where the model leaves them free.
        preprocessing, kind: as in `export.ExportOptions`; needed where the model does not say it.
        tell: called with a line when there is something to export, which takes seconds.

    Raises:
        FileNotFoundError, OSError, ValueError: as `load_model` and `export_version`.
    """
    path = Path(model)
    content = sha256(path) if path.is_file() else os.fspath(model)
    beside = path.with_name(LABELS)
    named = labels if labels is not None else sha256(beside) if path.is_file() and beside.is_file() else None
    how = None if preprocessing is None else named_preprocessing(preprocessing)  # a file's content may change
    facts = (version("keras_resnext"), content, named, image_size, how, kind)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()
    name = path.name.partition(".")[0] if path.is_file() else os.fspath(model).rpartition("/")[2]
    name = "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in name) or "model"
    folder = cache_folder() / SERVED / key[:16] / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not find_versions(folder):
            local = fetch_from_hub(model)
            loaded = load_model(local)
            if preprocessing is None:
                choose_preprocessing(loaded)  # it asks before anything is announced
            tell(f"exporting {os.fspath(model)} to {folder}")
            export_version(
                loaded,
                folder,
                SavedModelOptions(
                    version=1,
                    labels=labels if labels is not None else known_labels(local, loaded.output_shape[-1]),
                    image_size=image_size,
                    preprocessing=preprocessing,
                    kind=kind,
                    keras_file=True,
                ),
                manifest=describe_model(model),
            )
    return folder
