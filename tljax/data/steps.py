"""Trajectory -> Steps: the text of every assistant turn, and the tokens and weights of those that MAE keeps."""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from tljax.core.errors import locate_errors
from tljax.data.batch_arrays import KEY_TOKEN
from tljax.data.mae import Decision, Rule, check_rule
from tljax.data.model_template import ModelTemplate, format_left_out_text
from tljax.data.new_names import rename_trajectory
from tljax.data.pkt import (
    classify_tokens,
    key_offsets,
    key_weight,
    released_called_name,
    released_listed_name,
    token_range,
    token_weights,
)
from tljax.data.prompt import Dialect, render_steps
from tljax.data.reader import TrajectoryDataset
from tljax.data.rendered import RenderedStep
from tljax.data.tokenizer import Tokenizer
from tljax.data.trajectory import Trajectory

Spans = Sequence[tuple[int, int]]  # the range of characters that each token covers


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """The fields of a config's `data` block that decide the tokens and weights of a step.

    new_names: the fraction of trajectories whose tools get new names
    """

    dialect: Dialect
    pkt: str
    w_max: float
    max_tokens: int
    new_names: float = 0.0

    @classmethod
    def from_config(cls, data: Any, dialect: Dialect) -> TokenizeOptions:
        """Returns the options that a config's `data` block describes; `dialect` is its opened data.dialect."""
        return cls(dialect, data.pkt, data.w_max, data.max_tokens, data.new_names)


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
    prompt_length: the number of characters of the prompt
    reason: why the step is blocked, None for a kept step
    length: the number of tokens, also of a step that is blocked for its length; 0 for a step that MAE blocks
    tokenized: None for a blocked step
    """

    id: str | int
    step: int
    text: str
    reply: str
    prompt_length: int = 0
    reason: str | None = None
    length: int = 0
    tokenized: TokenizedReply | None = None

    @property
    def kept(self) -> bool:
        """True if the step is trained on."""
        return self.tokenized is not None


def source_notes(rule: Rule, source: TrajectoryDataset, dialect: Dialect) -> list[str]:
    """Returns notes for a summary: on steps for which `rule` has no verdict, and on text that the dialect leaves out.

    Raises InputError as check_rule does.
    """
    notes = check_rule(rule, source), format_left_out_text(dialect, source.trajectories())
    return [note for note in notes if note]


def tokenize_trajectories(
    dataset: TrajectoryDataset,
    rule: Rule,
    tokenizer: Tokenizer,
    options: TokenizeOptions,
    label: str,
    held_out: Collection[int] = (),
) -> Iterator[list[Step]]:
    """Yields the steps of one trajectory after another. A terminal shows a progress bar with `label`.

    held_out: the numbers of the trajectories, from 0, that keep their names
    """
    original_names = replace(options, new_names=0.0)
    trajectories = tqdm(dataset.trajectories(), total=len(dataset), desc=label, unit="row", disable=None)
    for number, trajectory in enumerate(trajectories):
        with locate_errors(f"file {dataset.file}, row {trajectory.row}"):
            own = original_names if number in held_out else options
            steps = tokenize_steps(trajectory, rule, tokenizer, own)
        yield steps


def tokenize_steps(trajectory: Trajectory, rule: Rule, tokenizer: Tokenizer, options: TokenizeOptions) -> list[Step]:
    """Returns the steps of a trajectory in order.

    A step is blocked, and has no tokens, if `rule` blocks it, if it is longer than options.max_tokens, if one token
    covers both the end of the prompt and the start of the reply, and if the model's template cannot write it.
    """
    decisions = rule(trajectory)
    if options.new_names:
        rng = random.Random(f"new names of row {trajectory.row}, id {trajectory.id}")
        if rng.random() < options.new_names:
            trajectory = rename_trajectory(trajectory, rng)
    rendered_steps = render_steps(trajectory, options.dialect)
    if isinstance(options.dialect, ModelTemplate) and options.dialect.parallel:
        decisions = _decisions_of_messages(trajectory, decisions)
    steps = []
    for number, (decision, rendered) in enumerate(zip(decisions, rendered_steps, strict=True), start=1):
        reply = rendered.reply
        reason, length, tokenized = decision.reason, 0, None
        if decision.kept and rendered.problem:
            reason = rendered.problem
        elif decision.kept:
            # Without the turns after it, so that the step has the tokens that inference sees.
            encoded = _encode(rendered, tokenizer)
            length = len(encoded.ids)
            if length > options.max_tokens:
                reason = (
                    f"too long: {length} tokens with the end token, at most {options.max_tokens} are allowed "
                    "(data.max_tokens)"
                )
            elif encoded.spans[encoded.reply_start - 1][1] > reply.start:
                # Inference would end its prompt with other tokens than training saw.
                end = rendered.text[: reply.start].rpartition("\n")[2]
                reason = f"reply start inside a token: the tokenizer joins {json.dumps(end)} to it"
            else:
                tokenized = _tokenized_reply(rendered, encoded, tokenizer, options)
        steps.append(
            Step(
                id=trajectory.id,
                step=number,
                text=rendered.text,
                reply=rendered.text[reply.text_start :],
                prompt_length=reply.start,
                reason=reason,
                length=length,
                tokenized=tokenized,
            )
        )
    return steps


def _decisions_of_messages(trajectory: Trajectory, decisions: Sequence[Decision]) -> list[Decision]:
    """Returns the decisions on replies that are whole messages: one is blocked if any of its parallel calls is."""
    turns = [turn for turn in trajectory.turns if turn.role == "assistant"]
    merged = list(decisions)
    first = 0
    for i, turn in enumerate(turns):
        if not turn.parallel:
            first = i
        elif merged[first].kept and not decisions[i].kept:
            merged[first] = decisions[i]
    return merged


def format_unlisted_tools(names: Counter[str]) -> str:
    """Returns a warning about kept calls to tools that their prompts do not list; `names` counts them by tool.

    The model learns to call what it cannot see, and the reward counts such a call as a hallucinated tool.
    """
    shown = ", ".join(f"{name}: {count:,}" for name, count in names.most_common(5)) + ", ..." * (len(names) > 5)
    return f"{names.total():,} kept calls name a tool that their prompt does not list ({shown})"


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The tokens of a step's text.

    ids: with the end token; spans: the characters that each other token covers; reply_start: the index of the first
    reply token
    """

    ids: list[int]
    spans: Spans
    reply_start: int


