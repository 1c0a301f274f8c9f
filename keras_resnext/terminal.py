"""Text that a terminal shows and does not obey: labels, file names and servers' answers may hold anything."""

import json
from typing import Any

from rich.console import Console
from rich.text import Text


def printable(text: str, keep: str = "") -> str:
    r"""`text` with all that would drive a terminal, turn its direction or break its line escaped: `\x1b`, `\u202e`.

    Args:
        text: any text, also one with surrogates, as the names of files have them.
        keep: characters to leave as they are, such as a newline.
    """
    return "".join(
        letter if letter.isprintable() or letter in keep else letter.encode("unicode_escape").decode()
        for letter in text
    )


def printable_json(data: Any) -> str:
    """JSON for people, in which letters of any language stand as they are and what is not printable is escaped."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return "".join(letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1] for letter in text)


class PlainConsole(Console):
    """A console that escapes what it is given as text, in tables too; lines may end in it."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, keep="\n"), **options)
