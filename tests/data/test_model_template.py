"""data.dialect = template: texts, tokens and spans against transformers' apply_chat_template, in six formats."""

import json

import pytest

from tests.data.conftest import ENDS, TEMPLATES
from tljax.calls.tool import Call, tool_from_json
from tljax.core.config import data_block
from tljax.core.errors import InputError
from tljax.data.dialect import open_dialect
from tljax.data.examples import load_examples
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import load_rule
from tljax.data.prepare import prepare_data
from tljax.data.prompt import render_feedback, render_prompt, render_steps
from tljax.data.prompt_table import load_prompts
from tljax.data.rows import build_rows
from tljax.data.steps import TokenizeOptions, tokenize_steps
from tljax.data.tokenizer import load_tokenizer
from tljax.data.trajectory import Trajectory, Turn


def openai(trajectory):
    """The conversation as OpenAI messages with one call each, written by other hands than the code under test."""
    messages = [{"role": "system", "content": trajectory.system}] if trajectory.system else []
    ends, calls, name = [], 0, ""
    for turn in trajectory.turns:
        message = {"role": "tool" if turn.role == "function" else turn.role, "content": turn.text}
        if turn.call:
            calls += 1
            name = turn.call.name
            function = {"name": name, "arguments": turn.call.arguments}
            message["tool_calls"] = [{"id": f"call{calls:05d}", "type": "function", "function": function}]
        if turn.role == "function":
            message |= {"tool_call_id": f"call{calls:05d}", "name": name}
        messages.append(message)
        if turn.role == "assistant":
            ends.append(len(messages))
    return messages, ends


def conversations(shared, count):
    """`count` trajectories of each of four real files, with their tools as the file has them."""
    for name in ("rotbench_third_clean.json", "toolalpaca_verified.json", "tau_airline.jsonl", "sealtools_dev.jsonl"):
        text = (shared / "data/train" / name).read_text()
        rows = [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
        trajectories = [(trajectory_from_record(row, name, i), row) for i, row in enumerate(rows[: 4 * count], start=1)]
        single = [(one, row) for one, row in trajectories if not any(turn.parallel for turn in one.turns)]
        for trajectory, row in single[:count]:
            yield trajectory, row.get("tools") or json.loads(row["conversations"][0]["content"])


def wrapped(tools):
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


@pytest.mark.parametrize("count", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_tokens_and_spans_equal_apply_chat_template(shared, opened, count):
    name, template, tokenizer, reference = opened
    options = TokenizeOptions(dialect=template, pkt="paper", w_max=9.0, max_tokens=100_000)
    compared = 0
    for trajectory, tools in conversations(shared, count):
        messages, ends = openai(trajectory)
        steps = tokenize_steps(trajectory, load_rule("none"), tokenizer, options)
        for step, end in zip(steps, ends, strict=True):
            if step.tokenized is None:
                # Mistral's template wants user and assistant to alternate; transformers must refuse the same ones.
                assert "must alternate" in step.reason and name == "mistral", step.reason
                with pytest.raises(Exception, match="must alternate"):
                    reference.apply_chat_template(messages[:end], tools=wrapped(tools), tokenize=False)
                continue
            render = {"tools": wrapped(tools), "return_dict": False}
            whole = reference.apply_chat_template(messages[:end], **render)
            prompt = reference.apply_chat_template(messages[: end - 1], add_generation_prompt=True, **render)
            tokens = step.tokenized.tokens.tolist()
            assert tokens[: step.tokenized.reply_start] == prompt
            if name == "mistral" and trajectory.system:
                # The template shows the system text only to the reply that follows the user's message at once.
                reply = tokens[len(prompt) :]
                assert reply == whole[-len(reply) :]
                assert (trajectory.system in step.text) == (messages[end - 2]["role"] == "user")
            else:
                assert tokens == whole[: len(tokens)] and reference.decode(whole[len(tokens) :]).strip() == ""
            assert tokens[-1] == tokenizer.eos_id == reference.eos_token_id
            compared += 1
    assert compared >= 5 * count


TOOLS = tuple(
    tool_from_json({"name": name, "description": "", "parameters": {"properties": {"city": {"type": "string"}}}}, "t")
    for name in ("get_weather", "get_weather_now", "find")
)
CALL = Turn("assistant", "", Call("get_weather", {"city": "get_weather"}))
ONE = Trajectory("1", TOOLS, (Turn("user", "Bern?"), CALL, Turn("function", "sun"), Turn("assistant", "Sunny.")))
REPLIES = {
    "qwen": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "get_weather"}}\n</tool_call>',
    "llama3": '{"name": "get_weather", "parameters": {"city": "get_weather"}}',
    "mistral": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "get_weather"}, "id": "call00001"}]',
    "pythonic": "[get_weather(city='get_weather')]",
}
REPLIES["qwen3"] = "<think>\n\n</think>\n\n" + REPLIES["qwen"]


