"""Dialogues: model call -> parse -> execute -> `Output:` turn, again and again until `finish` or a failure.

Many dialogues go on side by side, so that the model always has a full batch. A dialogue is a growing list of tokens:
what the model samples stays as it is, what the tools answer is encoded and appended, and nothing is tokenized twice.
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
from tljax.data.prompt import render_feedback
from tljax.data.tokenizer import Tokenizer
from tljax.toolbox.execute import Result, json_text, valid_unicode

# How a dialogue ends: with an answer; with a reply that is no well-formed call; with a call that keeps
# getting the same feedback; after the largest number of replies; where a further reply might exceed the length limit.
OUTCOMES = FINISH, FORMAT, LOOP, TURN_LIMIT, LENGTH_LIMIT = ("finish", "format", "loop", "turn_limit", "length_limit")


class SampledReply(Protocol):
    """A policy's reply: its tokens without the end token, and whether there was one."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def ended(self) -> bool: ...


# Dialogues as token lists, each up to and with "Assistant:" -> the reply to each, in order.
Policy = Callable[[list[list[int]]], Sequence[SampledReply]]


@dataclass(frozen=True, slots=True)
class Opening:
    """What a dialogue begins with.

    prompt: the text up to and with the first "Assistant:". tools: those that the prompt lists. finish: the tool that
    ends the dialogue; None: a reply without a call does, and is the answer. open_tools: gives what runs the calls of
    one dialogue, with a state of its own.
    """

    prompt: str
    tools: ToolList
    finish: str | None
    open_tools: Callable[[], Executor]


@dataclass(frozen=True, slots=True)
class DialogueLimits:
    """Bounds of a dialogue: replies, tokens in all, tokens of a reply, and equal calls with equal feedback."""

    turns: int
    tokens: int
    new_tokens: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """One reply and what came of it; without a call there is no result.

    undocumented: how the call contradicts the tool list, in Python's words; None where it does not.
    """

    reply: str
    call: Call | None = None
    undocumented: str | None = None
    result: Result | None = None


@dataclass(slots=True)
class Dialogue:
    """A dialogue so far, or, once `outcome` is one of OUTCOMES, all of it; `detail` says more of a failure.

    number: its opening's place. tokens: the prompt's, every reply's without its end token, every feedback's. answer:
    what `finish` was called with.
    """

    number: int
    opening: Opening
    executor: Executor
    tokens: list[int]
    exchanges: list[Exchange] = field(default_factory=list)
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
    """Holds a dialogue from every (number, opening), `rows` side by side; gives those that have ended, round by round.

    A round is one reply of every open dialogue; places that become free are taken by the next openings. Tools are
    called from up to `calls_at_once` threads, each dialogue's from one at a time. Raises what the policy and the tools'
    executors raise; the executors are closed whatever happens.
    """
    waiting = iter(openings)
    open_: list[Dialogue] = []
    pool = ThreadPoolExecutor(calls_at_once)
    try:
        while True:
            open_ += [_begin(number, one, tokenizer) for number, one in islice(waiting, rows - len(open_))]
            if not open_:
                return
            for dialogue in open_:
                _check_length(dialogue, limits)
            going = [dialogue for dialogue in open_ if not dialogue.outcome]
            replies = policy([list(dialogue.tokens) for dialogue in going]) if going else []
            if len(replies) != len(going):
                raise ValueError(f"the policy gives {len(replies)} replies to {len(going)} dialogues")
            take = functools.partial(_take, tokenizer=tokenizer, limits=limits)
            list(pool.map(take, going, replies))
            ended = [dialogue for dialogue in open_ if dialogue.outcome]
            open_ = [dialogue for dialogue in open_ if not dialogue.outcome]
            for dialogue in ended:
                dialogue.executor.close()
            yield ended
    finally:
        pool.shutdown(cancel_futures=True)
        for dialogue in open_:
            dialogue.executor.close()


def _begin(number: int, opening: Opening, tokenizer: Tokenizer) -> Dialogue:
    return Dialogue(number, opening, opening.open_tools(), tokenizer.encode(opening.prompt)[0])


def has_room_for_reply(tokens: int, limits: DialogueLimits) -> bool:
    """Whether a dialogue of so many tokens has room for a reply."""
    return tokens + limits.new_tokens <= limits.tokens


def _check_length(dialogue: Dialogue, limits: DialogueLimits) -> None:
    length = len(dialogue.tokens)
    if not has_room_for_reply(length, limits):
        told = f"{length + limits.new_tokens:,} tokens with the next reply, at most {limits.tokens:,} are allowed"
        dialogue.end(LENGTH_LIMIT, told)


def _take(dialogue: Dialogue, reply: SampledReply, tokenizer: Tokenizer, limits: DialogueLimits) -> None:
    """Adds a reply and what comes of it: feedback, or the dialogue's end."""
    opening = dialogue.opening
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
    # One call a reply, as in training; a further one would have been made without the first one's feedback.
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
        dialogue.tokens += tokenizer.encode_continuation(render_feedback(result.value))


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
    """What a call of `finish` says: its arguments' values, whatever noise has made of their names."""
    return valid_unicode(", ".join(map(_text, call.arguments.values())))


def _text(value: Any) -> str:
    try:
        return json_text(value)
    except (TypeError, ValueError, RecursionError):
        return repr(type(value))
