"""Trajectories become tokenized steps: key tokens, weights, and the reasons of blocked steps."""

import json
from collections import Counter

import numpy as np
import pytest

from tljax.data.batch_arrays import KEY_TOKEN, NAME_TOKEN, OTHER_TOKEN
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import load_rule
from tljax.data.steps import TokenizeOptions, format_unlisted_tools, tokenize_steps
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
    options = TokenizeOptions(dialect=dialect, pkt=pkt, w_max=w_max, max_tokens=max_tokens)
    return tokenize_steps(trajectory, load_rule(mae), tokenizer, options)


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
        reply = step.tokenized
        assert llama2.pieces(reply.tokens[reply.reply_start :].tolist()) == row["answer_tokens"]
        assert (reply.reply_start, step.length) == (row["answer_start"], row["n_tokens"])
        assert reply.key_positions == sorted(row["key"])
        assert reply.key_weight == pytest.approx(row["weight"], abs=1e-6)
        nll = np.logaddexp(0, -np.array(row["target_logit"]))
        loss = (reply.weights * nll).sum() / reply.weights.sum()
        assert loss == pytest.approx(row["loss"], abs=1e-5)


def listed(name, *parameters):
    properties = {parameter: {"type": "string", "description": "A."} for parameter in parameters}
    parameters_schema = {"type": "object", "properties": properties, "required": []}
    return {"name": name, "description": "Does it.", "parameters": parameters_schema}


@pytest.mark.parametrize(
    ("tools", "call", "paper", "release"),
    [
        # The list has [f, (:, ed, oc, ...], the reply [f]: the tool is another one to the released code, with which the
        # called name shares one token.
        ([listed("f", ":edoc", "a"), listed("g", "a")], 'f\n{"a": "x"}', [0], [0, 1]),
        # Both are [get] here: the list of the other tool is [get, (:, ...], a longer name.
        ([listed("get", "a"), listed("get", ":edoc")], 'get\n{"a": "x"}', [0], [0, 1]),
        # [get, _(, a, ...] in the list and [get] in the reply, where "_(" ends a name. The paper's name is "get_".
        ([listed("get_", "a")], 'get_\n{"a": "x"}', [0], [0, 1]),
        # The list of g is [g, (_, x, ...], but it shares nothing with f.
        ([listed("f", "a"), listed("g", "_x")], 'f\n{"a": "x"}', [0], [0]),
    ],
)
def test_a_name_that_runs_on_in_the_tool_list_gives_a_key_token_under_release_alone(
    llama2, tools, call, paper, release
):
    system = {"role": "system", "content": json.dumps(tools)}
    messages = [system, {"role": "user", "content": "q"}, {"role": "assistant", "content": call}]
    trajectory = trajectory_from_record({"id": "t", "conversations": messages}, "t.json", 1)
    for rule, key in (("paper", paper), ("release", release)):
        (step,) = steps(trajectory, llama2, pkt=rule)
        assert step.tokenized.key_positions == key


@pytest.mark.parametrize("dialect", ["mae", "readme"])
def test_prompt_and_reply_have_the_tokens_that_inference_sees(tokenizer, dialect):
    found = steps(PAPERS, tokenizer, dialect=dialect)
    assert [s.step for s in found] == [1, 2, 3, 4]
    for step in found:
        assert step.kept and step.reason is None
        tokens, start = step.tokenized.tokens, step.tokenized.reply_start
        assert tokens.dtype == np.int32 and step.length == len(tokens)
        assert tokens[-1] == tokenizer.eos_id and tokens[:-1].tolist() == tokenizer.encode(step.text)[0]
        # Text of a user or an argument that spells a special token ends nothing.
        assert tokenizer.eos_id not in tokens[:-1]
        prompt, reply = tokens[:start].tolist(), tokens[start:-1].tolist()
        assert tokenizer.decode(prompt) == step.text[: -len(step.reply) - 1]
        assert tokenizer.decode(reply).removeprefix(" ") == step.reply
        assert step.text.endswith("\nAssistant: " + step.reply)
        # Generation starts from the same tokens.
        assert tokenizer.encode(step.text[: -len(step.reply) - 1])[0] == prompt
        weights, token_classes = step.tokenized.weights, step.tokenized.token_classes
        assert weights.dtype == np.float32 and token_classes.dtype == np.int8
        assert len(weights) == len(token_classes) == step.length - start


def reply_ids(reply):
    return reply.tokens[reply.reply_start :].tolist()


def test_key_tokens_of_a_call_are_the_first_and_the_one_that_tells_it_from_another_tool(tokenizer):
    reply = steps(PAPERS, tokenizer)[0].tokenized
    pieces = [tokenizer.decode([i]) for i in reply_ids(reply)]
    first, second = reply.key_positions
    assert first == 0
    assert (reply.token_classes[first], reply.token_classes[second]) == (NAME_TOKEN, KEY_TOKEN)
    assert (np.delete(reply.token_classes, [first, second]) == OTHER_TOKEN).all()
    shared = "".join(pieces[:second]).strip()
    assert "getPaperDetails".startswith(shared)
    assert not "getPaperDetails".startswith(shared + pieces[second])
    others = len(reply.weights) - 1 - 2
    assert reply.key_weight == min(others / 2, 9.0)
    assert np.flatnonzero(reply.weights != 1).tolist() == [first, second]
    assert reply.weights[[first, second]].tolist() == [np.float32(reply.key_weight)] * 2


