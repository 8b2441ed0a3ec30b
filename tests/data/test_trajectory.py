"""Rows of both schemas are read, and every kind of malformed row is refused."""

import json

import pytest

from tljax.calls.tool import Call, Tool, tool_from_json
from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import load_rule
from tljax.data.trajectory import Turn

TOOL = {"name": "f", "description": "F.", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
FINISH = {"type": "function", "function": {"name": "finish"}}


def raw(*messages, tools=(TOOL, FINISH), **fields):
    messages = [{"role": role, "content": content} for role, content in messages]
    return {"id": "a", "conversations": [{"role": "system", "content": json.dumps(tools)}, *messages], **fields}


def call(name, arguments, identity=None):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_raw_row():
    row = raw(
        ("user", "q"),
        ("assistant", 'f\n{\n  "x": 1,\n  "y": {"z": [1.0, null]}\n}'),
        ("function", "{}"),
        ("assistant", "two\nlines of text"),
        ("assistant", "f\n"),
        ("system", "be quick"),
        ("user", "left over"),
    )
    trajectory = trajectory_from_record(row, "rows.json", 7)
    assert (trajectory.id, trajectory.row, trajectory.system) == ("a", 7, "")
    assert trajectory.tools == (Tool("f", "F.", {"x": {"type": "integer"}}, ()), Tool("finish", "", {}, ()))
    assert trajectory.turns == (
        Turn("user", "q"),
        Turn("assistant", call=Call("f", {"x": 1, "y": {"z": [1.0, None]}})),
        Turn("function", "{}"),
        Turn("assistant", "two\nlines of text"),
        Turn("assistant", "f\n"),
        Turn("system", "be quick"),
        Turn("user", "left over"),
    )


def test_openai_row_gives_each_call_its_own_reply():
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "!"}]},
        {
            "role": "assistant",
            "content": "Two at once.",
            "tool_calls": [call("f", '{"x": 1}', "p"), call("f", {"x": 2}, "q"), call("finish", "", "r")],
        },
        {"role": "tool", "tool_call_id": "q", "content": "second"},
        {"role": "tool", "tool_call_id": "p", "content": "first"},
        {"role": "user", "content": "go on"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "old style"},
        {"role": "assistant", "content": "Done.", "tool_calls": None},
    ]
    trajectory = trajectory_from_record({"tools": json.dumps([TOOL, FINISH]), "messages": messages}, "rows.jsonl", 3)
    assert (trajectory.id, trajectory.system, len(trajectory.tools)) == (3, "Be brief.", 2)
    assert trajectory.turns == (
        Turn("user", "q!"),
        Turn("assistant", "Two at once.", Call("f", {"x": 1})),
        Turn("function", "first"),
        Turn("assistant", "", Call("f", {"x": 2})),
        Turn("function", "second"),
        Turn("assistant", "", Call("finish", {})),
        Turn("user", "go on"),
        Turn("assistant", "", Call("f", {})),
        Turn("function", "old style"),
        Turn("assistant", "Done."),
    )


def test_openai_replies_without_ids_go_by_order():
    replies = [{"role": "tool", "content": text} for text in ("1", "2", "3")]
    calls = {"role": "assistant", "tool_calls": [call("f", {"x": 1}), call("f", {"x": 2})]}
    turns = trajectory_from_record({"messages": [calls, *replies]}, "f", 1).turns
    assert [turn.call.arguments["x"] if turn.call else turn.text for turn in turns] == [1, "1", 2, "2", "3"]


def test_tool_schemas_of_real_openai_tools():
    parameters = {
        "properties": {"a": {"$ref": "#/$defs/A", "title": "t"}, "b": {"anyOf": [{"$ref": "#/$defs/A"}]}, "c": None},
        "required": ["b", "a", "b"],
        "$defs": {"A": {"type": "string", "description": "An A."}},
    }
    tool = tool_from_json({"type": "function", "function": {"name": "g", "parameters": parameters}}, "tool")
    resolved = {"type": "string", "description": "An A."}
    assert tool == Tool("g", "", {"a": {**resolved, "title": "t"}, "b": {"anyOf": [resolved]}}, ("b", "a"))
    assert tool.parameters == ("b", "a")


