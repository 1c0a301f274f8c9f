"""`models.config` of a model base: which models TF Serving has, which versions of them, and which have a label.

The file is TF Serving's ModelServerConfig in protobuf's text format. It is read by the message's own grammar, and
changed in place as text, so that comments stay. It lists the models that have a version and no others: where the
folder of one entry is missing, TF Serving finds no model at all (PollFileSystemForConfig in
sources/storage_path/file_system_storage_path_source.cc), and where it holds no version, the ports never open.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from filelock import FileLock

from ..claims import remove_leftovers
from ..files import placed_whole
from .serving_messages import message_type
from .version_folder import find_versions

FILE = "models.config"
LOCK = f".{FILE}.lock"
PATIENCE = 60.0  # seconds for another command to finish its change
ROOT = "/models"  # where savedmodels/README.md mounts a base, and so the paths in its models.config

NO_FORM = FILE + " has a form that cannot be changed here; change the entry {} by hand"

_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}<>]|[^\s{}<>"'#]+""")


@dataclass(frozen=True)
class ModelConfig:
    """One model's entry.

    Attributes:
        name: under which requests ask for it.
        base_path: its folder as the server sees it.
        count: how many of the highest versions are served; None for all, and where `versions` says which; 0 for a
            model that the file does not list.
        versions: those that are served, where the entry lists them.
        labels: version by label.
    """

    name: str
    base_path: str = ""
    count: int | None = 1
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """What the model's folder is called within the base."""
        return PurePosixPath(self.base_path).name or self.name

    def wanted(self, present: Iterable[int]) -> set[int]:
        """Which of the versions that are `present` are to be served; those with a label always are."""
        ordered = sorted(present, reverse=True)
        chosen = set(self.versions) if self.versions else set(ordered[: self.count])
        return (chosen | set(self.labels.values())) & set(ordered)


def parse_config(text: str) -> dict[str, ModelConfig]:
    """The entries of a models.config by name.

    Raises:
        ValueError: it is no ModelServerConfig in text format; the message has line and column.
    """
    from google.protobuf import text_format

    try:
        parsed = text_format.Parse(text, message_type("ModelServerConfig")(), allow_unknown_field=True)
    except (text_format.ParseError, RecursionError) as error:
        raise ValueError(f"{FILE} is no ModelServerConfig: {error}") from None
    found = {}
    for entry in parsed.model_config_list.config:
        policy = entry.model_version_policy
        count = policy.latest.num_versions or 1
        found[entry.name] = ModelConfig(
            name=entry.name,
            base_path=entry.base_path,
            count=None if policy.HasField("all") or policy.HasField("specific") else count,
            versions=tuple(policy.specific.versions),
            labels={label.key: label.value for label in entry.version_labels},
        )
    return found


def update_config(base: Path, change: Callable[[str], str], *, create: bool = True) -> None:
    """Replaces the text of BASE/models.config by `change(text)`, whole; of two commands at once, one waits.

    Args:
        base: the folder of the models.
        change: takes the current text and returns the new one. Without a file it gets a list of all models in the base.
        create: whether to write a file where there is none.

    Raises:
        OSError: the disk refuses, or another command holds the file for a minute.
        ValueError: of `change`.
    """
    file = base / FILE
    if not create and not file.is_file():
        return
    with FileLock(base / LOCK, timeout=PATIENCE):
        remove_leftovers(base)  # also where there is nothing to change
        text = file.read_text(encoding="utf-8") if file.is_file() else _list_models(base)
        changed = change(text)
        if file.is_file() and changed == text:
            return
        with placed_whole(file) as aside:
            aside.write_text(changed, encoding="utf-8")


def enter_model(folder: str | os.PathLike[str]) -> None:
    """Gives the model in BASE/NAME an entry in BASE/models.config, which serves its highest version.

    An existing entry is not changed. Without a models.config nothing is done: TF Serving is then told of one model by
    --model_name and --model_base_path.

    Raises:
        OSError, ValueError: as `update_config` and `with_model`.
    """
    path = Path(folder).absolute()
    update_config(path.parent, lambda text: with_model(text, path), create=False)


def _list_models(base: Path) -> str:
    """A new file with an entry for each model that the base holds."""
    text = "model_config_list {\n}\n"
    for folder in sorted(base.iterdir()):
        text = with_model(text, folder) if find_versions(folder) else text
    return text


