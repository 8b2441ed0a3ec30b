"""Rows of prompts: texts stay as they are, messages become what training and the chat template write."""

import json

import pytest

from tljax.calls.render import DIALECTS
from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.prompt import chat_template, render_trajectory
from tljax.data.prompt_records import read_prompt_records
from tljax.toolbox.embedded import BASE_FOLDER
from tljax.toolbox.trajectories import generate_trajectories

TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object",
     "properties": {"a": {"type": "number", "description": "One."}, "b": {"type": "number"}}, "required": ["b"]}}},
    {"name": "stop"},
]  # fmt: skip
CALLS = [
    {"id": "x", "type": "function", "function": {"name": "add", "arguments": {"b": 1}}},
    {"id": "y", "type": "function", "function": {"name": "stop", "arguments": {}}},
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add, then stop."},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "y", "content": "stopped"},
    {"role": "tool", "tool_call_id": "x", "content": "1"},
    {"role": "assistant", "content": "It is 1."},
    {"role": "user", "content": "Thanks; once more?"},
]
ASKED = (2, 5, 7)  # lengths of the conversation where a reply comes next


@pytest.fixture
def queries(tmp_path):
    """queries(rows, dialect) -> what `read_queries` makes of them, written as JSON lines."""

    def read(rows, dialect="mae", name="rows.jsonl"):
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return list(read_prompt_records(str(file), dialect))

    return read


def test_texts_are_kept_and_rows_are_numbered(queries, tmp_path):
    rows = [
        {"id": "a", "prompt": " x\n"},
        {"prompt": "Köln", "more": 1},
        {"id": 7, "prompt": "z"},
        {"id": "", "prompt": "z"},
    ]
    found = [("a", 1, " x\n"), (2, 2, "Köln"), (7, 3, "z"), (4, 4, "z")]
    assert [(q.id, q.row, q.prompt) for q in queries(rows)] == found
    array = tmp_path / "rows.json"
    array.write_text(json.dumps(rows, indent=1))
    assert [(q.id, q.row, q.prompt) for q in read_prompt_records(str(array), "mae")] == found


@pytest.mark.parametrize("dialect", DIALECTS)
def test_messages_are_what_the_chat_template_writes(queries, dialect):
    pytest.importorskip("jinja2", minversion="3.1.6", reason="transformers renders chat templates with jinja2")
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(BASE_FOLDER)
    template = {"chat_template": chat_template(dialect, bos=False), "tokenize": False, "add_generation_prompt": True}
    rows = [{"tools": tools, "messages": MESSAGES[:n]} for n in ASKED for tools in (TOOLS, None)]
    for row, query in zip(rows, queries(rows, dialect), strict=True):
        assert query.prompt == tokenizer.apply_chat_template(row["messages"], tools=row["tools"], **template)
    # As OpenAI's API sends them: arguments as JSON text, tools and contents of other messages untouched.
    sent = json.loads(json.dumps(rows))
    for row in sent:
        for message in row["messages"]:
            for call in message.get("tool_calls", []):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    assert [q.prompt for q in queries(sent, dialect)] == [q.prompt for q in queries(rows, dialect)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_messages_are_what_training_reads(queries, dialect):
    """Each step of the toolbox's trajectories is given as the messages before it."""
    wanted, rows = [], []
    for number, row in enumerate(generate_trajectories(seed=3, n=6, error_share=0.3, split="train"), start=1):
        trajectory = trajectory_from_record(row, "toolbox", number)
        rendered, messages = render_trajectory(trajectory, dialect), []
        replies = iter(rendered.replies)
        for turn in trajectory.turns:
            if turn.role == "assistant":
                wanted.append(rendered.text[: next(replies).start])
                rows.append({"tools": json.loads(row["conversations"][0]["content"]), "messages": list(messages)})
            message = {"role": "tool" if turn.role == "function" else turn.role, "content": turn.text}
            if turn.call is not None:
                call = {"name": turn.call.name, "arguments": json.dumps(turn.call.arguments)}
                message["tool_calls"] = [{"type": "function", "function": call}]
            messages.append(message)
    assert len(wanted) > 12 and [query.prompt for query in queries(rows, dialect)] == wanted


GOOD = {"id": "a", "prompt": "x"}
BAD = {
    "neither field": ([GOOD, {"id": "b", "promt": "x"}], ["row 2", "promt", '"prompt"', '"messages"']),
    "both fields": ([GOOD | {"messages": MESSAGES[:2]}], ["row 1", "both"]),
    "a list": ([GOOD, ["x"]], ["row 2", "no object"]),
    "empty prompt": ([{"prompt": ""}], ["row 1", "field prompt: is empty"]),
    "prompt of a wrong type": ([{"prompt": ["x"]}], ["row 1", "field prompt: is no string"]),
    "half a character": ([{"prompt": "x\ud83d"}], ["row 1", "field prompt", "\\ud83d"]),
    "half a character in a message": ([{"messages": [{"role": "user", "content": "\udc00"}]}], ["messages", "\\udc00"]),
    "id of a wrong type": ([{"id": 1.5, "prompt": "x"}], ["row 1", "field id", "1.5", "a string or an integer"]),
    "the same id": ([GOOD, {"prompt": "x"}, GOOD], ["row 3", "field id", "'a'", "row 1"]),
    "a number taken": ([{"id": 2, "prompt": "x"}, {"prompt": "x"}], ["row 2", "field id", "row 1"]),
    "the assistant's message last": ([{"messages": MESSAGES[:3]}], ["row 1", "messages[2].role", "user", "tool"]),
    "no messages": ([{"messages": []}], ["row 1", "field messages: is empty"]),
    "messages of a wrong type": ([{"messages": "hi"}], ["row 1", "field messages", "a string"]),
    "unknown role": ([{"messages": [{"role": "bot"}]}], ["row 1", "messages[0].role", "'bot'"]),
    "broken tools": ([{"tools": [{}], "messages": MESSAGES[:2]}], ["row 1", "tools[0].name"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_told_in_one_line(queries, case):
    rows, told = BAD[case]
    with pytest.raises(InputError) as error:
        queries(rows)
    line = str(error.value)
    assert "\n" not in line and "rows.jsonl" in line and all(word in line for word in told), line


def test_bad_files_are_told_in_one_line(queries, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl: does not exist; give a JSONL file"):
        list(read_prompt_records(str(tmp_path / "nowhere.jsonl"), "mae"))
    with pytest.raises(InputError, match="is a folder"):
        list(read_prompt_records(str(tmp_path), "mae"))
    with pytest.raises(InputError, match=r"rows\.jsonl: is empty"):
        queries([])
    (tmp_path / "broken.jsonl").write_text('{"prompt": "x"}\n{"prompt": \n')
    with pytest.raises(InputError, match="row 2: is not JSON"):
        list(read_prompt_records(str(tmp_path / "broken.jsonl"), "mae"))
    (tmp_path / "blank.jsonl").write_text("\n \n")
    with pytest.raises(InputError, match=r"blank\.jsonl"):
        list(read_prompt_records(str(tmp_path / "blank.jsonl"), "mae"))
