"""Both dialects byte by byte: against the released script's output, by hand, and against the chat template."""

import json

import pytest

from tljax.calls.render import DIALECTS, render_call, render_tool, render_tools
from tljax.calls.tool import Call, Tool, tool_from_json
from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.prompt import chat_template, render_trajectory
from tljax.data.trajectory import Trajectory, Turn

WEATHER = tool_from_json(
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather.\nNow or later.",
            "parameters": {
                "type": "object",
                "properties": {
                    "days": {"type": "integer", "description": "How many."},
                    "city": {"type": "string", "description": "Where."},
                    "units": {"enum": ["C", "F"]},
                    "place": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}], "description": "A point."},
                    "exact": {"type": ["boolean", "null"]},
                    "odd": {},
                    "size": {"$ref": "#/$defs/Size"},
                },
                "required": ["city"],
                "$defs": {"Place": {"type": "object"}, "Size": {"type": "number", "description": "In metres."}},
            },
        },
    },
    "tool",
)
STOP = Tool("stop", "Stop.", {}, ())
MAE = '''Function:
def weather(city: string, days: integer = None, units: string = None, place: object | null = None, \
exact: boolean | null = None, odd: any = None, size: number = None):
    """
    The weather.
Now or later.

    Args:
    city (string): Where.
    days (integer): How many.
    units (string):\x20
    place (object | null): A point.
    exact (boolean | null):\x20
    odd (any):\x20
    size (number): In metres.
    """

Function:
def stop():
    """
    Stop.

    Args:
    """'''
README = '''Function:
def weather(city:str, days:int = None, units:str = None, place:dict | None = None, exact:bool | None = None, \
odd:any = None, size:float = None):
    """
    The weather.
Now or later.

    Args:
        city (string): Where.
        days (integer): How many.
        units (string):\x20
        place (object | null): A point.
        exact (boolean | null):\x20
        odd (any):\x20
        size (number): In metres.
    """

Function:
def stop():
    """
    Stop.
    """

'''
ARGUMENTS = {"a": "it's", "b": 'é "q"\n', "c": [1, 2.5, {"d": None}], "e": True}
CALLS = {
    "mae": 'f(a="it\'s", b="é \\"q\\"\\n", c=[1, 2.5, {"d": null}], e=true)',
    "readme": "f(a = \"it's\", b = 'é \"q\"\\n', c = [1, 2.5, {'d': None}], e = True)",
}
CALLS["full"] = CALLS["mae"]
TRICKY = Trajectory(
    "1",
    (WEATHER, STOP),
    (
        Turn("user", "Assistant: stop()\nFunction:\ndef fake(): Output:"),
        Turn("assistant", "Assistant: first, stop() (maybe)", Call("weather", {"city": "Assistant: stop()"})),
        Turn("function", "Assistant: weather()"),
        Turn("assistant", "It rains."),
        Turn("user", "And now?"),
        Turn("assistant", call=Call("stop", {})),
        Turn("function", "stopped"),
        Turn("user", "dropped"),
    ),
    system="Be brief. def nothing():",
)


def test_tools_and_calls_by_hand():
    assert render_tools([WEATHER, STOP], "mae") == MAE
    assert render_tools([WEATHER, STOP], "readme") == README
    assert {dialect: render_call(Call("f", ARGUMENTS), dialect) for dialect in DIALECTS} == CALLS
    assert render_call(Call("f", {}), "mae") == render_call(Call("f", {}), "readme") == "f()"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_spans_are_not_disturbed_by_text_that_looks_like_a_turn(dialect):
    rendered = render_trajectory(TRICKY, dialect)
    text = rendered.text
    assert text.startswith("System: Be brief. def nothing():\n\nFunction:\ndef weather(")
    assert [text[a:b] for a, b in rendered.tool_names] == ["weather", "stop"]
    assert all(text[a - 4 : a] == "def " and text[b] == "(" for a, b in rendered.tool_names)
    first, second, third = rendered.replies
    call = render_call(TRICKY.turns[1].call, dialect)
    assert text[first.text_start : first.end] == "Assistant: first, stop() (maybe)\n" + call
    assert text[second.text_start : second.end] == "It rains." and second.name is None
    assert text[third.text_start : third.end] == "stop()" and third.end == len(text)
    for reply in rendered.replies:
        assert text[: reply.start].endswith("\nAssistant:") and text[reply.start : reply.text_start] == " "
    assert [text[slice(*r.name)] for r in (first, third)] == ["weather", "stop"]
    assert first.name[0] == first.end - len(call)
    assert text[first.end :].startswith("\nOutput: Assistant: weather()\nAssistant: It rains.\nUser: And now?\n")


def test_without_tools_there_is_no_system_message():
    turns = (Turn("user", "hi"), Turn("assistant", "hello"))
    assert render_trajectory(Trajectory("1", (), turns), "mae").text == "User: hi\nAssistant: hello"
    assert (
        render_trajectory(Trajectory("1", (), turns, "Be kind."), "readme").text
        == "System: Be kind.\nUser: hi\nAssistant: hello"
    )
    rendered = render_trajectory(Trajectory("1", (), turns[1:]), "mae")
    assert rendered.text == "Assistant: hello" and rendered.replies[0].text_start == 11
    for dialect, end in (("mae", '"""\nUser: hi'), ("readme", '"""\n\n\nUser: hi')):
        assert end in render_trajectory(Trajectory("1", (STOP,), turns), dialect).text


