import json
from collections import Counter

import numpy as np
import pytest

from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import load_rule
from tljax.data.steps import format_unlisted_tools, tokenize_steps
from tljax.data.trajectory import Trajectory

TOOLS = ["getPaperDetails", "getPapersByKeywords", "finish"]


def tool(name):
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "A."}}, "required": ["a"]}
    return {"name": name, "description": "Does it.", "parameters": schema}


def raw(*messages, tools=TOOLS) -> Trajectory:
    """A trajectory of (role, content) messages after a system message that lists `tools`."""
    system = {"role": "system", "content": json.dumps([tool(name) for name in tools])}
    conversations = [system, *({"role": role, "content": content} for role, content in messages)]
    return trajectory_from_record({"id": "t", "conversations": conversations}, "t.json", 1)


def openai(*messages, tools=TOOLS) -> Trajectory:
    return trajectory_from_record(
        {"id": "t", "tools": [tool(n) for n in tools], "messages": list(messages)}, "t.json", 1
    )


def steps(trajectory, tokenizer, *, mae="none", dialect="mae", pkt="paper", w_max=9.0, max_tokens=8192):
    rule = load_rule(mae)
    return tokenize_steps(
        trajectory, rule=rule, dialect=dialect, tokenizer=tokenizer, pkt=pkt, w_max=w_max, max_tokens=max_tokens
    )


PAPERS = raw(
    ("user", "Find papers on 深層学習 😀 </s> <|im_end|>"),
    ("assistant", 'getPapersByKeywords\n{"a": "深層学習 😀"}'),
    ("function", "name 'x' is not defined"),
    ("assistant", 'getPaperDetails\n{"a": "it\'s </s>"}'),
    ("function", "fine"),
    ("assistant", "Two papers: “A” and “B” 😀."),
    ("user", "Thanks"),
    ("assistant", 'finish\n{"a": "done"}'),
)


@pytest.mark.parametrize("name", ["clean", "slight"])
def test_released_chain_on_real_trajectories(llama2, shared, name):
    golden = json.loads((shared / f"golden/pkt_{name}.json").read_text())
    rows = json.loads((shared / f"data/train/rotbench_third_{name}.json").read_text())
    found = []
    for i, row in enumerate(rows, start=1):
        trajectory = trajectory_from_record(row, name, i)
        found += [s for s in steps(trajectory, llama2, mae="release", pkt="release") if s.kept]
    assert [f"Turn {s.step}: {s.id}" for s in found] == [row["id"] for row in golden]
    for step, row in zip(found, golden, strict=True):
        assert step.text + "</s>" == row["text"]
        assert llama2.pieces(step.tokens[step.reply_start :].tolist()) == row["answer_tokens"]
        assert (step.reply_start, step.length) == (row["answer_start"], row["n_tokens"])
        assert list(step.key) == sorted(row["key"])
        assert step.weight == pytest.approx(row["weight"], abs=1e-6)
        nll = np.logaddexp(0, -np.array(row["target_logit"]))
        loss = (step.weights * nll).sum() / step.weights.sum()
        assert loss == pytest.approx(row["loss"], abs=1e-5)


@pytest.mark.parametrize("dialect", ["mae", "readme"])
def test_tokens_end_where_the_reply_ends(tokenizer, dialect):
    found = steps(PAPERS, tokenizer, dialect=dialect)
    assert [s.step for s in found] == [1, 2, 3, 4]
    for step in found:
        assert step.kept and step.reason is None
        assert step.tokens.dtype == np.int32 and step.length == len(step.tokens)
        assert step.tokens[-1] == tokenizer.eos_id and step.tokens[:-1].tolist() == tokenizer.encode(step.text)[0]
        # What spells a special token in a user's text or an argument ends nothing.
        assert tokenizer.eos_id not in step.tokens[:-1]
        prompt, reply = step.tokens[: step.reply_start].tolist(), step.tokens[step.reply_start : -1].tolist()
        assert tokenizer.decode(prompt) == step.text[: -len(step.reply) - 1]
        assert tokenizer.decode(reply).removeprefix(" ") == step.reply
        assert step.text.endswith("\nAssistant: " + step.reply)
        # Generation starts from the same tokens.
        assert tokenizer.encode(step.text[: -len(step.reply) - 1])[0] == prompt
        assert step.weights.dtype == np.float32 and len(step.weights) == step.length - step.reply_start


def test_keys_of_a_call(tokenizer):
    step = steps(PAPERS, tokenizer)[0]
    pieces = [tokenizer.decode([i]) for i in step.tokens[step.reply_start :].tolist()]
    assert step.name_token == 0 and step.key[0] == 0 and len(step.key) == 2
    shared = "".join(pieces[: step.key[1]]).strip()
    assert "getPaperDetails".startswith(shared)
    assert not "getPaperDetails".startswith(shared + pieces[step.key[1]])
    others = len(step.weights) - 1 - len(step.key)
    assert step.weight == min(others / 2, 9.0)
    assert np.flatnonzero(step.weights != 1).tolist() == list(step.key)
    assert step.weights[list(step.key)].tolist() == [np.float32(step.weight)] * 2


