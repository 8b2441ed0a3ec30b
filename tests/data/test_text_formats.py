"""Formats that write calls into texts: glaive, ToolBench, Seal-Tools, and tags in OpenAI's messages."""

import json

import pytest

from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError
from tljax.data.formats.read import read_record
from tljax.data.trajectory import Turn

PROPERTIES = {"place": {"type": "string"}, "people": {"type": "integer"}}
BOOK = {
    "name": "book",
    "description": "Book. It's {quick}.",
    "parameters": {"type": "object", "properties": PROPERTIES, "required": ["place"]},
}
STOP = {"name": "stop", "description": "", "parameters": {"type": "object", "properties": {}}}
TOOLS = (Tool("book", BOOK["description"], PROPERTIES, ("place",)), Tool("stop", "", {}, ()))
ARGUMENTS = {"place": 'Aldo\'s "new" / \u00e9\n', "people": 2}
BOOKED = Turn("assistant", call=Call("book", ARGUMENTS))
STOPPED = Turn("assistant", call=Call("stop", {}))


def read(record, expected):
    name, trajectory = read_record(record, "file f, row 1", 1)
    assert name == expected
    return trajectory


def refusal(record):
    with pytest.raises(InputError) as error:
        read_record(record, "file f, row 1", 1)
    assert str(error.value).startswith("file f, row 1") and "\n" not in str(error.value)
    return str(error.value)


GLAIVE_SYSTEM = "SYSTEM: You have functions. Use them if required -\n" + "\n\n".join(
    json.dumps(tool, indent=4) for tool in (BOOK, STOP)
)
SINGLE_QUOTED = f"""{{"name": "book", "arguments": '{json.dumps(ARGUMENTS)}'}}"""


def glaive(*messages):
    return "\n\n\n".join(f"{role}: {text}" for role, text in messages) + "\n\n\n"


def test_glaive_rows():
    chat = glaive(
        ("USER", "a table"),
        ("ASSISTANT", "Where?\nUSER: is who asks <|endoftext|>"),
        ("USER", "Aldo's"),
        ("ASSISTANT", f"<functioncall> {SINGLE_QUOTED} <|endoftext|>"),
        ("FUNCTION RESPONSE", '{"ok": 1}'),
        ("ASSISTANT", "Done. <|endoftext|>"),
    )
    trajectory = read({"system": GLAIVE_SYSTEM, "chat": chat}, "glaive")
    assert (trajectory.tools, trajectory.system) == (TOOLS, "You have functions. Use them if required -")
    assert trajectory.turns == (
        Turn("user", "a table"),
        Turn("assistant", "Where?\nUSER: is who asks"),
        Turn("user", "Aldo's"),
        BOOKED,
        Turn("function", '{"ok": 1}'),
        Turn("assistant", "Done."),
    )


def test_glaive_rows_of_version_1():
    calls = f'Both. <functioncall> {SINGLE_QUOTED} <functioncall> {{"name": "stop", "arguments": {{}}}} Wait.'
    sample = (
        f"{GLAIVE_SYSTEM}\nUSER: go\nASSISTANT: {calls}\nFUNCTION RESPONSE: 1\nFUNCTION RESPONSE: 2\nASSISTANT: k\n"
    )
    trajectory = read({"sample": sample}, "glaive")
    assert (trajectory.tools, trajectory.system) == (TOOLS, "You have functions. Use them if required -")
    first = Turn("assistant", "Both.\nWait.", BOOKED.call)
    assert trajectory.turns[1:] == (
        first,
        Turn("function", "1"),
        STOPPED,
        Turn("function", "2"),
        Turn("assistant", "k"),
    )


def test_glaive_rows_without_functions():
    row = {"system": "SYSTEM: You help.\n", "chat": glaive(("USER", "hi"), ("ASSISTANT", "hey <|endoftext|>"))}
    trajectory = read(row, "glaive")
    assert (trajectory.tools, trajectory.system) == ((), "You help.")
    assert trajectory.turns == (Turn("user", "hi"), Turn("assistant", "hey"))


GLAIVE_CALLS = {
    "an object": '{"name": "stop", "arguments": {"a": "x"}}',
    "no blank": """{"name":"stop","arguments":'{"a":"x"}'}""",
    "the name last": """{"arguments": '{"a": "x"}', "name": "stop"}""",
    "an escaped quote": """{"name": "stop", "arguments": '{"a": "\\'x\\'"}'}""",
    "a brace in a text": """{"name": "stop", "arguments": '{"a": "'}"}'}""",
    "a line end in a text": """{"name": "stop", "arguments": '{"a": "x\ny"}'}""",
    "Python": "{'name': 'stop', 'arguments': {'a': 'x'}}",
    "a closing tag": """{"name": "stop", "arguments": {"a": "x"}} </functioncall>""",
}


