"""launch/prepare_data.py: a line for each step, the summary, and errors that leave no file behind."""

import errno
import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from tljax.core.command import parse_command_line
from tljax.core.config import data_block
from tljax.core.errors import InputError
from tljax.data.prepare import prepare_data
from tljax.data.reader import open_trajectories

FIELDS = ["id", "step", "kept", "reason", "text", "reply"]
KEPT_FIELDS = [*FIELDS, "tokens", "reply_start", "key", "weight", "weights"]


def tool(name):
    return {"name": name, "description": "Does it.", "parameters": {"properties": {"a": {"type": "string"}}}}


def row(identity, *messages):
    system = {"role": "system", "content": json.dumps([tool("get_one"), tool("get_two"), tool("finish")])}
    return {
        "id": identity,
        "conversations": [system, *({"role": role, "content": content} for role, content in messages)],
    }


GOOD = row(
    "first",
    ("user", "q\u2028r"),
    ("assistant", 'get_one\n{"a": 1}'),
    ("function", "name 'get_one' is not defined"),
    ("assistant", 'get_two\n{"a": "x\u2028\x85y"}'),
    ("function", "2"),
    ("assistant", "Two."),
)
FAILED = row("second", ("user", "q"), ("assistant", "get_one\n{}"), ("function", "name 'x' is not defined"))
LONG = row("third", ("user", "long " * 200), ("assistant", "finish\n{}"))


@pytest.fixture
def block(tmp_path):
    """The `data` block with a cache of its own."""
    data = data_block()
    data.cache = str(tmp_path / "cache")
    return data


@pytest.fixture
def source(tmp_path):
    def write(*rows):
        file = tmp_path / "raw.json"
        file.write_text(json.dumps(list(rows)))
        return str(file)

    return write


def lines_of(out):
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in ("cache", "raw.json"))


def test_one_line_per_step_in_source_order(block, source, byte_level, tmp_path):
    out = tmp_path / "new" / "steps.jsonl"
    block.max_tokens = 400
    prepare_data(block, source(GOOD, FAILED, LONG), byte_level, str(out))
    lines = lines_of(out)
    assert [(line["id"], line["step"], line["kept"]) for line in lines] == [
        ("first", 1, False),
        ("first", 2, True),
        ("first", 3, True),
        ("second", 1, False),
        ("third", 1, False),
    ]
    assert all(list(line) == (KEPT_FIELDS if line["kept"] else FIELDS) for line in lines)
    assert lines[0]["reason"].startswith("unknown tool: name 'get_one'") and lines[4]["reason"].startswith("too long: ")
    assert lines[4]["reply"] == "finish()" and lines[4]["text"].endswith("Assistant: finish()")

    call, text = lines[1], lines[2]
    assert call["reason"] is None and call["reply"] == 'get_two(a="x\u2028\x85y")'
    assert call["text"].endswith("Assistant: " + call["reply"])
    assert call["tokens"] == [*byte_level.encode(call["text"])[0], byte_level.eos_id]
    reply = call["tokens"][call["reply_start"] :]
    assert byte_level.decode(reply) == " " + call["reply"] and len(call["weights"]) == len(reply)
    assert len(call["key"]) == 2 and 1 < call["weight"] <= 9
    expected = [call["weight"] if i in call["key"] else 1.0 for i in range(len(reply))]
    np.testing.assert_allclose(call["weights"], expected, rtol=1e-6)
    assert text["key"] == [] and text["weight"] == 1.0 and set(text["weights"]) == {1.0}


def test_released_rules_give_the_released_samples(block, shared, llama2, golden_pkt, tmp_path):
    block.mae = block.pkt = "release"
    found = []
    for name in ("clean", "slight"):
        out = tmp_path / f"{name}.jsonl"
        prepare_data(block, str(shared / f"data/train/rotbench_third_{name}.json"), llama2, str(out))
        found += [line for line in lines_of(out) if line["kept"]]
    assert len(found) == len(golden_pkt)
    for line, want in zip(found, golden_pkt, strict=True):
        assert (f"Turn {line['step']}: {line['id']}", line["text"] + "</s>") == (want["id"], want["text"])
        assert (line["key"], len(line["tokens"])) == (sorted(want["key"]), want["n_tokens"])
        weights, nll = np.array(line["weights"]), np.logaddexp(0, -np.array(want["target_logit"]))
        assert (weights * nll).sum() / weights.sum() == pytest.approx(want["loss"], abs=1e-5)


