"""Files written whole or not at all: to a temporary name, which is then renamed."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tljax.core.errors import explain_disk_errors


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    write_texts(path, [json.dumps(value, indent=2, ensure_ascii=False), "\n"])


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Writes JSON lines, all or none."""
    write_texts(path, (f"{json.dumps(value, ensure_ascii=False)}\n" for value in values))


def read_jsonl(path: Path) -> list[Any]:
    """The values that `write_lines` wrote."""
    # By "\n" alone: str.splitlines() also splits at U+0085, U+2028 and others that a model may well write.
    with open(path, encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def append_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Adds JSON lines to a file. Raises InputError where the disk refuses."""
    with explain_disk_errors(path), open(path, "a", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values)


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Writes texts one after the other, all or none: to a temporary name, which is renamed then.

    Raises InputError where the disk refuses; what was there before remains.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with explain_disk_errors(path):
        try:
            with open(temporary, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(texts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
