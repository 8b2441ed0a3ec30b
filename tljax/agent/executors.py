"""Executors of the calls of one dialogue: the toolbox, a mock for any tool list, the tools of a user's file."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tljax.agent.worker import Ending, Worker
from tljax.calls.compare import ToolList
from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.data import mae_default
from tljax.toolbox.execute import (
    Result,
    binding_error,
    error_result,
    escape_surrogates,
    execute,
    json_text,
    undefined_name_error,
)
from tljax.toolbox.tools import ASK_TO_USER, FINISH, NO_USER_REPLY, TOOLS

_OWN = {FINISH.name: FINISH, ASK_TO_USER.name: ASK_TO_USER}


class Executor(Protocol):
    """Runs the calls of one dialogue. A call that fails, for any reason, returns an error Result."""

    def execute(self, call: Call) -> Result: ...
    def close(self) -> None: ...


def documentation_error(call: Call, tools: ToolList) -> str | None:
    """Returns the contradiction between a call and the tool list as a Python error text; None if there is none.

    It is an unknown tool, an undocumented parameter, or a missing required parameter.
    """
    if call.name not in tools.schemas:
        return undefined_name_error(call.name)
    required = next(tool.required for tool in tools.tools if tool.name == call.name)
    return binding_error(call.name, call.arguments, tools.schemas[call.name], required)


class ToolboxExecutor:
    """Runs the listed tools of the toolbox. `state` is the state of the dialogue, which its calls change."""

    def __init__(self, names: Sequence[str]):
        self._tools = {name: _OWN.get(name) or TOOLS[name] for name in names}
        self.state: dict[str, Any] = {}

    def execute(self, call: Call) -> Result:
        return execute(call.name, call.arguments, self._tools, self.state)

    def close(self) -> None:
        pass


class MockExecutor:
    """Checks a call against the documentation and returns a Python error text or a canned value; it runs nothing.

    As in Python, types are not checked. The name and description of the tool decide the type of the value: a truth
    value, a number, a list, or else an object. Equal calls get equal values.
    """

    def __init__(self, tools: ToolList):
        self._tools = tools

    def execute(self, call: Call) -> Result:
        problem = documentation_error(call, self._tools)
        if problem is not None:
            return error_result(problem)
        return Result(escape_surrogates(self._value(call)), False)

    def close(self) -> None:
        pass

    def _value(self, call: Call) -> str:
        if call.name == ASK_TO_USER.name:
            return NO_USER_REPLY
        if call.name == FINISH.name:
            return ""
        tool = next(tool for tool in self._tools.tools if tool.name == call.name)
        return json_text(canned_value(tool.name, tool.description))


# Patterns in names or descriptions and the canned value they call for; the first match decides.
_ANNOUNCED = (
    (re.compile(r"^(?:is|has|check|validate|verify)[_A-Z]|\b(?:checks?|validates?|verif(?:y|ies)) whether\b"), True),
    (re.compile(r"^(?:count|calculate|compute)[_A-Z]|\b(?:number of|how many|count of|amount of|total)\b"), 42),
    (re.compile(r"^(?:list|search|find)[_A-Z]|\blists? (?:of|all)\b|\ball (?:the )?\w+s\b"), []),
)


def canned_value(name: str, description: str) -> Any:
    """Returns an example value of the JSON type that a tool's name and description suggest."""
    kind = next((value for found, value in _ANNOUNCED if found.search(name) or found.search(description)), None)
    text = f"example result of {name}"
    if kind == []:
        return [text]
    return {"status": "success", "result": text} if kind is None else kind


class FileExecutor:
    """Runs the functions of a user's file, or the methods of one of its objects, in a process for each dialogue.

    The first call starts the process. path: FILE.py or FILE.py:CLASS. A feedback is an error if the call failed, or if
    the default MAE rule finds an error in the returned text. The tool that ends the dialogue (`ends`) is exempt from
    the rule, as an answer may mention errors. own: the names of the functions; `finish` is the toolbox's tool if it is
    not among them.
    row: the task's row, for `reset` of an object; None for functions. An object ends with its process: later calls give
    an error. ending: the object after the dialogue, known once this is closed; None if its process had ended before.
    """

    def __init__(
        self,
        path: str,
        time_limit: float,
        tools: ToolList,
        own: frozenset[str],
        ends: str | None,
        row: Mapping[str, Any] | None = None,
    ):
        self._worker, self._tools, self._own, self._ends = Worker(path, time_limit), tools, own, ends
        self._row = row
        self.ending: Ending | None = None

    def reset(self) -> Result:
        """Begins the dialogue of an object; the value is the text that it shows first, "" for none."""
        return self._worker.reset(self._row or {})

    def execute(self, call: Call) -> Result:
        if call.name not in self._own and call.name in self._tools.schemas:
            return execute(call.name, call.arguments, _OWN)
        if self._row is not None and self._worker.child is None:
            return error_result("RuntimeError: the environment ended in an earlier call")
        result = self._worker.execute(call.name, call.arguments)
        reports_error = call.name != self._ends and mae_default.find_error(result.value) is not None
        return Result(result.value, result.error or reports_error)

    def close(self) -> None:
        if self._row is not None and self._worker.child is not None:
            self.ending = self._worker.end()
        self._worker.close()


def read_tool_schemas(path: str, time_limit: float) -> list[dict[str, Any]]:
    """Returns the tools of a user's file as flat OpenAI JSON. Raises InputError if it cannot be run or has no tools."""
    if not time_limit > 0:
        raise InputError(f"config.tool_seconds is {time_limit}; it must be above 0")
    with Worker(path, time_limit) as worker:
        return worker.schemas
