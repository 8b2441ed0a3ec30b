"""Steps -> rows: what one forward pass reads, with a target and a weight for every reply token.

A causal model sees the same prefix whether a reply stands alone or is followed by more turns. So one row that holds the
whole trajectory, with weights w / sum(w) on each kept reply, gives exactly the sum of its step losses, and reads the
history once instead of once per step.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from tljax.data.arrow import build_dataset
from tljax.data.batch_arrays import KEY_TOKEN, NAME_TOKEN, NO_TARGET, OTHER_TOKEN, PROMPT_TOKEN
from tljax.data.steps import Step

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "trajectory": datasets.Value("int32"),
        "steps": datasets.List(datasets.Value("int32")),
        "blocked": datasets.List(datasets.Value("string")),
        "unlisted": datasets.List(datasets.Value("string")),  # names of called tools that the prompt does not list
        "length": datasets.Value("int32"),  # tokens
        "weighted": datasets.Value("int32"),  # positions that carry a weight
        "tokens": datasets.List(datasets.Value("int32")),
        "targets": datasets.List(datasets.Value("int32")),
        "weights": datasets.List(datasets.Value("float32")),
        "kinds": datasets.List(datasets.Value("int8")),
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence; position t holds token t and predicts targets[t].

    steps: numbers of the steps whose replies it trains, tokens and targets: int32 [n], weights: float32 [n] with sum 1
    per step, kinds: int8 [n]. After a reply's last token the target is the end token, whatever the next token is.
    Where the prompt is trained too, the sum is 1 per row.
    """

    steps: tuple[int, ...]
    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    kinds: np.ndarray


def build_rows(steps: Sequence[Step], mode: str, prompt_weight: float) -> list[Row]:
    """The rows of one trajectory's kept steps: one per "step", or as few as prefixes allow for "trajectory".

    Steps share a row when the tokens of the shorter one, its end token aside, begin the longer one; where a tokenizer
    merges across a reply's end that does not hold, and the step gets a row of its own.

    prompt_weight: of a token outside the replies, where an unimportant reply token has 1. Above 0 a row is one loss,
    sum(w * nll) / sum(w) over all its tokens; at 0 it is the sum of its steps' losses.
    """
    groups: list[list[Step]] = []
    for step in sorted((s for s in steps if s.kept), key=lambda s: -len(s.tokens)):
        home = next((g for g in groups if mode == "trajectory" and _begins(step, g[0])), None)
        if home is None:
            groups.append([step])
        else:
            home.append(step)
    return [_row(group, prompt_weight) for group in sorted(groups, key=lambda g: g[-1].step)]


def _begins(short: Step, long: Step) -> bool:
    n = len(short.tokens) - 1
    return n < len(long.tokens) and bool(np.array_equal(short.tokens[:n], long.tokens[:n]))


def _row(group: Sequence[Step], prompt_weight: float) -> Row:
    tokens = group[0].tokens[:-1]
    whole = prompt_weight > 0
    targets = group[0].tokens[1:].copy() if whole else np.zeros(len(tokens), np.int32)
    weights = np.full(len(tokens), prompt_weight, np.float64)
    kinds = np.full(len(tokens), PROMPT_TOKEN if whole else NO_TARGET, np.int8)
    for step in group:
        span = slice(step.reply_start - 1, len(step.tokens) - 1)
        targets[span] = step.tokens[step.reply_start :]
        # float64 for the sum: a reply of 512 tokens is then normalised to one float32 rounding
        weights[span] = step.weights if whole else step.weights / step.weights.sum(dtype=np.float64)
        kinds[span] = OTHER_TOKEN
        kinds[[step.reply_start - 1 + k for k in step.key]] = KEY_TOKEN
        if step.name_token is not None:
            kinds[step.reply_start - 1 + step.name_token] = NAME_TOKEN
    weights = (weights / weights.sum() if whole else weights).astype(np.float32)
    return Row(tuple(sorted(s.step for s in group)), tokens.astype(np.int32), targets, weights, kinds)


def prepare_rows(
    trajectories: Callable[[], Iterable[Iterable[Step]]],
    mode: str,
    prompt_weight: float,
    facts: dict[str, object],
    cache: str,
) -> datasets.Dataset:
    """All rows as a memory-mapped dataset, made once for the same `facts`.

    trajectories: called when there is no cached copy; yields the steps of one trajectory after another. facts: all that
    decides the rows (fingerprints of source, tokenizer and code, rules). A trajectory without kept steps leaves a row
    without tokens, which carries its reasons.
    """

    def generate() -> Iterator[dict[str, object]]:
        for number, steps in enumerate(trajectories()):
            steps = list(steps)
            blocked = [s.reason for s in steps if not s.kept]
            unlisted = [s.unlisted for s in steps if s.kept and s.unlisted]
            rows = build_rows(steps, mode, prompt_weight) or [_row_without_tokens()]
            for row in rows:
                yield {
                    "id": str(steps[0].id) if steps else "",
                    "trajectory": number,
                    "steps": row.steps,
                    "blocked": blocked if row is rows[0] else [],
                    "unlisted": unlisted if row is rows[0] else [],
                    "length": len(row.tokens),
                    "weighted": int(np.count_nonzero(row.weights)),
                    "tokens": row.tokens,
                    "targets": row.targets,
                    "weights": row.weights,
                    "kinds": row.kinds,
                }

    key = json.dumps({"mode": mode, "prompt_weight": prompt_weight, **facts}, sort_keys=True, default=str)
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:32]
    return build_dataset(generate, FEATURES, fingerprint, cache).with_format("numpy")


def _row_without_tokens() -> Row:
    none = np.zeros(0, np.int32)
    return Row((), none, none, none.astype(np.float32), none.astype(np.int8))


def held_out_trajectories(trajectories: int, fraction: float, seed: int) -> np.ndarray:
    """Numbers of the held-out trajectories, a function of (trajectories, fraction, seed) whatever the rules keep.

    At least one is held out where `fraction` is above 0, and at least one is left to train on. int [H], ascending.
    """
    count = min(max(round(fraction * trajectories), int(fraction > 0)), trajectories - 1)
    return np.sort(np.random.default_rng([seed, 0]).permutation(trajectories)[:count])


def content_hash(rows: datasets.Dataset) -> str:
    """SHA-256 of what is trained on: tokens, targets and weights of all rows, in order."""
    digest = hashlib.sha256()
    part: Any
    for part in rows.with_format("numpy").iter(batch_size=1000):
        for name in ("tokens", "targets", "weights"):
            for row in part[name]:
                digest.update(np.ascontiguousarray(row).tobytes())
    return digest.hexdigest()