def with_model(text: str, folder: Path) -> str:
    """`text` with an entry for the model in BASE/NAME, unless it has one.

    Its path is written as the server sees it: beside those of the base's other models, else below `ROOT`.

    Raises:
        ValueError: `text` cannot be read, or its name stands for another folder.
    """
    entries, name = parse_config(text), folder.name
    if name in (entry.folder for entry in entries.values()):
        return text
    if name in entries:
        raise ValueError(f"{FILE} has an entry {name} for {entries[name].base_path}, not for {folder}")
    siblings = [entry.base_path for entry in entries.values() if find_versions(folder.parent / entry.folder)]
    path = str(PurePosixPath(siblings[0]).parent / name if siblings else PurePosixPath(ROOT, name))
    lines = [f"name: {_quoted(name)}", f"base_path: {_quoted(path)}", 'model_platform: "tensorflow"']
    end = _find_entry(text, name).list_end
    if end is None:
        newline = "" if not text or text.endswith("\n") else "\n"
        text = f"{text}{newline}model_config_list {{\n}}\n"
        end = len(text) - 2
    return _checked(_insert(text, end, ["config {", *(f"  {line}" for line in lines), "}"]), {*entries, name})


def without_model(text: str, folder: str) -> str:
    """`text` without the entries for the model in BASE/FOLDER.

    Raises:
        ValueError: `text` cannot be read.
    """
    entries = parse_config(text)
    for name in [name for name, entry in entries.items() if entry.folder == folder]:
        place = _find_entry(text, name)
        if place.end is None:
            raise ValueError(NO_FORM.format(name))
        start, stop = _whole_lines(text, place.start, place.end + 1)
        del entries[name]
        text = _checked(text[:start] + text[stop:], set(entries))
    return text


def with_labels(text: str, name: str, labels: Mapping[str, int], served: Iterable[int]) -> str:
    """`text` with the labels of its model `name` replaced, and its policy so that every labelled version is served.

    TF Serving refuses a label of a version that its policy leaves out, so the versions `served` are listed; without
    labels the highest alone is served again.

    Raises:
        ValueError: `text` cannot be read.
    """
    names = set(parse_config(text))  # what it refuses is not changed
    if labels:
        numbers = " ".join(f"versions: {number}" for number in sorted(set(served) | set(labels.values())))
        lines = [f"model_version_policy {{ specific {{ {numbers} }} }}"]
    else:
        lines = ["model_version_policy { latest { num_versions: 1 } }"]
    lines += [f"version_labels {{ key: {_quoted(label)} value: {labels[label]} }}" for label in sorted(labels)]
    place = _find_entry(text, name)
    if place.end is None:
        raise ValueError(NO_FORM.format(name))
    changed = _insert(text, place.end, lines)
    for start, stop in reversed(place.fields):
        changed = changed[:start] + changed[stop:]
    changed = _checked(changed, names)
    if dict(parse_config(changed)[name].labels) != dict(labels):
        raise ValueError(NO_FORM.format(name))
    return changed


def _checked(text: str, names: set[str]) -> str:
    if (found := set(parse_config(text))) != names:
        raise ValueError(NO_FORM.format(", ".join(sorted(found ^ names))))
    return text


@dataclass
class _Place:
    """Where an entry begins, where its closing brace is, its labels and policy, and the brace of the list of entries.

    Without such an entry `end` is None, without a list `list_end`.
    """

    start: int = 0
    end: int | None = None
    fields: list[tuple[int, int]] = field(default_factory=list)
    list_end: int | None = None


def _find_entry(text: str, name: str) -> _Place:
    written = (_quoted(name), f"'{name}'")
    path: list[str] = []
    key, key_start, called, entry, list_end = "", 0, False, _Place(), None
    starts: list[int] = []
    for token in _TOKEN.finditer(text):
        word = token.group()
        in_entry = path[:2] == ["model_config_list", "config"]
        if word in "{<":
            path.append(key)
            starts.append(key_start)
            if path == ["model_config_list", "config"]:
                called, entry = False, _Place(key_start)
        elif word in "}>":
            if in_entry and len(path) == 2 and called:
                entry.end = token.start()
                return entry
            if in_entry and len(path) == 3 and path[2] in ("version_labels", "model_version_policy"):
                entry.fields.append(_whole_lines(text, starts[2], token.end()))
            if path == ["model_config_list"]:
                list_end = token.start()
            path.pop()
            starts.pop()
        elif word[0] in "\"'":
            called = called or (in_entry and len(path) == 2 and key == "name" and word in written)
        elif word[0] != "#" and word != ":":
            key, key_start = word.rstrip(":"), token.start()
    return _Place(list_end=list_end)


def _insert(text: str, brace: int, lines: list[str]) -> str:
    """`text` with `lines` before the closing brace at `brace`, further in by two spaces."""
    line_start = text.rfind("\n", 0, brace) + 1
    indent = text[line_start:brace]
    if indent.strip():  # something stands before the brace
        return f"{text[:brace]}{' '.join(map(str.strip, lines))} {text[brace:]}"
    return text[:line_start] + "".join(f"{indent}  {line}\n" for line in lines) + text[line_start:]


def _whole_lines(text: str, start: int, stop: int) -> tuple[int, int]:
    """The span with its indentation and line end, where nothing else stands on its lines."""
    before = text.rfind("\n", 0, start) + 1
    after = text.find("\n", stop)
    if after < 0 or text[before:start].strip() or text[stop:after].strip():
        return start, stop
    return before, after + 1


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
