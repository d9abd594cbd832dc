"""How tables are printed."""

import sys


def print_text(text: str) -> None:
    """Prints text, also where the stream cannot encode all of it."""
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding))