def _encode(rendered: RenderedStep, tokenizer: Tokenizer) -> _Encoded:
    ids, spans = tokenizer.encode(rendered.text + rendered.closing)
    if rendered.closing:
        spans = spans[:-1]
    else:
        ids = [*ids, tokenizer.eos_id]
    return _Encoded(ids, spans, bisect_left(spans, rendered.reply.start, key=lambda span: span[0]))


def _tokenized_reply(
    rendered: RenderedStep, encoded: _Encoded, tokenizer: Tokenizer, options: TokenizeOptions
) -> TokenizedReply:
    start = encoded.reply_start
    key = {
        position
        for name in rendered.names
        for position in _key_positions(rendered, name, encoded, tokenizer, released=options.pkt == "release")
    }
    reply_texts = [rendered.text[a:b] for a, b in encoded.spans[start:]]
    weight = key_weight(options.pkt, options.w_max, sorted(key), reply_texts)
    token_classes = classify_tokens(len(reply_texts) + 1, sorted(key))
    return TokenizedReply(
        tokens=np.asarray(encoded.ids, np.int32),
        reply_start=start,
        token_classes=token_classes,
        key_weight=weight,
        weights=token_weights(token_classes, weight),
        unlisted=next((name for name in _called(rendered) if name not in rendered.listed), ""),
    )


def _called(rendered: RenderedStep) -> list[str]:
    return [rendered.text[slice(*name)] for name in rendered.names]


def _key_positions(
    rendered: RenderedStep, name: tuple[int, int], encoded: _Encoded, tokenizer: Tokenizer, *, released: bool
) -> list[int]:
    """Returns the positions of a called tool's key tokens, counted from the first reply token, in ascending order.

    The first one is where the tool's name begins. name: start and end of the name in the reply; released: True if names
    have the tokens that the released code gives them.
    """
    text, ids, spans = rendered.text, encoded.ids[:-1], encoded.spans
    called = token_range(text, spans, *name, lone_blank=released)

    # The tokens of the called tool's name and of the other tools' names.
    if not rendered.tool_names or text[name[0] - 1] != " ":
        other_names = [other for other in rendered.listed if other != text[slice(*name)]]
        names = [tokens_instead(text, name, other, tokenizer) for other in other_names]
    elif released:
        called, names = _released_names(rendered, called, encoded)
    else:
        others = [span for span in rendered.tool_names if text[slice(*span)] != text[slice(*name)]]
        names = [[ids[i] for i in token_range(text, spans, *span, lone_blank=False)] for span in others]

    # A branch after the name lies behind the last token if the reply ends with the name.
    offsets = key_offsets([ids[i] for i in called], names)
    return [called.start + offset - encoded.reply_start for offset in offsets if called.start + offset < len(ids)]


def _released_names(rendered: RenderedStep, called: range, encoded: _Encoded) -> tuple[range, list[list[int]]]:
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


def tokens_instead(text: str, name: tuple[int, int], other_name: str, tokenizer: Tokenizer) -> list[int]:
    """Returns the tokens that another tool's name has where `text` holds the name of the called tool.

    A call below free text begins its line, so its first token has no blank and differs from every one in the tool list.
    A model's template writes names in its list otherwise than in a call, between other quotes for example.
    """
    lead = text[max(name[0] - 8, 0) : name[0]]
    after = text[name[1] : name[1] + 1] or "("
    line = f"{lead}{other_name}{after}"
    ids, spans = tokenizer.encode(line)
    return [ids[i] for i in token_range(line, spans, len(lead), len(lead) + len(other_name), lone_blank=False)]