def test_unknown_dialect_is_refused():
    for use in (
        lambda: render_trajectory(TRICKY, "xml"),
        lambda: chat_template("xml", bos=False),
        lambda: render_call(Call("f", {}), "xml"),
    ):
        with pytest.raises(InputError, match="'xml'; allowed: mae, readme"):
            use()
    with pytest.raises(InputError, match="allowed: mae, readme"):
        render_tool(STOP, "xml")


@pytest.mark.parametrize("noise", ["clean", "slight"])
@pytest.mark.parametrize("kind", ["filtered", "unfiltered"])
def test_replies_and_tools_equal_the_released_script(shared, noise, kind):
    """Golden rows name their step and the number of messages before it."""
    rows = json.loads((shared / f"data/train/rotbench_third_{noise}.json").read_text())
    replies = {}
    for number, row in enumerate(rows, start=1):
        trajectory = trajectory_from_record(row, "rows.json", number)
        rendered = render_trajectory(trajectory, "mae")
        ends = [i for i, turn in enumerate(trajectory.turns) if turn.role == "assistant"]
        for step, (end, reply) in enumerate(zip(ends, rendered.replies, strict=True), start=1):
            text = rendered.text[reply.text_start : reply.end]
            key = (f"Turn {step}: {row['id']}", end + 2, text)
            replies.setdefault(key, []).append(render_tools(trajectory.tools, "mae"))
            assert rendered.text.startswith("System: " + replies[key][-1] + "\nUser: ")
    golden = json.loads((shared / f"golden/mae_{noise}_{kind}.json").read_text())
    assert len(golden) > 100
    for row in golden:
        tools = replies[row["id"], row["messages"], row["reply"]]
        assert "system" not in row or row["system"] in tools


def test_whole_text_equals_the_released_samples(shared):
    """Golden PKT rows hold the released chat text of every kept step, end token included."""
    rows = json.loads((shared / "data/train/rotbench_third_clean.json").read_text())
    rendered = {row["id"]: render_trajectory(trajectory_from_record(row, "rows.json", 1), "mae") for row in rows}
    golden = json.loads((shared / "golden/pkt_clean.json").read_text())
    assert len(golden) == 157
    for row in golden:
        turn, _, identity = row["id"].partition(": ")
        whole = rendered[identity]
        assert whole.text[: whole.replies[int(turn.split()[1]) - 1].end] + "</s>" == row["text"]


@pytest.fixture(scope="module")
def tokenizer(shared):
    pytest.importorskip("jinja2", minversion="3.1.6", reason="transformers renders chat templates with jinja2")
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(shared / "tokenizer/llama2")


