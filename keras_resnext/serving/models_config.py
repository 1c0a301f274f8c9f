"""`models.config` of a model base: which versions of a model TF Serving has, and which of them have a label.

The file is TF Serving's ModelServerConfig in protobuf's text format. It is read by the message's own grammar, and
changed in place as text, so that comments stay.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..export.serving_messages import message_type

FILE = "models.config"
ROOT = "/models"  # where savedmodels/README.md mounts a base, and so the paths in its models.config

_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}<>]|[^\s{}<>"'#]+""")


@dataclass(frozen=True)
class ModelConfig:
    """One model's entry.

    Attributes:
        name: under which requests ask for it.
        base_path: its folder as the server sees it.
        count: how many of the highest versions are served; None for all, and where `versions` says which.
        versions: those that are served, where the entry lists them.
        labels: version by label.
    """

    name: str
    base_path: str = ""
    count: int | None = 1
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)

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
    except text_format.ParseError as error:
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


def with_labels(text: str, name: str, labels: Mapping[str, int], served: Iterable[int]) -> str:
    """`text` with the labels of model `name` replaced, and its policy so that every labelled version is served.

    TF Serving refuses a label of a version that its policy leaves out, so the versions `served` are listed; without
    labels the highest alone is served again. An entry that is missing is added.

    Raises:
        ValueError: `text` cannot be read.
    """
    parse_config(text)  # what it refuses is not changed
    if labels:
        numbers = " ".join(f"versions: {number}" for number in sorted(set(served) | set(labels.values())))
        lines = [f"model_version_policy {{ specific {{ {numbers} }} }}"]
    else:
        lines = ["model_version_policy { latest { num_versions: 1 } }"]
    lines += [f"version_labels {{ key: {_quoted(label)} value: {labels[label]} }}" for label in sorted(labels)]
    spans, end, list_end = _find_entry(text, name)
    if end is not None:
        changed = _insert(text, end, lines)
        for start, stop in reversed(spans):
            changed = changed[:start] + changed[stop:]
    else:
        naming = [f"name: {_quoted(name)}", f"base_path: {_quoted(f'{ROOT}/{name}')}", 'model_platform: "tensorflow"']
        entry = ["config {", *(f"  {line}" for line in (*naming, *lines)), "}"]
        if list_end is None:
            start_line = text if not text or text.endswith("\n") else f"{text}\n"
            text = f"{start_line}model_config_list {{\n}}\n"
            list_end = len(text) - 2
        changed = _insert(text, list_end, entry)
    found = parse_config(changed).get(name)
    if found is None or dict(found.labels) != dict(labels):
        raise ValueError(f"{FILE} has a form that cannot be changed here; set the labels of {name} by hand")
    return changed


def _find_entry(text: str, name: str) -> tuple[list[tuple[int, int]], int | None, int | None]:
    """Where the entry called `name` has its labels and policy, where it ends, and where the list of entries ends."""
    path: list[str] = []
    key, key_start, field_start, called, spans = "", 0, 0, False, list[tuple[int, int]]()
    list_end = None
    for token in _TOKEN.finditer(text):
        word = token.group()
        in_entry = path[:2] == ["model_config_list", "config"]
        if word in "{<":
            path.append(key)
            if path == ["model_config_list", "config"]:
                called, spans = False, []
        elif word in "}>":
            if in_entry and len(path) == 2 and called:
                return spans, token.start(), list_end
            if in_entry and len(path) == 3 and path[2] in ("version_labels", "model_version_policy"):
                spans.append(_whole_lines(text, field_start, token.end()))
            if path == ["model_config_list"]:
                list_end = token.start()
            path.pop()
        elif word[0] in "\"'":
            called = called or (in_entry and len(path) == 2 and key == "name" and word[1:-1] == name)
        elif word[0] != "#" and word != ":":
            key, key_start = word.rstrip(":"), token.start()
        if len(path) == 2:
            field_start = key_start
    return [], None, list_end


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