def test_plain_text_has_no_key_token(tokenizer):
    step = steps(PAPERS, tokenizer, pkt="release")[2]
    assert step.reply == "Two papers: “A” and “B” 😀."
    assert (step.key, step.name_token, step.weight) == ((), None, 1.0) and (step.weights == 1).all()


def test_rule_none_keeps_keys_and_levels_weights(tokenizer):
    plain, weighted = steps(PAPERS, tokenizer, pkt="none")[0], steps(PAPERS, tokenizer)[0]
    assert plain.key == weighted.key and plain.weight == 1.0 and (plain.weights == 1).all()


def test_call_below_free_text(tokenizer):
    call = {"function": {"name": "getPapersByKeywords", "arguments": '{"a": "x"}'}}
    first = {"role": "user", "content": "q"}
    below = openai(first, {"role": "assistant", "content": "I look it up.", "tool_calls": [call]})
    alone = openai(first, {"role": "assistant", "content": None, "tool_calls": [call]})
    step, plain = steps(below, tokenizer)[0], steps(alone, tokenizer)[0]
    assert step.reply == 'I look it up.\ngetPapersByKeywords(a="x")' and step.name_token == step.key[0] > 0
    assert len(step.key) == len(plain.key) == 2
    pieces = [tokenizer.decode([i]).strip() for i in step.tokens[step.reply_start :].tolist()]
    shared = "".join(pieces[step.key[0] : step.key[1]])
    assert shared and "getPaperDetails".startswith(shared)
    assert not "getPaperDetails".startswith(shared + pieces[step.key[1]])


def test_name_whose_blank_is_a_token_of_its_own(tokenizer):
    tools = ["深層検索", "深層計算", "finish"]
    messages = ("user", "q"), ("assistant", '深層検索\n{"a": "x"}')
    step = steps(raw(*messages, tools=tools), tokenizer)[0]
    ids = step.tokens[step.reply_start :].tolist()
    lead = tokenizer.decode(ids[: step.key[-1]]).strip()
    lone = tokenizer.decode(ids[:1]).strip() == "" and not tokenizer.pieces(ids[:1])[0].startswith("<0x")
    assert step.name_token == step.key[0] == (1 if lone else 0)
    released = steps(raw(*messages, tools=tools), tokenizer, pkt="release")[0]
    assert released.name_token == released.key[0] == 0 and released.key[-1] == step.key[-1]
    # The last key token is the first that tells 検 from 計, or a byte of it.
    assert lead.startswith("深層") and not lead.startswith("深層検")


def test_a_call_without_other_tools_and_one_of_an_unlisted_tool(tokenizer):
    messages = ("user", "q"), ("assistant", 'getPaper\n{"a": "x"}')
    assert steps(raw(*messages, tools=[]), tokenizer)[0].key == (0,)
    assert steps(raw(*messages, tools=["getPaper", "getPaper"]), tokenizer)[0].key == (0,)
    assert len(steps(raw(*messages), tokenizer)[0].key) > 1


def test_kept_calls_of_unlisted_tools_are_told(tokenizer):
    messages = ("user", "q"), ("assistant", "nope\n{}"), ("function", "x"), ("assistant", "finish\n{}")
    found = steps(raw(*messages), tokenizer)
    assert [s.unlisted for s in found] == ["nope", ""]
    assert "3 kept calls" in format_unlisted_tools(Counter({"nope": 2, "f": 1})) and "nope: 2" in format_unlisted_tools(
        Counter(nope=2)
    )


def test_blocked_steps_say_why_and_carry_no_tokens(tokenizer):
    found = steps(PAPERS, tokenizer, mae="default")
    assert [s.kept for s in found] == [False, True, True, True]
    blocked = found[0]
    assert blocked.reason == load_rule("default")(PAPERS)[0].reason is not None
    assert blocked.reply == 'getPapersByKeywords(a="深層学習 😀")' and blocked.text.endswith(blocked.reply)
    assert len(blocked.tokens) == len(blocked.weights) == blocked.length == 0 and blocked.key == ()


def test_steps_over_the_limit_are_blocked_whole(tokenizer):
    lengths = [s.length for s in steps(PAPERS, tokenizer)]
    found = steps(PAPERS, tokenizer, max_tokens=lengths[1])
    assert [s.kept for s in found] == [True, True, False, False]
    assert found[2].reason is not None and found[2].length == lengths[2] and len(found[2].tokens) == 0
    assert found[2].reason.startswith(f"too long: {lengths[2]} tokens") and str(lengths[1]) in found[2].reason


def test_a_tokenizer_that_joins_prompt_and_reply(byte_level_folder, tmp_path):
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models

    from tljax.data.tokenizer import load_tokenizer

    letters = {chr(i): i for i in range(128)}
    backend = Backend(models.BPE({**letters, ": ": 128}, [(":", " ")]))
    backend.decoder = decoders.Fuse()
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "\\u0002"}')
    found = steps(raw(("user", "q"), ("assistant", 'finish\n{"a": "x"}')), load_tokenizer(str(tmp_path)))
    assert [s.kept for s in found] == [False] and "joins" in str(found[0].reason)
