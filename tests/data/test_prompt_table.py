"""Prompts with golden calls: tokens of SFT steps, golden calls, what is dropped, the held-out part, irm_data.json."""

import json

import numpy as np
import pytest

from tljax.calls.render import DIALECTS
from tljax.core.config import data_block
from tljax.core.errors import InputError
from tljax.data.examples import load_examples
from tljax.data.mae import load_rule
from tljax.data.prompt_table import load_prompts
from tljax.data.reader import open_trajectories
from tljax.data.steps import TokenizeOptions, tokenize_steps
from tljax.data.tokenizer import load_tokenizer
from tljax.rl.irm import reward
from tljax.toolbox import trajectories

TOKENIZER = load_tokenizer(trajectories.BASE_FOLDER)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "raw.json"
    trajectories.write_trajectories(path, seed=1, n=30, error_share=0.3, split="train")
    return str(path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def load(file, cache):
    def run(source=file, tokenizer=TOKENIZER, max_prompt_tokens=4096, seed=0, **fields):
        return load_prompts(
            block(source, cache, **fields), str(source), tokenizer, seed=seed, max_prompt_tokens=max_prompt_tokens
        )

    return run


def block(source, cache, **fields):
    data = data_block()
    data.update({"source": str(source), "cache": cache, "eval_fraction": 0.2} | fields)
    return data


def everything(prompts):
    tables = (prompts.train, prompts.held_out)
    return {(p.id, p.step): p for table in tables for p in (table[i] for i in range(len(table)))}


def same_as_steps(prompts, source, tokenizer, cache, dialect):
    """Compares with the steps that SFT learns from; returns how many there are."""
    count = 0
    for trajectory in open_trajectories(str(source), "refuse", cache).trajectories():
        options = TokenizeOptions(dialect=dialect, pkt="paper", w_max=9.0, max_tokens=8192)
        steps = tokenize_steps(trajectory, load_rule("default"), tokenizer, options)
        turns = [turn for turn in trajectory.turns if turn.role == "assistant"]
        for step, turn in zip(steps, turns, strict=True):
            prompt = prompts.pop((step.id, step.step), None)
            assert (prompt is not None) is (step.kept and turn.call is not None)
            if prompt is not None:
                assert prompt.tokens == step.tokenized.tokens[: step.tokenized.reply_start].tolist()
                assert prompt.text + " " + step.reply == step.text and prompt.text.endswith("\nAssistant:")
                assert step.reply.endswith(prompt.golden)
                assert prompt.tools.tools == trajectory.tools
                assert reward(prompt.golden, prompt.golden, prompt.tools).kind in ("correct", "tool_hallucination")
                count += 1
    assert not prompts
    return count


@pytest.mark.parametrize("dialect", DIALECTS)
def test_prompts_are_what_sft_reads_before_each_kept_call(load, file, cache, dialect):
    prompts = load(dialect=dialect)
    count = same_as_steps(everything(prompts), file, TOKENIZER, cache, dialect)
    assert count > 30 and f"{count:,} steps kept" in prompts.summary
    assert f"{len(prompts.train):,} to train on, {len(prompts.held_out):,} held out" in prompts.summary
    assert prompts.train.lengths.tolist() == [len(prompts.train[i].tokens) for i in range(len(prompts.train))]


@pytest.mark.parametrize("name", ["toolalpaca_verified", "rotbench_third_clean"])
def test_real_trajectories(load, shared, cache, name):
    llama2 = load_tokenizer(str(shared / "tokenizer" / "llama2"))
    source = shared / "data" / "train" / f"{name}.json"
    prompts = load(source=source, tokenizer=llama2, max_prompt_tokens=8192)
    assert same_as_steps(everything(prompts), source, llama2, cache, "mae") > 60


@pytest.mark.parametrize("seed", [0, 3])
def test_the_same_trajectories_are_held_out_as_in_sft(load, file, cache, seed):
    prompts, examples = load(seed=seed), load_examples(block(file, cache), file, TOKENIZER, seed=seed)
    held = {prompts.held_out[i].id for i in range(len(prompts.held_out))}
    trained = {prompts.train[i].id for i in range(len(prompts.train))}
    assert held == set(examples.held_out["id"]) and trained == set(examples.train["id"])


def test_no_part_is_held_out_if_the_fraction_is_0(load):
    prompts = load(eval_fraction=0.0)
    assert len(prompts.held_out) == 0 and "0 held out" in prompts.summary


def test_content_is_that_of_the_prompts_to_train_on(load):
    base = load()
    assert base.content == load().content
    assert len({base.content, load(mae="none").content, load(dialect="readme").content, load(seed=3).content}) == 4


def test_prompts_over_the_limit_are_counted_and_listed(load):
    whole = load()
    limit = int(np.median(whole.train.lengths))
    short = load(max_prompt_tokens=limit)
    assert set(everything(short)) == {key for key, p in everything(whole).items() if len(p.tokens) <= limit}
    over = len(everything(whole)) - len(everything(short))
    assert over > 5 and f"{over} dropped (too long {over})" in short.summary and f"and {over - 5} more" in short.summary
    assert f"tokens, at most {limit:,} are allowed in a prompt" in short.summary
    assert short.summary.count("  row ") == 5
    with pytest.raises(InputError, match=r"no prompt is left to train on; .*too long") as caught:
        load(max_prompt_tokens=10)
    assert "\n" not in str(caught.value)


TOOL = {"name": "get", "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]}}


def messages(*replies):
    turns = [{"role": "user", "content": "go"}]
    for name, arguments in replies:
        call = {"function": {"name": name, "arguments": arguments}}
        turns.append(
            {"role": "assistant", "content": arguments} if not name else {"role": "assistant", "tool_calls": [call]}
        )
        turns.append({"role": "tool" if name else "user", "content": "fine"})
    return {"tools": [TOOL], "messages": turns}


def test_replies_that_no_reward_can_judge_are_dropped_and_listed(load, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        messages(("get", {"city": "Köln"}), ("", "It is fine there (get it?).")),
        messages(("go there(now", {"city": "x"}), ("get", {"city": "Rom"})),
        messages(("finish", {"answer": "x"})),
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    prompts = load(source=path, eval_fraction=0.0)
    assert [(p.id, p.step, p.golden) for p in everything(prompts).values()] == [
        (1, 1, 'get(city="Köln")'),
        (2, 2, 'get(city="Rom")'),
        (3, 1, 'finish(answer="x")'),
    ]
    assert "row 1 (id 1), step 2: no call in the golden reply" in prompts.summary
    assert "row 2 (id 2), step 1: golden call cannot be read: a call that never closes" in prompts.summary
    assert "1 kept calls name a tool that their prompt does not list (finish: 1)" in prompts.summary
    path.write_text(json.dumps(messages(("", "Just words."))))
    with pytest.raises(
        InputError, match=r"no prompt is left .*no call in the golden reply 1.*row 1 .*step 1"
    ) as caught:
        load(source=path, eval_fraction=0.0)
    assert "\n" not in str(caught.value)


@pytest.fixture
def irm_data(load, tmp_path):
    """Writes the loaded prompts as the release has them: rendered prompt and golden call."""

    def write(name="irm_data.json", blank="", **fields):
        prompts = everything(load(eval_fraction=0.0, **fields))
        rows = [{"instruction": p.text + blank, "output": p.golden + blank} for p in prompts.values()]
        path = tmp_path / name
        path.write_text(json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows)))
        return path, list(prompts.values())

    return write


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("name", "blank"), [("irm_data.json", ""), ("irm.jsonl", " ")])
def test_irm_data_gives_the_same_prompts(irm_data, load, dialect, name, blank):
    path, wanted = irm_data(name, blank, dialect=dialect)
    prompts = load(source=path, eval_fraction=0.0)
    assert len(prompts.train) == len(wanted)
    for i, other in enumerate(wanted):
        prompt = prompts.train[i]
        assert (prompt.id, prompt.step) == (i + 1, other.step)
        assert (prompt.tokens, prompt.text, prompt.golden) == (other.tokens, other.text, other.golden)
        assert {n: list(s) for n, s in prompt.tools.schemas.items()} == {
            tool.name: list(tool.parameters) for tool in other.tools.tools
        }


