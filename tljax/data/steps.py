"""Assistant steps as tokens and weights: one trajectory in, one Step for each of its assistant turns out."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from tljax.data.mae import Rule
from tljax.data.pkt import key_offsets, key_weight, token_range, token_weights
from tljax.data.prompt import RenderedTrajectory, render_trajectory
from tljax.data.reader import TrajectoryDataset
from tljax.data.tokenizer import Tokenizer
from tljax.data.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Step:
    """One assistant turn with all that precedes it.

    tokens: int32 [T], prompt, reply and end token; empty in a blocked step
    reply_start: index in `tokens` of the first reply token
    key, name_token: positions from the first reply token; `name_token` is where the tool's name begins
    weight: of the key tokens; weights: float32 [T - reply_start], the end token's included
    length: T, also in a step that was blocked for its length; 0 where MAE blocked it
    unlisted: the called tool's name where the prompt does not list it, else ""
    """

    id: str | int
    step: int
    kept: bool
    reason: str | None
    reply: str
    text: str
    tokens: np.ndarray
    reply_start: int
    key: tuple[int, ...]
    name_token: int | None
    weight: float
    weights: np.ndarray
    length: int = 0
    unlisted: str = ""


def tokenize_trajectories(
    data: Any, source: TrajectoryDataset, rule: Rule, tokenizer: Tokenizer, doing: str
) -> Iterator[list[Step]]:
    """The steps of one trajectory after another, by a config's `data` block; `doing` labels a terminal's bar."""
    for trajectory in tqdm(source.trajectories(), total=len(source), desc=doing, unit="row", disable=None):
        yield tokenize_steps(
            trajectory,
            rule=rule,
            dialect=data.dialect,
            tokenizer=tokenizer,
            pkt=data.pkt,
            w_max=data.w_max,
            max_tokens=data.max_tokens,
        )


def tokenize_steps(
    trajectory: Trajectory, *, rule: Rule, dialect: str, tokenizer: Tokenizer, pkt: str, w_max: float, max_tokens: int
) -> list[Step]:
    """The steps of a trajectory, in order; those that `rule` blocks and those over `max_tokens` carry no tokens.

    Every step's text is tokenized on its own, so that its tokens are those that inference sees.
    """
    rendered = render_trajectory(trajectory, dialect)
    steps = []
    for k, decision in enumerate(rule(trajectory)):
        reply = rendered.replies[k]
        text = rendered.text[: reply.end]
        what = (trajectory.id, k + 1, text[reply.text_start :], text)
        if not decision.kept:
            steps.append(_blocked(*what, decision.reason, 0))
            continue
        ids, spans = tokenizer.encode(text)
        length = len(ids) + 1
        start = bisect_left(spans, reply.start, key=lambda span: span[0])
        if length > max_tokens:
            reason = f"too long: {length} tokens with the end token, at most {max_tokens} are allowed (data.max_tokens)"
            steps.append(_blocked(*what, reason, length))
            continue
        if spans[start - 1][1] > reply.start:
            # Inference would end its prompt with other tokens than training saw.
            steps.append(_blocked(*what, 'reply start inside a token: the tokenizer joins "Assistant:" to it', length))
            continue
        key, name_token = _key(tokenizer, ids, spans, rendered, k, start, lone_blank=pkt == "release")
        weight = key_weight(pkt, w_max, key, [text[a:b] for a, b in spans[start:]])
        weights = token_weights(length - start, key, weight)
        tokens = np.asarray([*ids, tokenizer.eos_id], np.int32)
        unlisted = _unlisted(rendered, k)
        steps.append(
            Step(*what[:2], True, None, *what[2:], tokens, start, key, name_token, weight, weights, length, unlisted)
        )
    return steps


def format_unlisted_tools(names: Counter[str]) -> str:
    """What a user should know of kept calls to tools that their prompts do not list.

    The model learns to call what it cannot see, and the reward counts such a call as a hallucinated tool.
    """
    shown = ", ".join(f"{name}: {count:,}" for name, count in names.most_common(5)) + ", ..." * (len(names) > 5)
    return f"{names.total():,} kept calls name a tool that their prompt does not list ({shown})"


def _unlisted(rendered: RenderedTrajectory, k: int) -> str:
    name = rendered.replies[k].name
    called = rendered.text[slice(*name)] if name else ""
    return "" if called in {rendered.text[slice(*span)] for span in rendered.tool_names} else called


def _blocked(identity: str | int, step: int, reply: str, text: str, reason: str | None, length: int) -> Step:
    none = np.zeros(0, np.int32), 0, (), None, 1.0, np.zeros(0, np.float32)
    return Step(identity, step, False, reason, reply, text, *none, length)


def _key(
    tokenizer: Tokenizer,
    ids: list[int],
    spans: list[tuple[int, int]],
    rendered: RenderedTrajectory,
    k: int,
    start: int,
    *,
    lone_blank: bool,
) -> tuple[tuple[int, ...], int | None]:
    """Key positions of reply `k` and the position of its name, from the first reply token `start`."""
    text, name = rendered.text, rendered.replies[k].name
    if name is None:
        return (), None
    called = token_range(text, spans, *name, lone_blank=lone_blank)
    others = [span for span in rendered.tool_names if text[slice(*span)] != text[slice(*name)]]
    if text[name[0] - 1] == " ":
        listed = [[ids[i] for i in token_range(text, spans, *span, lone_blank=lone_blank)] for span in others]
    else:
        listed = [_retokenized(tokenizer, text, name, span) for span in others]
    offsets = key_offsets([ids[i] for i in called], listed)
    first = called.start - start
    return tuple(first + offset for offset in offsets if called.start + offset < len(ids)), first


def _retokenized(tokenizer: Tokenizer, text: str, name: tuple[int, int], other: tuple[int, int]) -> list[int]:
    """The tokens of another tool's name in the called one's place.

    A call below free text begins its line, so its first token has no blank and differs from every one in the tool list.
    """
    lead = text[max(name[0] - 8, 0) : name[0]]
    line = f"{lead}{text[slice(*other)]}("
    ids, spans = tokenizer.encode(line)
    return [ids[i] for i in token_range(line, spans, len(lead), len(line) - 1, lone_blank=False)]
