"""The agent loop under scripted policies: what it passes on, token by token, and how every dialogue ends."""

import json
import time
from collections import Counter

import pytest

from tljax.agent.dialogues import DialogueRequest, toolbox_requests
from tljax.agent.executors import MockExecutor, ToolboxExecutor
from tljax.agent.loop import DialogueLimits, Opening, final_answer, run_dialogues
from tljax.agent.scores import count_outcomes, dialogue_row, dialogue_scores
from tljax.calls.compare import as_tool_list
from tljax.calls.render import DIALECTS, render_call
from tljax.calls.tool import Call
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import load_rule
from tljax.data.prompt import render_prompt
from tljax.data.steps import TokenizeOptions, tokenize_steps
from tljax.data.tokenizer import load_tokenizer
from tljax.data.trajectory import Turn
from tljax.toolbox.embedded import resolve_model_path
from tljax.toolbox.execute import Result
from tljax.toolbox.tools import TOOLS
from tljax.toolbox.trajectories import generate_trajectories

LIMITS = DialogueLimits(turns=8, tokens=8192, new_tokens=64, repeats=3)


@pytest.fixture(scope="session")
def tokenizers(shared):
    return {
        "toolbox": load_tokenizer(resolve_model_path("base")),
        "llama2": load_tokenizer(str(shared / "tokenizer/llama2")),
    }


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_model_path("base"))


class Reply:
    def __init__(self, tokens, ended=True):
        self.tokens, self.ended = tokens, ended


class Scripted:
    """Replies by the prompt that a dialogue begins with, the last one again and again; `seen` is what was read."""

    def __init__(self, tokenizer, scripts):
        """scripts: prompt -> texts; a text that ends with "..." is a reply that was cut off there."""
        self.tokenizer, self.seen, self.widths = tokenizer, {}, []
        self.scripts = {prompt: (tokenizer.encode(prompt)[0], texts) for prompt, texts in scripts.items()}

    def __call__(self, dialogues):
        self.widths.append(len(dialogues))
        return [self.reply(dialogue) for dialogue in dialogues]

    def reply(self, tokens):
        prompt = next(prompt for prompt, (begin, _) in self.scripts.items() if tokens[: len(begin)] == begin)
        texts, seen = self.scripts[prompt][1], self.seen.setdefault(prompt, [])
        text = texts[min(len(seen), len(texts) - 1)]
        seen.append(tokens)
        return Reply(self.tokenizer.encode_continuation(" " + text.removesuffix("...")), not text.endswith("..."))


def held(openings, policy, tokenizer, limits=LIMITS, rows=4):
    found = [
        d for ended in run_dialogues(list(enumerate(openings)), policy, tokenizer, limits, rows=rows) for d in ended
    ]
    return sorted(found, key=lambda dialogue: dialogue.number)


