"""OpenAI's Responses API, logs that wrap a request and its response, and preferences."""

import pytest

from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError
from tljax.data.formats.read import read_record
from tljax.data.trajectory import Turn

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "name": "f", "description": "F.", "parameters": PARAMETERS, "strict": True}
TOOLS = (Tool("f", "F.", {"a": {"type": "integer"}}, ()),)


def call(a, identity):
    return {"type": "function_call", "id": f"fc_{a}", "call_id": identity, "name": "f", "arguments": f'{{"a": {a}}}'}


def output(identity, value):
    return {"type": "function_call_output", "call_id": identity, "output": value}


def message(text, role="assistant"):
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text, "annotations": []}]}


def thought(text):
    return {
        "type": "reasoning",
        "id": "rs",
        "summary": [{"type": "summary_text", "text": text}],
        "encrypted_content": "x",
    }


def called(a, text=""):
    return Turn("assistant", text, Call("f", {"a": a}))


def read(record, expected="responses"):
    name, trajectory = read_record(record, "file f, row 1", 1)
    assert name == expected
    return trajectory


def test_responses_rows():
    row = {
        "id": "resp_1", "instructions": "Be kind.", "tools": [TOOL],
        "input": [{"role": "user", "content": "go"}, call(1, "c1"), output("c1", "one"), message("more", "user")],
        "output": [thought("Hm."), call(2, "c2")],
    }  # fmt: skip
    trajectory = read(row)
    assert (trajectory.id, trajectory.tools, trajectory.system) == ("resp_1", TOOLS, "Be kind.")
    assert trajectory.turns == (
        Turn("user", "go"),
        called(1),
        Turn("function", "one"),
        Turn("user", "more"),
        called(2, "<think>\nHm.\n</think>\n\n"),
    )


def test_input_may_be_the_text_of_the_user():
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "type": "message"}
    assert read({"input": "go", "output": [refusal]}).turns == (Turn("user", "go"), Turn("assistant", "No."))


def test_parallel_calls_get_their_outputs_by_id():
    items = [
        call(1, "x"),
        thought("Hm."),
        call(2, "y"),
        output("y", "two"),
        output("x", [{"type": "input_text", "text": "1"}]),
    ]
    first = called(1, "<think>\nHm.\n</think>\n\n")
    assert read({"input": items}).turns == (first, Turn("function", "1"), called(2), Turn("function", "two"))


def test_the_message_before_a_call_is_its_text_and_others_are_turns_of_their_own():
    items = [message("One."), message("Two."), call(1, "x"), message("Three.")]
    turns = read({"input": "q", "output": items}).turns
    assert turns[1:] == (Turn("assistant", "One."), called(1, "Two."), Turn("assistant", "Three."))


def test_a_call_of_weight_0_is_not_learned():
    row = {"input": "q", "output": [{**call(1, "x"), "weight": 0}, message("Two.")]}
    assert [turn.learned for turn in read(row).turns] == [True, False, True]


BAD = {
    "thoughts alone": ({"input": "q", "output": [thought("Hm.")]}, "output[0]: is reasoning without a reply"),
    "a tool of OpenAI's": ({"input": "q", "tools": [{"type": "web_search"}]}, "field tools[0].type: is 'web_search'"),
    "its call": (
        {"input": "q", "output": [call(1, "x"), {"type": "web_search_call"}]},
        "output[1].type: is 'web_search_call'",
    ),
    "content elsewhere": ({"output": [{**call(1, "x"), "text": "y"}]}, "field output[0].text: is no known field"),
    "messages elsewhere": (
        {"output": [call(1, "x")], "previous_response_id": "r"},
        "field previous_response_id: is 'r', so",
    ),
    "several replies": (
        {"request": {"messages": []}, "response": {"choices": [{}, {}]}},
        "field response.choices: has 2 replies",
    ),
    "no reply": (
        {"request": {"messages": [{"role": "user", "content": "q"}]}, "response": {"error": "x"}},
        "field response: has no message (fields here: error)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_rows_are_refused_with_their_field(case):
    row, text = BAD[case]
    row.setdefault("output", [call(1, "x")]) if "input" in row else None
    with pytest.raises(InputError) as error:
        read_record(row, "file f, row 1", 1)
    assert str(error.value).startswith(f"file f, row 1, {'' if 'field' in text else 'field '}{text}")


REPLY = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}
CHAT = {
    "model": "m",
    "messages": [{"role": "user", "content": "go"}],
    "tools": [{"type": "function", "function": TOOL}],
}
COMPLETION = {"id": "chatcmpl-1", "choices": [{"index": 0, "message": REPLY}], "usage": {"total_tokens": 9}}
CLAUDE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
    "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}],
}  # fmt: skip
LOGS = {
    "request and response": ({"request": CHAT, "response": COMPLETION}, "openai", "chatcmpl-1"),
    "bodies": ({"custom_id": "q-1", "request": {"body": CHAT}, "response": {"body": COMPLETION}}, "openai", "q-1"),
    "the request itself": ({**CHAT, "id": "mine", "response": COMPLETION}, "openai", "mine"),
    "input and output": ({"input": CHAT, "output": REPLY}, "openai", 1),
    "a reply that is there already": (
        {"request": {**CHAT, "messages": [*CHAT["messages"], REPLY]}, "response": COMPLETION}, "openai", "chatcmpl-1"
    ),
    "a preference": (
        {"input": CHAT, "preferred_output": [REPLY], "non_preferred_output": [{"role": "assistant", "content": "no"}]},
        "openai", 1
    ),
    "Anthropic": ({"request": CHAT, "response": CLAUDE}, "anthropic", "msg_1"),
    "Responses": (
        {"request": {"input": "go"}, "response": {"id": "r", "output": [call(1, "c")], "tools": [TOOL]}},
        "responses", "r"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOGS)
def test_logs_of_requests_and_their_responses_are_read(case):
    row, form, identity = LOGS[case]
    trajectory = read(row, form)
    assert (trajectory.id, trajectory.tools) == (identity, TOOLS)
    assert trajectory.turns == (Turn("user", "go"), called(1))


BEFORE = CHAT["messages"]
PREFERENCES = {
    "a message": {"messages": BEFORE, "chosen": REPLY, "rejected": {"role": "assistant", "content": "no"}},
    "a list": {"prompt": BEFORE, "chosen": [REPLY], "rejected": [{"role": "assistant", "content": "no"}]},
    "the whole conversation": {"prompt": BEFORE, "chosen": [*BEFORE, REPLY]},
    "no prompt": {"chosen": [*BEFORE, REPLY], "rejected": [*BEFORE, {"role": "assistant", "content": "no"}]},
    "desired": {"messages": [*BEFORE, REPLY], "label": True},
}


@pytest.mark.parametrize("case", PREFERENCES)
def test_the_chosen_reply_of_a_preference_is_learned(case):
    assert read(PREFERENCES[case] | {"tools": CHAT["tools"]}, "openai").turns == (Turn("user", "go"), called(1))


def test_the_chosen_reply_may_be_in_sharegpts_keys():
    row = {"conversations": [{"from": "human", "value": "go"}], "chosen": {"from": "gpt", "value": "ok"}}
    assert read(row, "sharegpt").turns == (Turn("user", "go"), Turn("assistant", "ok"))


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("label", False, "field label: is false, which marks an undesired reply"),
        ("images", ["a.png"], r"field images: is \['a.png'\]; only text is read"),
    ],
)
def test_an_undesired_reply_and_media_are_refused(field, value, text):
    with pytest.raises(InputError, match=text):
        read({"messages": [*BEFORE, REPLY], field: value}, "openai")
