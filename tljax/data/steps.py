"""Trajectory -> Steps: the text of every assistant turn, and the tokens and weights of those that MAE keeps."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from tljax.core.errors import locate_errors
from tljax.data.batch_arrays import KEY_TOKEN
from tljax.data.mae import Rule
from tljax.data.pkt import (
    classify_tokens,
    key_offsets,
    key_weight,
    released_called_name,
    released_listed_name,
    token_range,
    token_weights,
)
from tljax.data.prompt import RenderedTrajectory, ReplySpan, render_trajectory
from tljax.data.reader import TrajectoryDataset
from tljax.data.tokenizer import Tokenizer
from tljax.data.trajectory import Trajectory

Spans = Sequence[tuple[int, int]]  # the range of characters that each token covers


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """The fields of a config's `data` block that decide the tokens and weights of a step."""

    dialect: str
    pkt: str
    w_max: float
    max_tokens: int

    @classmethod
    def from_config(cls, data: Any) -> TokenizeOptions:
        """Returns the options that a config's `data` block describes."""
        return cls(dialect=data.dialect, pkt=data.pkt, w_max=data.w_max, max_tokens=data.max_tokens)


@dataclass(frozen=True, slots=True)
class TokenizedReply:
    """The tokens that a step trains on.

    tokens: int32 [T], the prompt, the reply and the end token
    reply_start: index in `tokens` of the first reply token
    token_classes: int8 [T - reply_start], a class of reply tokens (batch_arrays) for each, the end token included
    key_weight: the weight of a key token
    weights: float32 [T - reply_start], the weight of each reply token, not normalized
    unlisted: the name of the called tool if the prompt does not list it, else ""
    """

    tokens: np.ndarray
    reply_start: int
    token_classes: np.ndarray
    key_weight: float
    weights: np.ndarray
    unlisted: str

    @property
    def key_positions(self) -> list[int]:
        """The positions of the key tokens, counted from the first reply token."""
        return np.flatnonzero(self.token_classes >= KEY_TOKEN).tolist()


@dataclass(frozen=True, slots=True)
class Step:
    """One assistant turn with everything that precedes it.

    id: the id of the trajectory; step: the number of the turn, from 1
    text: the prompt and the reply; reply: the reply alone, without a leading blank
    reason: why the step is blocked, None for a kept step
    length: the number of tokens, also of a step that is blocked for its length; 0 for a step that MAE blocks
    tokenized: None for a blocked step
    """

    id: str | int
    step: int
    text: str
    reply: str
    reason: str | None = None
    length: int = 0
    tokenized: TokenizedReply | None = None

    @property
    def kept(self) -> bool:
        """True if the step is trained on."""
        return self.tokenized is not None


def tokenize_trajectories(
    dataset: TrajectoryDataset, rule: Rule, tokenizer: Tokenizer, options: TokenizeOptions, label: str
) -> Iterator[list[Step]]:
    """Yields the steps of one trajectory after another. A terminal shows a progress bar with `label`."""
    for trajectory in tqdm(dataset.trajectories(), total=len(dataset), desc=label, unit="row", disable=None):
        with locate_errors(f"file {dataset.file}, row {trajectory.row}"):
            steps = tokenize_steps(trajectory, rule, tokenizer, options)
        yield steps


def tokenize_steps(trajectory: Trajectory, rule: Rule, tokenizer: Tokenizer, options: TokenizeOptions) -> list[Step]:
    """Returns the steps of a trajectory in order.

    A step is blocked, and has no tokens, if `rule` blocks it, if it is longer than options.max_tokens, or if one token
    covers both the end of the prompt and the start of the reply.
    """
    rendered = render_trajectory(trajectory, options.dialect)
    steps = []
    for number, (decision, reply) in enumerate(zip(rule(trajectory), rendered.replies, strict=True), start=1):
        text = rendered.text[: reply.end]
        reason, length, tokenized = decision.reason, 0, None
        if decision.kept:
            # Without the turns after it, so that the step has the tokens that inference sees.
            encoded = _encode(text, reply, tokenizer)
            length = len(encoded.ids) + 1
            if length > options.max_tokens:
                reason = (
                    f"too long: {length} tokens with the end token, at most {options.max_tokens} are allowed "
                    "(data.max_tokens)"
                )
            elif encoded.spans[encoded.reply_start - 1][1] > reply.start:
                # Inference would end its prompt with other tokens than training saw.
                reason = 'reply start inside a token: the tokenizer joins "Assistant:" to it'
            else:
                tokenized = _tokenized_reply(rendered, reply, encoded, tokenizer, options)
        steps.append(
            Step(
                id=trajectory.id,
                step=number,
                text=text,
                reply=text[reply.text_start :],
                reason=reason,
                length=length,
                tokenized=tokenized,
            )
        )
    return steps


