"""A config's `data` block -> training and held-out rows, which are built once and then read by memory mapping."""

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
from tljax.data.prompt import Dialect
from tljax.data.reader import TrajectoryDataset, format_first_errors, open_trajectories
from tljax.data.rows import content_hash, held_out_trajectories, prepare_rows
from tljax.data.steps import TokenizeOptions, format_unlisted_tools, source_notes, tokenize_trajectories
from tljax.data.tokenizer import Tokenizer
from tljax.storage.remote import local_path


@dataclass(frozen=True)
class Examples:
    """The rows of a source.

    train: the rows to train on
    held_out: the rows of the held-out trajectories, None if there are none
    summary: a few lines on the kept, blocked and skipped steps and rows
    content: a hash of `train`; a run that resumes refuses other rows by it
    """

    train: datasets.Dataset
    held_out: datasets.Dataset | None
    summary: str
    content: str


def load_examples(data: Any, file: str, tokenizer: Tokenizer, seed: int, dialect: Dialect | None = None) -> Examples:
    """Returns the rows that the `data` block of a config describes.

    file: data.source, or the local file that replaces it; seed: decides which trajectories are held out; dialect: the
    opened data.dialect, None for a dialect that needs no opening. Raises
    InputError for a bad source or rule, and if no step is left to train on.
    """
    # All rows, from the cache if it has them.
    source = open_trajectories(file, data.on_bad_row, data.cache or None, data.format)
    rule = load_rule(data.mae)
    options = TokenizeOptions.from_config(data, dialect or data.dialect)
    notes = source_notes(rule, source, options.dialect)
    facts = {name: data[name] for name in ("mae", "pkt", "w_max", "dialect", "max_tokens", "new_names")}
    facts |= {"source": source.fingerprint, "tokenizer": tokenizer.fingerprint, "code": code_hash(data.mae)}
    held_out = held_out_trajectories(len(source), data.eval_fraction, seed)
    if data.new_names:
        facts["held_out"] = held_out.tolist()
    rows = prepare_rows(
        lambda: tokenize_trajectories(source, rule, tokenizer, options, "tokenizing", set(held_out.tolist())),
        data.rows,
        data.prompt_weight,
        facts,
        data.cache,
    )

    # Hold out complete trajectories. A row without tokens only carries the reasons of blocked steps.
    blocked = Counter(reason.partition(":")[0] for reasons in rows["blocked"] for reason in reasons)
    has_tokens = np.asarray(rows["length"]) > 0
    is_held_out = np.isin(np.asarray(rows["trajectory"]), held_out)
    if not (has_tokens & ~is_held_out).any():
        raise InputError(
            f"{data.source}: no step is left to train on; blocked: {format_counts(blocked)}; "
            "choose another rule in config.data.mae or raise config.data.max_tokens"
        )
    train = rows.select(np.flatnonzero(has_tokens & ~is_held_out))
    rest = rows.select(np.flatnonzero(has_tokens & is_held_out)) if (has_tokens & is_held_out).any() else None
    summary = "\n".join(
        [_summary(data.source, source, rows, train, rest, blocked), *(f"note:  {note}" for note in notes)]
    )
    return Examples(train, rest, summary, content_hash(train))


def code_hash(rule: str) -> str:
    """Returns a hash of the code that builds rows: data/, calls/ and the MAE rule of a user.

    It is part of the cache's keys, so that rows built by another version are not read. The code of a user's function
    is the whole package that holds it, or every module in the folder of its file.
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
    if rule.endswith((".txt", ".jsonl")):
        files.append(local_path(rule, "config.data.mae"))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def format_counts(counter: Counter[str]) -> str:
    """Returns the counts in one line, the largest first."""
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
    lines += source.format_lines()
    if source.skipped:
        lines += [f"rows skipped: {len(source.skipped):,}", *format_first_errors(source.skipped)]
    unlisted = Counter(name for names in rows["unlisted"] for name in names)
    if unlisted:
        lines.append(f"note:  {format_unlisted_tools(unlisted)}")
    return "\n".join(lines)