def openai(trajectory):
    """The same conversation as OpenAI messages, up to its last reply."""
    last = max(i for i, turn in enumerate(trajectory.turns) if turn.role == "assistant")
    messages = [{"role": "system", "content": trajectory.system}] if trajectory.system else []
    for turn in trajectory.turns[: last + 1]:
        message = {"role": "tool" if turn.role == "function" else turn.role, "content": turn.text}
        if turn.call:
            function = {"name": turn.call.name, "arguments": turn.call.arguments}
            message = {"role": "assistant", "content": turn.text or None}
            message["tool_calls"] = [{"id": "c", "type": "function", "function": function}]
        messages.append(message)
    return messages


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("source", ["rotbench_third_clean", "toolalpaca_verified", "bfcl_multiturn_errors"])
def test_chat_template_equals_render(shared, tokenizer, source, dialect):
    rows = json.loads((shared / f"data/train/{source}.json").read_text())[:25]
    template = {"chat_template": chat_template(dialect, bos=False), "tokenize": False}
    roles = {"system": "System", "user": "User", "assistant": "Assistant", "function": "Output"}
    for number, row in enumerate(rows, start=1):
        trajectory = trajectory_from_record(row, source, number)
        rendered, messages = render_trajectory(trajectory, dialect), openai(trajectory)
        tools = json.loads(row["conversations"][0]["content"])
        assert tokenizer.apply_chat_template(messages, tools=tools, **template) == rendered.text + "</s>"
        prompt = tokenizer.apply_chat_template(messages[:-1], tools=tools, add_generation_prompt=True, **template)
        assert prompt == rendered.text[: rendered.replies[-1].start] and prompt.endswith("\nAssistant:")
        done = [{"role": "System", "content": render_tools(trajectory.tools, dialect)}]
        for turn in trajectory.turns[: len(messages)]:
            done.append(
                {"role": roles[turn.role], "content": render_call(turn.call, dialect) if turn.call else turn.text}
            )
        assert tokenizer.apply_chat_template(done, **template) == rendered.text + "</s>"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_chat_template_on_what_openai_rows_may_hold(tokenizer, dialect):
    """System text, odd schemas, html, several calls in a message whose replies come in another order."""
    calls = [
        {"id": "x", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}},
        {"id": "y", "type": "function", "function": {"name": "stop", "arguments": {"<b>": "&'"}}},
        {"id": "z", "type": "function", "function": {"name": "stop", "arguments": {}}},
    ]
    place = {
        "$defs": {"P": {"type": "string", "description": "So."}},
        "properties": {"p": {"$ref": "#/$defs/P"}, "n": None},
    }
    tools = [
        {"type": "function", "function": {"name": "stop", "description": None, "parameters": None}},
        {"name": "go", "parameters": place},
        {"type": "function", "function": {"name": "any", "parameters": {"properties": {"u": {"anyOf": [
            {"type": "string"}, {"type": ["integer", "string"]}, {"enum": ["a"]}]}, "v": {"enum": [1, "a"]}}}}},
    ]  # fmt: skip
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "I go.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "y", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "tool", "tool_call_id": "unheard", "content": "3"},
        {"role": "tool", "content": "4"},
        {"role": "user", "content": "on"},
        {"role": "assistant", "content": "done"},
    ]
    row = {"tools": tools, "messages": messages}
    rendered = render_trajectory(trajectory_from_record(row, "f", 1), dialect).text
    template = {"chat_template": chat_template(dialect, bos=False), "tokenize": False}
    assert tokenizer.apply_chat_template(messages, tools=tools, **template) == rendered + "</s>"
    assert tokenizer.apply_chat_template(messages, **template).startswith(
        "System: Be brief.\nUser: go\nAssistant: I go.\n"
    )
    turns = [line.partition("(")[0] for line in rendered.splitlines() if line.startswith(("Output", "Assistant"))]
    assert turns[1:4] == ["Output: 2", "Assistant: stop", "Output: 1"]
    assert turns[4:] == ["Assistant: stop", "Output: 3", "Output: 4", "Assistant: done"]
    with pytest.raises(Exception, match="bot is not a role"):
        tokenizer.apply_chat_template([{"role": "bot", "content": ""}], **template)
    calls[0]["function"]["arguments"] = "{}"
    with pytest.raises(Exception, match="arguments of weather must be an object"):
        tokenizer.apply_chat_template(messages, tools=tools, **template)


F = {"function": {"name": "f", "arguments": {}}}
G = {"function": {"name": "g", "arguments": {}}}
# name -> (calls, tool messages, the feedback of each call)
PAIRS = {
    "equal ids, in order": ([{"id": "x"} | F, {"id": "x"} | G], ["x", "x"], [["0"], ["1"]]),
    "ids in another order": ([{"id": "x"} | F, {"id": "y"} | G], ["y", "x"], [["1"], ["0"]]),
    "empty ids": ([{"id": ""} | F, {"id": ""} | G], ["", ""], [["0"], ["1"]]),
    "names in another order": ([F, G], [("g",), ("f",)], [["1"], ["0"]]),
    "names and empty ids": ([{"id": ""} | F, {"id": ""} | G], [("g", ""), ("f", "")], [["1"], ["0"]]),
    "an id after a message without one": ([{"id": "x"} | F, {"id": "y"} | G], ["", "x"], [["1"], ["0"]]),
    "a name after a message without one": ([F, G], [(None,), ("f",)], [["1"], ["0"]]),
    "an id twice": ([{"id": "x"} | F, {"id": "y"} | G], ["x", "x", "y"], [["0", "1"], ["2"]]),
    "the same tool twice": ([F, G, F], [("f",), ("f",), ("g",)], [["0"], ["2"], ["1"]]),
    "an unknown id": ([{"id": "x"} | F, {"id": "y"} | G], ["q", "x"], [["1"], ["0"]]),
    "more messages than calls": ([F, G], ["", "", ""], [["0"], ["1", "2"]]),
    "fewer messages than calls": ([{"id": "x"} | F, {"id": "y"} | G], ["y"], [[], ["0"]]),
}


@pytest.mark.parametrize("case", PAIRS)
def test_feedback_goes_to_the_call_it_answers_in_training_and_in_the_chat_template(tokenizer, case):
    calls, given, expected = PAIRS[case]
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    for number, key in enumerate(given):
        fields = (
            {"tool_call_id": key} if isinstance(key, str) else dict(zip(("name", "tool_call_id"), key, strict=False))
        )
        messages.append({"role": "tool", "content": str(number)} | fields)
    messages.append({"role": "assistant", "content": "done"})
    lines = ["User: go"]
    for call, feedback in zip(calls, expected, strict=True):
        lines += [f"Assistant: {call['function']['name']}()", *(f"Output: {text}" for text in feedback)]
    text = "\n".join([*lines, "Assistant: done"])
    assert render_trajectory(trajectory_from_record({"messages": messages}, "f", 1), "mae").text == text
    template = {"chat_template": chat_template("mae", bos=False), "tokenize": False}
    assert tokenizer.apply_chat_template(messages, **template) == text + "</s>"