def test_rows_of_one_conversation_are_held_out_together(irm_data, load):
    path, _ = irm_data()
    prompts = load(source=path)
    begins = [
        {t[i].text.partition("\nAssistant:")[0] for i in range(len(t))} for t in (prompts.train, prompts.held_out)
    ]
    assert not begins[0] & begins[1] and len(begins[0]) == 24 and len(begins[1]) == 6
    assert "30 trajectories of" in prompts.summary


TOOLS = (
    'System: Function:\ndef get(city: string):\n    """\n    It.\n\n    Args:\n    city (string): a\n    """\nUser: go'
)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": f"{TOOLS}\nAssistant:"}, "field output: is missing, empty or no text"),
        ({"instruction": 3, "output": "get(city='x')"}, "field instruction: is missing, empty or no text"),
        (["x"], "field instruction: is missing"),
        (
            {"instruction": TOOLS, "output": "get(city='x')"},
            "field instruction: ends with .*must end with 'Assistant:'",
        ),
        ({"instruction": "User: go\nAssistant:", "output": "get(city='x')"}, "field instruction: lists no tools"),
        (
            {"instruction": f"{TOOLS.replace('city: string', 'a b')}\nAssistant:", "output": "get(city='x')"},
            r"field instruction: the signature def get\(a b: cannot be read",
        ),
        ({"instruction": f"{TOOLS} \ud800\nAssistant:", "output": "get(city='x')"}, "not valid Unicode"),
    ],
)
def test_a_bad_row_is_one_line_or_skipped(load, tmp_path, row, said):
    path = tmp_path / "irm.jsonl"
    good = {"instruction": f"{TOOLS}\nAssistant:", "output": "get(city='x')"}
    path.write_text("\n".join(map(json.dumps, [good, row, good])))
    with pytest.raises(InputError, match=rf"irm\.jsonl, row 2.*{said}") as caught:
        load(source=path, eval_fraction=0.0)
    assert "\n" not in str(caught.value)
    skipping = load(source=path, eval_fraction=0.0, on_bad_row="skip")
    assert len(skipping.train) == 2 and "2 steps kept" in skipping.summary and "rows skipped: 1" in skipping.summary


