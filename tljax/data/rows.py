"""Steps -> rows: the sequences that a forward pass reads, with a target and a loss weight for every reply token.

A causal model sees the same prefix whether a reply stands alone or is followed by more turns. So one row that holds the
whole trajectory, with weights w / sum(w) on each kept reply, gives exactly the sum of its step losses. The model then
reads the history once instead of once per step.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from tljax.data.arrow import build_dataset
from tljax.data.batch_arrays import NO_TARGET, PROMPT_TOKEN, ROW_ARRAYS
from tljax.data.steps import Step, TokenizedReply

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "trajectory": datasets.Value("int32"),
        "steps": datasets.List(datasets.Value("int32")),
        "blocked": datasets.List(datasets.Value("string")),
        "unlisted": datasets.List(datasets.Value("string")),  # names of called tools that the prompt does not list
        "length": datasets.Value("int32"),  # tokens
        "weighted": datasets.Value("int32"),  # positions that carry a weight
    }
    | {name: datasets.List(datasets.Value(np.dtype(dtype).name)) for name, dtype in ROW_ARRAYS.items()}
)


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence; position t holds tokens[t] and predicts targets[t].

    steps: the numbers of the steps whose replies it trains
    tokens, targets: int32 [n]. The target of a reply's last token is the end token, whatever the next token is.
    loss_weights: float32 [n]. They sum to 1 for each step, or for the whole row if it trains the prompt too.
    token_classes: int8 [n], the class (batch_arrays) of each target
    """

    steps: tuple[int, ...]
    tokens: np.ndarray
    targets: np.ndarray
    loss_weights: np.ndarray
    token_classes: np.ndarray


NumberedReply = tuple[int, TokenizedReply]  # with the number of its step


def build_rows(steps: Sequence[Step], mode: str, prompt_weight: float) -> list[Row]:
    """Returns the rows of one trajectory's kept steps.

    Steps share a row if the tokens of the shorter one, without its end token, begin the longer one. If a tokenizer
    merges characters across the end of a reply, that does not hold, and the step gets a row of its own.

    mode: "step" for a row per step, "trajectory" for as few rows as possible. prompt_weight: the weight of a token
    outside the replies, where an unimportant reply token has 1. Above 0 a row is one loss, sum(w * nll) / sum(w) over
    all its tokens; at 0 it is the sum of its steps' losses.
    """
    groups: list[list[NumberedReply]] = []
    kept = [(step.step, step.tokenized) for step in steps if step.tokenized is not None]
    for number, reply in sorted(kept, key=lambda numbered: -len(numbered[1].tokens)):
        shared = (group for group in groups if mode == "trajectory" and _begins(reply.tokens, group[0][1].tokens))
        group = next(shared, None)
        if group is None:
            groups.append([(number, reply)])
        else:
            group.append((number, reply))
    return [_row(group, prompt_weight) for group in sorted(groups, key=lambda group: group[-1][0])]


def _begins(short: np.ndarray, long: np.ndarray) -> bool:
    n = len(short) - 1
    return n < len(long) and bool(np.array_equal(short[:n], long[:n]))


def _row(group: Sequence[NumberedReply], prompt_weight: float) -> Row:
    """Returns the row that the replies of a group share; the first reply has the most tokens."""
    longest = group[0][1].tokens
    tokens = longest[:-1]
    trains_prompt = prompt_weight > 0
    targets = longest[1:].copy() if trains_prompt else np.zeros(len(tokens), np.int32)
    weights = np.full(len(tokens), prompt_weight, np.float64)
    token_classes = np.full(len(tokens), PROMPT_TOKEN if trains_prompt else NO_TARGET, np.int8)
    for _, reply in group:
        span = slice(reply.reply_start - 1, len(reply.tokens) - 1)
        targets[span] = reply.tokens[reply.reply_start :]
        # In float64 the normalized weights of a reply of 512 tokens carry a single float32 rounding.
        weights[span] = reply.weights if trains_prompt else reply.weights / reply.weights.sum(dtype=np.float64)
        token_classes[span] = reply.token_classes
    loss_weights = (weights / weights.sum() if trains_prompt else weights).astype(np.float32)
    return Row(tuple(sorted(number for number, _ in group)), tokens, targets, loss_weights, token_classes)


def prepare_rows(
    trajectories: Callable[[], Iterable[Sequence[Step]]],
    mode: str,
    prompt_weight: float,
    facts: dict[str, object],
    cache: str,
) -> datasets.Dataset:
    """Returns all rows as a memory-mapped dataset. It is built once; later calls with the same arguments open it.

    trajectories: yields the steps of one trajectory after another; called if the cache has no dataset for the arguments
    mode, prompt_weight: as in `build_rows`
    facts: everything else that decides the rows: fingerprints of source, tokenizer and code, and the rules
    cache: the `data.cache` of a config

    A trajectory without kept steps becomes a row without tokens, which carries the reasons of its steps.
    """

    def generate() -> Iterator[dict[str, object]]:
        for number, steps in enumerate(trajectories()):
            blocked = [step.reason for step in steps if not step.kept]
            unlisted = [step.tokenized.unlisted for step in steps if step.tokenized and step.tokenized.unlisted]
            rows = build_rows(steps, mode, prompt_weight) or [_row_without_tokens()]
            for row in rows:
                yield {
                    "id": str(steps[0].id) if steps else "",
                    "trajectory": number,
                    "steps": row.steps,
                    "blocked": blocked if row is rows[0] else [],
                    "unlisted": unlisted if row is rows[0] else [],
                    "length": len(row.tokens),
                    "weighted": int(np.count_nonzero(row.loss_weights)),
                    **{name: getattr(row, name) for name in ROW_ARRAYS},
                }

    key = json.dumps({"mode": mode, "prompt_weight": prompt_weight, **facts}, sort_keys=True, default=str)
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:32]
    return build_dataset(generate, FEATURES, fingerprint, cache).with_format("numpy")


def _row_without_tokens() -> Row:
    return Row((), **{name: np.zeros(0, dtype) for name, dtype in ROW_ARRAYS.items()})


def held_out_trajectories(trajectories: int, fraction: float, seed: int) -> np.ndarray:
    """Returns the numbers of the held-out trajectories, int [H], ascending.

    They depend on the arguments alone, not on the steps that the rules keep. At least one trajectory is held out if
    `fraction` is above 0, and at least one is left to train on.
    """
    count = min(max(round(fraction * trajectories), int(fraction > 0)), trajectories - 1)
    return np.sort(np.random.default_rng([seed, 0]).permutation(trajectories)[:count])


def content_hash(rows: datasets.Dataset) -> str:
    """Returns the SHA-256 of the tokens, targets and loss weights of all rows, in order."""
    digest = hashlib.sha256()
    part: Any
    for part in rows.with_format("numpy").iter(batch_size=1000):
        for name in ("tokens", "targets", "loss_weights"):
            for row in part[name]:
                digest.update(np.ascontiguousarray(row).tobytes())
    return digest.hexdigest()
