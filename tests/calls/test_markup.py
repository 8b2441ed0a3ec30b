"""Marks around a call: none of them changes the calls of a reply, its reward or its score."""

import json
import random
import time

import pytest

from tljax.calls.parse import parse_calls
from tljax.calls.tool import Call, Tool
from tljax.rl.irm import reward

PAY = Tool("pay", "", {"amount": {"type": "integer"}, "to": {"type": "string"}}, ("amount",))
SAVE = Tool("save", "", {"record": {"type": "object"}}, ("record",))
TOOLS = (PAY, SAVE)
CALL = 'pay(amount=3, to="Ann")'
PAID = Call("pay", {"amount": 3, "to": "Ann"})

AROUND = [
    "<tool_call>{}</tool_call>",
    "<tool_call>\n{}\n</tool_call>",
    "<tool_call>\nAssistant: {}",
    "<|python_start|>[{}]<|python_end|>",
    "<|python_tag|>{}<|eom_id|>",
    "<|im_start|>assistant\n{}<|im_end|>",
    "[TOOL_CALLS]{}",
    "<code>{}</code>",
    "**{}**",
    "***{}***",
    "*{}*",
    "__{}__",
    "- **{}**",
    "**Call:** {}",
    '"{}"',
    "> {}",
    "`{}`",
    "```python\n{}\n```",
    "{}.",
    "{}<|eot_id|>",
    "{}</s>",
    "<think>pay(amount=4)?</think> {}",
    "<thinking>\nNot pay(amount=4).\nUser: pays\n</thinking>\n\n```python\n{}\n```",
    "Sure.\n<think>pay(\nUser: pays</think>\n{}",
    "[THINK]pay(amount=4)[/THINK]{}",
    "pay(amount=4)? It's 3.\n</think>\n\n{}",
    "<think>pay(</think>\n<think>save(</think>\n<tool_call>{}</tool_call>",
]


@pytest.mark.parametrize("around", AROUND)
def test_marks_around_a_call_are_no_part_of_it(around):
    # A name that no tool list has may begin with a quote.
    for tools in (TOOLS, ()) if around != '"{}"' else (TOOLS,):
        parsed = parse_calls(around.replace("{}", CALL), tools)
        assert (parsed.calls, parsed.issue) == ((PAID,), None)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(
    "call",
    [
        CALL,
        "pay(amount=3)",
        "pay(amount=4, to='Ann')",
        "pay(sum=3)",
        "pay(3, 'Ann', 5)",
        "save(record={})",
        "steal(a=1)",
    ],
)
def test_no_reward_rises_or_falls_by_marks_around_the_call(around, call):
    tools = [{"name": t.name, "parameters": {"properties": t.properties, "required": list(t.required)}} for t in TOOLS]
    if call.startswith("steal") and around == '"{}"':
        assert reward(around.replace("{}", call), CALL, tools).kind == reward(call, CALL, tools).kind
    else:
        assert reward(around.replace("{}", call), CALL, tools) == reward(call, CALL, tools)


@pytest.mark.parametrize("name", ["**pay**", "`pay`", "<b>pay</b>"])
def test_marks_around_the_name_are_no_part_of_it(name):
    for tools in (TOOLS, ()):
        assert parse_calls(f"Use {name}(amount=3).", tools).calls == (Call("pay", {"amount": 3}),)


@pytest.mark.parametrize(
    "text",
    [
        "<think>pay(amount=3)",
        "<think>Should I pay(amount=3)?</think> Nothing to do.",
        "pay(amount=3)? No.</think> Nothing to do.",
        "<b>Nothing</b> to **pay** (today).",
        "<tool_call></tool_call>",
    ],
)
def test_text_about_calls_and_reasoning_make_no_call(text):
    assert parse_calls(text, TOOLS).issue == "no_call"


def test_the_text_before_the_first_call_has_no_reasoning_and_no_mark_of_the_call():
    before = parse_calls(f"<think>pay(amount=1)</think>I *really* <b>pay</b>.\n<tool_call>{CALL}</tool_call>", TOOLS)
    assert (before.calls, before.text_before) == ((PAID,), "I *really* <b>pay</b>.")
    assert parse_calls(f"**{CALL}**", TOOLS).text_before == ""


def test_each_tag_of_several_holds_a_call():
    text = f"<tool_call>{CALL}</tool_call> and then <tool_call>save(record=1)</tool_call>"
    assert parse_calls(text).calls == (PAID, Call("save", {"record": 1}))


def test_marks_within_values_stay():
    for value in ("<think>", "</think>", "<tool_call>pay(amount=1)</tool_call>", "**x**", "# x", "[TOOL_CALLS]"):
        text = f"save(record={value!r})\n**pay(amount=3)**"
        assert parse_calls(text).calls == (Call("save", {"record": value}), Call("pay", {"amount": 3})), value


