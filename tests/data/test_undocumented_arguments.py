"""Calls with arguments to a tool without parameters are told, and count as hallucinated parameters."""

import json

import pytest

from tljax.calls.tool import Call
from tljax.data.reader import open_trajectories
from tljax.evaluate.score import score_reply
from tljax.rl.irm import reward

EMPTY = {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}
ZONED = {"name": "now", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}
OTHER = {"name": "day", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}


def row(identity, *calls, tools=(EMPTY, OTHER)):
    entries = [{"function": {"name": name, "arguments": json.dumps(arguments)}} for name, arguments in calls]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": entries}]
    return {"id": identity, "tools": list(tools), "messages": messages}


@pytest.fixture
def notes(tmp_path):
    def read(*rows, on_bad_row="refuse"):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = open_trajectories(str(file), on_bad_row, str(tmp_path / "cache")).format_lines()
        return [line for line in lines if line.startswith("  note: ")]

    return read


def test_their_number_and_the_first_row_are_logged(notes):
    rows = [
        row("a", ("now", {})),
        row("b", ("now", {"zone": "x"}), ("now", {"zone": "y"})),
        row("c", ("now", {"z": 1})),
    ]
    (note,) = notes(*rows)
    assert "3 calls give arguments to a tool that is listed without parameters" in note
    assert "(first in rows.jsonl, row 2, id 'b')" in note
    assert "1 call gives" in notes(rows[2])[0]
    (note,) = notes({"id": "bad"}, rows[2], on_bad_row="skip")
    assert "row 2, id 'c'" in note


@pytest.mark.parametrize(
    "silent",
    [
        row("a", ("now", {}), ("day", {"zone": "x"})),
        row("a", ("day", {"undocumented": "x"})),  # of a tool with parameters
        row("a", ("gone", {"zone": "x"})),  # of a tool that is not listed, which has its own note
        row("a", ("now", {"zone": "x"}), tools=(EMPTY, ZONED)),  # one of two tools of the name has parameters
    ],
)
def test_other_calls_are_not_counted(notes, silent):
    assert notes(silent) == []


def test_such_an_argument_is_a_hallucinated_parameter():
    given = reward('now(zone="x")', "now()", [EMPTY])
    assert (given.value, given.kind) == (-0.8, "parameter")
    score = score_reply('now(zone="x")', [Call("now", {})], [EMPTY])
    assert (score.levels["any"], score.kind) == (1, "parameter") and "hallucinated" in score.detail