def test_plain_text_has_no_key_token(tokenizer):
    step = steps(PAPERS, tokenizer, pkt="release")[2]
    assert step.reply == "Two papers: “A” and “B” 😀."
    reply = step.tokenized
    assert (reply.key_positions, reply.key_weight) == ([], 1.0)
    assert (reply.token_classes == OTHER_TOKEN).all() and (reply.weights == 1).all()


def test_rule_none_finds_the_same_key_tokens_and_weighs_them_like_the_others(tokenizer):
    plain, weighted = steps(PAPERS, tokenizer, pkt="none")[0].tokenized, steps(PAPERS, tokenizer)[0].tokenized
    assert plain.key_positions == weighted.key_positions and plain.key_weight == 1.0 and (plain.weights == 1).all()


def test_a_call_below_free_text_has_its_key_tokens_in_the_call(tokenizer):
    call = {"function": {"name": "getPapersByKeywords", "arguments": '{"a": "x"}'}}
    first = {"role": "user", "content": "q"}
    below = openai(first, {"role": "assistant", "content": "I look it up.", "tool_calls": [call]})
    alone = openai(first, {"role": "assistant", "content": None, "tool_calls": [call]})
    step, plain = steps(below, tokenizer)[0], steps(alone, tokenizer)[0]
    assert step.reply == 'I look it up.\ngetPapersByKeywords(a="x")'
    reply = step.tokenized
    first, second = reply.key_positions
    assert first > 0 and len(plain.tokenized.key_positions) == 2
    pieces = [tokenizer.decode([i]).strip() for i in reply_ids(reply)]
    shared = "".join(pieces[first:second])
    assert shared and "getPaperDetails".startswith(shared)
    assert not "getPaperDetails".startswith(shared + pieces[second])


def test_a_blank_of_its_own_before_a_name_is_a_key_token_for_the_released_rule_alone(tokenizer):
    tools = ["深層検索", "深層計算", "finish"]
    messages = ("user", "q"), ("assistant", '深層検索\n{"a": "x"}')
    reply = steps(raw(*messages, tools=tools), tokenizer)[0].tokenized
    ids, key = reply_ids(reply), reply.key_positions
    lead = tokenizer.decode(ids[: key[-1]]).strip()
    lone = tokenizer.decode(ids[:1]).strip() == "" and not tokenizer.pieces(ids[:1])[0].startswith("<0x")
    assert key[0] == (1 if lone else 0)
    released = steps(raw(*messages, tools=tools), tokenizer, pkt="release")[0].tokenized
    assert released.key_positions[0] == 0 and released.key_positions[-1] == key[-1]
    # The last key token is the first that tells 検 from 計, or a byte of it.
    assert lead.startswith("深層") and not lead.startswith("深層検")


def test_a_call_has_one_key_token_without_other_tools_and_more_if_it_is_not_listed(tokenizer):
    messages = ("user", "q"), ("assistant", 'getPaper\n{"a": "x"}')

    def num_keys(tools):
        reply = steps(raw(*messages, tools=tools), tokenizer)[0].tokenized
        assert reply.key_positions[0] == 0
        return len(reply.key_positions)

    assert num_keys([]) == 1
    assert num_keys(["getPaper", "getPaper"]) == 1
    assert num_keys(TOOLS) > 1


def test_kept_calls_of_unlisted_tools_are_named(tokenizer):
    messages = ("user", "q"), ("assistant", "nope\n{}"), ("function", "x"), ("assistant", "finish\n{}")
    assert [s.tokenized.unlisted for s in steps(raw(*messages), tokenizer)] == ["nope", ""]
    assert format_unlisted_tools(Counter({"nope": 2, "f": 1})).startswith("3 kept calls")
    assert "nope: 2" in format_unlisted_tools(Counter(nope=2))


def test_blocked_steps_have_a_reason_and_no_tokens(tokenizer):
    found = steps(PAPERS, tokenizer, mae="default")
    assert [s.kept for s in found] == [False, True, True, True]
    blocked = found[0]
    assert blocked.reason == load_rule("default")(PAPERS)[0].reason is not None
    assert blocked.reply == 'getPapersByKeywords(a="深層学習 😀")' and blocked.text.endswith(blocked.reply)
    assert blocked.length == 0 and blocked.tokenized is None


def test_steps_over_the_limit_are_blocked_with_their_length(tokenizer):
    lengths = [s.length for s in steps(PAPERS, tokenizer)]
    found = steps(PAPERS, tokenizer, max_tokens=lengths[1])
    assert [s.kept for s in found] == [True, True, False, False]
    assert found[2].reason is not None and found[2].length == lengths[2] and found[2].tokenized is None
    assert found[2].reason.startswith(f"too long: {lengths[2]} tokens") and str(lengths[1]) in found[2].reason


def test_a_step_whose_prompt_and_reply_share_a_token_is_blocked(byte_level_folder, tmp_path):
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
