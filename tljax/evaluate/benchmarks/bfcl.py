"""The Berkeley function-calling leaderboard's files, version 3 (and 4's of the same form): JSON lines.

Executable rows hold their golden calls as Python text. The golden calls of the others are in `possible_answer/`, beside
the file, and list all right values of each argument. The right reply to a row of an irrelevance file makes no call, and
to a row of a relevance file any call.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tljax.calls.compare import AcceptedValues, ToolList, as_tool_list
from tljax.calls.tool import Call, Tool, tool_from_json
from tljax.core.errors import InputError
from tljax.data.trajectory import Turn
from tljax.evaluate.benchmarks.sets import (
    ANY_CALL,
    GOLDEN,
    NO_CALL,
    UNKNOWN,
    EvalSet,
    Example,
    Skipped,
    check_characters,
    golden_call_remarks,
    read_json_rows,
    require_field,
)

EXEC_CATEGORIES = ("exec_simple", "exec_multiple", "exec_parallel", "exec_parallel_multiple")
_ANSWERS = "possible_answer"
_CATEGORY = re.compile(r"[a-z_]*[a-z]")
# Categories that Python calls cannot answer, or whose golden answers are not calls.
UNSUPPORTED = (
    "java",
    "javascript",
    "rest",
    "sql",
    "chatable",
    "chatting",
    "multi_turn",
    "memory",
    "web_search",
    "format",
)
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "list": "array", "any": None}
_ROLES = ("user", "assistant")


def is_bfcl(row: Any) -> bool:
    """Returns True if a row is a question of the leaderboard."""
    return isinstance(row, dict) and {"id", "question"} <= row.keys() and isinstance(row["question"], list)


def category_of(row: dict[str, Any]) -> str:
    """The category in a row's id: "live_simple" for "live_simple_3-1-0"."""
    match = _CATEGORY.match(str(row["id"]))
    return match[0] if match else ""


def why_unsupported(row: dict[str, Any]) -> str | None:
    """The reason why rows of this category are not supported; None if they are."""
    category = category_of(row)
    bare = category.removeprefix("live_").removeprefix("exec_")
    if any(bare == name or bare.startswith((f"{name}_", f"simple_{name}")) for name in UNSUPPORTED):
        return f"BFCL's category {category} is not one of single-turn Python calls"
    return None


def read_bfcl(name: str, file: Path, rows: list[Any]) -> EvalSet:
    """Reads a file of the leaderboard with its golden answers.

    Raises InputError, which names file, row and field, for a malformed row, and if the answers are missing.
    """
    answers: list[Any] | None = None
    examples, skipped, remarks = [], [], []
    for index, row in enumerate(rows):
        at = f"file {file}, row {index}"
        if not is_bfcl(row):
            raise InputError(f"{at}: lacks id or question; give BFCL's own file")
        identity, category = str(row["id"]), category_of(row)
        system, turns = _dialogue(row["question"], at)
        listed = require_field(row, "function", list, at)
        tools = tuple(_tool(tool, f"{at}, field function[{i}]") for i, tool in enumerate(listed))
        expected_reply = {"irrelevance": NO_CALL, "relevance": ANY_CALL}.get(category.rpartition("_")[2], GOLDEN)
        golden: tuple[Call, ...] = ()
        if expected_reply == GOLDEN:
            ground_truth = row.get("ground_truth")
            if ground_truth is None:
                answers = _answers(file, len(rows)) if answers is None else answers
                ground_truth = require_field(
                    answers[index], "ground_truth", list, f"file {_answers_path(file)}, row {index}"
                )
                if answers[index].get("id") != row["id"]:
                    remarks.append(f"row {index}: the answer to {identity} bears the id {answers[index].get('id')}")
            try:
                golden = _golden(ground_truth, as_tool_list(tools))
            except ValueError as error:
                example = Example(index, identity, tools, turns, system=system, expected_reply=UNKNOWN)
                skipped.append(Skipped(index, identity, f"golden answer is broken: {error}", example))
                continue
            remarks += golden_call_remarks(index, golden, tools)
        examples.append(Example(index, identity, tools, turns, golden, system=system, expected_reply=expected_reply))
    return EvalSet(name, "bfcl", tuple(examples), tuple(skipped), tuple(remarks), file=str(file))


