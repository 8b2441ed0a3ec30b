"""Training rows of a source: read, judged by MAE, tokenized, weighted by PKT; made once, memory-mapped after that."""

import hashlib
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tljax.core.errors import InputError
from tljax.data.mae import load_rule
from tljax.data.reader import TrajectoryDataset, format_first_errors, open_trajectories
from tljax.data.rows import content_hash, held_out_trajectories, prepare_rows
from tljax.data.steps import TokenizeOptions, format_unlisted_tools, tokenize_trajectories
from tljax.data.tokenizer import Tokenizer
from tljax.storage.remote import local_path


@dataclass(frozen=True)
class Examples:
    """Rows to train on, rows held out (None where the config holds out none), and what was kept, in a few lines.

    content: hash of the rows to train on, by which a restart knows that it goes on with the same ones.
    """

    train: datasets.Dataset
    held_out: datasets.Dataset | None
    summary: str
    content: str


def load_examples(data: Any, file: str, tokenizer: Tokenizer, seed: int) -> Examples:
    """The rows that the `data` block of a config describes, from `file` (data.source, or what stands in for it).

    Raises InputError for a bad source or rule, and where no step is left to train on.
    """
    source = open_trajectories(file, data.on_bad_row, data.cache or None)
    rule = load_rule(data.mae)
    facts = {name: data[name] for name in ("mae", "pkt", "w_max", "dialect", "max_tokens")}
    facts |= {"source": source.fingerprint, "tokenizer": tokenizer.fingerprint, "code": code_hash(data.mae)}
    rows = prepare_rows(
        lambda: tokenize_trajectories(source, rule, tokenizer, TokenizeOptions.from_config(data), "tokenizing"),
        data.rows,
        data.prompt_weight,
        facts,
        data.cache,
    )
    blocked = Counter(reason.partition(":")[0] for reasons in rows["blocked"] for reason in reasons)
    full = np.asarray(rows["length"]) > 0
    apart = np.isin(np.asarray(rows["trajectory"]), held_out_trajectories(len(source), data.eval_fraction, seed))
    if not (full & ~apart).any():
        raise InputError(
            f"{data.source}: no step is left to train on; blocked: {format_counts(blocked)}; "
            "choose another rule in config.data.mae or raise config.data.max_tokens"
        )
    train = rows.select(np.flatnonzero(full & ~apart))
    rest = rows.select(np.flatnonzero(full & apart)) if (full & apart).any() else None
    return Examples(train, rest, _summary(data.source, source, rows, train, rest, blocked), content_hash(train))


def code_hash(rule: str) -> str:
    """Hash of the code that makes rows, so that none made by another version are read: data/, calls/, a user's rule.

    Of a user's function that is the whole package it lies in, or every module in the folder of its file.
    """
    package = Path(__file__).parents[1]
    files = [*sorted((package / "calls").glob("*.py")), *sorted((package / "data").rglob("*.py"))]
    rule = rule.strip()
    name = rule.partition(":")[0]
    # The rule is loaded by now, so its module is known; load_rule also finds modules beside the user's shell.
    module = sys.modules.get(name)
    if module is not None and module.__file__:
        root = sys.modules[name.partition(".")[0]].__file__ or module.__file__
        in_package = Path(root).name == "__init__.py"
        files += sorted(Path(root).parent.rglob("*.py") if in_package else Path(module.__file__).parent.glob("*.py"))
    if rule.endswith(".txt"):
        files.append(local_path(rule, "config.data.mae"))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def format_counts(counter: Counter[str]) -> str:
    """What was counted, the most frequent first, in one line."""
    return ", ".join(f"{reason} {count:,}" for reason, count in counter.most_common()) or "none"


def _summary(
    name: str,
    source: TrajectoryDataset,
    rows: datasets.Dataset,
    train: datasets.Dataset,
    rest: datasets.Dataset | None,
    blocked: Counter[str],
) -> str:
    kept = sum(map(len, rows["steps"]))
    lines = [
        f"data:  {len(source):,} trajectories of {name}: {kept:,} steps kept, {blocked.total():,} blocked"
        + (f" ({format_counts(blocked)})" if blocked else ""),
        f"rows:  {len(train):,} to train on with {sum(train['length']):,} tokens, "
        f"{len(rest) if rest is not None else 0:,} held out; longest {max(rows['length']):,} tokens",
    ]
    if source.skipped:
        lines += [f"rows skipped: {len(source.skipped):,}", *format_first_errors(source.skipped)]
    unlisted = Counter(name for names in rows["unlisted"] for name in names)
    if unlisted:
        lines.append(f"note:  {format_unlisted_tools(unlisted)}")
    return "\n".join(lines)