def format_unlisted_tools(names: Counter[str]) -> str:
    """Returns a warning about kept calls to tools that their prompts do not list; `names` counts them by tool.

    The model learns to call what it cannot see, and the reward counts such a call as a hallucinated tool.
    """
    shown = ", ".join(f"{name}: {count:,}" for name, count in names.most_common(5)) + ", ..." * (len(names) > 5)
    return f"{names.total():,} kept calls name a tool that their prompt does not list ({shown})"


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The tokens of a step's text: ids, the characters that each covers, and the index of the first reply token."""

    ids: list[int]
    spans: Spans
    reply_start: int


def _encode(text: str, reply: ReplySpan, tokenizer: Tokenizer) -> _Encoded:
    ids, spans = tokenizer.encode(text)
    return _Encoded(ids, spans, bisect_left(spans, reply.start, key=lambda span: span[0]))


def _tokenized_reply(
    rendered: RenderedTrajectory, reply: ReplySpan, encoded: _Encoded, tokenizer: Tokenizer, options: TokenizeOptions
) -> TokenizedReply:
    start = encoded.reply_start
    key = _key_positions(rendered, reply, encoded, tokenizer, released=options.pkt == "release")
    reply_texts = [rendered.text[a:b] for a, b in encoded.spans[start:]]
    weight = key_weight(options.pkt, options.w_max, key, reply_texts)
    token_classes = classify_tokens(len(reply_texts) + 1, key)
    return TokenizedReply(
        tokens=np.asarray([*encoded.ids, tokenizer.eos_id], np.int32),
        reply_start=start,
        token_classes=token_classes,
        key_weight=weight,
        weights=token_weights(token_classes, weight),
        unlisted=_unlisted_tool(rendered, reply),
    )


def _unlisted_tool(rendered: RenderedTrajectory, reply: ReplySpan) -> str:
    called = rendered.text[slice(*reply.name)] if reply.name else ""
    return "" if called in {rendered.text[slice(*span)] for span in rendered.tool_names} else called


def _key_positions(
    rendered: RenderedTrajectory, reply: ReplySpan, encoded: _Encoded, tokenizer: Tokenizer, *, released: bool
) -> list[int]:
    """Returns the positions of the key tokens, counted from the first reply token, in ascending order.

    The first one is where the tool's name begins. A reply without a call has none. released: True if names have the
    tokens that the released code gives them.
    """
    text, name, ids, spans = rendered.text, reply.name, encoded.ids, encoded.spans
    if name is None:
        return []
    called = token_range(text, spans, *name, lone_blank=released)
    others = [span for span in rendered.tool_names if text[slice(*span)] != text[slice(*name)]]

    # The tokens of the called tool's name and of the other tools' names.
    if text[name[0] - 1] != " ":
        names = [_tokens_instead(text, name, text[slice(*span)], tokenizer) for span in others]
    elif released:
        called, names = _released_names(rendered, called, encoded)
    else:
        names = [[ids[i] for i in token_range(text, spans, *span, lone_blank=False)] for span in others]

    # A branch after the name lies behind the last token if the reply ends with the name.
    offsets = key_offsets([ids[i] for i in called], names)
    return [called.start + offset - encoded.reply_start for offset in offsets if called.start + offset < len(ids)]


def _released_names(rendered: RenderedTrajectory, called: range, encoded: _Encoded) -> tuple[range, list[list[int]]]:
    """Returns what the released code takes for the called tool's name and for the names of the others.

    It compares names by their tokens. So the called tool itself is one of the others if its name runs on in the tool
    list alone.
    """
    texts = [rendered.text[a:b] for a, b in encoded.spans]
    called = released_called_name(texts, called)
    own = [encoded.ids[i] for i in called]
    ranges = (token_range(rendered.text, encoded.spans, *span, lone_blank=True) for span in rendered.tool_names)
    names = [[encoded.ids[i] for i in released_listed_name(texts, name)] for name in ranges]
    return called, [name for name in names if name != own]


def _tokens_instead(text: str, name: tuple[int, int], other_name: str, tokenizer: Tokenizer) -> list[int]:
    """Returns the tokens that another tool's name has where `text` holds the name of the called tool.

    A call below free text begins its line, so its first token has no blank and differs from every one in the tool list.
    """
    lead = text[max(name[0] - 8, 0) : name[0]]
    line = f"{lead}{other_name}("
    ids, spans = tokenizer.encode(line)
    return [ids[i] for i in token_range(line, spans, len(lead), len(line) - 1, lone_blank=False)]