def test_the_summary_counts_steps_lengths_weights_and_skipped_rows(block, source, byte_level, tmp_path):
    block.max_tokens = 400
    block.on_bad_row = "skip"
    out = tmp_path / "o.jsonl"
    summary = prepare_data(block, source(GOOD, {"id": "bad"}, FAILED, LONG, LONG), byte_level, str(out))
    assert (summary.trajectories, summary.kept) == (4, 2)
    assert summary.blocked == {"unknown tool": 2, "too long": 2}
    kept = [line for line in lines_of(out) if line["kept"]]
    lengths = sorted(len(line["tokens"]) for line in kept)
    assert [summary.percentile(share) for share in (0.25, 0.5)] == lengths
    assert summary.percentile(0.9) == summary.percentile(1.0) > 400
    on_key = sum(line["weights"][k] for line in kept for k in line["key"])
    share = on_key / sum(sum(line["weights"]) for line in kept)
    text = str(summary)
    assert f"{100 * share:.1f} % of the weight" in text
    for words in ("kept        2 (33.3 %)", "2  too long", "2 over 400 tokens", "rows skipped  1", "raw.json, row 2"):
        assert words in text


def test_the_summary_lists_the_first_skipped_rows_alone(block, source, byte_level, tmp_path):
    block.on_bad_row = "skip"
    summary = prepare_data(block, source(GOOD, *[{"id": i} for i in range(30)]), byte_level, str(tmp_path / "o"))
    assert str(summary).count("field conversations") == 20 and "and 10 more" in str(summary)


def test_an_existing_file_is_never_overwritten(block, source, byte_level, tmp_path):
    out = tmp_path / "o.jsonl"
    out.write_text("precious")
    # Stands in for a device: of no length, and not a file. Never name a real one here; a defect would replace it.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (out, tmp_path, pipe):
        # Refused before any work, so that the source need not even exist.
        with pytest.raises(InputError, match="exists already"):
            prepare_data(block, str(tmp_path / "absent.json"), byte_level, str(path))
    assert out.read_text() == "precious" and pipe.is_fifo()
    out.write_text("")
    prepare_data(block, source(GOOD), byte_level, str(out))
    assert len(lines_of(out)) == 3


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("pkt", "papr", "config.data.pkt is 'papr'; allowed: paper, release, none"),
        ("dialect", "xml", "config.data.dialect is 'xml'; allowed: mae, readme"),
        ("w_max", 0.5, "config.data.w_max is 0.5; it must be at least 1"),
        ("w_max", float("nan"), "at least 1"),
        ("max_tokens", 0, "config.data.max_tokens is 0"),
        ("mae", "strict", "unknown rule"),
        ("on_bad_row", "drop", "on_bad_row"),
        ("prompt_weight", float("nan"), "config.data.prompt_weight is nan; it must be at least 0 and finite"),
        ("prompt_weight", 1.0, "prompt_weight is 1.0 with data.mae = 'default'"),
    ],
)
def test_values_that_are_not_allowed_are_refused_before_anything_is_written(
    block, source, byte_level, tmp_path, field, value, words
):
    block[field] = value
    with pytest.raises(InputError, match=words):
        prepare_data(block, source(GOOD), byte_level, str(tmp_path / "o.jsonl"))
    assert left_in(tmp_path) == []


def test_a_weight_for_prompts_is_refused(block, source, byte_level, tmp_path):
    block.mae, block.prompt_weight = "none", 1.0
    with pytest.raises(InputError, match="hold weights of replies alone"):
        prepare_data(block, source(GOOD), byte_level, str(tmp_path / "o.jsonl"))
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("rows", "max_tokens", "words"),
    [
        ([FAILED, FAILED], 8192, r"every step is blocked \(unknown tool 2\)"),
        ([LONG, FAILED], 100, r"every step is blocked \(too long 1, unknown tool 1\)"),
        ([GOOD, {"id": "bad"}], 8192, "row 2, field conversations"),
        ([], 8192, "no rows"),
    ],
)
def test_nothing_is_written_where_nothing_can_be_learned(block, source, byte_level, tmp_path, rows, max_tokens, words):
    block.max_tokens = max_tokens
    with pytest.raises(InputError, match=words):
        prepare_data(block, source(*rows), byte_level, str(tmp_path / "o.jsonl"))
    assert left_in(tmp_path) == []


def test_a_failure_half_way_leaves_nothing(block, source, byte_level, tmp_path):
    (tmp_path / "raising.py").write_text(
        "def rule(call, feedback):\n    if feedback == 'stop':\n        raise KeyError('x')\n"
    )
    bad = row("bad", ("user", "q"), ("assistant", "finish\n{}"), ("function", "stop"))
    sys.path.insert(0, str(tmp_path))
    try:
        block.mae = "raising:rule"
        with pytest.raises(InputError, match=r"row 2 \(id 'bad'\), step 1"):
            prepare_data(block, source(GOOD, bad), byte_level, str(tmp_path / "o.jsonl"))
    finally:
        sys.path.remove(str(tmp_path))
    assert [name for name in left_in(tmp_path) if "o.jsonl" in name] == []