def exec_category(name: str) -> str | None:
    """The executable category that a set's name stands for; None for any other name."""
    stem = re.sub(r"^BFCL_v\d+_", "", name.rpartition("/")[2])
    return stem if stem in EXEC_CATEGORIES else None


def _dialogue(question: list[Any], at: str) -> tuple[str, tuple[Turn, ...]]:
    """The system text and the turns of a question, [[message, ...]] with one list for each turn."""
    messages = question[0] if len(question) == 1 and isinstance(question[0], list) else question
    if not messages or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages):
        raise InputError(
            f"{at}, field question: is not a single turn [[{{role, content}}, ...]]; multi-turn is not read"
        )
    system, first = "", 0
    if messages[0].get("role") == "system":
        system, first = messages[0]["content"], 1
    for message in messages[first:]:
        if message.get("role") not in _ROLES:
            raise InputError(f"{at}, field question: role {message.get('role')!r}; allowed: {', '.join(_ROLES)}")
    return system, tuple(Turn(message["role"], message["content"]) for message in messages[first:])


def _tool(listed: Any, at: str) -> Tool:
    """A function, with the leaderboard's type names replaced by those of JSON schema."""
    tool = tool_from_json(listed, at)
    return Tool(tool.name, tool.description, {k: _schema(v) for k, v in tool.properties.items()}, tool.required)


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    new = {key: value for key, value in schema.items() if key != "type"}
    if isinstance(kind, str):
        kind = _TYPES.get(kind, kind)
    if isinstance(schema.get("items"), dict):
        new["items"] = _schema(schema["items"])
    return new if kind is None else {"type": kind} | new


def _answers_path(file: Path) -> Path:
    """The path of the answers to a file. Version 3 has them in a folder beside it, or one level up for unused sets."""
    for folder in (file.parent, file.parent.parent):
        if (folder / _ANSWERS / file.name).is_file():
            return folder / _ANSWERS / file.name
    return file.parent / _ANSWERS / file.name


def _answers(file: Path, rows: int) -> list[Any]:
    answers_path = _answers_path(file)
    if not answers_path.is_file():
        raise InputError(
            f"file {file}: its golden answers are missing; put them at {answers_path}, as in BFCL's repository"
        )
    answers = read_json_rows(answers_path)
    count = len(answers) if isinstance(answers, list) else "no list of"
    if not isinstance(answers, list) or count != rows:
        raise InputError(f"file {answers_path}: has {count} rows for the {rows} of {file}; take both from one commit")
    return answers


def _golden(ground_truth: Any, tools: ToolList) -> tuple[Call, ...]:
    """Reads golden calls: Python text, or {name: {argument: right values}}. Raises ValueError for any other form."""
    if not isinstance(ground_truth, list) or not ground_truth:
        raise ValueError("there is no golden call")
    check_characters(ground_truth)
    calls = []
    for entry in ground_truth:
        if isinstance(entry, str):
            parsed = tools.parse(entry)
            if parsed.issue is not None or len(parsed.calls) != 1:
                raise ValueError(f"{entry!r:.80} is no call")
            check_characters([call.arguments for call in parsed.calls])
            calls += parsed.calls
        elif isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), dict):
            name, arguments = next(iter(entry.items()))
            # The official checker requires such an argument and accepts no value for it.
            unreachable = [key for key, values in arguments.items() if values == []]
            if unreachable:
                raise ValueError(f"no value is right for {', '.join(unreachable)[:60]}")
            calls.append(Call(name, {key: _choices(values) for key, values in arguments.items()}))
        else:
            raise ValueError(f"{entry!r:.80} is no call")
    return tuple(calls)


def _choices(values: Any) -> AcceptedValues:
    return AcceptedValues(tuple(_nested(value) for value in (values if isinstance(values, list) else [values])))


def _nested(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _choices(values) for key, values in value.items()}
    return [_nested(item) for item in value] if isinstance(value, list) else value
