"""A local tool: a typed Python function, its OpenAI function schema, and the values that tasks may draw for it."""

import importlib.util
import inspect
import random
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError

JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}

Sampler = Sequence[Any] | Callable[[random.Random], Any]


@dataclass(frozen=True, slots=True)
class LocalTool:
    """One function as a tool.

    `schema` is the flat OpenAI form {"name", "description", "parameters"}. A positional-only parameter is not part of
    it: there the tool takes the episode's state, a dict that it may change. `samples` says what a task may draw for
    each parameter, `invalid` which values make the tool itself raise.
    """

    function: Callable[..., Any]
    name: str
    domain: str
    split: str
    schema: dict[str, Any]
    types: Mapping[str, Any]
    required: tuple[str, ...]
    takes_state: bool
    samples: Mapping[str, Sampler] = field(default_factory=dict)
    invalid: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def local_tool(
    function: Callable[..., Any],
    samples: Mapping[str, Sampler] | None = None,
    invalid: Mapping[str, Sequence[Any]] | None = None,
    split: str = "train",
) -> LocalTool:
    """The tool of one function; its domain is the name of the module that defines it.

    Raises InputError where the signature has a parameter that a JSON object cannot fill.
    """
    where = f"tool {function.__name__}()"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InputError(f"{where}: is async; write a function that returns its result")
    hints = typing.get_type_hints(function)
    description, documented = parse_docstring(inspect.getdoc(function) or "")
    properties, required, annotations, takes_state = {}, [], {}, False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            takes_state = True
            continue
        if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            raise InputError(f"{where}: parameter *{name} has no place in a tool's schema; name every parameter")
        # A default tells people a type; the function may take others.
        guessed = type(parameter.default) if type(parameter.default) in JSON_TYPES else Any
        annotations[name] = hints.get(name, Any)
        shown = json_schema(hints.get(name, guessed), f"{where}, {name}")
        properties[name] = {**shown, "description": documented.get(name, "")}
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    schema = {
        "name": function.__name__,
        "description": description,
        "parameters": {"type": "object", "properties": properties, "required": required},
    }
    domain = function.__module__.rsplit(".", 1)[-1]
    return LocalTool(
        function,
        function.__name__,
        domain,
        split,
        schema,
        annotations,
        tuple(required),
        takes_state,
        samples or {},
        invalid or {},
    )


def parse_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """First paragraph in one line, and the `name: text` or `name (type): text` lines below it.

    A line that is indented more than such a line goes on with its text.
    """
    head, _, rest = doc.partition("\n\n")
    documented: dict[str, str] = {}
    name, depth = None, 0
    for line in rest.expandtabs().splitlines():
        indent, text = len(line) - len(line.lstrip()), line.strip()
        begun = re.fullmatch(r":?(?:param )?(\w+)(?: ?\([^)]*\))?: *(\S.*)", text)
        if name is not None and text and indent > depth:
            documented[name] += f" {text}"
        elif begun:
            name, depth = begun[1], indent
            documented[name] = begun[2]
        else:
            name = None
    return " ".join(head.split()), documented


def strip_optional(annotation: Any) -> Any:
    """T of `T | None`, any other annotation as it is."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return members[0]
    return annotation


def json_schema(annotation: Any, where: str) -> dict[str, Any]:
    """JSON schema of str, int, float, bool, list, list[T], dict, dict[str, T], Literal; `T | None` counts as T.

    Any, and what has no annotation, is a schema without a type.
    """
    annotation = strip_optional(annotation)
    if annotation is Any:
        return {}
    base = typing.get_origin(annotation) or annotation
    if base is typing.Literal:
        values = typing.get_args(annotation)
        kinds = {type(value) for value in values}
        if len(kinds) == 1 and kinds <= JSON_TYPES.keys():
            return {"type": JSON_TYPES[kinds.pop()], "enum": list(values)}
    if base not in JSON_TYPES:
        known = "str, int, float, bool, list, dict, Any, or a Literal of one type"
        raise InputError(f"{where}: type {annotation} has no JSON form; use {known}")
    schema: dict[str, Any] = {"type": JSON_TYPES[base]}
    arguments = typing.get_args(annotation)
    if base is list and arguments:
        schema["items"] = json_schema(arguments[0], where)
    if base is dict and arguments:
        schema["additionalProperties"] = json_schema(arguments[1], where)
    return schema


def load_tools(path: str) -> dict[str, LocalTool]:
    """The public functions that a Python file defines, as tools. Runs the file. Raises InputError where it cannot."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; name a Python file that defines the tools as functions")
    spec = importlib.util.spec_from_file_location(f"user_tools_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and the like look their module up by name.
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}: the file cannot be run ({type(error).__name__}: {error}); mend it first") from error
    functions = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    try:
        tools = {f.__name__: local_tool(f) for f in functions if not f.__name__.startswith("_")}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # annotations are the user's code too
        raise InputError(
            f"{path}: its annotations cannot be read ({type(error).__name__}: {error}); mend them"
        ) from error
    if not tools:
        raise InputError(f"{path}: defines no public function; every function without a leading _ is a tool")
    return tools
