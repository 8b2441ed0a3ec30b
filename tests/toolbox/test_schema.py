from typing import Any, Literal

import pytest
from transformers.utils import get_json_schema

from tljax.calls.tool import tool_from_json
from tljax.core.errors import InputError
from tljax.toolbox.execute import execute
from tljax.toolbox.schema import load_tools, local_tool
from tljax.toolbox.tools import ASK_TO_USER, DOMAINS, FINISH, SPLITS, TOOLS, callable_tools

ALL = [*TOOLS.values(), FINISH, ASK_TO_USER]
PLAIN = [tool for tool in ALL if not tool.takes_state]


@pytest.mark.parametrize("tool", PLAIN, ids=lambda tool: tool.name)
def test_schema_is_the_one_transformers_reads_from_the_same_function(tool):
    theirs = get_json_schema(tool.function)["function"]
    theirs.pop("return", None)
    theirs["parameters"].setdefault("required", [])
    assert tool.schema == theirs


@pytest.mark.parametrize("tool", ALL, ids=lambda tool: tool.name)
def test_every_tool_is_documented_and_can_be_drawn(tool):
    read = tool_from_json(tool.schema, "toolbox")
    assert (read.description.endswith(".") and 0 < len(read.properties)) or tool.name == "list_currencies"
    assert all(spec["description"] for spec in read.properties.values())
    if tool not in (FINISH, ASK_TO_USER):
        assert set(tool.samples) == set(tool.types)
    assert set(tool.invalid) <= set(tool.types)


def test_names_are_unique_and_every_split_has_its_own():
    assert len(TOOLS) == sum(len(domain.TOOLS) for domain in DOMAINS) >= 60
    assert len(DOMAINS) >= 12
    assert {split: len(callable_tools(split)) for split in SPLITS} == {"train": 69, "composition": 20, "domain": 15}
    assert {tool.domain for tool in callable_tools("domain")}.isdisjoint(
        tool.domain for split in ("train", "composition") for tool in callable_tools(split)
    )


def test_the_state_parameter_is_not_in_the_schema():
    assert TOOLS["borrow_book"].takes_state
    assert list(TOOLS["borrow_book"].schema["parameters"]["properties"]) == ["title", "person"]


def test_every_json_type_and_optional_parameters():
    def f(a: str, b: int, c: float, d: bool, e: list[int], g: dict[str, float], h: int | None = None, i="x"):
        """Do it
        all.

        Args:
            a (str): The first: with a colon,
                and a second line,
                note: a third.
            b: The second.

        Returns:
            d: all of it
        that goes on.
        """

    tool = local_tool(f)
    parameters = tool.schema["parameters"]
    types = {name: spec["type"] for name, spec in parameters["properties"].items()}
    assert types == dict(
        zip("abcdeghi", "string integer number boolean array object integer string".split(), strict=True)
    )
    assert parameters["properties"]["e"]["items"] == {"type": "integer"}
    assert parameters["required"] == list("abcdeg")
    assert tool.schema["description"] == "Do it all."
    assert parameters["properties"]["a"]["description"] == "The first: with a colon, and a second line, note: a third."
    assert parameters["properties"]["b"]["description"] == "The second."
    assert parameters["properties"]["c"]["description"] == ""


def test_choices_and_parameters_without_annotation():
    def f(a, b: Literal["x", "y"], c: Any = None):
        """Do it."""

    tool = local_tool(f)
    assert tool.schema["parameters"]["properties"] == {
        "a": {"description": ""},
        "b": {"type": "string", "enum": ["x", "y"], "description": ""},
        "c": {"description": ""},
    }
    tools = {"f": tool}
    assert not execute("f", {"a": [1], "b": "x", "c": 2.5}, tools).error
    assert execute("f", {"a": 1, "b": "z"}, tools).value == "ValueError: f() argument 'b' must be one of 'x', 'y'"


def test_optional_choices_and_anything():
    def f(a: Any | None, b: Literal["x", "y"] | None = "y", c: list[int | None] | None = None, d: int = 7):
        """Do it."""
        return [a, b, c, d]

    tools = {"f": local_tool(f)}
    assert execute("f", {"a": {"k": 1}, "b": "x", "c": [1, None]}, tools).value == '[{"k": 1}, "x", [1, null], 7]'
    # None stands for the default of what may be left out.
    assert execute("f", {"a": None, "b": None, "c": None, "d": None}, tools).value == '[null, "y", null, 7]'
    assert execute("f", {"a": 1, "b": "z"}, tools).value == "ValueError: f() argument 'b' must be one of 'x', 'y'"
    assert execute("f", {"a": 1, "c": ["x"]}, tools).value == "TypeError: f() argument 'c' item must be int, not str"


def test_a_signature_without_json_form_is_refused():
    def stars(*values: int):
        """Sum."""

    def odd(value: complex):
        """Turn."""

    with pytest.raises(InputError, match=r"tool stars\(\): parameter \*values"):
        local_tool(stars)
    with pytest.raises(InputError, match=r"tool odd\(\), value: type <class 'complex'> has no JSON form"):
        local_tool(odd)


def test_a_users_file_becomes_tools(tmp_path):
    file = tmp_path / "mytools.py"
    file.write_text(
        "from math import sqrt\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: int\n"
        "def root(x: float) -> float:\n    'The root of x.'\n    return sqrt(x)\n"
        "def _hidden():\n    pass\n"
    )
    assert list(load_tools(str(file))) == ["root"]
    for text, message in (("x = 1", "defines no public function"), ("1 / 0", "ZeroDivisionError: division by zero")):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            load_tools(str(file))
    with pytest.raises(InputError, match="no such file"):
        load_tools(str(tmp_path / "absent.py"))
