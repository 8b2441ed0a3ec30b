"""Batch inference: replies are the model's, whatever the batches and the interruptions; one line for bad input."""

import dataclasses
import json
import signal

import jax
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from tljax.data.tokenizer import load_tokenizer
from tljax.evaluate.toolbox_queries import held_out_queries
from tljax.generate import run as command
from tljax.generate.batches import ROUND_TO, Reply, padded_length
from tljax.storage.resumable import ResumableWriter, claim_output
from tljax.toolbox.embedded import BASE_FOLDER

N, NEW = 20, 24
WIDTH = 384  # of all prompts, so that one program serves them
LONG = "x " * 40_000
TOKENIZER = load_tokenizer(BASE_FOLDER)


@pytest.fixture(scope="session")
def prompts():
    """Texts that are padded to one width, the longest and the shortest of them apart."""
    texts = [query.prompt for query in held_out_queries("domain", 120, "mae")]
    fitting = [text for text in texts if padded_length(len(TOKENIZER.encode(text)[0]), ROUND_TO) == WIDTH]
    assert len(fitting) >= N
    return fitting[:N]


@pytest.fixture(scope="session")
def file(prompts, tmp_path_factory):
    """The prompts as JSON lines; rows 1 and 2 go by their numbers."""
    rows = [({"id": f"q{i}"} if i > 1 else {}) | {"prompt": text} for i, text in enumerate(prompts)]
    return write(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", rows)


@pytest.fixture(scope="session")
def generate(launch, repo, file):
    """generate(out, *flags) -> exit code."""
    flags = [f"--config={repo / 'configs' / 'generate.py'}", "--config.model.path=base", f"--config.prompts={file}"]
    flags += [f"--config.sample.max_new_tokens={NEW}", "--config.rows=8"]
    return lambda out, *more: launch("generate", *flags, f"--config.out={out}", *more)


SAMPLED = ("--config.sample.temperature=0.9", "--config.sample.top_p=0.95", "--config.seed=3")


@pytest.fixture(scope="session")
def greedy(generate, tmp_path_factory):
    """The file of an uninterrupted greedy run."""
    out = tmp_path_factory.mktemp("greedy") / "out.jsonl"
    assert generate(out) == 0
    return out


@pytest.fixture(scope="session")
def sampled(generate, tmp_path_factory):
    """The file of an uninterrupted sampled run."""
    out = tmp_path_factory.mktemp("sampled") / "out.jsonl"
    assert generate(out, *SAMPLED) == 0
    return out


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_replies_come_in_order_with_all_that_is_promised(greedy):
    rows = read(greedy)
    assert [row["id"] for row in rows] == [1, 2, *(f"q{i}" for i in range(2, N))]
    for row in rows:
        assert list(row) == ["id", "completion", "tokens", "logprob", "ended"]
        assert TOKENIZER.eos_id not in row["tokens"] and len(row["tokens"]) + row["ended"] <= NEW
        assert row["ended"] or len(row["tokens"]) == NEW
        assert TOKENIZER.encode("Assistant: " + row["completion"])[0][-len(row["tokens"]) :] == row["tokens"]
        assert row["logprob"] < 0
    assert {row["ended"] for row in rows} == {True, False}
    assert [path.name for path in greedy.parent.iterdir()] == ["out.jsonl"]


def test_greedy_replies_and_their_logprobs_are_torchs(greedy, prompts):
    torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed on Python 3.11 alone")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE_FOLDER, dtype="float32")
    for text, row in list(zip(prompts, read(greedy), strict=True))[:6]:
        ids = TOKENIZER.encode(text)[0]
        assert ids[0] == TOKENIZER.bos_id
        with torch.no_grad():
            found = model.generate(
                torch.tensor([ids]), do_sample=False, max_new_tokens=NEW, pad_token_id=TOKENIZER.eos_id
            )
            reply = found[0, len(ids) :].tolist()
            logprobs = model(found).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        assert row["tokens"] + [TOKENIZER.eos_id] * row["ended"] == reply
        wanted = logprobs[torch.arange(len(reply)), torch.tensor(reply)].sum().item()
        assert row["logprob"] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("text", ["f(x=1)", " f", "\n  f", ""])
@pytest.mark.parametrize("blank", ["▁", "Ġ"])
def test_a_completion_begins_after_the_blank(text, blank):
    """Decoders of SentencePiece's kind drop a first blank themselves, byte-level ones do not."""
    backend = TOKENIZER.backend
    if blank == "Ġ":
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
        backend.train_from_iterator(["a"], trainer)
    tokenizer = dataclasses.replace(TOKENIZER, backend=backend, bos_id=None)
    before = len(tokenizer.encode("Assistant:")[0])
    reply = Reply(tokens=tokenizer.encode(f"Assistant: {text}")[0][before:], logprobs=[-1.0, -0.5], end=None)
    row = command.reply_to_row(reply, tokenizer)
    assert row == {"completion": text, "tokens": reply.tokens, "logprob": -1.5, "ended": False}


@pytest.mark.extended
def test_a_run_gives_the_replies_of_its_export(generate, trained, file, tmp_path):
    few = write(tmp_path / "few.jsonl", read(file)[:8])
    rows = []
    for model in (trained, trained / "hf"):
        out = tmp_path / f"{model.name}.jsonl"
        assert generate(out, f"--config.model.path={model}", f"--config.prompts={few}") == 0
        rows.append(read(out))
    assert rows[0] == rows[1] and len({row["completion"] for row in rows[0]}) > 1


@pytest.mark.extended
def test_messages_are_answered_as_their_text_is(generate, tmp_path):
    tools = [{"name": "add", "description": "Adds.", "parameters": {"properties": {"a": {"type": "number"}}}}]
    messages = [{"role": "user", "content": "Add 2."}]
    text = (
        'System: Function:\ndef add(a: number = None):\n    """\n    Adds.\n\n    Args:\n    a (number): \n    """'
        "\nUser: Add 2.\nAssistant:"
    )
    rows = [{"tools": tools, "messages": messages}, {"prompt": text}]
    both = write(tmp_path / "both.jsonl", rows)
    assert generate(tmp_path / "out.jsonl", f"--config.prompts={both}", "--config.sample.max_new_tokens=4") == 0
    one, other = read(tmp_path / "out.jsonl")
    assert one["id"] == 1 and other["id"] == 2
    assert one | {"id": 2, "logprob": pytest.approx(one["logprob"], abs=1e-5)} == other


@pytest.mark.extended
def test_a_sample_depends_on_seed_and_row_alone(generate, sampled, file, tmp_path):
    wanted = read(sampled)
    assert len({row["completion"] for row in wanted}) > N // 2
    # Half of the rows, in one batch instead of three, under the same numbers: the others are too long.
    rows = [row if i % 2 else row | {"prompt": LONG} for i, row in enumerate(read(file))]
    part = write(tmp_path / "part.jsonl", rows)
    flags = (*SAMPLED, f"--config.prompts={part}", "--config.on_long=skip", "--config.rows=16")
    assert generate(tmp_path / "part_out.jsonl", *flags) == 0
    found = read(tmp_path / "part_out.jsonl")
    assert [(row["id"], row["tokens"]) for row in found] == [(row["id"], row["tokens"]) for row in wanted[1::2]]
    assert [row["logprob"] for row in found] == pytest.approx([row["logprob"] for row in wanted[1::2]], abs=1e-4)


@pytest.mark.extended
def test_several_samples_of_a_prompt(generate, greedy, file, tmp_path, capsys, compiled_programs):
    few = write(tmp_path / "few.jsonl", read(file)[:4])
    flags = (*SAMPLED, f"--config.prompts={few}", "--config.samples=4")
    assert generate(tmp_path / "out.jsonl", *flags) == 0
    rows = read(tmp_path / "out.jsonl")
    ids = [row["id"] for row in read(greedy)[:4]]
    assert [(row["id"], row["sample"]) for row in rows] == [(one, k) for one in ids for k in range(4)]
    kinds = [len({row["completion"] for row in rows if row["id"] == one}) for one in ids]
    assert sum(kinds) > len(ids) + 4, kinds
    printed = capsys.readouterr().out
    assert "done: 16 replies" in printed and f"programs compiled: 1, for prompts of up to {WIDTH} tokens" in printed
    # One program, whatever the number of prompts; none if a run with these options has compiled it before.
    assert compiled_programs.count("jit(generate)") <= 1


def stop_after(batches, action, monkeypatch):
    """Does something after that many batches are written."""
    append, count = ResumableWriter.append, iter(range(1, 100))

    def counted(self, answers):
        append(self, answers)
        if next(count) == batches:
            action()

    monkeypatch.setattr(ResumableWriter, "append", counted)


@pytest.mark.extended
def test_a_killed_run_continues_to_the_same_bytes(generate, sampled, tmp_path, monkeypatch, capsys):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with monkeypatch.context() as patch:
        stop_after(1, kill, patch)
        with pytest.raises(Killed):
            generate(out, *SAMPLED)
    assert not out.exists()
    whole = partial.read_bytes()
    header, first, *_ = whole.splitlines(keepends=True)
    assert whole.count(b"\n") == 9 and b'"left": 7' in first
    # The kill came in the middle of the next batch: a row whose batch is not complete, then half a row.
    index = json.loads(first)["index"]
    others = set(range(N)) - {json.loads(line)["index"] for line in whole.splitlines()[1:]}
    torn = first.replace(b'"index": %d,' % index, b'"index": %d,' % min(others))
    for tail in (torn + first[:40], b"\0" * 30, torn + b"[]\n"):
        partial.write_bytes(whole + tail)
        with monkeypatch.context() as patch:
            stop_after(1, kill, patch)
            with pytest.raises(Killed):
                generate(out, *SAMPLED)
        assert partial.read_bytes().startswith(whole) and partial.read_bytes().count(b"\n") == 17
        assert "resumed: 8 of 20 replies" in capsys.readouterr().out
    assert generate(out, *SAMPLED) == 0
    assert out.read_bytes() == sampled.read_bytes() and [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert header.startswith(b'{"made_with"')


@pytest.mark.extended
def test_a_signal_ends_the_run_after_its_batch(generate, sampled, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.jsonl"
    for number, code, done in ((signal.SIGINT, 130, 8), (signal.SIGTERM, 0, 16)):
        with monkeypatch.context() as patch:
            stop_after(1, lambda number=number: signal.raise_signal(number), patch)
            assert generate(out, *SAMPLED) == code
        told = capsys.readouterr().out
        assert f"stopped by {number.name} after {done} of 20 replies" in told and "the same command continues" in told
        assert not out.exists()
    # Fewer side by side is allowed, as memory may ask for it.
    assert generate(out, *SAMPLED, "--config.rows=16") == 0
    told = capsys.readouterr().out
    assert "resumed: 16 of 20" in told and "generated 4 replies" in told and "done: 20 replies" in told
    for found, wanted in zip(read(out), read(sampled), strict=True):
        assert found | {"logprob": pytest.approx(wanted["logprob"], abs=1e-4)} == wanted | {"logprob": found["logprob"]}


def test_what_was_begun_otherwise_is_not_continued(generate, file, tmp_path, monkeypatch, capsys):
    out, copy = tmp_path / "out.jsonl", tmp_path / "copy.jsonl"
    copy.write_bytes(file.read_bytes())
    with monkeypatch.context() as patch:
        stop_after(1, lambda: signal.raise_signal(signal.SIGTERM), patch)
        assert generate(out, f"--config.prompts={copy}") == 0
    partial = tmp_path / "out.jsonl.partial"
    begun = partial.read_bytes()
    with copy.open("a") as longer:
        longer.write('{"id": "more", "prompt": "x"}\n')
    with monkeypatch.context() as patch:
        patch.setattr(command, "fingerprint", lambda model: "other")
        assert "another model" in error_of(generate(out), capsys)
    for flags, words in (
        ([f"--config.prompts={copy}"], ["another content of config.prompts"]),
        (["--config.sample.temperature=0.5"], ["config.sample.temperature is 0.5", "begun with 0.0"]),
        (["--config.seed=4"], ["config.seed is 4", "begun with 0"]),
        (["--config.samples=2"], ["config.samples is 2", "begun with 1"]),
        (["--config.model.compute_dtype=bfloat16"], ["model.compute_dtype is 'bfloat16'", "'float32'"]),
        (["--config.tokenizer=OTHER"], ["another tokenizer"]),
    ):
        if flags == ["--config.tokenizer=OTHER"]:
            other = tmp_path / "tokenizer"
            other.mkdir()
            (other / "tokenizer.json").write_text(TOKENIZER.backend.to_str(pretty=True))
            (other / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
            flags = [f"--config.tokenizer={other}"]
        line = error_of(generate(out, *flags), capsys)
        assert all(word in line for word in [*words, "out.jsonl.partial"]), line
    assert partial.read_bytes() == begun and not out.exists()
    partial.write_text("x\n")
    assert "no partial file of this command" in error_of(generate(out), capsys)
    with claim_output(out):
        assert "another process" in error_of(generate(out), capsys)


def test_too_little_memory_is_told_with_what_helps(generate, tmp_path, monkeypatch, capsys):
    def exhausted(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.")

    monkeypatch.setattr(command.Sampler, "generate_batches", exhausted)
    line = error_of(generate(tmp_path / "out.jsonl"), capsys)
    assert "config.rows = 8" in line and "mesh.fsdp" in line and not list(tmp_path.iterdir())


def error_of(code, capsys):
    """The one line that a command which was given bad input prints."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


BAD = {
    "no model": (["--config.model.path="], ["config.model.path is ''", "'base'"]),
    "no such model": (["--config.model.path=/nowhere"], ["/nowhere"]),
    "no prompts": (["--config.prompts="], ["config.prompts is empty"]),
    "no such prompts": (["--config.prompts=nowhere.jsonl"], ["nowhere.jsonl", "no such file"]),
    "out empty": (["--config.out="], ["config.out is empty"]),
    "out there": (["--config.out=README.md"], ["README.md is there already"]),
    "no folder": (["--config.out=no/such/out.jsonl"], ["there is no folder no/such"]),
    "no permission": (["--config.out=/proc/out.jsonl"], ["/proc/out.jsonl cannot be written"]),
    "dialect": (["--config.dialect=xml"], ["config.dialect", "mae"]),
    "on_long": (["--config.on_long=cut"], ["config.on_long", "skip"]),
    "rows": (["--config.rows=12"], ["config.rows is 12", "8 or 16"]),
    "mesh": (["--config.mesh.fsdp=3"], ["fsdp=3"]),
    "attention": (["--config.model.attention=splash"], ["splash", "TPU"]),
    "samples": (["--config.samples=0"], ["config.samples is 0", "allowed: 1 to"]),
    "too many samples": (["--config.samples=2000000000"], ["config.samples is 2000000000", "allowed: 1 to"]),
    "temperature": (["--config.sample.temperature=-1"], ["config.sample.temperature is -1"]),
    "top_p": (["--config.sample.top_p=0"], ["config.sample.top_p is 0"]),
    "max_new_tokens": (["--config.sample.max_new_tokens=0"], ["config.sample.max_new_tokens is 0"]),
    "unknown field": (["--config.sample.topk=3"], ["sample.topk", "top_k"]),
    "too long": (["--config.sample.max_new_tokens=100000"], ["row 1 (id 1)", "one of 20", "config.on_long=skip"]),
    "all too long": (["--config.sample.max_new_tokens=100000", "--config.on_long=skip"], ["row 1", "one of 20 such"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line(generate, repo, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(repo)
    flags, words = BAD[case]
    line = error_of(generate(tmp_path / "out.jsonl", *flags), capsys)
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


def test_skipped_rows_are_told(generate, file, tmp_path, capsys):
    long = [{"id": "long", "prompt": LONG}, *read(file)[:2]]
    some = write(tmp_path / "some.jsonl", long)
    assert generate(tmp_path / "out.jsonl", f"--config.prompts={some}", "--config.on_long=skip") == 0
    told = capsys.readouterr().out
    assert (
        "rows skipped: 1\n" in told
        and "row 1 (id 'long')" in told
        and "prompts: 2 rows with" in told
        and "done: 2 replies" in told
    )
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == [2, 3]
    bad = write(tmp_path / "bad.jsonl", [*long, {"id": "long", "prompt": "x"}])
    assert "row 4, field id" in error_of(generate(tmp_path / "bad_out.jsonl", f"--config.prompts={bad}"), capsys)
