"""Formats of other projects: each is read by its shape, whatever its fields are called."""

import json

import pytest

from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import load_rule
from tljax.data.trajectory import Turn

PROPERTIES = {"place": {"type": "string"}, "people": {"type": "integer"}}
BOOK = {
    "name": "book",
    "description": "Book.",
    "parameters": {"type": "object", "properties": PROPERTIES, "required": ["place"]},
}
STOP = {"name": "stop", "description": "", "parameters": {"type": "object", "properties": {}}}
TOOLS = (Tool("book", "Book.", PROPERTIES, ("place",)), Tool("stop", "", {}, ()))
ARGUMENTS = {"place": "Aldo's / \u00e9", "people": 2}
BOOKED = Turn("assistant", call=Call("book", ARGUMENTS))
STOPPED = Turn("assistant", call=Call("stop", {}))
# JSON may escape "/"; Python's literals keep such a backslash.
TEXT = json.dumps({"name": "book", "arguments": ARGUMENTS}).replace("/", "\\/")


def read(record):
    return trajectory_from_record(record, "f", 1)


def sharegpt(*messages, field="conversations", **columns):
    return {field: [{"from": role, "value": value} for role, value in messages], **columns}


def test_llama_factory_rows():
    row = sharegpt(
        ("human", "a table"), ("function_call", TEXT), ("observation", '{"ok": 1}'), ("gpt", "Done."),
        tools=json.dumps([BOOK, STOP]), system="Be kind.", id="r",
    )  # fmt: skip
    trajectory = read(row)
    assert (trajectory.id, trajectory.system, trajectory.tools) == ("r", "Be kind.", TOOLS)
    assert trajectory.turns == (
        Turn("user", "a table"),
        BOOKED,
        Turn("function", '{"ok": 1}'),
        Turn("assistant", "Done."),
    )


@pytest.mark.parametrize("field", ["conversations", "conversation", "messages"])
@pytest.mark.parametrize("user, model, result", [("human", "gpt", "observation"), ("user", "assistant", "tool")])
def test_names_of_fields_and_roles_do_not_matter(field, user, model, result):
    row = sharegpt(
        (user, "go"), ("tool_call", [{"function": {"name": "stop"}}]), (result, "x"), (model, "k"), field=field
    )
    assert read(row).turns == (Turn("user", "go"), STOPPED, Turn("function", "x"), Turn("assistant", "k"))


def test_several_calls_of_a_message_get_their_results():
    calls = f'[{TEXT}, {{"name": "stop", "arguments": {{}}}}]'
    results = [{"name": "stop", "results": 1}, {"name": "book", "results": 2}]
    expected = (BOOKED, Turn("function", json.dumps(results[1])), STOPPED, Turn("function", json.dumps(results[0])))
    assert read(sharegpt(("human", "q"), ("function_call", calls), ("tool", json.dumps(results)))).turns[1:] == expected
    # Two results for one call stay one text.
    row = sharegpt(("human", "q"), ("function_call", TEXT), ("tool", json.dumps(results)))
    assert read(row).turns[1:] == (BOOKED, Turn("function", json.dumps(results)))


def test_hermes_rows():
    python_call = str({"arguments": ARGUMENTS, "name": "book"})
    reply = f"I book.\n<tool_call>\n{TEXT}\n</tool_call>\n<tool_call>\n{python_call}\n</tool_call>"
    results = "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"
    system = (
        f"You call functions.\n<tools>{json.dumps([{'type': 'function', 'function': BOOK}, STOP])}</tools>\nUse tags."
    )
    trajectory = read(sharegpt(("system", system), ("human", "q"), ("gpt", reply), ("tool", results), ("gpt", "k")))
    assert (trajectory.tools, trajectory.system) == (TOOLS, "You call functions.\nUse tags.")
    first = Turn("assistant", "I book.", BOOKED.call)
    assert trajectory.turns[1:] == (first, Turn("function", "1"), BOOKED, Turn("function", "2"), Turn("assistant", "k"))


def test_toolace_rows():
    system = f"Here are functions:\n{json.dumps([BOOK, STOP])}\nCall them as [f(a=1)]."
    row = sharegpt(
        ("user", "q"), ("assistant", '[book(place="A", people=2), stop()]'), ("tool", "[1, 2]"), system=system
    )
    trajectory = read(row)
    assert (trajectory.tools, trajectory.system) == (TOOLS, "Here are functions:\nCall them as [f(a=1)].")
    booked = Turn("assistant", call=Call("book", {"place": "A", "people": 2}))
    assert trajectory.turns[1:] == (booked, Turn("function", "1"), STOPPED, Turn("function", "2"))
    # A list that is no call stays text.
    assert read(sharegpt(("user", "q"), ("assistant", "[1, f(2)]"), system=system)).turns[1].text == "[1, f(2)]"


