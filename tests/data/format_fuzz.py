"""Rows of every format with random changes: each is read or refused in one line, and no content is lost.

`python -m tests.data.format_fuzz 100000` tries as many rows; tests/data/test_format_fuzz.py a few.
"""

import copy
import json
import random
import sys
from collections import Counter
from typing import Any

from tests.data.format_rows import ROWS
from tljax.core.errors import InputError
from tljax.data.formats.read import AUTO, FORMATS, read_record
from tljax.data.prompt import render_trajectory

MARK = "zqx7"
ODD = [
    "",
    " ",
    "\n",
    None,
    True,
    0,
    -1.5,
    10**30,
    [],
    {},
    [[]],
    {"": ""},
    "\ud800",
    "\u2028",
    "[{",
    '{"name": ',
    "<tool_call>",
]
KEYS = [
    "role",
    "content",
    "from",
    "value",
    "name",
    "arguments",
    "parameters",
    "type",
    "text",
    "id",
    "tools",
    "messages",
]
# Texts of the dialogue and its tools, into which a mark may be put.
TEXTS = ("A table for two", "Table 7 is yours.", "Aldo's", "Book a table.", "Stop.", "number", "Thanks")


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Returns the paths of all values inside a value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in children for place in ((*path, key), *places(child, (*path, key)))]


def owner_of(record: Any, path: tuple) -> Any:
    for key in path[:-1]:
        record = record[key]
    return record


def mutate(record: Any, rng: random.Random) -> None:
    """Changes a record at one random place."""
    options = places(record)
    if not options:
        return
    path = rng.choice(options)
    owner, key = owner_of(record, path), path[-1]
    value = owner[key]
    kind = rng.randrange(8)
    if kind == 0:
        del owner[key]
    elif kind == 1:
        owner[key] = copy.deepcopy(rng.choice(ODD))
    elif kind == 2 and isinstance(owner, dict):
        owner[rng.choice(KEYS)] = owner.pop(key)
    elif kind == 3 and isinstance(owner, list):
        owner.insert(rng.randrange(len(owner) + 1), copy.deepcopy(rng.choice(owner)))
    elif kind == 4 and isinstance(value, str) and value:
        cut = rng.randrange(len(value))
        owner[key] = value[:cut] + rng.choice(["", value[: rng.randrange(len(value))], "\\", '"', "'", "}"])
    elif kind == 5:
        owner[key] = json.dumps(value)
    elif kind == 6:
        other = rng.choice(options)
        owner[key] = copy.deepcopy(owner_of(record, other)[other[-1]])
    else:
        owner[key] = [value]


def mark(record: dict[str, Any], rng: random.Random) -> bool:
    """Puts MARK into a text of the conversation, or beside one as a new field of a message or a call.

    Returns False if the record has no such place.
    """
    options = [path for path in places(record) if isinstance(owner_of(record, path), dict)]
    if rng.random() < 0.5:
        strings = [path for path in options if isinstance(owner_of(record, path)[path[-1]], str)]
        rng.shuffle(strings)
        for path in strings:
            owner, key = owner_of(record, path), path[-1]
            found = [text for text in TEXTS if text in owner[key]]
            if found:
                text = rng.choice(found)
                owner[key] = owner[key].replace(text, text[:3] + MARK + text[3:])
                return True
    tools = {"tools", "functions", "function"}
    options = [path for path in options if any(isinstance(part, int) for part in path) and not tools & {*path[:-1]}]
    if options:
        owner_of(record, rng.choice(options))["note"] = MARK
    return bool(options)


def render(record: Any, data_format: str) -> str | None:
    """Returns the text of a record, None for one that is refused in one line. Raises what is neither."""
    try:
        trajectory = read_record(record, "file f, row 7", 7, data_format)[1]
    except InputError as error:
        text = str(error)
        assert text.startswith("file f, row 7") and "\n" not in text, text
        return None
    return render_trajectory(trajectory, "mae").text


def fuzz(seed: int, count: int) -> Counter[str]:
    """Returns how many of `count` changed rows are read and refused. Raises AssertionError if one loses content."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    cases = list(ROWS.values())
    for _ in range(count):
        name, row = rng.choice(cases)
        record = copy.deepcopy(row)
        marked = rng.random() < 0.5 and mark(record, rng)
        for _ in range(0 if marked else rng.randrange(1, 4)):
            mutate(record, rng)
        data_format = rng.choice([*[AUTO] * 20, *[name] * 10, *FORMATS])
        try:
            text = render(record, data_format)
        except Exception as error:
            raise AssertionError(f"{data_format} {json.dumps(record)}: {error!r}") from error
        if text is not None and marked:
            assert MARK in text, f"{data_format} {json.dumps(record)}: the mark is lost"
        outcomes["refused" if text is None else "read"] += 1
    return outcomes


if __name__ == "__main__":
    print(fuzz(int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[1])))
