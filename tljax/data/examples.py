"""Training rows of a source: read, judged by MAE, tokenized, weighted by PKT; made once, memory-mapped after that."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from tljax.core.errors import InputError
from tljax.data.mae import load_rule
from tljax.data.reader import Source, open_source
from tljax.data.rows import held_out, prepare_rows
from tljax.data.steps import Step, steps_of, unlisted_note
from tljax.data.tokens import Tokenizer


@dataclass(frozen=True)
class Examples:
    """Rows to train on, rows held out (None where the config holds out none), and what was kept, in a few lines."""

    train: datasets.Dataset
    held_out: datasets.Dataset | None
    summary: str


def load_examples(data: Any, file: str, tokenizer: Tokenizer, seed: int) -> Examples:
    """The rows that the `data` block of a config describes, from `file` (data.source, or what stands in for it).

    Raises InputError for a bad source or rule, and where no step is left to train on.
    """
    source = open_source(file, data.on_bad_row, data.cache or None)
    rule = load_rule(data.mae)

    def steps() -> Iterator[list[Step]]:
        for trajectory in tqdm(source.trajectories(), total=len(source), desc="tokenizing", unit="row", disable=None):
            yield steps_of(
                trajectory,
                rule=rule,
                dialect=data.dialect,
                tokenizer=tokenizer,
                pkt=data.pkt,
                w_max=data.w_max,
                max_tokens=data.max_tokens,
            )

    facts = {name: data[name] for name in ("mae", "pkt", "w_max", "dialect", "max_tokens")}
    facts |= {"source": source.fingerprint, "tokenizer": tokenizer.fingerprint, "code": _code(data.mae)}
    rows = prepare_rows(steps, data.rows, facts, data.cache)
    blocked = Counter(reason.partition(":")[0] for reasons in rows["blocked"] for reason in reasons)
    full = np.asarray(rows["length"]) > 0
    if not full.any():
        raise InputError(
            f"{data.source}: no step is left to train on; blocked: {_counts(blocked)}; "
            "choose another rule in config.data.mae or raise config.data.max_tokens"
        )
    numbers = np.asarray(rows["trajectory"])
    apart = held_out(numbers[full], data.eval_fraction, seed)
    places = np.flatnonzero(full)
    train = rows.select(places[~apart])
    rest = rows.select(places[apart]) if apart.any() else None
    return Examples(train, rest, _summary(data.source, source, rows, train, rest, blocked))


def _code(rule: str) -> str:
    """Hash of the code that makes rows, so that none made by another version are read: this folder, a user's rule."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    # The rule is loaded by now, so its module is known; load_rule also finds modules beside the user's shell.
    module = sys.modules.get(rule.partition(":")[0])
    if module is not None and module.__file__:
        files.append(Path(module.__file__))
    if rule.endswith(".txt"):
        files.append(Path(rule).expanduser())
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counter.most_common()) or "none"


def _summary(
    name: str,
    source: Source,
    rows: datasets.Dataset,
    train: datasets.Dataset,
    rest: datasets.Dataset | None,
    blocked: Counter[str],
) -> str:
    kept = sum(map(len, rows["steps"]))
    lines = [
        f"data:  {len(source):,} trajectories of {name}: {kept:,} steps kept, {blocked.total():,} blocked"
        + (f" ({_counts(blocked)})" if blocked else ""),
        f"rows:  {len(train):,} to train on with {sum(train['length']):,} tokens, "
        f"{len(rest) if rest is not None else 0:,} held out; longest {max(rows['length']):,} tokens",
    ]
    if source.skipped:
        lines.append(f"rows skipped: {len(source.skipped):,}, the first: {source.skipped[0]}")
    unlisted = Counter(name for names in rows["unlisted"] for name in names)
    if unlisted:
        lines.append(f"note:  {unlisted_note(unlisted)}")
    return "\n".join(lines)