@pytest.mark.parametrize("case", GLAIVE_CALLS)
def test_spellings_of_glaives_calls(case):
    values = {"an escaped quote": "'x'", "a brace in a text": "'}", "a line end in a text": "x\ny"}
    row = {"system": "", "chat": glaive(("USER", "q"), ("ASSISTANT", f"<functioncall> {GLAIVE_CALLS[case]}"))}
    assert read(row, "glaive").turns[1] == Turn("assistant", call=Call("stop", {"a": values.get(case, "x")}))


def test_glaives_tools_may_be_a_list_and_its_line_ends_blanks():
    """Tables that were saved as CSV contain such text."""
    chat = f"USER: go   ASSISTANT: <functioncall> {SINGLE_QUOTED} <|endoftext|>   FUNCTION RESPONSE: 1   ASSISTANT: k"
    trajectory = read({"system": f"SYSTEM: Use:\n{json.dumps([BOOK, STOP])}\nAs JSON.", "chat": chat}, "glaive")
    assert (trajectory.tools, trajectory.system) == (TOOLS, "Use:\nAs JSON.")
    assert trajectory.turns == (Turn("user", "go"), BOOKED, Turn("function", "1"), Turn("assistant", "k"))


def test_glaives_assistant_may_be_called_a():
    row = {"system": "", "chat": "USER: go\n\nA: <functioncall> {'name': 'stop', 'arguments': {}} <|endoftext|>"}
    assert read(row, "glaive").turns == (Turn("user", "go"), STOPPED)


THOUGHT = "\nThought: I book.\nAction: book\nAction Input: " + json.dumps(ARGUMENTS, indent=2)
APIS = f"You can use many tools.\nSpecifically, you have access to the following APIs: {[BOOK, STOP]}"


@pytest.mark.parametrize("keys", [("from", "value"), ("role", "content")], ids=str)
def test_toolbench_rows(keys):
    texts = [
        ("system", APIS),
        ("user", "\na table\nBegin!\n"),
        ("assistant", THOUGHT),
        ("function", '{"error": "", "response": "1"}'),
        ("assistant", "\nThought: \nAction: stop\nAction Input: "),
    ]
    row = {"id": "Step 5: x", "conversations": [dict(zip(keys, text, strict=True)) for text in texts]}
    trajectory = read(row, "toolbench")
    assert (trajectory.id, trajectory.tools) == ("Step 5: x", TOOLS)
    assert trajectory.system == "You can use many tools.\nSpecifically, you have access to the following APIs:"
    assert trajectory.turns == (
        Turn("user", "a table\nBegin!"),
        Turn("assistant", "I book.", BOOKED.call),
        Turn("function", '{"error": "", "response": "1"}'),
        STOPPED,
    )


def test_the_tools_of_toolbench_may_be_a_column():
    conversation = [{"from": "user", "value": "q"}, {"from": "assistant", "value": THOUGHT}]
    assert read({"tools": [BOOK, STOP], "conversations": conversation}, "toolbench").tools == TOOLS


def test_observations_within_a_text_are_feedback():
    stop = "Thought: Enough.\nAction: stop\nAction Input: {}"
    text = f"{THOUGHT}\nObservation: 1\n2\n{stop}\nObservation: ok\nThought: Bye."
    conversation = [{"from": "user", "value": "q"}, {"from": "assistant", "value": text}]
    assert read({"tools": [BOOK, STOP], "conversations": conversation}, "toolbench").turns[1:] == (
        Turn("assistant", "I book.", BOOKED.call),
        Turn("function", "1\n2"),
        Turn("assistant", "Enough.", STOPPED.call),
        Turn("function", "ok"),
        Turn("assistant", "Bye."),
    )


SEAL_TOOL = {
    "api_name": "book",
    "api_description": BOOK["description"],
    "field": "Food/Tables",
    "parameters": {"place": {"type": "str"}, "people": {"type": "int"}},
    "required": ["place"],
    "responses": {"number": {"type": "int", "description": "the number"}},
}
SEAL_CALL = {"api": "book", "parameters": ARGUMENTS, "responses": ["API_call_0"]}


def test_seal_tools_rows():
    row = {"id": "dev-easy-0", "query": "a table", "calling": [SEAL_CALL, {"api": "stop", "parameters": {}}]}
    assert read(row, "seal_tools").turns == (Turn("user", "a table"), BOOKED, STOPPED)


def test_seal_tools_texts_for_fine_tuning():
    text = f'Choose.\nInput:\napi_list = {[SEAL_TOOL]}\ntask_instruction = "a "good" table"\nOutput:\n'
    conversation = [{"from": "human", "value": text}, {"from": "gpt", "value": str([SEAL_CALL])}]
    trajectory = read({"conversations": conversation}, "seal_tools")
    assert trajectory.tools == TOOLS[:1] and trajectory.turns == (Turn("user", 'a "good" table'), BOOKED)


