"""The format of xLAM's function-calling files: one query with its calls.

{"id": ..., "query": ..., "tools": "<JSON list of tools>", "answers": "<JSON list of calls>"}
"""

from __future__ import annotations

from typing import Any

from tljax.core.json_fields import expect_type, parse_json
from tljax.data.formats.fields import parse_call, parse_tools
from tljax.data.trajectory import Conversation, Turn

SCHEMA = '{"query", "tools", "answers"} (xLAM)'
MESSAGES = "answers"
SHAPE = ("query", "tools", "answers")


def matches(record: dict[str, Any]) -> bool:
    """Returns True if the record has a query and answers."""
    return record.get("query") is not None and record.get(MESSAGES) is not None


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one."""
    query = expect_type(record.get("query"), str, f"{location}, field query")
    tools = () if record.get("tools") is None else parse_tools(record["tools"], f"{location}, field tools")
    field = f"{location}, field {MESSAGES}"
    answers = record.get(MESSAGES)
    if isinstance(answers, str):
        answers = parse_json(answers, field)
    calls = [parse_call(entry, f"{field}[{k}]") for k, entry in enumerate(expect_type(answers, list, field))]
    turns = (Turn("assistant", call=call, parallel=k > 0) for k, call in enumerate(calls))
    return Conversation(tools, (Turn("user", query), *turns))
