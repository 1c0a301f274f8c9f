"""Docstrings of this package as napoleon and reStructuredText understand them, without being written for either.

- An indented block in front of the sections is code.
- The attributes of a class without `Args` are what its constructor takes.
- `Returns` holds text alone; napoleon takes what stands before a colon in it for a type.
"""

import re
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Attributes|Returns|Raises):$")


def translate(lines: list[str]) -> list[str]:
    has_arguments = "Args:" in lines
    found: list[str] = []
    section = ""
    for i, line in enumerate(lines):
        if match := SECTION.match(line):
            section = match[1]
            if section == "Returns":
                continue
            line = "Args:" if section == "Attributes" and not has_arguments else line
        elif section == "Returns" and line and lines[i - 1] == "Returns:":
            line = f":returns: {line.strip()}"
        elif not section and line.startswith("    ") and not lines[i - 1]:
            found += [".. code-block:: python", ""]
        found.append(line)
    return found


def _process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = translate(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process, priority=400)  # napoleon's is 500
    return {"parallel_read_safe": True}