ASK = ("assistant", "ok")
BAD_ROWS = [
    ([], "row 4: is a list, not an object; a row is {"),
    ({"id": "a", "text": ""}, "field conversations: is missing (fields here: id, text); a row is {"),
    ({"conversations": {}}, "field conversations: is an object, not a list"),
    ({"conversations": []}, "field conversations: is empty"),
    (raw(("user", "q")), "field conversations: has no assistant message"),
    (raw(("bot", "q"), ASK), "field conversations[1].role: 'bot' is not a role; allowed: system, developer, user, "),
    ({"conversations": [{"content": "x"}]}, "field conversations[0].role: is missing; allowed: system"),
    ({"conversations": ["x"]}, "field conversations[0]: is a string, not an object"),
    ({"conversations": [{"role": "user", "content": "x"}]}, "field conversations[0].role: is 'user', not 'system'"),
    ({"conversations": [{"role": "system", "content": "You are."}]}, "field conversations[0].content: is not JSON"),
    (
        {"conversations": [{"role": "system", "content": "{}"}]},
        "field conversations[0].content: is an object, not a list",
    ),
    (raw(("user", 5), ASK), "field conversations[1].content: is a number, not a string"),
    (raw(("user", None), ASK), "field conversations[1].content: is null or missing, not a string"),
    (raw(("assistant", "f\n{x: 1}")), "field conversations[1].content after the name 'f': is not JSON (Expecting"),
    (
        raw(("assistant", 'f\n{"x": 1} ok')),
        "field conversations[1].content after the name 'f': is not JSON (Extra data",
    ),
    (raw(("assistant", " ")), "field conversations[1].content: is empty"),
    (raw(ASK, id=[1]), "field id: is a list; allowed: a string or an integer"),
    (raw(ASK, id=True), "field id: is a boolean; allowed: a string or an integer"),
    (raw(ASK, tools=[{"description": ""}]), "field conversations[0].content[0].name: is null or missing, not a string"),
    (raw(ASK, tools=[{"name": ""}]), "field conversations[0].content[0].name: is empty"),
    (raw(ASK, tools=["f"]), "field conversations[0].content[0]: is a string, not an object"),
    (
        raw(ASK, tools=[{"function": {"name": "f", "parameters": {"required": ["x"]}}}]),
        "content[0].function.parameters.required[0]: 'x' is not in properties; allowed: none; describe",
    ),
    (
        raw(ASK, tools=[{"name": "f", "parameters": {"properties": {"x": 1}}}]),
        "content[0].parameters.properties.x: is a number, not an object",
    ),
    ({"messages": [{"role": "assistant"}]}, "field messages[0].content: is empty"),
    ({"tools": 3, "messages": [{"role": "user"}]}, "field tools: is a number, not a list"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [call("f", "{")]}]},
        "field messages[0].tool_calls[0].function.arguments: is not JSON",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [call("f", "[1]")]}]},
        "field messages[0].tool_calls[0].function.arguments: is a list, not an object",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
        "field messages[0].tool_calls[0].name: is null or missing, not a string",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "field messages[0].content[0].type: is 'image_url'; allowed: text",
    ),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=[message for _, message in BAD_ROWS])
def test_malformed_rows_name_file_row_and_field(row, message):
    with pytest.raises(InputError) as error:
        trajectory_from_record(row, "rows.json", 4)
    text = str(error.value)
    assert text.startswith("file rows.json, row 4") and message in text and "\n" not in text


A = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize("spelling", ["parameters", "input_schema", "inputSchema"])
def test_a_tools_schema_is_read_in_each_spelling(spelling):
    assert tool_from_json({"name": "f", spelling: A}, "t") == Tool("f", "", {"a": {"type": "integer"}}, ())


