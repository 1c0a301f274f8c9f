"""A model base on disk, BASE/NAME/VERSION as TF Serving has it: what is there, and removing and labelling versions."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..claims import claimed, remove_leftovers
from ..export.models_config import (
    FILE,
    ModelConfig,
    parse_config,
    update_config,
    with_labels,
    with_model,
    without_model,
)
from ..export.version_folder import GRAPH, MANIFEST, find_versions
from ..weights.download import sha256


@dataclass(frozen=True)
class VersionFacts:
    """A version on disk.

    Attributes:
        model, version, path: which one.
        size: bytes of all its files.
        created, source: from its manifest; empty where that says nothing.
        accuracy: top-1 and top-5 in percent as the manifest has them.
        labels: its labels in models.config.
        served: whether a server of this base serves it.
        hashes: "match" or what differs from the manifest; "not recorded" without one; None where not checked.
    """

    model: str
    version: int
    path: Path
    size: int
    created: str
    source: str
    accuracy: Mapping[str, float]
    labels: tuple[str, ...]
    served: bool
    hashes: str | None


def find_models(base: str | os.PathLike[str]) -> dict[str, Path]:
    """The folders of models by name: BASE is a folder of them, one of them, or one version of it.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no versions.
    """
    path = Path(base).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"BASE={os.fspath(base)!r}: there is no such folder")
    if (path / GRAPH).is_file() and path.name.isdecimal():
        return {path.parent.name: path.parent}
    if find_versions(path):
        return {path.name: path}
    found = {folder.name: folder for folder in sorted(path.iterdir()) if folder.is_dir() and find_versions(folder)}
    if not found:
        raise ValueError(
            f"BASE={os.fspath(base)!r} holds no model: expected BASE/NAME/VERSION/{GRAPH}, as "
            "`keras-resnext export MODEL BASE/NAME` writes it"
        )
    return found


def read_configs(folder: Path) -> list[ModelConfig]:
    """The entries of BASE/models.config for the folder BASE/NAME, usually one; none without the file.

    Raises:
        ValueError: the file cannot be read.
    """
    file = folder.parent / FILE
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return [config for config in parse_config(text).values() if config.folder == folder.name]


def read_base(base: str | os.PathLike[str]) -> dict[str, tuple[ModelConfig, dict[int, Path]]]:
    """Entry and versions of each model, which `models ls` and `serve` have in common.

    Without a models.config every model serves its highest version. With one, its entries alone are served, as TF
    Serving has it; but where BASE is one model, or one version of it, that is served in any case.

    Raises:
        FileNotFoundError, ValueError: as `find_models` and `read_configs`.
    """
    models, path = find_models(base), Path(base).absolute()
    found: dict[str, tuple[ModelConfig, dict[int, Path]]] = {}
    for name, folder in models.items():
        versions = find_versions(folder)
        if path.parent == folder and path.name.isdecimal():
            versions = {int(path.name): path}
        unlisted = folder.parent == path and (path / FILE).is_file()
        default = ModelConfig(name, count=0 if unlisted else 1)
        found |= {config.name: (config, versions) for config in read_configs(folder) or [default]}
    return found


def read_manifest(version: Path) -> dict[str, Any]:
    """What an export records of itself; empty where it records nothing that can be read."""
    try:
        facts = json.loads((version / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def list_versions(base: str | os.PathLike[str], *, verify: bool = True) -> list[VersionFacts]:
    """Every version of every model, by name and number.

    Args:
        base: as in `find_models`.
        verify: whether to compare each file with the hash in its manifest.

    Raises:
        FileNotFoundError, ValueError: as `read_base`.
    """
    rows = []
    for name, (config, versions) in read_base(base).items():
        wanted = config.wanted(versions)
        for number, path in sorted(versions.items()):
            manifest = read_manifest(path)
            accuracy = manifest.get("accuracy")
            rows.append(
                VersionFacts(
                    model=name,
                    version=number,
                    path=path,
                    size=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
                    created=str(manifest.get("created") or ""),
                    source=str(manifest.get("source") or ""),
                    accuracy=accuracy if isinstance(accuracy, dict) else {},
                    labels=tuple(sorted(k for k, v in config.labels.items() if v == number)),
                    served=number in wanted,
                    hashes=check_hashes(path, manifest) if verify else None,
                )
            )
    return rows


def check_hashes(version: Path, manifest: Mapping[str, Any]) -> str:
    """ "match", "not recorded", or the files that are changed, missing or added since the export."""
    recorded = manifest.get("sha256")
    if not isinstance(recorded, dict) or not recorded:
        return "not recorded"
    files = {file.relative_to(version).as_posix() for file in version.rglob("*") if file.is_file()} - {MANIFEST}
    wrong = [f"{name} is missing" for name in sorted(recorded.keys() - files)]
    wrong += [f"{name} is new" for name in sorted(files - recorded.keys())]
    both = sorted(files & recorded.keys())
    wrong += [f"{name} is changed" for name in both if sha256(version / name) != recorded[name]]
    return ", ".join(wrong) or "match"


def remove_version(version: str | os.PathLike[str], *, force: bool = False) -> None:
    """Takes BASE/NAME/VERSION away, at once for a server that watches.

    Args:
        version: the folder.
        force: also where it is served or has a label; its labels go with it, and with a model's last version its entry
            in models.config, for TF Serving does not start where an entry has no version.

    Raises:
        FileNotFoundError: no such version.
        ValueError: it is served or labelled, and `force` is not given.
    """
    remove_leftovers(Path(version).absolute().parent)  # also where the version is what was being removed
    name, number, folder = _split(version)
    configs = read_configs(folder) or [ModelConfig(folder.name)]
    present = find_versions(folder)
    labels = sorted({key for config in configs for key, labelled in config.labels.items() if labelled == number})
    if not force:
        if labels:
            raise ValueError(f"version {number} of {name} has the label {', '.join(labels)}; --force removes both")
        if any(number in config.wanted(present) for config in configs):
            raise ValueError(f"version {number} of {name} is the one that is served; --force removes it all the same")
    for label in labels:
        label_version(folder, label, None)
    if set(present) <= {number}:  # first: with an entry without a version TF Serving does not start
        update_config(folder.parent, lambda text: without_model(text, folder.name), create=False)
    with claimed(folder) as prefix:
        os.rename(folder / str(number), folder / f"{prefix}removed")  # in one step: nobody loads half a version


def label_version(target: str | os.PathLike[str], label: str, version: int | None) -> dict[str, int]:
    """Gives a version of the model in the folder `target` a label, in the models.config beside it; None takes it away.

    Returns:
        The model's labels after that.

    Raises:
        FileNotFoundError: no such version.
        ValueError: a label that no request could name, one that is not there, or a models.config that cannot be read.
    """
    folder = Path(target).absolute()
    if not label or any(letter in "/:" or not letter.isprintable() for letter in label):
        raise ValueError(f"label={label!r} must be a name without / and :")
    present = find_versions(folder)
    if version is not None and version not in present:
        raise FileNotFoundError(f"version={version} of {folder.name}: there is no {folder / str(version) / GRAPH}")
    found: dict[str, int] = {}

    def change(text: str) -> str:
        text = with_model(text, folder)
        entries = [entry for entry in parse_config(text).values() if entry.folder == folder.name]
        config = next((entry for entry in entries if label in entry.labels), entries[0])
        labels = {key: value for key, value in config.labels.items() if key != label}
        if version is not None:
            labels[label] = version
        elif label not in config.labels:
            there = ", ".join(sorted(config.labels)) or "no labels"
            raise ValueError(f"label={label!r} is none of {folder.name}; it has {there}")
        found.update(labels)
        return with_labels(text, config.name, labels, {max(present)} if present else set())

    update_config(folder.parent, change)
    return found


def _split(version: str | os.PathLike[str]) -> tuple[str, int, Path]:
    path = Path(version).absolute()
    if not path.name.isdecimal():
        raise ValueError(f"VERSION={os.fspath(version)!r} must be a folder BASE/NAME/VERSION, its last part a number")
    if not (path / GRAPH).is_file():
        raise FileNotFoundError(f"VERSION={os.fspath(version)!r}: there is no {GRAPH} in it")
    return path.parent.name, int(path.name), path.parent
