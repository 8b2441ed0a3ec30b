"""Calls in JSON: every syntax gives the call that the Python syntax gives, with an equal reward."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tljax.calls.compare import as_tool_list
from tljax.calls.parse import parse_calls
from tljax.calls.render import render_call
from tljax.calls.tool import Call
from tljax.evaluate.score import score_reply
from tljax.rl.irm import reward

ROOM = {
    "name": "book_room",
    "parameters": {"properties": {"nights": {"type": "integer"}, "guest": {"type": "string"}}, "required": ["nights"]},
}
TOOLS = as_tool_list([ROOM, {"name": "list_rooms"}])
BOOK = Call("book_room", {"nights": 2, "guest": "Ann (of 'it')"})


def as_object(call, arguments="arguments"):
    return json.dumps({"name": call.name, arguments: call.arguments})


# Each syntax, as the model that writes it names it.
SYNTAXES = {
    "object": as_object,
    "parameters": lambda call: as_object(call, "parameters"),
    "text": lambda call: json.dumps({"name": call.name, "arguments": json.dumps(call.arguments)}),
    "openai": lambda call: '{"type": "function", "id": "c1", "function": ' + as_object(call) + "}",
    "openai message": lambda call: '{"tool_calls": [{"id": "c1", "function": ' + as_object(call) + "}]}",
    "fence": lambda call: f"```json\n{as_object(call)}\n```",
    "hermes": lambda call: f"<tool_call>\n{as_object(call)}\n</tool_call>",
    "hermes, after reasoning": lambda call: (
        f"<think>\nlist_rooms()?\n</think>\n<tool_call>{as_object(call)}</tool_call>"
    ),
    "llama": lambda call: f"<|python_tag|>{as_object(call, 'parameters')}<|eom_id|>",
    "mistral": lambda call: f"[TOOL_CALLS][{as_object(call)}]</s>",
    "mistral, name first": lambda call: f"[TOOL_CALLS]{call.name}{json.dumps(call.arguments)}",
    "mistral, [ARGS]": lambda call: f"[TOOL_CALLS]{call.name}[ARGS]{json.dumps(call.arguments)}",
    "mistral, [CALL_ID]": lambda call: f"[TOOL_CALLS]{call.name}[CALL_ID]a1[ARGS]{json.dumps(call.arguments)}",
    "function tag": lambda call: f"<function={call.name}>{json.dumps(call.arguments)}</function>",
    "functioncall": lambda call: f"<functioncall> {as_object(call)} <|endoftext|>",
    "react": lambda call: (
        f"Thought: a room (2 nights)\nAction: {call.name}\nAction Input: {json.dumps(call.arguments)}"
    ),
    "prose": lambda call: f"I will call this (see above):\n{as_object(call)}\nDone.",
}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax_gives_the_same_call(syntax):
    for tools in (TOOLS.tools, ()):
        parsed = parse_calls(SYNTAXES[syntax](BOOK), tools)
        assert (parsed.calls, parsed.issue) == ((BOOK,), None)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    "call",
    [
        BOOK,
        Call("book_room", {"nights": 3, "guest": "Ann"}),
        Call("book_room", {"nights": 2}),
        Call("book_room", {"nights": 2, "room": 1}),
        Call("list_rooms", {}),
        Call("steal", {"nights": 2}),
    ],
    ids=["correct", "content", "missing", "hallucinated", "wrong_tool", "tool_hallucination"],
)
def test_no_reward_or_score_depends_on_the_syntax(syntax, call):
    golden, python, reply = render_call(BOOK, "mae"), render_call(call, "mae"), SYNTAXES[syntax](call)
    assert reward(reply, golden, TOOLS) == reward(python, golden, TOOLS)
    assert score_reply(reply, [BOOK], TOOLS) == score_reply(python, [BOOK], TOOLS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(SYNTAXES)), st.dictionaries(st.text(max_size=8), JSON, max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_arguments_are_read(syntax, arguments):
    call = Call("book_room", arguments)
    parsed = parse_calls(SYNTAXES[syntax](call), TOOLS.tools)
    assert (parsed.calls, parsed.issue) == ((call,), None)


def test_glaive_writes_the_arguments_in_single_quotes():
    text = """<functioncall> {"name": "book_room", "arguments": '{"guest": "O\\'Neil", "nights": 2}'} <|endoftext|>"""
    assert parse_calls(text).calls == (Call("book_room", {"guest": "O'Neil", "nights": 2}),)


def test_several_calls_in_a_reply_are_several_calls():
    one, two = as_object(BOOK), as_object(Call("list_rooms", {}))
    for text in (
        f"<tool_call>{one}</tool_call>\n<tool_call>{two}</tool_call>",
        f"[TOOL_CALLS][{one}, {two}]",
        f"{one}; {two}",
        f"{one}\n{two}",
        f"[TOOL_CALLS]book_room{json.dumps(BOOK.arguments)}[TOOL_CALLS]list_rooms{{}}",
    ):
        assert parse_calls(text).calls == (BOOK, Call("list_rooms", {})), text
    assert score_reply(f"{one}\n{two}", [BOOK, Call("list_rooms", {})], TOOLS).levels["all"] == 3


def test_names_with_escapes_find_their_tool():
    tools = as_tool_list([{"name": "café", "parameters": {"properties": {"a": {}}}}])
    for arguments in ('"arguments": {"a": 1}', '"parameters": {"a": 1}'):
        reply = '{"name": "caf\\u00e9", ' + arguments + "}"
        assert reward(reply, "café(a=1)", tools).kind == "correct"
    assert tools.parse('{"name": "caf\\u00e9"}').calls == (Call("café", {}),)


def test_an_object_with_a_listed_name_alone_is_a_call_without_arguments():
    assert TOOLS.parse('<tool_call>{"name": "list_rooms"}</tool_call>').calls == (Call("list_rooms", {}),)
    assert TOOLS.parse('{"name": "Ann"}').issue == "no_call"


@pytest.mark.parametrize(
    "text",
    [
        '{"nights": 2}',
        '{"name": "Ann", "age": 3}',
        '{"name": "book_room", "description": "Books.", "parameters": {"type": "object"}}',
        '{"name": "book_room", "arguments": [1]}',
        '{"name": "book_room", "arguments": "two"}',
        '{"name": 3, "arguments": {}}',
        '<think>{"name": "book_room", "arguments": {}}',
        'Sure.</s>{"name": "book_room", "arguments": {}}',
        'Sure.\nOutput: {"name": "book_room", "arguments": {}}',
        "Action: book_room",
    ],
)
def test_other_json_is_no_call(text):
    assert TOOLS.parse(text).issue == "no_call"


def test_an_argument_given_twice_is_an_issue_as_in_python():
    assert TOOLS.parse('{"name": "book_room", "arguments": {"nights": 1, "nights": 2}}').issue == "duplicate_argument"


def test_a_call_may_hold_an_object_that_looks_like_a_call():
    text = f"book_room(nights=2, guest={as_object(BOOK)})"
    assert TOOLS.parse(text).calls[0].arguments == {"nights": 2, "guest": json.loads(as_object(BOOK))}
    assert TOOLS.parse(f"list_rooms()\nNot {as_object(BOOK)}").calls == (Call("list_rooms", {}),)


def test_the_text_before_the_first_call():
    assert TOOLS.parse(f"<think>x</think>\nLet me see.\n<tool_call>{as_object(BOOK)}").text_before == "Let me see."


PIECES = [
    as_object(BOOK),
    '{"name": "',
    '{"name": "f", "arguments": ',
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    ",",
    ":",
    "\\",
    "9" * 50,
]
PIECES += [
    "[TOOL_CALLS]",
    "f[ARGS]",
    "<function=f>",
    "Action: f\n",
    "Action Input: ",
    "<think>",
    "</think>",
    "f(",
    ")",
    "\n",
]
PIECES += ['{"a": 1}', "<tool_call>", "</tool_call>", "</s>", '"arguments": \'', "\nUser: ", "<functioncall> "]


def test_any_mutation_of_the_syntaxes_is_read():
    generator = random.Random(0)
    for _ in range(20_000):
        reply = SYNTAXES[generator.choice(sorted(SYNTAXES))](BOOK)
        for _ in range(generator.randrange(4)):
            cut = generator.randrange(len(reply) + 1)
            end = min(len(reply), cut + generator.choice((0, 0, 1, 5)))
            reply = reply[:cut] + generator.choice(PIECES) + reply[end:]
        parsed = TOOLS.parse(reply)
        assert (parsed.issue == "no_call") == (not parsed.calls), reply
        json.dumps([call.arguments for call in parsed.calls])


@pytest.mark.parametrize(
    "piece", [*PIECES, '{"id":', '[{"id":', '\n{"id":"', '{"name": "f", "arguments": \'', "{}", '[{"name":{}']
)
def test_long_repetitions_take_linear_time(piece):
    start = time.process_time()
    for head in ('"name"', '{"name": "f", "arguments": ', "<think>"):
        parse_calls(head + piece * (40_000 // len(piece)), TOOLS.tools)
    # Some 0.3 s; a decoder that starts anew at every bracket takes minutes.
    assert time.process_time() - start < 6