def test_the_reply_and_its_key_tokens(opened):
    """The argument has the tool's name too, and one tool's name continues the called one's."""
    name, template, tokenizer, _ = opened
    call, answer = render_steps(ONE, template)
    start, end = call.reply.name
    assert call.text[call.reply.text_start : call.reply.end] == REPLIES[name]
    assert call.text[start:end] == "get_weather" and call.text[:start].endswith(
        "[" if name == "pythonic" else '"name": "'
    )
    assert answer.text.endswith("Sunny.") and answer.reply.name is None
    options = TokenizeOptions(dialect=template, pkt="paper", w_max=9.0, max_tokens=1000)
    first, second = tokenize_steps(ONE, load_rule("none"), tokenizer, options)
    spans = tokenizer.encode(call.text)[1]
    key = [spans[first.tokenized.reply_start + k] for k in first.tokenized.key_positions]
    # The first token of the name, and the one behind it, where "get_weather_now" goes on.
    assert [a for a, _ in key] == [start, end]
    assert second.tokenized.key_positions == []


def test_steps_share_a_row_unless_the_template_rewrites_earlier_turns(opened):
    name, template, tokenizer, _ = opened
    options = TokenizeOptions(dialect=template, pkt="paper", w_max=9.0, max_tokens=1000)
    more = (*ONE.turns, Turn("user", "And now?"), Turn("assistant", "Rain."))
    steps = tokenize_steps(Trajectory("1", TOOLS, more), load_rule("none"), tokenizer, options)
    rows = build_rows(steps, "trajectory", 0.0)
    # Qwen 3 writes no empty reasoning in turns before the last query; Mistral moves the tools to the last user message.
    assert len(rows) == {"qwen3": 3, "mistral": 2}.get(name, 1)
    assert sorted(n for row in rows for n in row.steps) == [1, 2, 3]
    for row in rows:
        for number in row.steps:
            tokens = steps[number - 1].tokenized.tokens
            assert row.targets[len(tokens) - 2] == tokenizer.eos_id
            assert row.tokens[: len(tokens) - 1].tolist() == tokens[:-1].tolist()


def test_parallel_calls_are_one_reply_where_the_template_takes_them(opened):
    name, template, tokenizer, _ = opened
    calls = (Call("find", {"city": "Chur"}), Call("get_weather_now", {"city": "Bern"}))
    turns = (
        Turn("user", "Both?"),
        Turn("assistant", "", calls[0]),
        Turn("function", "one"),
        Turn("assistant", "", calls[1], parallel=True),
        Turn("function", "Error: two"),
    )
    options = TokenizeOptions(dialect=template, pkt="paper", w_max=9.0, max_tokens=1000)
    first, second = tokenize_steps(Trajectory("1", TOOLS, turns), load_rule("none"), tokenizer, options)
    if name == "llama3":
        assert not template.parallel and first.kept and second.kept
        assert first.reply == '{"name": "find", "parameters": {"city": "Chur"}}'
        return
    assert template.parallel and first.kept and "find" in first.reply and "get_weather_now" in first.reply
    assert second.reason == "in the reply of an earlier step: parallel calls are one message"
    spans = tokenizer.encode(first.text)[1]
    heads = [first.text[spans[first.tokenized.reply_start + k][0] :] for k in first.tokenized.key_positions]
    assert any(head.startswith("find") for head in heads) and any(head.startswith("get_weather_now") for head in heads)
    # The whole message is kept out of the gradient if one of its calls failed.
    blocked, _ = tokenize_steps(Trajectory("1", TOOLS, turns), load_rule("default"), tokenizer, options)
    assert not blocked.kept and blocked.reason == "failed: Error: two"


