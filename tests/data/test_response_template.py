"""tokenizer.parse_response of transformers reads every reply that a dialect writes, by the template that we export."""

import json

import pytest

from tljax.calls.render import DIALECTS, render_call
from tljax.calls.tool import Call, Tool
from tljax.data.dialect import open_dialect
from tljax.data.formats.read import trajectory_from_record
from tljax.data.prompt import render_prompt, render_steps
from tljax.data.response_template import response_template
from tljax.data.tokenizer import load_tokenizer
from tljax.data.trajectory import Trajectory, Turn

REASON = "transformers has response templates from 5.13 on"
parsing = pytest.importorskip("transformers.utils.chat_parsing", reason=REASON)


@pytest.fixture(scope="module")
def real_calls(shared):
    """1,000 calls of real files, with odd names, nested values and every kind of quote."""
    calls = []
    for name in ("bfcl_multiturn_errors.json", "toolalpaca_verified.json", "rotbench_third_slight.json"):
        rows = json.loads((shared / "data/train" / name).read_text())
        for i, row in enumerate(rows, start=1):
            calls += [turn.call for turn in trajectory_from_record(row, name, i).turns if turn.call]
    for i, line in enumerate((shared / "data/train/tau_airline.jsonl").read_text().splitlines()[:60], start=1):
        calls += [turn.call for turn in trajectory_from_record(json.loads(line), "tau", i).turns if turn.call]
    odd = Call("get-it.now", {"a, b": "x) = (\"y\", 'z')\n</t>", "c": [{"d": None}, [True, 1.5]], "e": "é\\", "f": {}})
    return [odd, *calls][:1000]


def parsed(template, prompt, reply):
    message = parsing.parse_response(reply, template, prefix=prompt)
    functions = [call["function"] for call in message.get("tool_calls", [])]
    return [(function["name"], function["arguments"]) for function in functions], message


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "readme"])
def test_calls_of_the_text_dialects_come_back(dialect, real_calls):
    assert len(real_calls) == 1000
    template = response_template(dialect, "</s>")
    prompt = "System: Function:\ndef f(): x\nUser: f(a=1)?\nAssistant:"
    for i, call in enumerate(real_calls):
        text = "Let me see (now).\n" if i % 3 == 0 else ""
        calls, message = parsed(template, prompt, f" {text}{render_call(call, dialect)}" + "</s>" * (i % 2))
        assert calls == [(call.name, call.arguments)]
        assert message.get("content", "") == text.strip()
    assert parsed(template, prompt, " It is sunny (in Bern).</s>") == (
        [],
        {"role": "assistant", "content": "It is sunny (in Bern)."},
    )


def test_readme_calls_come_back_apart_from_escapes(real_calls):
    template, read = response_template("readme", "</s>"), 0
    for call in real_calls:
        calls, _ = parsed(template, "User: x\nAssistant:", f" {render_call(call, 'readme')}</s>")
        assert [name for name, _ in calls] == [call.name] and [*calls[0][1]] == [*call.arguments]
        plain = not any(sign in repr(call.arguments) for sign in ("\\", '"', "True", "False", "None"))
        read += plain
        assert not plain or calls[0][1] == call.arguments
    assert read > 800


def test_calls_of_chat_templates_come_back(opened, real_calls):
    name, template, tokenizer, _ = opened
    end = tokenizer.backend.id_to_token(tokenizer.eos_id)
    spec = response_template(template, end)
    usable = real_calls
    if name == "pythonic":  # transformers' parser of Python takes identifiers alone for names of parameters
        usable = [call for call in real_calls if all(key.isidentifier() for key in call.arguments)]
    assert len(usable) > 900
    for call in usable[::4]:
        tools, query = (Tool(call.name, "", {}, ()),), Turn("user", "Go.")
        (step,) = render_steps(Trajectory("1", tools, (query, Turn("assistant", call=call))), template)
        prompt = render_prompt(tools, [query], template)
        calls, message = parsed(spec, prompt, step.text[step.reply.start :] + end)
        assert calls == [(call.name, call.arguments)] and not message.get("content")
    answer = (Turn("user", "Hi"), Turn("assistant", "Sunny (in Bern)."))
    (step,) = render_steps(Trajectory("1", (Tool("f", "", {}, ()),), answer), template)
    calls, message = parsed(spec, step.text[: step.reply.start], step.text[step.reply.start :] + end)
    assert calls == [] and message["content"] == "Sunny (in Bern)."


def test_an_unknown_form_of_calls_has_no_response_template(folder_of):
    source = (
        "{{ tools | tojson }}{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}"
        "{% for c in m.tool_calls or [] %}CALL {{ c.function.name }} OF {{ c.function.arguments | tojson }}{% endfor %}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    tokenizer = load_tokenizer(str(folder_of("other", source)))
    template, _ = open_dialect("template", "", tokenizer, "data.chat_template")
    assert response_template(template, "<|im_end|>") is None
