"""Code in Markdown pages: found, checked, and run in order as a reader would.

A block runs as it stands. One that cannot run here has a comment in front that says why, and is checked only:

    <!-- not run: needs Docker -->
    ```sh
    docker run …
    ```
"""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from keras_resnext import cli

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n)?^```(?P<language>\w*|\{.*?)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SHOWN = ("text",)  # trees, output: nothing that could run


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page, line: where it begins.
        language: such as "python" or "sh".
        code: its lines.
        reason: why it is not run; "" where it is.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether there is anything to run in its language."""
        return self.language in ("python", "sh")


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text[: match.start("code")].count("\n"), match["language"], match["code"], match["reason"] or "")
        for match in _BLOCK.finditer(text)
    ]
    assert text.count("```") == 2 * len(found), f"{page}: a fence that is not understood"
    assert text.count("\n<!-- not run:") == sum(bool(block.reason) for block in found), f"{page}: a comment alone"
    return found


def check(block: Block) -> None:
    """Its syntax, and that the commands in it have the parameters that it gives them."""
    if block.language == "python":
        compile(block.code, str(block), "exec")
    elif block.language == "sh":
        subprocess.run(["bash", "-n", "-c", block.code], check=True)
        for arguments in commands(block.code):
            check_options(arguments)
    elif block.language == "yaml":
        list(yaml.safe_load_all(block.code))
    elif block.language == "json":
        json.loads(block.code)
    else:
        directive = block.language.startswith("{")  # Sphinx reads it
        assert directive or block.language in SHOWN, f"{block}: language {block.language!r}"


def commands(code: str) -> Iterator[list[str]]:
    """The arguments of each keras-resnext in a shell script, whatever stands before it on its line."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(re.sub(r"(&&|\|\|?|;)", r" \1 ", line), comments=True) if "keras-resnext" in line else []
        while "keras-resnext" in words:
            words = words[words.index("keras-resnext") + 1 :]
            ends = [i for i, word in enumerate(words) if word in ("&&", "||", "|", ";", ">", "&")]
            yield words[: min(ends, default=len(words))]


def check_inline(text: str) -> None:
    """The verbs and options that a page's text names in backticks are there."""
    group = typer.main.get_command(cli.app)
    options = {name: _options(command) for name, command in group.commands.items()}
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        words = code.split()
        given = {word.partition("=")[0] for word in words if re.match(r"--[a-z][a-z-]+$", word.partition("=")[0])}
        if words[0].startswith("--"):
            assert given <= set().union(*options.values()), code
        elif words[0] == "keras-resnext" and len(words) > 1 and not words[1].startswith("--"):
            assert given <= options[words[1]], code


def _options(command: Any) -> set[str]:
    """Those of a command and of the commands in it."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own.union({"--help"}, *map(_options, getattr(command, "commands", {}).values()))


def check_options(arguments: list[str]) -> None:
    """What click says to a wrong verb, option or value is raised; nothing is run."""
    command, words = typer.main.get_command(cli.app), list(arguments)
    while words and words[0] in getattr(command, "commands", ()):  # a verb may have verbs of its own
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"keras-resnext {shlex.join(arguments)}: no such verb"
    command.make_context(command.name, words)


def run(block: Block, names: dict[str, object], places: Mapping[str, str]) -> None:
    """Runs a block in the current folder; keras-resnext in this process, which has loaded all that it needs.

    Args:
        names: of the Python blocks before it on its page.
        places: texts that are something else here, such as the address of a server.
    """
    code = block.code
    for text, here in places.items():
        code = code.replace(text, here)
    if block.language == "python":
        exec(compile("\n" * block.line + code, str(block.page), "exec"), names)
    elif block.language == "sh":
        for script, arguments in _statements(code):
            if arguments is None:
                subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True, timeout=60)
                continue
            with pytest.raises(SystemExit) as stop:
                cli.main(arguments)
            assert not stop.value.code, f"{block}: {script}"


def _statements(code: str) -> Iterator[tuple[str, list[str] | None]]:
    """(lines, None) for the shell; (line, arguments) for a keras-resnext that stands alone on its line."""
    others: list[str] = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) if line.startswith("keras-resnext ") else []
        if not words:
            others.append(line)
            continue
        assert not set(words) & {"&&", "||", "|", ";", ">", "&"}, line
        if others:
            yield "\n".join(others), None
            others = []
        yield line, words[1:]
    if others:
        yield "\n".join(others), None
