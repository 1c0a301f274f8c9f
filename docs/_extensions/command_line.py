"""A directive that documents the command line from its own parameters, so that the page cannot differ from --help.

.. command-line:: keras_resnext.cli:app
"""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class CommandLine(SphinxDirective):
    """A section for each command: what it does, its usage, its arguments and options."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, name = self.arguments[0].split(":")
        group = typer.main.get_command(getattr(importlib.import_module(module), name))
        return list(self._sections(group, str(group.name)))

    def _sections(self, group: Any, path: str) -> Iterator[nodes.Node]:
        for name, command in group.commands.items():
            full = f"{path} {name}"
            if hasattr(command, "commands"):
                yield from self._sections(command, full)
                continue
            section = nodes.section(ids=[nodes.make_id(full)])
            section += nodes.title(text=full)
            self.state.document.note_explicit_target(section)
            for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
                section += self._paragraph(paragraph)
            context = command.make_context(full, [], resilient_parsing=True)
            arguments = [p for p in command.params if p.param_type_name == "argument"]
            usage = " ".join([full, *(str(p.metavar) for p in arguments), "[OPTIONS]"])
            section += nodes.literal_block(usage, usage, language="text")
            rows = nodes.definition_list()
            for parameter in command.params:
                if "--help" in parameter.opts:
                    continue
                names, text = parameter.get_help_record(context)
                names = str(parameter.metavar) if parameter in arguments else names
                term = nodes.term("", "", nodes.literal(names, names))
                rows += nodes.definition_list_item("", term, nodes.definition("", self._paragraph(text)))
            section += rows
            yield section

    def _paragraph(self, text: str) -> nodes.paragraph:
        """With code between single backticks."""
        parts = " ".join(text.split()).split("`")
        inline = [nodes.literal(part, part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts) if part]
        return nodes.paragraph("", "", *inline)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
