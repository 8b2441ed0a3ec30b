"""A local tool: a typed Python function, its OpenAI function schema, and samplers for its arguments."""

import importlib.util
import inspect
import random
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError

JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}

# Values of one argument: a sequence to choose from, or a function that draws one.
Sampler = Sequence[Any] | Callable[[random.Random], Any]


@dataclass(frozen=True, slots=True)
class LocalTool:
    """A function as a tool.

    domain: the name of the function's module. split: the split whose tasks may call the tool. schema: the flat OpenAI
    form {"name", "description", "parameters"}. types: parameter name -> annotation. required: names of the parameters
    without a default. takes_state: True if the function has a positional-only parameter, which is not in the schema: it
    is the episode's state, a dict that the tool may change. samples: parameter name -> values that tasks draw. invalid:
    parameter name -> values for which the tool itself raises an error.
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
    """Returns the tool of a function, whose docstring describes the tool and its parameters.

    Raises InputError for an async function, and for a parameter that a JSON object cannot fill.
    """
    label = f"tool {function.__name__}()"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InputError(f"{label}: is async; write a function that returns its result")
    # The parameters' schemas, from annotations, defaults and the docstring.
    hints = typing.get_type_hints(function)
    description, documented = parse_docstring(inspect.getdoc(function) or "")
    properties, required, annotations, takes_state = {}, [], {}, False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            takes_state = True
            continue
        if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            raise InputError(f"{label}: parameter *{name} cannot be in a tool's schema; name every parameter")
        # Without an annotation, the default's type is in the schema, but the function accepts any type.
        default_type = type(parameter.default) if type(parameter.default) in JSON_TYPES else Any
        annotations[name] = hints.get(name, Any)
        type_schema = json_schema(hints.get(name, default_type), f"{label}, {name}")
        properties[name] = {**type_schema, "description": documented.get(name, "")}
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    # The tool.
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
    """Returns the first paragraph on one line, and the parameters' descriptions by name.

    A description is a line `name: text` or `name (type): text`, with the lines below it that are indented more.
    """
    head, _, rest = doc.partition("\n\n")
    documented: dict[str, str] = {}
    name, depth = None, 0
    for line in rest.expandtabs().splitlines():
        indent, text = len(line) - len(line.lstrip()), line.strip()
        heading = re.fullmatch(r":?(?:param )?(\w+)(?: ?\([^)]*\))?: *(\S.*)", text)
        if name is not None and text and indent > depth:
            documented[name] += f" {text}"
        elif heading:
            name, depth = heading[1], indent
            documented[name] = heading[2]
        else:
            name = None
    return " ".join(head.split()), documented


def strip_optional(annotation: Any) -> Any:
    """Returns T for the annotation `T | None`, and any other annotation as it is."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return members[0]
    return annotation


def json_schema(annotation: Any, label: str) -> dict[str, Any]:
    """Returns the JSON schema of str, int, float, bool, list, list[T], dict, dict[str, T] or a Literal of one type.

    `T | None` counts as T, and Any gives a schema without a type. Raises InputError, beginning with `label`, for any
    other annotation.
    """
    annotation = strip_optional(annotation)
    if annotation is Any:
        return {}
    base = typing.get_origin(annotation) or annotation
    if base is typing.Literal:
        values = typing.get_args(annotation)
        types_ = {type(value) for value in values}
        if len(types_) == 1 and types_ <= JSON_TYPES.keys():
            return {"type": JSON_TYPES[types_.pop()], "enum": list(values)}
    if base not in JSON_TYPES:
        allowed = "str, int, float, bool, list, dict, Any, or a Literal of one type"
        raise InputError(f"{label}: type {annotation} has no JSON form; use {allowed}")
    schema: dict[str, Any] = {"type": JSON_TYPES[base]}
    arguments = typing.get_args(annotation)
    if base is list and arguments:
        schema["items"] = json_schema(arguments[0], label)
    if base is dict and arguments:
        schema["additionalProperties"] = json_schema(arguments[1], label)
    return schema


class _UncachedLoader(SourceFileLoader):
    """Compiles a user's file each time, and writes no __pycache__ beside it.

    Python takes a file that was edited within the same second, and has as many bytes as before, for the cached one.
    """

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_tools(path: str) -> dict[str, LocalTool]:
    """Runs a Python file and returns the public functions that it defines as tools, by name.

    Raises InputError if the file cannot be run, or if one of the functions cannot be a tool.
    """
    module = _run_file(path)
    functions = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    tools = _as_tools(path, {f.__name__: f for f in functions if not f.__name__.startswith("_")})
    if not tools:
        raise InputError(f"{path}: defines no public function; every function without a leading _ is a tool")
    return tools


# The methods of an environment that are no tools: the first is called before a dialogue, the second after it.
ENVIRONMENT_METHODS = ("reset", "get_reward")


def load_environment(path: str, name: str) -> tuple[Any, dict[str, LocalTool]]:
    """Runs a Python file, calls its class or function `name` without arguments, and returns the object and its tools.

    The tools are the object's public methods but ENVIRONMENT_METHODS. TRL's `environment_factory` takes the same
    classes. Raises InputError if the file cannot be run, has no such class, or if one of the methods cannot be a tool.
    """
    module = _run_file(path)
    factory = vars(module).get(name)
    if not callable(factory):
        raise InputError(f"{path}: has no class {name}; name a class of the file, whose methods are the tools")
    try:
        instance = factory()
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}: {name}() fails ({type(error).__name__}: {error}); mend it first") from error
    # Members of the class: those of the instance would evaluate its properties.
    members = inspect.getmembers(type(instance), inspect.isfunction)
    names = [member for member, _ in members if not member.startswith("_") and member not in ENVIRONMENT_METHODS]
    tools = _as_tools(path, {member: getattr(instance, member) for member in names})
    if not tools:
        raise InputError(f"{path}: {name} has no public method but {' and '.join(ENVIRONMENT_METHODS)}; add a tool")
    return instance, tools


def _as_tools(path: str, functions: Mapping[str, Callable[..., Any]]) -> dict[str, LocalTool]:
    try:
        return {name: local_tool(function) for name, function in functions.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # annotations are the user's code, which may raise anything
        raise InputError(
            f"{path}: its annotations cannot be read ({type(error).__name__}: {error}); fix them"
        ) from error


def _run_file(path: str) -> types.ModuleType:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; name a Python file that defines the tools as functions")
    if Path(path).suffix != ".py":
        raise InputError(f"{path}: not a Python file; its name must end in .py")
    name = f"user_tools_{Path(path).stem}"
    loader = _UncachedLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module by name.
    sys.modules[module.__name__] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}: the file cannot be run ({type(error).__name__}: {error}); fix it first") from error
    return module