def test_feedback_continues_a_dialogue_as_the_template_does(opened):
    name, template, tokenizer, reference = opened
    prompt = tokenizer.encode(render_prompt(TOOLS, ONE.turns[:1], template))[0]
    reply = tokenizer.encode(REPLIES[name])[0]
    after = tokenizer.encode_continuation(render_feedback('sun & "rain"', template))
    messages, _ = openai(Trajectory("1", TOOLS, (*ONE.turns[:2], Turn("function", 'sun & "rain"'))))
    tools = [tool.document for tool in TOOLS]
    expected = reference.apply_chat_template(
        messages, tools=wrapped(tools), add_generation_prompt=True, return_dict=False
    )
    text = reference.decode(expected)
    if name == "qwen3":
        text = text.replace(
            "<|im_start|>assistant\n<tool_call>", "<|im_start|>assistant\n<think>\n\n</think>\n\n<tool_call>"
        )
    assert reference.decode(prompt + reply + after) == text


def test_templates_without_tools_are_refused_with_a_remedy(folder_of):
    for name, problem in (("llama2", "must alternate"), ("chatml", "does not show the tools to the model")):
        tokenizer = load_tokenizer(str(folder_of(name)))
        with pytest.raises(InputError, match=problem) as error:
            open_dialect("template", "", tokenizer, "data.chat_template")
        assert "config.data.chat_template=hermes" in str(error.value) and "\n" not in str(error.value)
        template, opened = open_dialect("template", "hermes", tokenizer, "data.chat_template")
        (call, _) = render_steps(ONE, template)
        assert call.text[call.reply.start :] == REPLIES["qwen"] and call.closing == ENDS[name][1]
        assert opened.eos_id == tokenizer.eos_id
    with pytest.raises(InputError, match="there is no such file"):
        open_dialect("template", "/nowhere.jinja", tokenizer, "data.chat_template")
    with pytest.raises(InputError, match="which only the dialect template reads"):
        open_dialect("mae", "hermes", tokenizer, "data.chat_template")


def test_a_broken_template_is_refused_in_one_line(folder_of):
    for source, problem in (
        ("{{ messages[0].content", "refuses it"),
        ("{{ tools | tojson }}{{ messages[0].content.missing.more }}", "refuses it"),
        ("{{ tools | tojson }}", "writes nothing of the reply"),
        ("{{ tools | tojson }}{% for m in messages %}{{ m.content }}|{% endfor %}", "does not write the name"),
    ):
        with pytest.raises(InputError, match=problem) as error:
            open_dialect("template", "", load_tokenizer(str(folder_of("broken", source))), "data.chat_template")
        assert "\n" not in str(error.value)


def test_the_template_for_tools_is_taken_from_a_list_of_named_ones(folder_of, tmp_path):
    """A list of named templates in tokenizer_config.json: transformers takes `tool_use` where there are tools."""
    transformers = pytest.importorskip("transformers")
    folder = folder_of("qwen")
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    plain = "{% for m in messages %}plain {{ m.content }}<|im_end|>{% endfor %}"
    named = {"default": plain, "tool_use": (TEMPLATES / "qwen.jinja").read_text()}
    config["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template, _ = open_dialect("template", "", load_tokenizer(str(folder)), "data.chat_template")
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Bern?"}]
    for tools in ([], wrapped([tool.document for tool in TOOLS])):
        assert template.render(messages, tools, prompt=False) == reference.apply_chat_template(
            messages, tools=tools or None, tokenize=False
        )


def test_text_that_the_template_leaves_out_is_named(opened, tmp_path):
    name, template, tokenizer, _ = opened
    turns = (*ONE.turns[:1], Turn("assistant", "Let me look.", CALL.call), *ONE.turns[2:])
    row = {"tools": [tool.document for tool in TOOLS], "messages": openai(Trajectory("1", TOOLS, turns))[0]}
    for message in row["messages"]:
        for call in message.get("tool_calls", []):
            call["function"] = call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    block = data_block()
    block.update({"source": str(file), "cache": str(tmp_path), "eval_fraction": 0.0})
    left_out = name in ("llama3", "mistral")
    assert template.keeps_text != left_out
    note = "the chat template leaves out text that stands beside a call (1 times)"
    prompts = load_prompts(block, str(file), tokenizer, seed=0, max_prompt_tokens=4000, dialect=template)
    summaries = [
        load_examples(block, str(file), tokenizer, 0, template).summary,
        prompts.summary,
        str(prepare_data(block, str(file), tokenizer, str(tmp_path / "o.jsonl"), template)),
    ]
    assert [note in summary for summary in summaries] == [left_out] * 3
    # A prompt ends where the reply begins, and its golden call is readable.
    assert prompts.train[0].text == render_prompt(TOOLS, turns[:1], template)
    assert prompts.train[0].golden == 'get_weather(city="get_weather")'
