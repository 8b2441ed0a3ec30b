"""RoTBench (arXiv 2401.08326) and ToolEyes (arXiv 2401.00741): dialogues with the tool list in the system message.

A RoTBench row of `Data/{First_Turn,Third_Turn}/{clean,slight,medium,heavy,union}.json` ends with alternatives for the
next call. slight, medium and heavy consist of two halves, with noise in the names of tools and of parameters. The
halves repeat the same ids, so rows are identified by their number.

A ToolEyes row of `Test_Data/scenario_data_*_processed.json` has no golden answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tljax.calls.compare import AnyValue
from tljax.calls.tool import Call, Tool, tool_from_json
from tljax.core.errors import InputError
from tljax.data.trajectory import Turn
from tljax.evaluate.benchmarks.sets import (
    UNKNOWN,
    EvalSet,
    Example,
    Skipped,
    check_characters,
    golden_call_remarks,
    load_json_text,
    require_field,
)

_TOOLS = "access of the following tools:\n"
_BEGIN = "\nBegin!\n"
_ROLES = ("user", "assistant", "function")


def is_rotbench(row: Any) -> bool:
    """Returns True if a row is one of RoTBench: it ends with a list of calls."""
    return _is_dialogue(row) and isinstance(row["conversations"][-1].get("value"), list)


def is_tooleyes(row: Any) -> bool:
    """Returns True if a row is one of ToolEyes' processed rows."""
    return _is_dialogue(row) and "path" in row and not is_rotbench(row)


def is_tooleyes_raw(row: Any) -> bool:
    """Returns True if a row is one of ToolEyes' raw rows, which name a folder of tools in its repository."""
    return isinstance(row, dict) and {"query", "path"} <= row.keys()


def read_rotbench(name: str, file: Path, rows: list[Any]) -> EvalSet:
    """Reads a file of RoTBench. Raises InputError, which names file, row and field, for a malformed row."""
    examples, skipped, remarks = [], [], []
    for index, row in enumerate(rows):
        at = f"file {file}, row {index}"
        if not is_rotbench(row):
            raise InputError(f"{at}, field conversations: does not end with a list of calls; give RoTBench's own file")
        identity, messages = require_field(row, "id", str, at), row["conversations"]
        tools = _tools(messages, at)
        if len(tools) < 2:
            raise InputError(
                f"{at}: lists {len(tools)} tools; the last two must be those that ask the user and that finish"
            )
        try:
            golden = tuple(_call(text) for text in messages[-1]["value"])
            if not golden:
                raise ValueError("there are none")
        except ValueError as error:
            skipped.append(Skipped(index, identity, f"golden calls cannot be read ({error})"))
            continue
        turns = tuple(_turn(message, f"{at}, field conversations[{i}]") for i, message in enumerate(messages[1:-1], 1))
        # The last two tools ask the user and finish, whatever noise calls them: their arguments are not compared.
        free = {tool.name for tool in tools[-2:]}
        relaxed = tuple(_relax(call, call.name in free) for call in golden)
        examples.append(Example(index, identity, tools, turns, relaxed, finish=tools[-1].name))
        remarks += golden_call_remarks(index, golden, tools)
    return EvalSet(name, "rotbench", tuple(examples), tuple(skipped), tuple(remarks), file=str(file))


def read_tooleyes(name: str, file: Path, rows: list[Any]) -> EvalSet:
    """Reads a processed file of ToolEyes: queries and tools. Raises InputError as `read_rotbench` does."""
    examples = []
    for index, row in enumerate(rows):
        at = f"file {file}, row {index}"
        if not is_tooleyes(row):
            raise InputError(f"{at}: lacks conversations or path; give ToolEyes' own processed file")
        messages = row["conversations"]
        turns = tuple(_turn(message, f"{at}, field conversations[{i}]") for i, message in enumerate(messages[1:], 1))
        tools, identity = _tools(messages, at), require_field(row, "id", str, at)
        examples.append(
            Example(index, identity, tools, turns, finish=tools[-1].name if tools else None, expected_reply=UNKNOWN)
        )
    return EvalSet(name, "tooleyes", tuple(examples), file=str(file))


def _is_dialogue(row: Any) -> bool:
    messages = row.get("conversations") if isinstance(row, dict) else None
    return (
        isinstance(messages, list)
        and len(messages) > 1
        and all(isinstance(message, dict) and "from" in message for message in messages)
    )


def _tools(messages: list[Any], at: str) -> tuple[Tool, ...]:
    """Reads the JSON list of tools in the system message, which may contain other lists as well."""
    at = f"{at}, field conversations[0].value"
    text = messages[0].get("value")
    position = text.find(_TOOLS) if isinstance(text, str) else -1
    try:
        if position < 0:
            raise ValueError(f"{_TOOLS.strip()!r} is missing")
        listed, _ = json.JSONDecoder().raw_decode(text, position + len(_TOOLS))
        if not isinstance(listed, list):
            raise ValueError("it is not a list")
        check_characters(listed)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{at}: the tool list cannot be read ({error}); give the benchmark's own file") from None
    return tuple(tool_from_json(tool, f"{at}: tools[{i}]") for i, tool in enumerate(listed))


def _turn(message: dict[str, Any], at: str) -> Turn:
    role, text = message["from"], message.get("value")
    if role not in _ROLES or not isinstance(text, str):
        raise InputError(f"{at}: is {role!r} with {text!r:.40}; allowed: {', '.join(_ROLES)}, with a string")
    if role != "assistant":
        return Turn(role, text.removesuffix(_BEGIN))
    try:
        return Turn("assistant", call=_call(text))
    except ValueError as error:
        raise InputError(f"{at}: the call cannot be read ({error}); give the benchmark's own file") from None


def _call(text: Any) -> Call:
    """Reads a call in ReAct's form, split as in RoTBench's evaluate.py. Raises ValueError if there is none."""
    head, input_mark, arguments = text.partition("Action Input:") if isinstance(text, str) else ("", "", "")
    _, action_mark, name = head.partition("Action:")
    if not input_mark or not action_mark:
        raise ValueError(f"no Action and Action Input in {text!r:.60}")
    value = load_json_text(arguments)
    name = name[1:].removesuffix("\n")
    if not name or not isinstance(value, dict):
        raise ValueError(f"no name and object of arguments in {text!r:.60}")
    return Call(name, value)


def _relax(call: Call, free: bool) -> Call:
    """The call with AnyValue for every golden "None", or for all arguments if `free`."""
    return Call(call.name, {k: AnyValue() if free or v == "None" else v for k, v in call.arguments.items()})