def test_bad_trajectories_are_skipped_and_listed(load, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [messages(("get", {"city": "Rom"})), {"messages": 1}])))
    prompts = load(source=path, eval_fraction=0.0, on_bad_row="skip")
    assert "1 trajectories of" in prompts.summary and "1 steps kept" in prompts.summary
    assert "rows skipped: 1" in prompts.summary and "row 2" in prompts.summary


def test_blocked_steps_alone_leave_nothing(load, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(messages(("get", {"city": "Rom"}))))
    with pytest.raises(InputError, match=r"no prompt is left .*1 blocked \(pattern fine 1\)"):
        load(source=path, eval_fraction=0.0, mae='["fine"]')


def test_a_file_without_a_usable_row(load, tmp_path):
    path = tmp_path / "irm.jsonl"
    path.write_text('{"instruction": "x"}\n{"instruction": "y"}')
    with pytest.raises(InputError, match="one of 2 malformed rows"):
        load(source=path)
    with pytest.raises(InputError, match=r"none of its 2 rows is usable; the first: .*row 1, field output"):
        load(source=path, on_bad_row="skip")


def test_golden_calls_of_irm_data_that_no_reply_can_match_are_dropped(load, tmp_path):
    path = tmp_path / "irm.json"
    outputs = ["get(city='x')", "I am done.", "get(city='x', city='y')", "finish(answer='x')"]
    path.write_text(json.dumps([{"instruction": f"{TOOLS}\nAssistant:", "output": output} for output in outputs]))
    prompts = load(source=path, eval_fraction=0.0)
    assert [prompts.train[i].golden for i in range(len(prompts.train))] == [outputs[0], outputs[3]]
    assert "row 2 (id 2), step 1: no call in the golden reply" in prompts.summary
    assert "row 3 (id 3), step 1: golden call cannot be read: an argument given twice" in prompts.summary
    assert "finish: 1" in prompts.summary