TAGGED = {
    "Hermes": (
        f"Tools:\n<tools>\n{json.dumps(BOOK)}\n{json.dumps(STOP)}\n</tools>",
        f"<tool_call>\n{json.dumps({'name': 'book', 'arguments': ARGUMENTS})}\n</tool_call>",
        "Tools:",
    ),
    "glaive": (GLAIVE_SYSTEM.removeprefix("SYSTEM: "), f"<functioncall> {SINGLE_QUOTED}", None),
    "ToolACE": (
        f"Tools: {json.dumps([BOOK, STOP])}",
        '[book(place="Aldo\'s \\"new\\" / \u00e9\\n", people=2)]',
        "Tools:",
    ),
}


@pytest.mark.parametrize("case", TAGGED)
@pytest.mark.parametrize("keys", [("from", "value"), ("role", "content")], ids=str)
def test_calls_in_texts_are_read_whatever_the_keys_of_messages(case, keys):
    system, reply, rest = TAGGED[case]
    texts = [("system", system), ("user", "a table"), ("assistant", reply), ("tool", "1")]
    trajectory = read({"messages": [dict(zip(keys, text, strict=True)) for text in texts]}, "sharegpt")
    assert trajectory.tools == TOOLS and trajectory.system == (rest or "You have functions. Use them if required -")
    assert trajectory.turns == (Turn("user", "a table"), BOOKED, Turn("function", "1"))


def test_a_mention_of_a_tag_beside_real_calls_stays_text():
    calls = [{"function": {"name": "stop", "arguments": {}}}]
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "I write no <tool_call> or Action Input:", "tool_calls": calls},
    ]
    turn = read({"messages": messages}, "openai").turns[1]
    assert turn == Turn("assistant", "I write no <tool_call> or Action Input:", STOPPED.call)


def test_messages_may_be_json_text():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "k"}]
    assert read({"messages": json.dumps(messages)}, "openai").turns == (Turn("user", "q"), Turn("assistant", "k"))


def toolbench(text):
    return {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": text}]}


BAD = {
    "a call that is none": (
        {"system": "", "chat": "USER: q\n\n\nASSISTANT: <functioncall> book it"},
        "field chat, message 2: 'book it' is no call; allowed: ",
    ),
    "arguments that are cut": (
        {"system": "", "chat": """USER: q\n\n\nASSISTANT: <functioncall> {"name": "f", "arguments": '{"a": 1'}"""},
        "field chat, message 2: ",
    ),
    "a tool that is no JSON": (
        {"system": 'SYSTEM: Use {"name": "f", "parameters": ', "chat": "USER: q\nASSISTANT: k"},
        'the tools of the system text: are not JSON: \'{"name": ',
    ),
    "an action without input": (toolbench("Action Input: {}"), "conversations[1].value: 'Action Input: {}' has an"),
    "an input that is cut": (
        toolbench('Action: f\nAction Input: {"a": 1'),
        "the Action Input '{\"a\": 1' is not a JSON",
    ),
    "a list as input": (toolbench("Action: f\nAction Input: [1]"), "the Action Input '[1]' is not a JSON object"),
    "an unknown field of a call": (
        {"query": "q", "calling": [{"api": "f", "arguments": {"a": 1}}]},
        "field calling[0].arguments: is no known field, but has content",
    ),
    "no instruction": (
        {
            "conversations": [
                {"from": "human", "value": "api_list = [] task_instruction"},
                {"from": "gpt", "value": "[]"},
            ]
        },
        "field conversations[0].value: has no api_list = [...] and task_instruction",
    ),
    "text for calls": (
        {
            "conversations": [
                {"from": "human", "value": 'api_list = []\ntask_instruction = "q"\nOutput:'},
                {"from": "gpt", "value": "none"},
            ]
        },
        "field conversations[1].value: 'none' is no list of calls",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_rows_are_refused_with_their_field(case):
    row, message = BAD[case]
    assert message in refusal(row)


def test_a_text_without_messages_is_refused_where_data_format_names_glaive():
    with pytest.raises(InputError, match="field chat: has no message; allowed: texts that begin with"):
        read_record({"chat": "x USER: q"}, "file f, row 1", 1, "glaive")


NEAREST = {
    "another name": (
        {"message": [{"role": "user", "content": "x"}]},
        "openai, ",
        "messages is missing, but message is",
    ),
    "other keys of messages": (
        {"conversations": [{"speaker": "user", "text": "x"}]},
        "sharegpt, ",
        "conversations[].from is missing (there: speaker, text)",
    ),
    "a text for a list": ({"instruction": "a", "input": "b", "output": "c"}, "responses, ", "output is a string, not"),
    "one field of three": ({"query": "q", "tools": [], "answer": "[]"}, "xlam, ", "answers is missing, but answer is"),
}


@pytest.mark.parametrize("case", NEAREST)
def test_a_row_of_unknown_shape_is_told_the_nearest_one_and_what_differs(case):
    row, name, difference = NEAREST[case]
    text = refusal(row)
    assert f"has the shape of no known format (fields here: {', '.join(row)}); nearest is {name}" in text
    assert difference in text
