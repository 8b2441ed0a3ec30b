"""What runs the calls of one dialogue: the toolbox, a mock for any list of tools, the functions of a user's file."""

import re
from collections.abc import Sequence
from typing import Any, Protocol

from tljax.agent.worker import Worker
from tljax.calls.compare import ToolList
from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.data import mae_default
from tljax.toolbox.execute import Result, binding_error, execute, failure, json_text, undefined, valid_unicode
from tljax.toolbox.tools import ASK_TO_USER, FINISH, NO_USER, TOOLS

_OWN = {FINISH.name: FINISH, ASK_TO_USER.name: ASK_TO_USER}


class Executor(Protocol):
    """Runs one dialogue's calls, of whatever tool and arguments; a call that fails gives an error Result."""

    def execute(self, call: Call) -> Result: ...
    def close(self) -> None: ...


def documentation_error(call: Call, tools: ToolList) -> str | None:
    """How a call contradicts the tool list, in Python's words; None where it does not.

    An unknown tool, a parameter that the documentation lacks, or a required one that is missing.
    """
    if call.name not in tools.schemas:
        return undefined(call.name)
    required = next(tool.required for tool in tools.tools if tool.name == call.name)
    return binding_error(call.name, call.arguments, tools.schemas[call.name], required)


class ToolboxExecutor:
    """The listed tools of the toolbox; `state` is the dialogue's, and what its calls leave is its final state."""

    def __init__(self, names: Sequence[str]):
        self._tools = {name: _OWN.get(name) or TOOLS[name] for name in names}
        self.state: dict[str, Any] = {}

    def execute(self, call: Call) -> Result:
        return execute(call.name, call.arguments, self._tools, self.state)

    def close(self) -> None:
        pass


class MockExecutor:
    """Runs nothing: checks a call against the documentation and answers with Python's error text or a canned value.

    As in Python, types are not checked. The value is of the kind that the tool's name and description announce: a truth
    value, a number, a list, else an object; equal calls get equal values.
    """

    def __init__(self, tools: ToolList):
        self._tools = tools

    def execute(self, call: Call) -> Result:
        problem = documentation_error(call, self._tools)
        if problem is not None:
            return failure(problem)
        return Result(valid_unicode(self._value(call)), False)

    def close(self) -> None:
        pass

    def _value(self, call: Call) -> str:
        if call.name == ASK_TO_USER.name:
            return NO_USER
        if call.name == FINISH.name:
            return ""
        tool = next(tool for tool in self._tools.tools if tool.name == call.name)
        return json_text(canned_value(tool.name, tool.description))


# What a name or a description announces; the first that fits says of which type the canned value is.
_ANNOUNCED = (
    (re.compile(r"^(?:is|has|check|validate|verify)[_A-Z]|\b(?:checks?|validates?|verif(?:y|ies)) whether\b"), True),
    (re.compile(r"^(?:count|calculate|compute)[_A-Z]|\b(?:number of|how many|count of|amount of|total)\b"), 42),
    (re.compile(r"^(?:list|search|find)[_A-Z]|\blists? (?:of|all)\b|\ball (?:the )?\w+s\b"), []),
)


def canned_value(name: str, description: str) -> Any:
    """A JSON value of the type that a tool's name and description announce; a text in it says that it is an example."""
    kind = next((value for found, value in _ANNOUNCED if found.search(name) or found.search(description)), None)
    text = f"example result of {name}"
    if kind == []:
        return [text]
    return {"status": "success", "result": text} if kind is None else kind


class FileExecutor:
    """The functions of a user's file, in a process of the dialogue's own that its first call starts.

    A feedback is an error where the call failed, or where the default MAE rule reads an error in what the tool
    returned, unless it is `ends`, the tool that ends the dialogue: an answer may speak of errors. own: the file's
    functions; `finish`, where it is none of them, is the toolbox's.
    """

    def __init__(self, path: str, time_limit: float, tools: ToolList, own: frozenset[str], ends: str | None):
        self._worker, self._tools, self._own, self._ends = Worker(path, time_limit), tools, own, ends

    def execute(self, call: Call) -> Result:
        if call.name not in self._own and call.name in self._tools.schemas:
            return execute(call.name, call.arguments, _OWN)
        result = self._worker.execute(call.name, call.arguments)
        told = call.name != self._ends and mae_default.find_error(result.value) is not None
        return Result(result.value, result.error or told)

    def close(self) -> None:
        self._worker.close()


def read_tool_schemas(path: str, time_limit: float) -> list[dict[str, Any]]:
    """The tools of a user's file as flat OpenAI JSON. Raises InputError where the file cannot be run, or has none."""
    if not time_limit > 0:
        raise InputError(f"config.tool_seconds is {time_limit}; it must be above 0")
    with Worker(path, time_limit) as worker:
        return worker.schemas
