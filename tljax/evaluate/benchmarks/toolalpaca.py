"""ToolAlpaca's evaluation files (arXiv 2306.05301), data/eval_real.json and eval_simulated.json: one API on each row.

Every instruction of an API becomes an example, numbered through the file, with its golden steps as golden calls.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from tljax.calls.compare import AnyValue
from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError
from tljax.data.trajectory import Turn
from tljax.evaluate.benchmarks.sets import GOLDEN, UNKNOWN, EvalSet, Example, Skipped, load_json_text, require_field

_FIELDS = {"Function_Description", "Instructions", "Golden_Answers"}
_PARAMETER = re.compile(
    r"(Required\.\s*)?(?:(Array\[.*?\]|Object(?:\{.*?\})?|string|integer|number|boolean)\.\s*)?(.*)", re.S
)
_ENUM = re.compile(r"One of: \[([^\]]*)\]")
_TYPES = {"Array": "array", "Object": "object"}
# Placeholders for values from an earlier step or for values left open: ${id from search}, "{start date}".
_BARE = re.compile(r'(:\s*|\[\s*|,\s*)\$\{[^{}"]*\}')
_OPEN = re.compile(r"\$?\{[^{}]*\}")
# The tool with which ToolAlpaca's own agent asks the user; golden steps of the simulated file call it.
ASK = Tool(
    "getDetails",
    "Ask the user for missing information that is essential to answer the question.",
    {"Question": {"type": "string", "description": "The question to put to the user."}},
    ("Question",),
)


def is_toolalpaca(row: Any) -> bool:
    """Returns True if a row is an API of ToolAlpaca with golden answers."""
    return isinstance(row, dict) and _FIELDS <= row.keys()


def read_toolalpaca(name: str, file: Path, rows: list[Any]) -> EvalSet:
    """Reads a file of ToolAlpaca. Raises InputError, which names file, row (an API) and field, for a malformed row.

    Parameters that an API's `Authentication` names are removed from the documentation and are not compared. An example
    is skipped if a golden step cannot be read or calls a function that the API does not have.
    """
    examples, skipped, index = [], [], 0
    adds_ask_tool = any(step.get("Action") == ASK.name for row in rows for step in _all_steps(row))
    for number, row in enumerate(rows):
        at = f"file {file}, row {number}"
        if not is_toolalpaca(row):
            raise InputError(f"{at}: lacks one of {', '.join(sorted(_FIELDS))}; give ToolAlpaca's own file")
        secrets = row.get("Authentication")
        if isinstance(secrets, list) and not all(isinstance(name, str) for name in secrets):
            raise InputError(f"{at}, field Authentication: is {secrets!r:.40}; allowed: an object, or a list of names")
        hidden = frozenset(secrets if isinstance(secrets, dict | list) else ())
        listed = require_field(row, "Function_Description", dict, at)
        tools = tuple(
            _tool(name, text, hidden, f"{at}, field Function_Description.{name}")
            for name, text in listed.items()
            if name != "components"
        )
        tools += (ASK,) if adds_ask_tool else ()
        instructions, answers = (
            require_field(row, "Instructions", list, at),
            require_field(row, "Golden_Answers", list, at),
        )
        if len(instructions) != len(answers):
            raise InputError(
                f"{at}: {len(instructions)} Instructions and {len(answers)} Golden_Answers; give one of each"
            )
        for k, (text, steps) in enumerate(zip(instructions, answers, strict=True)):
            identity = f"{require_field(row, 'Name', str, at)} {k:02}"
            if not isinstance(text, str):
                raise InputError(f"{at}, field Instructions[{k}]: is {text!r:.40}; allowed: a string")
            if not isinstance(steps, list):
                raise InputError(f"{at}, field Golden_Answers[{k}]: is {steps!r:.40}; allowed: a list of steps")
            example = Example(index, identity, tools, (Turn("user", text),), ignored=hidden, expected_reply=UNKNOWN)
            try:
                golden = tuple(_call(step, tools) for step in steps)
                if not golden:
                    raise ValueError("it has no step")
            except ValueError as error:
                skipped.append(Skipped(index, identity, f"golden answer is broken: {error}", example))
            else:
                examples.append(replace(example, golden=golden, expected_reply=GOLDEN))
            index += 1
    return EvalSet(name, "toolalpaca", tuple(examples), tuple(skipped), file=str(file))


def _all_steps(row: Any) -> list[dict[str, Any]]:
    answers = row.get("Golden_Answers") if isinstance(row, dict) else None
    lists = [answer for answer in answers if isinstance(answer, list)] if isinstance(answers, list) else []
    return [step for steps in lists for step in steps if isinstance(step, dict)]


def _tool(name: str, text: Any, hidden: frozenset[str], at: str) -> Tool:
    """Reads a function from its description, "TEXT\\nParameters: {JSON}\\nOutput: TEXT"."""
    if not isinstance(text, str):
        raise InputError(f"{at}: is not a string; give ToolAlpaca's own file")
    description, mark, rest = (
        text.rpartition("Parameters: ") if text.startswith("Parameters: ") else text.partition("\nParameters: ")
    )
    try:
        listed = load_json_text(rest.partition("\nOutput:")[0]) if mark else {}
        if not isinstance(listed, dict):
            raise ValueError(f"{listed!r:.40} is not an object")
    except ValueError as error:
        raise InputError(f"{at}: its Parameters cannot be read ({error}); give ToolAlpaca's own file") from None
    properties, required = {}, []
    for parameter, words in listed.items():
        if parameter in hidden:
            continue
        match = _PARAMETER.fullmatch(str(words))
        is_required, kind, text = match.groups() if match else (None, None, str(words))
        schema: dict[str, Any] = {}
        if kind:
            schema["type"] = _TYPES.get(re.split(r"[\[{]", kind)[0], kind)
        schema["description"] = text
        choices = _ENUM.match(text)
        if choices and kind == "string":
            schema["enum"] = [choice.strip() for choice in choices[1].split(",")]
        properties[parameter] = schema
        required += [parameter] if is_required else []
    return Tool(name, description.strip(), properties, tuple(required))


def _call(step: Any, tools: tuple[Tool, ...]) -> Call:
    """Reads a golden step. Raises ValueError if it is not a call of a listed function."""
    if not isinstance(step, dict) or not isinstance(step.get("Action"), str):
        raise ValueError(f"{step!r:.60} has no Action")
    name, text = step["Action"], step.get("Action_Input")
    if all(tool.name != name for tool in tools):
        raise ValueError(f"{name} is not among the functions")
    try:
        arguments = load_json_text(_BARE.sub(r'\1"${}"', text)) if isinstance(text, str) else None
    except json.JSONDecodeError:
        raise ValueError(f"the arguments of {name} are not JSON: {text!r:.80}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {name} are not an object: {text!r:.80}")
    return Call(name, {key: _relax(value) for key, value in arguments.items()})


def _relax(value: Any) -> Any:
    """The value with AnyValue for every placeholder."""
    if isinstance(value, str):
        return AnyValue() if _OPEN.fullmatch(value) else value
    if isinstance(value, list):
        return [_relax(item) for item in value]
    return {key: _relax(item) for key, item in value.items()} if isinstance(value, dict) else value