@pytest.mark.parametrize("name", ["**pay", "<tool_call>pay", "<think>", "__pay", "`a`", "<b>c</b>", "[TOOL_CALLS]"])
def test_a_listed_name_may_hold_marks(name):
    tools = (Tool(name, "", {"amount": {}}, ()), PAY)
    assert parse_calls(f"{name}(amount=3)", tools).calls == (Call(name, {"amount": 3}),)
    assert parse_calls(f"<tool_call>{name}(amount=3)</tool_call>", tools).calls == (Call(name, {"amount": 3}),)


def test_a_name_with_marks_leaves_the_marks_around_other_names():
    tools = (Tool("**pay", "", {}, ()), Tool("<think>", "", {}, ()), PAY)
    assert parse_calls(f"<think>pay(3)</think><tool_call>{CALL}</tool_call>", tools).calls[-1] == PAID
    assert parse_calls(f"*{CALL}*", tools).calls == (PAID,)


@pytest.mark.parametrize(
    "text",
    [
        'pay(amount=3, # it\'s 3, not (4\n to="Ann")',
        'pay(  # the sum\n amount=3,\n # to="Bob"\n to="Ann"  # her\n)',
        'pay(to="Ann", amount=3 # x\n)',
        'pay(**{"amount": 3, "to": "Ann"})',
        'pay(3, **{"to": "Ann"})',
        'pay({"amount": 3, "to": "Ann"})',
    ],
)
def test_comments_and_unpacked_objects_in_a_call(text):
    parsed = parse_calls(text, TOOLS)
    assert parsed.issue is None and parsed.calls[0].arguments == PAID.arguments


def test_a_comment_begins_only_after_a_mark_or_a_value():
    assert parse_calls("pay(to=Apt #5,\n amount=3)", TOOLS).calls[0].arguments == {"to": "Apt #5", "amount": 3}
    assert parse_calls("pay(to='#5\n', amount=3)", TOOLS).calls[0].arguments == {"to": "#5\n", "amount": 3}
    assert parse_calls("pay(amount=[1, # a\n 2 # b\n])", TOOLS).calls[0].arguments == {"amount": [1, 2]}


def test_an_object_that_does_not_hold_the_arguments_is_one_argument():
    assert parse_calls('save({"record": 1})', TOOLS).calls[0].arguments == {"record": {"record": 1}}
    assert parse_calls('pay({"sum": 3})', TOOLS).calls[0].arguments == {"amount": {"sum": 3}}
    assert parse_calls('steal({"amount": 3})', TOOLS).calls[0].arguments == {"0": {"amount": 3}}
    assert parse_calls('steal(**{"amount": 3})', TOOLS).calls[0].arguments == {"amount": 3}
    assert parse_calls('pay(amount=1, **{"amount": 3})', TOOLS).issue == "duplicate_argument"


@pytest.mark.parametrize("arguments", ["amount: 3", "amount:3", '"amount": 3', 'to="Ann", amount: 3', "sum: 3"])
def test_a_colon_for_the_equals_sign_is_a_format_error(arguments):
    assert parse_calls(f"pay({arguments})", TOOLS).issue == "colon_argument"


def test_a_colon_within_a_value_is_none():
    for value in ("12:30", "'amount: 3'", "http://x", "localhost:80"):
        assert parse_calls(f"pay({value})", TOOLS).issue is None


PIECES = [
    *(
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "**",
        "*",
        "__",
        "`",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "<b>",
    ),
    *("pay(", "save(", "f(", "amount=", ")", "# x", "\n", " ", '"', "'", "{", "}", "[", "]", ",", ":", "=", "</s>"),
    *('**{"a": 1}', "3", "\nUser: ", "```", "<b>", "</b>", CALL, "text", "\\"),
]


def test_any_mixture_of_marks_and_calls_is_read():
    generator = random.Random(0)
    for _ in range(20_000):
        text = "".join(generator.choices(PIECES, k=generator.randrange(1, 15)))
        parsed = parse_calls(text, TOOLS)
        assert (parsed.issue == "no_call") == (not parsed.calls), text
        json.dumps([call.arguments for call in parsed.calls])


@pytest.mark.parametrize(
    "piece", [*PIECES, "<think></think>", "f('<think>')", "f(a=1, #x\n", "_a.", "*a", "**a**", "f(#"]
)
def test_long_repetitions_take_linear_time(piece):
    start = time.process_time()
    for head in ("", "f(", "<think>"):
        parse_calls(head + piece * (40_000 // len(piece)), TOOLS)
    # Some 0.2 s; a search of the rest of the text at every mark takes minutes.
    assert time.process_time() - start < 6
