"""How tables are printed."""

import io
import sys
from typing import Any

import rich.console
import rich.markup


def render(*parts: Any) -> str:
    """The text of tables and lines.

    As wide as it takes: a line that is too long can be scrolled.

    Args:
        *parts: What a `rich.console.Console` prints.
    """
    text = io.StringIO()
    console = rich.console.Console(
        file=text, width=1000, color_system=None, highlight=False
    )
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def title_line(name: str) -> str:
    """The line above what is said of a model of this name."""
    return f'Model: "{rich.markup.escape(name)}"'


def print_text(text: str) -> None:
    """Prints text, also where the stream cannot encode all of it."""
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding))
