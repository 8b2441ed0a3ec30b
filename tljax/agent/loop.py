"""Dialogues: the cycle of reply -> parse -> execute -> `Output:` turn, repeated until `finish` or a failure.

Many dialogues proceed side by side, so that the model always has a full batch. A dialogue is a growing list of tokens:
sampled tokens stay unchanged, the feedback of tools is encoded and appended, and nothing is tokenized twice.
"""

import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from tljax.agent.executors import Executor, documentation_error
from tljax.calls.compare import Comparison, ToolList, values_equal
from tljax.calls.parse import ParsedText
from tljax.calls.tool import Call
from tljax.data.prompt import Dialect, render_feedback
from tljax.data.tokenizer import Tokenizer
from tljax.toolbox.execute import Result, escape_surrogates, json_text

# How a dialogue ends: with an answer; with a reply that is not a well-formed call; with a call that keeps getting the
# same feedback; after the maximal number of replies; when another reply might exceed the length limit; before the first
# reply, since the user's environment could not begin.
OUTCOMES = FINISH, FORMAT, LOOP, TURN_LIMIT, LENGTH_LIMIT, ENVIRONMENT = (
    *("finish", "format", "loop", "turn_limit", "length_limit", "environment"),
)


class SampledReply(Protocol):
    """A reply of a policy: its tokens without the end token; `ended` is True if there was an end token."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def ended(self) -> bool: ...


# Dialogues as token lists, each of which ends with "Assistant:" -> the reply to each, in order.
Policy = Callable[[list[list[int]]], Sequence[SampledReply]]
# The same from the dialogues themselves, for policies whose replies depend on a dialogue's number.
DialoguePolicy = Callable[[list["Dialogue"]], Sequence[SampledReply]]


@dataclass(frozen=True, slots=True)
class Opening:
    """The beginning of a dialogue.

    prompt: the text up to the first "Assistant:", inclusive. tools: the tools that the prompt lists. finish: the tool
    that ends the dialogue; if None, a reply without a call ends it and is the answer. open_tools: returns an executor
    for the calls of one dialogue, with its own state. dialect: that of the prompt, in which feedback is written. begin:
    for an environment that shows something before the first reply, the prompt with it, or an error; None for others.
    """

    prompt: str
    tools: ToolList
    finish: str | None
    open_tools: Callable[[], Executor]
    dialect: Dialect = "mae"
    begin: Callable[[Any], Result] | None = None  # from what open_tools returns


@dataclass(frozen=True, slots=True)
class DialogueLimits:
    """Limits on the numbers of replies, of tokens in a dialogue and in a reply, and equal calls with equal feedback."""

    turns: int
    tokens: int
    new_tokens: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """One reply with its call and the result; both are None if the reply makes no call.

    undocumented: the contradiction between call and tool list as a Python error text; None if there is none.
    """

    reply: str
    call: Call | None = None
    undocumented: str | None = None
    result: Result | None = None


@dataclass(slots=True)
class Dialogue:
    """A dialogue in progress; it has ended once `outcome` is one of OUTCOMES. `detail` explains a failure.

    number: the number of its opening. tokens: those of the prompt, the replies without end tokens, and the feedback.
    replies: the sampled replies, one for each exchange, each with the number of tokens before it. answer: the arguments
    with which `finish` was called.
    """

    number: int
    opening: Opening
    executor: Executor
    tokens: list[int]
    exchanges: list[Exchange] = field(default_factory=list)
    replies: list[tuple[int, SampledReply]] = field(default_factory=list)
    outcome: str = ""
    detail: str = ""
    answer: str | None = None

    def end(self, outcome: str, detail: str = "") -> None:
        self.outcome, self.detail = outcome, detail


def run_dialogues(
    openings: Iterable[tuple[int, Opening]],
    policy: Policy,
    tokenizer: Tokenizer,
    limits: DialogueLimits,
    *,
    rows: int,
    calls_at_once: int = 1,
) -> Generator[list[Dialogue], None, None]:
    """Holds dialogues as `hold_dialogues` does, by a policy that reads their tokens alone."""

    def reply(dialogues: list[Dialogue]) -> Sequence[SampledReply]:
        return policy([list(dialogue.tokens) for dialogue in dialogues])

    yield from hold_dialogues(openings, reply, tokenizer, limits, rows=rows, calls_at_once=calls_at_once)


def hold_dialogues(
    openings: Iterable[tuple[int, Opening]],
    policy: DialoguePolicy,
    tokenizer: Tokenizer,
    limits: DialogueLimits,
    *,
    rows: int,
    calls_at_once: int = 1,
) -> Generator[list[Dialogue], None, None]:
    """Generates a dialogue from every (number, opening), `rows` side by side; yields ended ones after each round.

    A round is one reply of every open dialogue; ended dialogues are replaced by the next openings. Up to
    `calls_at_once` threads call tools, at most one for each dialogue. Exceptions of the policy and of the executors
    pass through; the executors are always closed.
    """
    waiting = iter(openings)
    open_: list[Dialogue] = []
    pool = ThreadPoolExecutor(calls_at_once)
    try:
        while True:
            open_ += pool.map(lambda item: _begin(item[0], item[1], tokenizer), islice(waiting, rows - len(open_)))
            if not open_:
                return
            for dialogue in open_:
                if not dialogue.outcome:
                    _check_length(dialogue, limits)
            active = [dialogue for dialogue in open_ if not dialogue.outcome]
            replies = policy(active) if active else []
            if len(replies) != len(active):
                raise ValueError(f"the policy gives {len(replies)} replies to {len(active)} dialogues")
            add_reply = functools.partial(_add_reply, tokenizer=tokenizer, limits=limits)
            list(pool.map(add_reply, active, replies))
            ended = [dialogue for dialogue in open_ if dialogue.outcome]
            open_ = [dialogue for dialogue in open_ if not dialogue.outcome]
            list(pool.map(lambda dialogue: dialogue.executor.close(), ended))
            yield ended
    finally:
        pool.shutdown(cancel_futures=True)
        for dialogue in open_:
            dialogue.executor.close()


def _begin(number: int, opening: Opening, tokenizer: Tokenizer) -> Dialogue:
    executor = opening.open_tools()
    begun = Result(opening.prompt, False) if opening.begin is None else opening.begin(executor)
    dialogue = Dialogue(number, opening, executor, tokenizer.encode(opening.prompt if begun.error else begun.value)[0])
    if begun.error:
        dialogue.end(ENVIRONMENT, begun.value)
    return dialogue


def has_room_for_reply(tokens: int, limits: DialogueLimits) -> bool:
    """Returns True if a dialogue of `tokens` tokens has room for a reply."""
    return tokens + limits.new_tokens <= limits.tokens


def _check_length(dialogue: Dialogue, limits: DialogueLimits) -> None:
    length = len(dialogue.tokens)
    if not has_room_for_reply(length, limits):
        detail = f"{length + limits.new_tokens:,} tokens with the next reply, at most {limits.tokens:,} are allowed"
        dialogue.end(LENGTH_LIMIT, detail)


def _add_reply(dialogue: Dialogue, reply: SampledReply, tokenizer: Tokenizer, limits: DialogueLimits) -> None:
    """Adds a reply to a dialogue, runs its call, and adds the feedback or ends the dialogue."""
    opening = dialogue.opening
    dialogue.replies.append((len(dialogue.tokens), reply))
    dialogue.tokens += reply.tokens
    text = tokenizer.decode(reply.tokens).strip()
    parsed = opening.tools.parse(text)
    if parsed.issue is not None:
        dialogue.exchanges.append(Exchange(text))
        if opening.finish is None and parsed.issue == "no_call" and text and reply.ended:
            dialogue.answer = text
            dialogue.end(FINISH)
        else:
            dialogue.end(FORMAT, _format_error(parsed, reply, limits))
        return
    # One call for each reply, as in training: a second call would not know the feedback of the first.
    call = parsed.calls[0]
    result = dialogue.executor.execute(call)
    exchange = Exchange(text, call, documentation_error(call, opening.tools), result)
    dialogue.exchanges.append(exchange)
    if call.name == opening.finish and not result.error:
        dialogue.answer = final_answer(call)
        dialogue.end(FINISH)
    elif sum(_repeats(exchange, other) for other in dialogue.exchanges) >= limits.repeats:
        dialogue.end(LOOP, f"the same call with the same feedback, {limits.repeats} times")
    elif len(dialogue.exchanges) >= limits.turns:
        dialogue.end(TURN_LIMIT, f"no {opening.finish or 'answer'} in {limits.turns} replies")
    else:
        dialogue.tokens += tokenizer.encode_continuation(render_feedback(result.value, opening.dialect))


def _format_error(parsed: ParsedText, reply: SampledReply, limits: DialogueLimits) -> str:
    detail = Comparison("format", issue=parsed.issue or "").detail
    return detail if reply.ended else f"{detail}; cut off after {limits.new_tokens} tokens"


def _repeats(exchange: Exchange, other: Exchange) -> bool:
    one, two = exchange.call, other.call
    same_call = (
        one is not None and two is not None and one.name == two.name and values_equal(one.arguments, two.arguments)
    )
    return same_call and exchange.result == other.result


def final_answer(call: Call) -> str:
    """The answer in a call of `finish`: the values of its arguments, whatever their names, which noise may change."""
    return escape_surrogates(", ".join(map(_text, call.arguments.values())))


def _text(value: Any) -> str:
    try:
        return json_text(value)
    except (TypeError, ValueError, RecursionError):
        return repr(type(value))
