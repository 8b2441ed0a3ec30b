"""The calls of one message of a record are marked in every format, and keep their marks on disk."""

import json

import pytest

from tljax.data.formats.read import trajectory_from_record
from tljax.data.reader import open_trajectories

F = {"name": "f", "description": "F.", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
USE = {"type": "tool_use", "name": "f"}
XLAM = {"query": "q", "tools": json.dumps([F]), "answers": json.dumps([{"name": "f", "arguments": {"x": 1}}] * 2)}


def openai_call(x):
    return {"function": {"name": "f", "arguments": json.dumps({"x": x})}}


OPENAI = {
    "tools": [F],
    "messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "Both.", "tool_calls": [openai_call(1), openai_call(2)]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "tool_calls": [openai_call(3)]},
        {"role": "assistant", "tool_calls": [openai_call(4)]},
        {"role": "assistant", "content": "Done."},
    ],
}
ANTHROPIC = {
    "tools": [{"name": "f", "description": "F.", "input_schema": F["parameters"]}],
    "messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": [USE | {"id": "a", "input": {"x": 1}}, USE | {"id": "b", "input": {"x": 2}}]},
    ],
}
HERMES = {
    "tools": json.dumps([F]),
    "conversations": [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>' * 2},
    ],
}


def marks(trajectory):
    return [turn.parallel for turn in trajectory.turns if turn.role == "assistant"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (OPENAI, [False, True, False, False, False]),
        (ANTHROPIC, [False, True]),
        (HERMES, [False, True]),
        (XLAM, [False, True]),
    ],
)
def test_a_further_call_of_the_same_message_is_marked(record, expected):
    assert marks(trajectory_from_record(record, "rows.jsonl", 1)) == expected


def test_the_marks_are_kept_on_disk(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(OPENAI) + "\n")
    assert marks(open_trajectories(str(file), "refuse", str(tmp_path / "cache"))[0]) == [False, True, *[False] * 3]