@pytest.mark.parametrize("spelling", ["arguments", "parameters", "input", "args"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_calls_arguments_are_read_in_each_spelling(spelling, wrapped):
    entry = {"name": "f", spelling: {"a": 1}}
    message = {"role": "assistant", "content": None, "tool_calls": [{"function": entry} if wrapped else entry]}
    turns = trajectory_from_record({"messages": [message]}, "f", 1).turns
    assert turns == (Turn("assistant", call=Call("f", {"a": 1})),)


FLAT = {
    "xLAM": (
        {
            "a": {"type": "str", "description": "x"},
            "n": {"type": "int, optional", "description": "y"},
            "b": {"type": "List[int]", "default": "[]"},
            "o": {"type": "Optional[Dict[str, int]]"},
            "type": {"type": "str"},
        },
        {
            "a": {"type": "string", "description": "x"},
            "n": {"type": "integer", "description": "y"},
            "b": {"type": "array", "default": "[]"},
            "o": {"type": "object"},
            "type": {"type": "string"},
        },
        ("a", "type"),
    ),
    "a list of required names beside": (
        {"a": {"type": "string"}, "b": {"type": "string"}, "required": ["b"]},
        {"a": {"type": "string"}, "b": {"type": "string"}},
        ("b",),
    ),
    "required in each": (
        {"a": {"type": "string", "required": True}, "b": {"type": "string", "required": False}, "required": None},
        {"a": {"type": "string"}, "b": {"type": "string"}},
        ("a",),
    ),
    "a list": ([{"name": "a", "type": "float"}, {"name": "b"}], {"a": {"type": "number"}, "b": {}}, ("a", "b")),
    "an object without parameters": ({"type": "object", "required": []}, {}, ()),
    "a free object": ({"type": "object", "additionalProperties": {"type": "string"}}, {}, ()),
}


@pytest.mark.parametrize("case", FLAT)
def test_parameters_without_properties_are_read(case):
    parameters, properties, required = FLAT[case]
    assert tool_from_json({"name": "f", "parameters": parameters}, "t") == Tool("f", "", properties, required)


CALL = {"name": "f", "arguments": {"a": 1}}
HIDDEN_CONTENT = {
    "a call": (
        {"name": "f", "kwargs": {"a": 1}},
        r"tool_calls\[0\].kwargs: is no known field.*arguments are read from",
    ),
    "beside the function": (
        {"function": {"name": "f"}, "arguments": {"a": 1}},
        r"tool_calls\[0\].arguments: is no known field.*from function",
    ),
    "two spellings": ({**CALL, "parameters": {"a": 2}}, r"has both arguments and parameters, which differ"),
}


@pytest.mark.parametrize("case", HIDDEN_CONTENT)
def test_content_under_an_unknown_key_is_refused_by_name(case):
    entry, message = HIDDEN_CONTENT[case]
    with pytest.raises(InputError, match=message):
        trajectory_from_record({"messages": [{"role": "assistant", "tool_calls": [entry]}]}, "f", 1)


def test_a_tool_whose_parameters_have_an_unknown_name_is_refused():
    with pytest.raises(InputError, match=r"t.schema: is no known field.*parameters are read from parameters, input_"):
        tool_from_json({"name": "f", "schema": A}, "t")


def turns_of(*messages, field="messages", **fields):
    return trajectory_from_record({field: list(messages), **fields}, "f", 1).turns


GO = {"role": "user", "content": "go"}


def test_legacy_functions_are_the_tools():
    row = {
        "functions": [TOOL],
        "messages": [GO, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}],
    }
    trajectory = trajectory_from_record(row, "f", 1)
    assert trajectory.tools == (tool_from_json(TOOL, "t"),) and trajectory.turns[1].call == Call("f", {})


@pytest.mark.parametrize("tools", ["", " ", "[]", None])
def test_a_column_of_tools_may_be_empty(tools):
    messages = [GO, {"role": "assistant", "content": "k"}]
    assert trajectory_from_record({"tools": tools, "messages": messages}, "f", 1).tools == ()


def test_lists_of_tools_are_read_alike_in_every_row():
    """Lists of an earlier row are found again by their text."""
    messages = [GO, {"role": "assistant", "content": "k"}]
    one = (tool_from_json(TOOL, "t"),)
    lists = [([TOOL], one), ("[]", ()), (json.dumps([TOOL]), one), ([json.dumps(TOOL)], one), ([TOOL], one), ([], ())]
    for tools, expected in lists:
        assert trajectory_from_record({"tools": tools, "messages": messages}, "f", 1).tools == expected
    for number in (1, 2):
        with pytest.raises(InputError, match=rf"^file f, row {number}, field tools\[0\].name: is empty"):
            trajectory_from_record({"tools": [{"name": ""}], "messages": messages}, "f", number)


@pytest.mark.parametrize("field, value", [("weight", 0), ("loss", False)])
def test_a_message_of_tl_training_may_have_weight_0(field, value):
    row = raw(("assistant", 'f\n{"x": 1}'), ("assistant", "ok"))
    row["conversations"][1][field] = value
    assert [turn.learned for turn in trajectory_from_record(row, "f", 1).turns] == [False, True]


def test_content_beside_the_text_of_a_message_is_refused():
    row = raw(("assistant", "ok"))
    row["conversations"][1]["tool_calls"] = [CALL]
    with pytest.raises(InputError, match=r"conversations\[1\].tool_calls: is no known field, but has content"):
        trajectory_from_record(row, "f", 1)


def test_openai_messages_are_read_under_conversations():
    messages = [GO, {"role": "assistant", "tool_calls": [call("f", {"x": 1}, "c")]}]
    expected = (Turn("user", "go"), Turn("assistant", call=Call("f", {"x": 1})))
    assert turns_of(*messages, field="conversations", tools=[TOOL]) == expected
    assert turns_of(*messages, field="conversations") == expected
    # Beside a column of tools, TL-Training's rows stay what they are.
    assert trajectory_from_record(raw(("assistant", 'f\n{"x": 1}'), tools=[TOOL]), "f", 1).turns == expected[1:]


@pytest.mark.parametrize("field, value", [("weight", 0), ("loss_mask", 0), ("train", False), ("loss", False)])
def test_a_message_of_weight_0_is_context_and_not_learned(field, value):
    calls = [call("f", {}, "p"), call("f", {}, "q")]
    first, second = {"role": "assistant", "tool_calls": calls, field: value}, {"role": "assistant", "content": "good"}
    trajectory = trajectory_from_record({"messages": [GO, first, second | {field: not value}]}, "f", 1)
    assert [turn.learned for turn in trajectory.turns] == [True, False, False, True]
    for rule in ("default", "none", "release"):
        decisions = load_rule(rule)(trajectory)
        assert [d.kept for d in decisions] == [False, False, True]
        assert decisions[0].reason is not None and decisions[0].reason.startswith("not learned: ")


def test_a_weight_other_than_0_and_1_is_refused():
    with pytest.raises(InputError, match=r"messages\[1\].weight: is 0.5; allowed: 0 .*or 1"):
        turns_of(GO, {"role": "assistant", "content": "x", "weight": 0.5})


def test_json_that_a_tool_gives_is_its_text():
    messages = [
        GO,
        {"role": "assistant", "tool_calls": [call("f", {})]},
        {"role": "tool", "content": {"ok": [True, "é"]}},
    ]
    assert turns_of(*messages)[2] == Turn("function", '{"ok": [true, "é"]}')
    messages[2] = {"role": "tool", "content": [{"a": 1}, 2]}
    assert turns_of(*messages)[2] == Turn("function", '[{"a": 1}, 2]')


def test_reasoning_and_refusals_are_text():
    assert turns_of(GO, {"role": "assistant", "reasoning_content": "hm", "content": "yes"})[1].text == (
        "<think>\nhm\n</think>\n\nyes"
    )
    assert turns_of(GO, {"role": "assistant", "content": None, "refusal": "I cannot."})[1].text == "I cannot."


def test_a_message_with_content_under_an_unknown_key_is_refused():
    with pytest.raises(InputError, match=r"messages\[1\].tool_call: is no known field, but has content"):
        turns_of(GO, {"role": "assistant", "content": "x", "tool_call": {"name": "f"}})
    assert turns_of(GO, {"role": "assistant", "content": "x", "timestamp": "now", "audio": None, "extra": ""})
