"""data.mae = labels.jsonl: verdicts on steps from a file decide in prepare_data, SFT and PPO."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tljax.core.config import data_block
from tljax.core.errors import InputError
from tljax.data.examples import load_examples
from tljax.data.mae import load_rule
from tljax.data.prepare import prepare_data
from tljax.data.prompt_table import load_prompts
from tljax.data.tokenizer import Tokenizer

TOOLS = [{"name": n, "description": "Does it.", "parameters": {"properties": {}}} for n in ("get_one", "finish")]


def record(identity: str | int | None, calls: int) -> dict:
    messages = [{"role": "system", "content": json.dumps(TOOLS)}, {"role": "user", "content": "q"}]
    for number in range(calls):
        messages += [
            {"role": "assistant", "content": "get_one\n{}"},
            {"role": "function", "content": f"{number}"},
        ]
    return {"conversations": messages} | ({} if identity is None else {"id": identity})


@pytest.fixture
def data(tmp_path: Path) -> ConfigDict:
    """The `data` block of a source with three trajectories, of which the second has no id."""
    block = data_block()
    source = tmp_path / "raw.json"
    source.write_text(json.dumps([record("a", 3), record(None, 2), record(7, 1)]))
    labels = str(tmp_path / "labels.jsonl")
    block.update({"source": str(source), "cache": str(tmp_path / "cache"), "mae": labels, "eval_fraction": 0.0})
    return block


@pytest.fixture
def prepare(data: ConfigDict, byte_level: Tokenizer, tmp_path: Path) -> Callable:
    """prepare(verdict, ...) -> ((id, step, reason) of every step, the summary); a verdict is an object or a text."""

    def run(*verdicts: dict | str) -> tuple[list[tuple], str]:
        lines = [verdict if isinstance(verdict, str) else json.dumps(verdict) for verdict in verdicts]
        Path(data.mae).write_text("\n".join(lines))
        out = tmp_path / "steps.jsonl"
        out.unlink(missing_ok=True)
        summary = str(prepare_data(data, data.source, byte_level, str(out)))
        steps = [json.loads(line) for line in out.read_text().splitlines()]
        return [(step["id"], step["step"], step["reason"]) for step in steps], summary

    return run


def test_verdicts_decide_by_id_or_row_number_and_other_steps_are_kept_and_counted(prepare: Callable) -> None:
    steps, summary = prepare(
        {"id": "a", "step": 2, "keep": False, "reason": "invented id: no such\nuser"},
        {"id": "a", "step": 3, "keep": True, "reason": "good"},
        {"id": 2, "step": 1, "keep": False, "reason": "repeats the last call"},
        {"id": "7", "step": 1, "keep": False},
    )
    assert steps == [
        ("a", 1, None),
        ("a", 2, "invented id: no such user"),
        ("a", 3, None),
        (2, 1, "label: repeats the last call"),
        (2, 2, None),
        (7, 1, "label: blocked"),
    ]
    assert re.search(r"2 {2}label\n", summary) and re.search(r"1 {2}invented id\n", summary)
    assert re.search(r"note .*2 of 6 steps have no verdict in .*labels\.jsonl and are kept", summary)


def test_the_feedback_plays_no_part(prepare: Callable, data: ConfigDict) -> None:
    rows = [record("a", 1)]
    rows[0]["conversations"][-1]["content"] = "Error: boom"
    Path(data.source).write_text(json.dumps(rows))
    steps, summary = prepare({"id": "a", "step": 1, "keep": True})
    assert steps == [("a", 1, None)]
    assert "verdict" not in summary


def test_sft_and_ppo_learn_the_steps_that_are_kept(data: ConfigDict, byte_level: Tokenizer) -> None:
    file = Path(data.mae)
    file.write_text('{"id": "a", "step": 2, "keep": false, "reason": "loop: again"}\n')
    examples = load_examples(data, data.source, byte_level, seed=0)
    assert sum(map(len, examples.train["steps"])) == 5
    assert "1 blocked (loop 1)" in examples.summary and "5 of 6 steps have no verdict" in examples.summary
    prompts = load_prompts(data, data.source, byte_level, seed=0, max_prompt_tokens=4096)
    assert [(prompts.train[i].id, prompts.train[i].step) for i in range(len(prompts.train))] == [
        ("a", 1),
        ("a", 3),
        (2, 1),
        (2, 2),
        (7, 1),
    ]
    assert "1 blocked (loop 1)" in prompts.summary and "5 of 6 steps have no verdict" in prompts.summary

    # Other verdicts are not hidden by the cache.
    file.write_text('{"id": "a", "step": 2, "keep": true}\n{"id": 7, "step": 1, "keep": false}\n')
    assert "1 blocked (label 1)" in load_examples(data, data.source, byte_level, seed=0).summary
    assert "1 blocked (label 1)" in load_prompts(data, data.source, byte_level, seed=0, max_prompt_tokens=4096).summary


GOOD = '{"id": "a", "step": 1, "keep": false}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD, "row 2: is a second verdict on step 1 of id 'a', after row 1"),
        ('{"id": "a", "step": 4, "keep": false}', "row 2.step: is 4, but the trajectory .* has 3 assistant steps"),
        ('{"id": "b", "step": 1, "keep": false}', "row 2.id: no trajectory of the source has the id 'b'"),
        ('{"id": 9, "step": 1, "keep": false}', "row 2.id: no trajectory of the source has the id '9'"),
        ('{"id": "a", "step": 2, "kept": false}', "row 2.kept: is no known field .did you mean 'keep'"),
        ('{"id": "a", "step": 2, "keep": "no"}', "row 2.keep: is a string: 'no'"),
        ('{"id": "a", "step": 2, "keep": 0}', "row 2.keep: is a number: 0"),
        ('{"id": "a", "step": 2}', "row 2.keep: is missing"),
        ('{"id": "a", "step": 0, "keep": false}', "row 2.step: is 0; steps count from 1"),
        ('{"id": "a", "step": "2", "keep": false}', "row 2.step: is a string: '2'"),
        ('{"id": "a", "step": true, "keep": false}', "row 2.step: is a boolean: True"),
        ('{"id": "a", "step": 2.0, "keep": false}', "row 2.step: is a number: 2.0"),
        ('{"id": null, "step": 2, "keep": false}', "row 2.id: is null or missing"),
        ('{"step": 2, "keep": false}', "row 2.id: is missing"),
        ('{"id": "a", "step": 2, "keep": false, "reason": 3}', "row 2.reason: is a number, not a string"),
        ('{"id": "a", "id": "b", "step": 2, "keep": false}', "row 2: is not JSON .a field occurs twice"),
        ("[1]", "row 2: is a list, not an object"),
        ('{"id": "a", ', "row 2: is not JSON"),
        ("[" * 100_000, "row 2: is not JSON"),
    ],
    ids=lambda value: value[:45],
)
def test_a_bad_line_is_refused_with_file_and_row(prepare: Callable, line: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"data\.mae .*labels\.jsonl, {message}") as error:
        prepare(GOOD, line)
    assert "\n" not in str(error.value)


def test_a_file_without_verdicts_or_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("\n\n")
    with pytest.raises(InputError, match="holds no verdicts; a line is"):
        load_rule(str(file))
    file.write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match=r"data\.mae: cannot read .*labels\.jsonl .*allowed: a JSONL file in UTF-8"):
        load_rule(str(file))
    with pytest.raises(InputError, match=r"cannot read .*absent\.jsonl .*No such file"):
        load_rule(str(tmp_path / "absent.jsonl"))


def test_a_verdict_on_an_id_that_two_trajectories_share_is_refused(prepare: Callable, data: ConfigDict) -> None:
    Path(data.source).write_text(json.dumps([record("a", 1), record("a", 1)]))
    with pytest.raises(InputError, match=r"row 1\.id: 'a' names two trajectories of the source \(rows 1 and 2\)"):
        prepare(GOOD)


def test_verdicts_on_malformed_rows_that_are_skipped_are_counted(prepare: Callable, data: ConfigDict) -> None:
    rows = [record("a", 2), {"id": "bad", "conversations": 3}]
    Path(data.source).write_text(json.dumps(rows))
    data.on_bad_row = "skip"
    steps, summary = prepare(GOOD, {"id": "bad", "step": 1, "keep": True})
    assert [reason for _, _, reason in steps] == ["label: blocked", None]
    assert "on 1 ids match no row that was read" in summary
