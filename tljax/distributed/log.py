"""Lines for the user, printed by process 0 alone."""

import os
import sys

from tljax.distributed import processes


def log(text: str) -> None:
    """Prints a text, on process 0 alone."""
    if processes.is_primary():
        print(text, flush=True)


def has_terminal() -> bool:
    """Returns True if a progress bar can be drawn: stderr is a terminal whose width is known.

    `script` and some CI services give a terminal of 0 columns.
    """
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False