class Replayed:
    """Gives the feedback of a recorded trajectory."""

    def __init__(self, texts):
        self.texts = iter(texts)

    def execute(self, call):
        return Result(next(self.texts, ""), False)

    def close(self):
        pass


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["toolbox", "llama2"])
@pytest.mark.parametrize("source", ["toolbox", "rotbench"])
def test_a_dialogue_has_the_tokens_of_training(tokenizers, shared, name, dialect, source):
    if source == "toolbox":
        rows = list(generate_trajectories(seed=3, n=25, error_share=0.4, split="train"))
    else:
        rows = json.loads((shared / "data/train/rotbench_third_clean.json").read_text())[:25]
    tokenizer, compared = tokenizers[name], 0
    for number, row in enumerate(rows, 1):
        trajectory = trajectory_from_record(row, source, number)
        turns = trajectory.turns
        while len(turns) > 1 and turns[-1].role != "assistant":
            turns = turns[:-1]
        roles = [turn.role for turn in turns]
        if roles != ["user"] + ["assistant", "function"] * (len(roles) // 2 - 1) + ["assistant"]:
            continue  # a call without feedback, or a question to the user
        options = TokenizeOptions(dialect=dialect, pkt="none", w_max=9.0, max_tokens=16384)
        steps = tokenize_steps(trajectory, load_rule("none"), tokenizer, options)
        replies = [step.tokenized for step in steps]
        texts = [turn.text for turn in turns if turn.role == "function"]
        prompt = render_prompt(trajectory.tools, turns[:1], dialect)
        opening = Opening(prompt, as_tool_list(trajectory.tools), "finish", lambda texts=texts: Replayed(texts))
        policy = Scripted(tokenizer, {prompt: [step.reply for step in steps]})
        limits = DialogueLimits(turns=len(steps), tokens=16384, new_tokens=1, repeats=99)
        (dialogue,) = held([opening], policy, tokenizer, limits)
        assert policy.seen[prompt] == [reply.tokens[: reply.reply_start].tolist() for reply in replies]
        # As in training, only the last reply is followed by an end token, which the dialogue leaves out.
        assert dialogue.tokens == replies[-1].tokens[:-1].tolist()
        compared += len(steps)
    assert compared > 40


def test_sampled_tokens_stay_as_they_are(tokenizer):
    """Another tokenization of the same text, as a model may sample it, is neither merged nor cut."""
    tools = as_tool_list([TOOLS["add_numbers"].schema])
    prompt = render_prompt(tools.tools, [Turn("user", "Add.")], "mae")
    text = " add_numbers(first=1, second=2)"
    pieces = [token for char in text.strip() for token in tokenizer.encode_continuation(" " + char)[-1:]]
    assert tokenizer.decode(pieces).replace(" ", "") == text.replace(" ", "") and len(pieces) == len(text) - 2 + 1
    assert pieces != tokenizer.encode_continuation(text)
    seen = []

    def policy(dialogues):
        seen.extend(dialogues)
        return [Reply(pieces)]

    opening = Opening(prompt, tools, "finish", lambda: Replayed(["3", "3"]))
    (dialogue,) = held([opening], policy, tokenizer, DialogueLimits(2, 8192, 8, 99))
    assert dialogue.outcome == "turn_limit"
    begin = tokenizer.encode(prompt)[0]
    assert seen[1] == begin + pieces + tokenizer.encode_continuation("\nOutput: 3\nAssistant:")


def tasks_of(n, dialect="mae"):
    return [asked for asked in toolbox_requests(n, dialect) if asked.task is not None]


def solution(asked, dialect="mae"):
    return [render_call(call, dialect) for call in asked.task.calls]


def scored(asked, dialogues):
    return [dialogue_row(asked[dialogue.number], dialogue) for dialogue in dialogues]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_perfect_policy_solves_every_task(tokenizer, dialect):
    asked = tasks_of(40, dialect)
    policy = Scripted(tokenizer, {one.opening.prompt: solution(one, dialect) for one in asked})
    rows = scored(asked, held([one.opening for one in asked], policy, tokenizer, rows=16))
    figures, calls = dialogue_scores(rows), sum(len(one.task.calls) for one in asked)
    changing = sum(bool(one.task.state) for one in asked)
    found = {name: (figure.count, figure.n) for name, figure in figures.items()}
    assert found == {"success": (80, 80), "answer": (80, 80), "state": (changing, changing), "VA": (80, 80)} | {
        "DE": (0, calls),
        "CE": (0, calls),
    }
    assert count_outcomes(rows)["finish"] == 80 and changing
    # Places that become free are taken at once: rounds are full until no dialogue waits.
    assert policy.widths[:3] == [16, 16, 16] and sum(policy.widths) == calls


def first(asked):
    return asked.task.calls[0]


def with_call(name=None, **changes):
    """The solution after a failing attempt at its first call; a change to None leaves the argument out."""

    def script(asked):
        call = first(asked)
        arguments = {key: value for key, value in (call.arguments | changes).items() if value is not None}
        return [render_call(Call(name or call.name, arguments), "mae"), *solution(asked)]

    return script


def missing(asked):
    call = first(asked)
    required = TOOLS[call.name].required[0]
    arguments = {key: value for key, value in call.arguments.items() if key != required}
    return [render_call(Call(call.name, arguments), "mae"), *solution(asked)]


def mistyped(asked):
    call = first(asked)
    name = next(iter(call.arguments))
    return [render_call(Call(call.name, call.arguments | {name: {"a": [1]}}), "mae"), *solution(asked)]


def ending(reply):
    return lambda asked: [*solution(asked)[:-1], reply]


# What a policy does in each task: its script, then DE, CE, valid, solved, how it ends; calls beyond the solution's.
ERRORS = {
    "unknown tool": (with_call("no_such_tool"), 1, 1, True, True, "finish"),
    "undocumented parameter": (with_call(extra=1), 1, 1, True, True, "finish"),
    "missing parameter": (missing, 1, 1, True, True, "finish"),
    "wrong type": (mistyped, 0, 1, True, True, "finish"),
    "finish misused": (lambda one: ['finish(result="x")', *solution(one)], 1, 1, True, True, "finish"),
    "wrong answer": (ending('finish(answer="nothing of it")'), 0, 0, True, False, "finish"),
    "refusal": (ending('finish(answer="I cannot handle the task")'), 0, 0, False, False, "finish"),
    "empty answer": (ending('finish(answer=" ")'), 0, 0, False, False, "finish"),
    "prose": (ending("The answer is 42."), 0, 0, False, False, "format"),
    "cut off": (ending('finish(answer="the...'), 0, 0, False, False, "format"),
    "argument twice": (ending('finish(answer="a", answer="b")'), 0, 0, False, False, "format"),
    "nothing": (ending(""), 0, 0, False, False, "format"),
    "loop": (lambda one: ["no_such_tool()"], 3, 3, False, False, "loop"),
    "never ends": (lambda one: [f"no_such_tool(x={i})" for i in range(99)], 8, 8, False, False, "turn_limit"),
}


def test_every_error_gives_exactly_its_figures(tokenizer):
    asked = [one for one in tasks_of(60) if first(one).arguments and TOOLS[first(one).name].required]
    kinds = [list(ERRORS.values())[i % len(ERRORS)] for i in range(len(asked))]
    policy = Scripted(tokenizer, {one.opening.prompt: kind[0](one) for one, kind in zip(asked, kinds, strict=True)})
    rows = scored(asked, held([one.opening for one in asked], policy, tokenizer, rows=8))
    for row, (_, de, ce, valid, success, outcome) in zip(rows, kinds, strict=True):
        found = row["documentation_errors"], row["call_errors"], row["valid"], row["success"], row["outcome"]
        assert found == (de, ce, valid, success, outcome), row
    figures = dialogue_scores(rows)
    expected = Counter()
    for kind in kinds:
        expected.update(DE=kind[1], CE=kind[2], VA=kind[3], success=kind[4])
    assert {name: figures[name].count for name in expected} == dict(expected)
    calls = sum(sum("feedback" in one for one in row["exchanges"]) for row in rows)
    assert figures["DE"].n == figures["CE"].n == calls and figures["VA"].n == len(asked)
    assert figures["DE"].share.percent == pytest.approx(100 * expected["DE"] / calls)


def test_a_call_too_many_spoils_the_state(tokenizer):
    stocked = (one for one in tasks_of(60) if first(one).name == "remove_stock")
    one = next(one for one in stocked if int(one.task.results[0]) >= first(one).arguments["amount"])
    twice = [solution(one)[0], *solution(one)]
    policy = Scripted(tokenizer, {one.opening.prompt: twice})
    (row,) = scored([one], held([one.opening], policy, tokenizer))
    assert not row["state_right"] and not row["success"] and row["changes_state"]


def test_the_length_limit(tokenizer):
    one = tasks_of(1)[0]
    length = len(tokenizer.encode(one.opening.prompt)[0])
    policy = Scripted(tokenizer, {one.opening.prompt: solution(one)})
    (dialogue,) = held([one.opening], policy, tokenizer, DialogueLimits(8, length + 63, 64, 3))
    assert (dialogue.outcome, dialogue.exchanges, policy.widths) == ("length_limit", [], [])
    (dialogue,) = held([one.opening], policy, tokenizer, DialogueLimits(8, length + 64, 64, 3))
    assert dialogue.outcome == "length_limit" and len(dialogue.exchanges) == 1
    wanted = len(dialogue.tokens) + 64
    assert dialogue.detail == f"{wanted:,} tokens with the next reply, at most {length + 64:,} are allowed"


def test_without_finish_a_reply_without_a_call_is_the_answer(tokenizer):
    tools = as_tool_list([TOOLS["add_numbers"].schema])
    prompt = render_prompt(tools.tools, [Turn("user", "Add 1 and 2.")], "mae")
    opening = Opening(prompt, tools, None, lambda: ToolboxExecutor(["add_numbers"]))
    policy = Scripted(tokenizer, {prompt: ["add_numbers(first=1, second=2)", "That makes 3."]})
    (dialogue,) = held([opening], policy, tokenizer)
    assert (dialogue.outcome, dialogue.answer) == ("finish", "That makes 3.")
    for last in ("That makes...", "", "add_numbers(first=1"):
        policy = Scripted(tokenizer, {prompt: [last]})
        (dialogue,) = held([opening], policy, tokenizer)
        assert (dialogue.outcome, dialogue.answer) == ("format", None)


def test_executors_are_closed_and_a_dialogue_calls_one_tool_at_a_time(tokenizer):
    class Slow(MockExecutor):
        opened, closed = [], []

        def __init__(self, tools):
            super().__init__(tools)
            self.opened.append(self)

        def execute(self, call):
            time.sleep(0.2)
            return super().execute(call)

        def close(self):
            self.closed.append(self)

    tools = as_tool_list([TOOLS["add_numbers"].schema])
    prompts = [render_prompt(tools.tools, [Turn("user", f"Add {i}.")], "mae") for i in range(8)]
    openings = [Opening(prompt, tools, "finish", lambda: Slow(tools)) for prompt in prompts]
    policy = Scripted(tokenizer, {prompt: ["add_numbers(first=1, second=2)"] for prompt in prompts})
    begin = time.perf_counter()
    rounds = run_dialogues(enumerate(openings), policy, tokenizer, LIMITS, rows=8, calls_at_once=8)
    assert next(rounds) == [] and time.perf_counter() - begin < 1.2
    rounds.close()
    assert len(Slow.opened) == 8 and set(map(id, Slow.opened)) == set(map(id, Slow.closed))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"answer": "a"}, "a"),
        ({"reply": 3, "more": [1, "x"]}, '3, [1, "x"]'),
        ({}, ""),
        ({"answer": "\ud800"}, "\\ud800"),
        ({"answer": float("nan")}, "<class 'float'>"),
    ],
)
def test_answers_as_text(arguments, text):
    assert final_answer(Call("finish", arguments)) == text


def test_a_row_is_json_whatever_was_called(tokenizer):
    tools = as_tool_list([TOOLS["add_numbers"].schema])
    prompt = render_prompt(tools.tools, [Turn("user", "Add.")], "mae")
    texts = ['add_numbers(first="\\ud800", second=nan)', "add_numbers(" + "[" * 80 + "]" * 80 + ")", 'x(\\="")']
    policy = Scripted(tokenizer, {prompt: texts})
    opening = Opening(prompt, tools, "finish", lambda: MockExecutor(tools))
    (dialogue,) = held([opening], policy, tokenizer, DialogueLimits(3, 8192, 64, 3))
    assert json.dumps(
        dialogue_row(DialogueRequest("set", 1, "Add.", opening), dialogue), ensure_ascii=False, allow_nan=False
    ).encode()
