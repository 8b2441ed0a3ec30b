"""The dialect `full`: prompts and the exported template hold all facts of a schema, and they can be read back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tljax.calls.parse_tools import parse_tools
from tljax.calls.references import MAX_DEPTH
from tljax.calls.render import render_tool, render_tools
from tljax.calls.tool import tool_from_json
from tljax.core.errors import InputError
from tljax.data.prompt import chat_template

BOOK = {
    "name": "book",
    "description": "Books a room.",
    "parameters": {
        "type": "object",
        "properties": {
            "guests": {"type": "array", "description": "Who comes.", "minItems": 1, "items": {"$ref": "#/$defs/Guest"}},
            "unit": {"enum": ["C", "F"], "default": "C", "description": "The unit."},
            "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
            "size": {"allOf": [{"$ref": "#/$defs/Size"}], "default": 2},
            "extra": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}},
            "plain": {"type": "integer", "title": "Plain"},
        },
        "required": ["guests"],
        "$defs": {
            "Size": {"type": "integer", "enum": [1, 2]},
            "Guest": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "The name."},
                    "friend": {"$ref": "#/$defs/Guest"},
                    "age": {"type": "integer", "minimum": 0, "maximum": 150},
                },
                "required": ["name"],
            },
        },
    },
}
FULL = '''Function:
def book(guests: array, unit: string = None, when: string | null = None, size: any = None, extra: object = None, \
plain: integer = None):
    """
    Books a room.

    Args:
    guests (array): Who comes. Minimum items: 1.
        items (object):\x20
            name (string, required): The name.
            friend (any):\x20
            age (integer): Minimum: 0. Maximum: 150.
    unit (string): The unit. One of: "C", "F". Default: "C".
    when (string | null): Default: null.
        or (string): Format: "date".
    size (any): Default: 2.
        and (integer): One of: 1, 2.
    extra (object):\x20
        any other key (number): Minimum: 0.
    plain (integer):\x20
    """'''


@pytest.fixture(scope="module")
def tokenizer(shared):
    """transformers' tokenizer of Llama 2."""
    return PreTrainedTokenizerFast(tokenizer_file=str(shared / "tokenizer/llama2/tokenizer.json"), eos_token="</s>")


def by_template(tokenizer, tool, dialect):
    """The tool as the exported chat template writes it, without the turns around it."""
    options = {"chat_template": chat_template(dialect, bos=False), "tokenize": False}
    text = tokenizer.apply_chat_template([{"role": "user", "content": "go"}], tools=[tool], **options)
    return text.removeprefix("System: ").removesuffix("\nUser: go</s>").removesuffix("\n\n")


def test_a_tool_by_hand(tokenizer):
    tool = tool_from_json(BOOK, "tool")
    assert render_tool(tool, "full") == FULL
    assert by_template(tokenizer, BOOK, "full") == FULL


def test_the_list_is_read_back_with_its_facts_in_the_descriptions():
    tool = tool_from_json(BOOK, "tool")
    (again,) = parse_tools(f"System: {FULL}\nUser: go\nAssistant:")
    assert (again.name, again.parameters, again.required) == (tool.name, tool.parameters, tool.required)
    assert again.properties["unit"] == {"type": "string", "description": 'The unit. One of: "C", "F". Default: "C".'}
    assert render_tools([again], "full") == render_tools([tool], "full")


def test_every_required_enum_value_of_bfcl_is_in_the_prompt(shared):
    rows = [json.loads(line) for line in (shared / "data/eval/BFCL_v3/BFCL_v3_simple.json").read_text().splitlines()]
    values = 0
    for row in rows:
        for tool in row["function"]:
            text = render_tool(tool_from_json(tool, "tool"), "full")
            for name in tool["parameters"]["required"]:
                for value in tool["parameters"]["properties"][name].get("enum", []):
                    values += 1
                    assert json.dumps(value, ensure_ascii=False) in text.partition(f"\n    {name} (")[2]
    assert values == 71


NAMES = st.sampled_from(["a", "b", "type", "items"])
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["string", "object", "array", ["integer", "null"]]),
        "description": st.sampled_from(["", "Some.", "<b> & 'c'"]),
        "enum": st.lists(st.sampled_from(["é", 1, None, True, 1.5]), max_size=3),
        "default": st.sampled_from([None, 0, "x", [1], {"a": "'"}]),
        "minimum": st.integers(-3, 3),
        "uniqueItems": st.booleans(),
        "$ref": st.sampled_from(["#/$defs/P", "#/$defs/Q", "#/definitions/P", "#/$defs/none", "other"]),
    },
)


def nest(schemas):
    members = st.lists(schemas, max_size=2)
    keys = {"properties": st.dictionaries(NAMES, schemas, max_size=2), "items": schemas, "anyOf": members}
    keys |= {"additionalProperties": schemas, "allOf": members, "required": st.lists(NAMES, max_size=2)}
    nested = st.fixed_dictionaries({}, optional=keys)
    return st.builds(lambda one, two: one | two, FACTS, nested)


SCHEMAS = st.recursive(FACTS, nest, max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(schema=SCHEMAS, p=SCHEMAS, q=SCHEMAS, dialect=st.sampled_from(["full", "full", "mae", "readme"]))
def test_the_template_writes_any_schema_as_training_does(tokenizer, schema, p, q, dialect):
    parameters = {"properties": {"x": schema, "y": p}, "required": ["y"], "$defs": {"P": p, "Q": q}}
    tool = {"name": "f", "description": "", "parameters": parameters}
    assert by_template(tokenizer, tool, dialect) == render_tools([tool_from_json(tool, "t")], dialect).removesuffix(
        "\n\n"
    )


def test_schemas_that_cannot_be_written_out_are_refused():
    deep = {"type": "string"}
    for _ in range(MAX_DEPTH + 1):
        deep = {"type": "array", "items": deep}
    with pytest.raises(InputError, match=r"row 1, tools\[0\].parameters.properties.a: nests more than 100 schemas"):
        tool_from_json({"name": "f", "parameters": {"properties": {"a": deep}}}, "row 1, tools[0]")
    doubled = {f"d{i}": {"properties": {n: {"$ref": f"#/$defs/d{i + 1}"} for n in "ab"}} for i in range(20)}
    wide = {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": doubled}
    with pytest.raises(InputError, match=r"properties.a: its \$refs stand for more than 1,000 schemas"):
        tool_from_json({"name": "f", "parameters": wide}, "row 1, tools[0]")