def test_xlam_rows():
    flat = {"place": {"type": "str", "description": "where"}, "people": {"type": "int, optional"}}
    row = {
        "id": 7,
        "query": "a table",
        "answers": json.dumps([{"name": "book", "arguments": ARGUMENTS}, {"name": "stop", "arguments": {}}]),
        "tools": json.dumps([{"name": "book", "description": "Book.", "parameters": flat}]),
    }
    trajectory = read(row)
    properties = {"place": {"type": "string", "description": "where"}, "people": {"type": "integer"}}
    assert trajectory.id == 7 and trajectory.tools == (Tool("book", "Book.", properties, ("place",)),)
    assert trajectory.turns == (Turn("user", "a table"), BOOKED, STOPPED)


def anthropic(*messages, **columns):
    return {"messages": [{"role": role, "content": content} for role, content in messages], **columns}


def text(content):
    return {"type": "text", "text": content}


def use(name, arguments, identity):
    return {"type": "tool_use", "id": identity, "name": name, "input": arguments}


def result(identity, content, **fields):
    return {"type": "tool_result", "tool_use_id": identity, "content": content, **fields}


def test_anthropic_rows():
    tools = [
        {"name": t["name"], "description": t["description"], "input_schema": t["parameters"]} for t in (BOOK, STOP)
    ]
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "xyz"}
    row = anthropic(
        ("user", "q"),
        ("assistant", [thought, text("Both."), use("book", ARGUMENTS, "1"), use("stop", {}, "2")]),
        ("user", [result("2", [text("s")]), result("1", "full", is_error=True), text("?")]),
        ("assistant", "Sorry."),
        tools=tools, system=[text("Be kind.")],
    )  # fmt: skip
    trajectory = read(row)
    assert (trajectory.tools, trajectory.system) == (TOOLS, "Be kind.")
    assert trajectory.turns == (
        Turn("user", "q"),
        Turn("assistant", "<think>\nHm.\n</think>\n\nBoth.", BOOKED.call),
        Turn("function", "Error: full"),
        STOPPED,
        Turn("function", "s"),
        Turn("user", "?"),
        Turn("assistant", "Sorry."),
    )
    assert [decision.kept for decision in load_rule("default")(trajectory)] == [False, True, True]


@pytest.mark.parametrize("calls", [f"[{TEXT}]", [json.loads(TEXT)]], ids=["text", "list"])
def test_a_column_of_calls_may_be_json_text(calls):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    assert read({"messages": messages}).turns[1] == BOOKED
    messages[1] = {"role": "assistant", "content": "k", "tool_calls": ""}
    assert read({"messages": messages}).turns[1] == Turn("assistant", "k")


BAD = {
    "a role": (
        sharegpt(("human", "q"), ("robot", "x")),
        r"field conversations\[1\].from: 'robot' is not a role; allowed: ",
    ),
    "no call": (sharegpt(("function_call", "book it")), r"conversations\[0\].value: 'book it' is no call"),
    "a broken call": (
        sharegpt(("gpt", '<tool_call>{"name": "book", </tool_call>')),
        r"conversations\[0\].value: .* is no call",
    ),
    "no name": (sharegpt(("function_call", '{"arguments": {}}')), r"conversations\[0\].value.name: is null or missing"),
    "an empty list": (sharegpt(("function_call", "[]")), "is an empty list of calls"),
    "content elsewhere": (
        {"conversations": [{"from": "gpt", "value": "x", "tool_calls": [{"name": "f"}]}]},
        r"conversations\[0\].tool_calls: is no known field, but has content",
    ),
    "an image": (
        anthropic(("user", [{"type": "image", "source": {}}, result("1", "x")])),
        r"messages\[0\].content\[0\].type: is 'image'; allowed: text, ",
    ),
    "no answers": ({"query": "q", "answers": [], "tools": []}, "field answers: has no assistant message"),
    "a bad answer": ({"query": "q", "answers": ["f()"]}, r"field answers\[0\]: is a string, not an object"),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_rows_are_refused_with_their_field(case):
    row, message = BAD[case]
    with pytest.raises(InputError, match=message):
        read(row)
