"""Lines for people, printed by process 0 alone."""

import os
import sys

from tljax.distributed import processes


def log(text: str) -> None:
    """Prints, on process 0 alone."""
    if processes.is_primary():
        print(text, flush=True)


def has_terminal() -> bool:
    """Returns True if a bar can be drawn: on a terminal of known width (`script` and some CI give one of 0 columns)."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False
