"""A config's `data` block -> prompts with golden calls, which are built once and then read by memory mapping.

The source has either trajectories, whose kept steps are the prompts, or the rows of a released irm_data.json.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import datasets
import numpy as np

from tljax.calls.compare import ToolList, as_tool_list
from tljax.calls.tool import Tool
from tljax.core.errors import InputError
from tljax.data import reader
from tljax.data.examples import format_counts
from tljax.data.formats.read import AUTO
from tljax.data.model_template import ModelTemplate
from tljax.data.prompt import Dialect
from tljax.data.prompt_rows import PromptSource, column, holds_pairs, rows_of_pairs, rows_of_trajectories
from tljax.data.rows import held_out_trajectories
from tljax.data.steps import format_unlisted_tools
from tljax.data.tokenizer import Tokenizer

SHOWN = 5  # the number of dropped prompts that a summary lists


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and the golden call that the reward compares a reply with.

    id: the id of the trajectory; step: the number of the reply in it, from 1
    tokens, text: the prompt as tokens and as text, which ends with "Assistant:"
    tools: the tools that the prompt lists
    """

    id: str | int
    step: int
    tokens: list[int]
    text: str
    golden: str
    tools: ToolList


class PromptTable:
    """Prompts on disk, read one at a time in source order. lengths: int32 [N], the number of tokens of each."""

    def __init__(self, rows: datasets.Dataset, indices: np.ndarray) -> None:
        self.lengths = column(rows, "length")[indices]
        self._rows = rows.select_columns(["id", "step", "tokens", "text", "golden", "tools"]).select(indices)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Prompt:
        row = self._rows[int(index)]
        return Prompt(
            json.loads(row["id"]),
            row["step"],
            row["tokens"],
            row["text"],
            row["golden"],
            _tools_from_json(row["tools"]),
        )

    def content_hash(self) -> str:
        """Returns the SHA-256 of the tokens and golden calls of all prompts, in order."""
        digest = hashlib.sha256()
        part: Any
        for part in self._rows.with_format("numpy").iter(batch_size=1000):
            for tokens, golden in zip(part["tokens"], part["golden"], strict=True):
                digest.update(np.asarray(tokens, np.int32).tobytes() + str(golden).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class PromptDataset:
    """The prompts of a source.

    train: the prompts to train on; held_out: those of the held-out trajectories, which may be none
    summary: a few lines on the kept, blocked, dropped and skipped steps and rows
    content: a hash of `train`; a run that resumes refuses other prompts by it
    """

    train: PromptTable
    held_out: PromptTable
    summary: str
    content: str

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt."""
        return max(int(table.lengths.max()) for table in (self.train, self.held_out) if len(table))


def load_prompts(
    data: Any,
    file: str,
    tokenizer: Tokenizer,
    *,
    seed: int,
    max_prompt_tokens: int,
    dialect: Dialect | None = None,
) -> PromptDataset:
    """Returns the prompts that the `data` block of a config describes.

    file: data.source, or the local file that replaces it. It has either trajectories, and every step that data.mae
    keeps is a prompt; or rows {"instruction", "output"}: a rendered prompt that ends with "Assistant:", and its golden
    call. A prompt is dropped if it is longer than max_prompt_tokens, or if its golden reply makes no call or one that
    cannot be read, since no reply could be correct then. dialect: the opened data.dialect, None for a dialect
    that needs no opening.

    Trajectories are held out completely; SFT holds out the same ones for the same seed and data.eval_fraction. Rows
    {"instruction", "output"} belong to one trajectory if their texts agree up to the first reply.

    Raises InputError for a bad source or rule, and if no prompt is left to train on.
    """
    file = os.path.expanduser(file)
    written: Dialect = data.dialect if dialect is None else dialect
    if data.format != AUTO or not holds_pairs(file):
        source = rows_of_trajectories(data, file, tokenizer, written)
    elif isinstance(written, ModelTemplate):
        raise InputError(
            f"{data.source}: holds rendered prompts, but data.dialect is 'template', which renders conversations; give "
            "trajectories, or another dialect"
        )
    else:
        source = rows_of_pairs(data, file, tokenizer)
    rows = source.rows

    # Hold out complete trajectories, and drop prompts that are too long. A row without a prompt has length 0.
    lengths = column(rows, "length")
    fits = (lengths > 0) & (lengths <= max_prompt_tokens)
    numbers = held_out_trajectories(source.num_trajectories, data.eval_fraction, seed)
    is_held_out = np.isin(column(rows, "trajectory"), numbers)
    dropped = {i: reason for i, reason in enumerate(column(rows, "dropped")) if reason}
    for i in np.flatnonzero(lengths > max_prompt_tokens).tolist():
        dropped[i] = f"too long: {lengths[i]:,} tokens, at most {max_prompt_tokens:,} are allowed in a prompt"
    train = PromptTable(rows, np.flatnonzero(fits & ~is_held_out))
    rest = PromptTable(rows, np.flatnonzero(fits & is_held_out))

    summary = _summary(data.source, source, dropped, train, rest)
    if not len(train):
        raise InputError(
            f"{data.source}: no prompt is left to train on; {'; '.join(map(str.strip, summary.splitlines()))}; choose "
            "another rule in config.data.mae, raise config.data.max_tokens or the limit of a prompt, or add other data"
        )
    return PromptDataset(train, rest, summary, train.content_hash())


def _summary(name: str, source: PromptSource, dropped: dict[int, str], train: PromptTable, rest: PromptTable) -> str:
    rows, skipped = source.rows, source.skipped
    blocked = Counter(_kind(reason) for reason in column(rows, "blocked") if reason)
    why = Counter(map(_kind, dropped.values()))
    kept = len(rows) - blocked.total() - np.count_nonzero(column(rows, "error"))
    longest = max((int(table.lengths.max()) for table in (train, rest) if len(table)), default=0)
    lines = [
        f"data:    {source.num_trajectories:,} trajectories of {name}: {kept:,} steps kept, "
        f"{blocked.total():,} blocked" + (f" ({format_counts(blocked)})" if blocked else ""),
        f"prompts: {len(train):,} to train on, {len(rest):,} held out; longest {longest:,} tokens; "
        f"{why.total():,} dropped" + (f" ({format_counts(why)})" if why else ""),
    ]
    for i in sorted(dropped)[:SHOWN]:
        row = rows[i]
        lines.append(f"  row {row['row']} (id {json.loads(row['id'])!r}), step {row['step']}: {dropped[i]}")
    if len(dropped) > SHOWN:
        lines.append(f"  and {len(dropped) - SHOWN:,} more")
    lines += source.formats
    if skipped:
        lines += [f"rows skipped: {len(skipped):,}", *reader.format_first_errors(skipped)]
    lines += [f"note:    {note}" for note in source.notes]
    unlisted = Counter(name for name in column(rows, "unlisted") if name)
    if unlisted:
        lines.append(f"note:    {format_unlisted_tools(unlisted)}")
    return "\n".join(lines)


def _kind(reason: str) -> str:
    return reason.partition(":")[0]


@lru_cache(maxsize=1024)
def _tools_from_json(listed: str) -> ToolList:
    # Returns one object for equal content, since the reward caches the parsed tools by the identity of the list.
    return as_tool_list(
        [Tool(name, text, properties, tuple(must)) for name, text, properties, must in json.loads(listed)]
    )
