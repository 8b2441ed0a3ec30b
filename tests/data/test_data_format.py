"""data.format: the shape of a row decides its format, or a name does; summaries count the rows of each format."""

import json

import pytest

from tljax.core.config import data_block
from tljax.core.errors import InputError
from tljax.data.examples import load_examples
from tljax.data.formats.read import FORMAT_NAMES, FORMATS, trajectory_from_record
from tljax.data.prepare import prepare_data
from tljax.data.prompt_table import load_prompts
from tljax.data.reader import open_trajectories
from tljax.data.tokenizer import load_tokenizer
from tljax.toolbox.embedded import BASE_FOLDER

TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
GO = {"role": "user", "content": "go"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
LISTED = {"role": "system", "content": json.dumps([TOOL])}
ROWS = {
    "openai": {"tools": [TOOL], "messages": [GO, CALLED, {"role": "tool", "content": "1"}]},
    "xlam": {"query": "go", "tools": [TOOL], "answers": [{"name": "f", "arguments": {"x": 1}}], "id": "x"},
    "sharegpt": {"tools": [TOOL], "conversations": [{"from": "human", "value": "go"}, {"from": "gpt", "value": "ok"}]},
    "tl_training": {"conversations": [LISTED, GO, {"role": "assistant", "content": 'f\n{"x": 1}'}]},
}  # fmt: skip


@pytest.fixture
def block(tmp_path):
    data = data_block()
    data.update({"cache": str(tmp_path / "cache"), "eval_fraction": 0.0})
    return data


@pytest.fixture
def write(tmp_path):
    def write(name, *rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.mark.parametrize("name", ROWS)
def test_a_name_reads_what_auto_reads(name):
    assert trajectory_from_record(ROWS[name], "f", 1, name) == trajectory_from_record(ROWS[name], "f", 1)


def test_a_name_reads_rows_whose_shape_is_another_formats():
    """The text of a system message may look like TL-Training's list of tools."""
    row = {"conversations": [{"role": "system", "content": "[]"}, GO, {"role": "assistant", "content": "ok"}]}
    assert trajectory_from_record(row, "f", 1, "openai").system == "[]"
    assert trajectory_from_record(row, "f", 1).system == ""


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("row", [{}, 1, *ROWS.values(), {"messages": None, "conversations": 3}], ids=str)
def test_a_name_reads_a_row_or_refuses_it_in_one_line(name, row):
    try:
        assert trajectory_from_record(row, "f", 7, name).turns
    except InputError as error:
        assert str(error).startswith("file f, row 7") and "\n" not in str(error)


def test_the_shape_of_a_row_that_is_refused_is_told():
    with pytest.raises(InputError, match=r"row 1, field messages\[.*\(data.format=sharegpt, but .* of openai\)"):
        trajectory_from_record(ROWS["openai"], "f", 1, "sharegpt")


def test_a_wrong_name_is_refused_with_the_allowed_ones(write, block, byte_level, tmp_path):
    path = write("a.jsonl", ROWS["openai"])
    block.format = "alpaca"
    allowed = "config.data.format is 'alpaca'; allowed: auto, tl_training, openai, "
    with pytest.raises(InputError, match=allowed):
        prepare_data(block, path, byte_level, str(tmp_path / "o.jsonl"))
    with pytest.raises(InputError, match=allowed):
        open_trajectories(path, "refuse", block.cache, "alpaca")
    assert FORMAT_NAMES[0] == "auto" and set(FORMAT_NAMES[1:]) == set(FORMATS)


def test_the_format_is_part_of_the_cache_key(write, block):
    path = write("a.jsonl", ROWS["openai"])
    auto = open_trajectories(path, "refuse", block.cache)
    named = open_trajectories(path, "refuse", block.cache, "openai")
    assert auto.fingerprint != named.fingerprint and auto[0] == named[0]
    with pytest.raises(InputError, match=r"data.format=xlam, but"):
        open_trajectories(path, "refuse", block.cache, "xlam")


def test_a_mix_of_formats_is_told_row_by_row(write, block, byte_level, tmp_path):
    openai, xlam, bad = ROWS["openai"], ROWS["xlam"], {"text": "x"}
    path = write("mixed.jsonl", openai, xlam, bad, openai, xlam, xlam, xlam)
    block.on_bad_row = "skip"
    expected = (
        "formats:\n"
        "  mixed.jsonl: openai, 2 rows (1, 4); row 1 (id 1): user, assistant, function; first call f(x=1)\n"
        "  mixed.jsonl: xlam, 4 rows (2, 5, 6, ...); row 2 (id 'x'): user, assistant; first call f(x=1)"
    )
    assert expected in str(prepare_data(block, path, byte_level, str(tmp_path / "o.jsonl")))
    tokenizer = load_tokenizer(BASE_FOLDER)
    assert expected in load_examples(block, path, tokenizer, seed=0).summary
    assert expected in load_prompts(block, path, tokenizer, seed=0, max_prompt_tokens=1000).summary


def test_a_sample_is_short(write, block):
    calls = [CALLED | {"tool_calls": [{"function": {"name": "f", "arguments": {"x": "word\n" * 90}}}]}] * 9
    path = write("long.jsonl", {"messages": [GO, *calls]}, {"messages": [GO, {"role": "assistant", "content": "no"}]})
    (heading, line) = open_trajectories(path, "refuse", block.cache).format_lines()
    assert heading == "formats:" and line == (
        "  long.jsonl: openai, 2 rows; row 1 (id 1): user, assistant, assistant, assistant, assistant, assistant, "
        r'... (10 messages); first call f(x="word\nword\nword\nword\nword\nword\nword\nword\nword...'
    )


def test_rows_of_pairs_are_told_and_a_name_excludes_them(write, block):
    text = 'System: Function:\ndef f(x: integer):\n    """\n    F.\n    """\nUser: go\nAssistant:'
    path = write("irm.jsonl", {"instruction": text, "output": "f(x=1)"})
    tokenizer = load_tokenizer(BASE_FOLDER)
    summary = load_prompts(block, path, tokenizer, seed=0, max_prompt_tokens=1000).summary
    assert "formats:\n  irm.jsonl: instruction and output, 1 row" in summary
    block.format = "openai"
    with pytest.raises(InputError, match="row 1, field messages: is null or missing, not a list"):
        load_prompts(block, path, tokenizer, seed=0, max_prompt_tokens=1000)