def test_an_error_of_the_disk_names_the_file_that_is_read(block, source, byte_level, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error", "rows.arrow")
        yield

    monkeypatch.setattr("tljax.data.prepare.tokenize_trajectories", fail)
    with pytest.raises(InputError, match=r"^file rows.arrow: cannot be read \(Input/output error\)") as error:
        prepare_data(block, source(GOOD), byte_level, str(tmp_path / "o.jsonl"))
    assert "config.out" not in str(error.value) and left_in(tmp_path) == []


def test_an_out_that_cannot_be_written_is_named(block, source, byte_level, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written") as error:
        prepare_data(block, source(GOOD), byte_level, str(tmp_path / "file" / "o.jsonl"))
    assert "\n" not in str(error.value)


def test_a_full_disk_is_one_line_and_leaves_nothing(source, byte_level_folder, repo, tmp_path):
    """A limit on the size of files stands in for the disk: the write fails in the same call."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); from tljax.core.config import data_block;"
        "from tljax.data.prepare import prepare_data; from tljax.data.reader import open_trajectories;"
        "from tljax.data.tokenizer import load_tokenizer; from tljax.core.errors import InputError;"
        "data = data_block(); data.cache = sys.argv[5]; open_trajectories(sys.argv[2], 'refuse', data.cache);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));\n"
        "try: prepare_data(data, sys.argv[2], load_tokenizer(sys.argv[3]), sys.argv[4])\n"
        "except InputError as error: print(error)"
    )
    rows = [{**LONG, "id": str(i)} for i in range(40)]
    arguments = [repo, source(*rows), byte_level_folder, tmp_path / "o.jsonl", tmp_path / "cache"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout and done.stdout.count("\n") == 1
    assert left_in(tmp_path) == []


@pytest.mark.extended
def test_memory_does_not_grow_with_the_file(block, source, byte_level, tmp_path):
    peaks = []
    block.max_tokens = 10**6
    for n in (4, 24):
        file = source(*(row(str(i), ("user", f"{i:02} " * 4000), ("assistant", "finish\n{}")) for i in range(n)))
        # The reader keeps a hundred rows before it writes them to its cache; here it finds them there.
        open_trajectories(file, block.on_bad_row, block.cache)
        tracemalloc.start()
        prepare_data(block, file, byte_level, str(tmp_path / f"{n}.jsonl"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    grown = (tmp_path / "24.jsonl").stat().st_size - (tmp_path / "4.jsonl").stat().st_size
    assert grown > 500_000 and peaks[1] - peaks[0] < 0.1 * grown


# ml_collections loads a config file by a method that Python deprecates.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_config_has_the_data_block_and_release(repo, monkeypatch):
    def parsed(name, *arguments):
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", "--config", f"{repo}/configs/{name}", *arguments])
        return parse_command_line()

    config = parsed("data.py:release", "--config.data.w_max=4")
    assert (config.data.mae, config.data.pkt, config.data.w_max, config.out) == ("release", "release", 4.0, "")
    assert parsed("data.py").data.to_dict() == data_block().to_dict()
    with pytest.raises(InputError, match="'7b' is unknown"):
        parsed("data.py:7b")


def launch(repo, *arguments):
    command = [sys.executable, repo / "launch/prepare_data.py", "--config", repo / "configs/data.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=repo)


def test_the_command_writes_the_file_and_refuses_to_overwrite_it(
    repo, source, byte_level_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(repo))
    out = tmp_path / "o.jsonl"
    arguments = [
        f"--config.data.source={source(GOOD)}",
        f"--config.data.tokenizer={byte_level_folder}",
        f"--config.data.cache={tmp_path / 'cache'}",
        f"--config.out={out}",
    ]
    done = launch(repo, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kept        2 (66.7 %)" in done.stdout and str(out) in done.stdout and len(lines_of(out)) == 3
    again = launch(repo, *arguments)
    assert again.returncode == 2 and "exists already" in again.stderr and again.stderr.count("\n") == 1
    without_tokenizer = launch(repo, arguments[0], arguments[3])
    assert without_tokenizer.returncode == 2 and without_tokenizer.stderr.startswith(
        "error: config.data.tokenizer is empty"
    )


def test_command_line_without_a_source_reads_the_toolbox(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repo))
    out = tmp_path / "o.jsonl"
    done = launch(repo, f"--config.out={out}", f"--config.data.cache={tmp_path}", "--config.toolbox.trajectories=5")
    assert (done.returncode, done.stderr) == (0, "")
    lines = lines_of(out)
    assert len({line["id"] for line in lines}) == 5 and lines[-1]["reply"].startswith("finish(")
