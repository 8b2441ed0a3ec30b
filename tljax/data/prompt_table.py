"""A config's `data` block -> prompts with golden calls, which are built once and then read by memory mapping.

The source has either trajectories, whose kept steps are the prompts, or the rows of a released irm_data.json.
"""

import dataclasses
import hashlib
import json
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from tljax.calls.compare import Comparison, ToolList, as_tool_list
from tljax.calls.parse_tools import parse_tools
from tljax.calls.render import render_call
from tljax.calls.tool import Tool
from tljax.core.errors import InputError, locate_errors
from tljax.data import reader, records
from tljax.data.arrow import build_dataset
from tljax.data.examples import code_hash, format_counts
from tljax.data.format_report import format_pairs
from tljax.data.formats.read import AUTO
from tljax.data.mae import Rule, check_rule, load_rule
from tljax.data.rows import held_out_trajectories
from tljax.data.steps import TokenizeOptions, format_unlisted_tools, tokenize_steps
from tljax.data.tokenizer import Tokenizer
from tljax.data.trajectory import Trajectory

SHOWN = 5  # the number of dropped prompts that a summary lists
PROMPT_END = "Assistant:"
NO_CALL = "no call in the golden reply"

FEATURES = datasets.Features(
    {name: datasets.Value("int32") for name in ("row", "trajectory", "step", "length")}
    # The reason why MAE or the tokenizer blocks the step, why the reward cannot use it, the error of a malformed row,
    # and the name of a called tool that the prompt does not list; each is "" if there is none.
    | {name: datasets.Value("string") for name in ("blocked", "dropped", "error", "unlisted")}
    | {name: datasets.Value("string") for name in ("id", "text", "golden", "tools")}  # id and tools as JSON
    | {"tokens": datasets.List(datasets.Value("int32"))}
)


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
        self.lengths = _column(rows, "length")[indices]
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


def load_prompts(data: Any, file: str, tokenizer: Tokenizer, *, seed: int, max_prompt_tokens: int) -> PromptDataset:
    """Returns the prompts that the `data` block of a config describes.

    file: data.source, or the local file that replaces it. It has either trajectories, and every step that data.mae
    keeps is a prompt; or rows {"instruction", "output"}: a rendered prompt that ends with "Assistant:", and its golden
    call. A prompt is dropped if it is longer than max_prompt_tokens, or if its golden reply makes no call or one that
    cannot be read, since no reply could be correct then.

    Trajectories are held out completely; SFT holds out the same ones for the same seed and data.eval_fraction. Rows
    {"instruction", "output"} belong to one trajectory if their texts agree up to the first reply.

    Raises InputError for a bad source or rule, and if no prompt is left to train on.
    """
    file = os.path.expanduser(file)
    build = _build_from_pairs if data.format == AUTO and _holds_pairs(file) else _build_from_trajectories
    source = build(data, file, tokenizer)
    rows = source.rows

    # Hold out complete trajectories, and drop prompts that are too long. A row without a prompt has length 0.
    lengths = _column(rows, "length")
    fits = (lengths > 0) & (lengths <= max_prompt_tokens)
    numbers = held_out_trajectories(source.num_trajectories, data.eval_fraction, seed)
    is_held_out = np.isin(_column(rows, "trajectory"), numbers)
    dropped = {i: reason for i, reason in enumerate(_column(rows, "dropped")) if reason}
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


@dataclass(frozen=True)
class _Source:
    """The rows of a source before the limits of prompts.

    skipped: the errors of malformed rows; formats: lines on the formats of the files; rule_note: a note on the rule of
    data.mae, or ""
    """

    rows: datasets.Dataset
    num_trajectories: int
    skipped: list[str]
    formats: list[str]
    rule_note: str = ""


def _summary(name: str, source: _Source, dropped: dict[int, str], train: PromptTable, rest: PromptTable) -> str:
    rows, skipped = source.rows, source.skipped
    blocked = Counter(_kind(reason) for reason in _column(rows, "blocked") if reason)
    why = Counter(map(_kind, dropped.values()))
    kept = len(rows) - blocked.total() - np.count_nonzero(_column(rows, "error"))
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
    if source.rule_note:
        lines.append(f"note:    {source.rule_note}")
    unlisted = Counter(name for name in _column(rows, "unlisted") if name)
    if unlisted:
        lines.append(f"note:    {format_unlisted_tools(unlisted)}")
    return "\n".join(lines)


def _kind(reason: str) -> str:
    return reason.partition(":")[0]


def _column(rows: datasets.Dataset, name: str) -> np.ndarray:
    """Returns a column of a dataset without selection; reading it item by item would take a thousand times as long."""
    return rows.data.column(name).to_numpy()


def _build_from_trajectories(data: Any, file: str, tokenizer: Tokenizer) -> _Source:
    source = reader.open_trajectories(file, data.on_bad_row, data.cache or None, data.format)
    rule = load_rule(data.mae)
    note = check_rule(rule, source)

    def generate() -> Iterator[dict[str, Any]]:
        progress = tqdm(source.trajectories(), total=len(source), desc="tokenizing", unit="row", disable=None)
        for number, trajectory in enumerate(progress):
            for row in _rows_of_trajectory(trajectory, rule, data, tokenizer):
                yield row | {"trajectory": number}

    facts = {name: data[name] for name in ("mae", "dialect", "max_tokens")} | {"source": source.fingerprint}
    rows = _build(generate, data, facts, tokenizer)
    return _Source(rows, len(source), source.skipped, source.format_lines(), note)


def _rows_of_trajectory(
    trajectory: Trajectory, rule: Rule, data: Any, tokenizer: Tokenizer
) -> Iterator[dict[str, Any]]:
    """Yields a row for each step, without the number of the trajectory."""
    tools = as_tool_list(trajectory.tools)
    # Prompts do not need the weights of tokens.
    options = dataclasses.replace(TokenizeOptions.from_config(data), pkt="none")
    steps = tokenize_steps(trajectory, rule, tokenizer, options)
    turns = [turn for turn in trajectory.turns if turn.role == "assistant"]
    for step, turn in zip(steps, turns, strict=True):
        row = _empty_row(trajectory.row, trajectory.id, step.step)
        golden = "" if turn.call is None else render_call(turn.call, data.dialect)
        if step.tokenized is None:
            yield row | {"blocked": step.reason}
        elif reason := _unreadable(golden, tools):
            yield row | {"dropped": reason}
        else:
            text = step.text[: len(step.text) - len(step.reply) - 1]
            tokens = step.tokenized.tokens[: step.tokenized.reply_start]
            yield row | _prompt(text, tokens, golden, tools) | {"unlisted": step.tokenized.unlisted}


def _build_from_pairs(data: Any, file: str, tokenizer: Tokenizer) -> _Source:
    def generate() -> Iterator[dict[str, Any]]:
        numbers: dict[str, int] = {}
        for number, pair in tqdm(records.read_records(file), desc="tokenizing", unit="row", disable=None):
            try:
                if isinstance(pair, InputError):
                    raise pair
                row, text = _row_of_pair(pair, f"file {file}, row {number}", number, tokenizer)
            except InputError as error:
                yield _empty_row(number, number, 0) | {"error": " ".join(str(error).split()), "trajectory": -1}
                continue
            opening = text[: text.index(f"\n{PROMPT_END}")] if f"\n{PROMPT_END}" in text else text
            yield row | {"trajectory": numbers.setdefault(opening, len(numbers))}

    facts = {"source": records.source_hash(file), "file": file}
    rows = _build(generate, data, facts, tokenizer)
    errors = [error for error in _column(rows, "error") if error]
    if data.on_bad_row == "refuse":
        reader.raise_first_error(errors)
    if len(errors) == len(rows):
        raise InputError(f"file {file}: none of its {len(rows)} rows is usable; the first: {errors[0]}")
    formats = format_pairs(file, len(rows) - len(errors))
    return _Source(rows, 1 + int(_column(rows, "trajectory").max()), errors, formats)


def _holds_pairs(file: str) -> bool:
    """Returns True if the first row that can be read has an instruction instead of a conversation."""
    first = next((row for _, row in records.read_records(file) if isinstance(row, dict)), {})
    return "instruction" in first and first.get("conversations") is None and first.get("messages") is None


def _row_of_pair(pair: Any, location: str, number: int, tokenizer: Tokenizer) -> tuple[dict[str, Any], str]:
    """Returns the row of a pair, and the text of its prompt. Raises InputError for a malformed pair."""
    pair = pair if isinstance(pair, dict) else {}
    for field in ("instruction", "output"):
        if not isinstance(pair.get(field), str) or not pair[field].strip():
            raise InputError(
                f'{location}, field {field}: is missing, empty or no text; a row is {{"instruction": rendered prompt, '
                '"output": golden call}'
            )
    text, golden = pair["instruction"].rstrip(), pair["output"].strip()
    if not text.endswith(PROMPT_END):
        raise InputError(
            f"{location}, field instruction: ends with {text[-20:]!r}; a prompt must end with {PROMPT_END!r}"
        )
    tools = as_tool_list(parse_tools(text, f"{location}, field instruction"))
    if not tools.tools:
        raise InputError(
            f'{location}, field instruction: lists no tools; they are read from "Function:\\ndef name(...):"'
        )
    identity = pair.get("id", number)
    identity = identity if isinstance(identity, str | int) and identity != "" else number
    row = _empty_row(number, identity, text.count(f"\n{PROMPT_END}") or 1)
    if reason := _unreadable(golden, tools):
        return row | {"dropped": reason}, text
    with locate_errors(location):
        ids, spans = tokenizer.encode(f"{text} {golden}")
    start = bisect_left(spans, len(text), key=lambda span: span[0])
    if spans[start - 1][1] > len(text):
        return row | {"blocked": f'reply start inside a token: the tokenizer joins "{PROMPT_END}" to it'}, text
    called = tools.parse(golden).calls[0].name
    unlisted = "" if called in tools.schemas else called
    return row | _prompt(text, ids[:start], golden, tools) | {"unlisted": unlisted}, text


def _unreadable(golden: str, tools: ToolList) -> str:
    """Returns the reason why no reply could be correct, or "". A call to an unlisted tool is readable, as in SFT."""
    issue = tools.parse(golden).issue
    if issue is None:
        return ""
    return NO_CALL if issue == "no_call" else f"golden call cannot be read: {Comparison('format', issue=issue).detail}"


def _empty_row(row: int, identity: str | int, step: int) -> dict[str, Any]:
    texts = dict.fromkeys(("blocked", "dropped", "error", "unlisted", "text", "golden", "tools"), "")
    return {"row": row, "id": json.dumps(identity), "step": step, "length": 0, "tokens": [], **texts}


def _prompt(text: str, tokens: Sequence[int] | np.ndarray, golden: str, tools: ToolList) -> dict[str, Any]:
    listed = json.dumps([[t.name, t.description, t.properties, t.required] for t in tools.tools], ensure_ascii=False)
    return {"text": text, "tokens": tokens, "length": len(tokens), "golden": golden, "tools": listed}


@lru_cache(maxsize=1024)
def _tools_from_json(listed: str) -> ToolList:
    # Returns one object for equal content, since the reward caches the parsed tools by the identity of the list.
    return as_tool_list(
        [Tool(name, text, properties, tuple(must)) for name, text, properties, must in json.loads(listed)]
    )


def _build(
    generate: Callable[[], Iterator[dict[str, Any]]], data: Any, facts: dict[str, Any], tokenizer: Tokenizer
) -> datasets.Dataset:
    code = code_hash(facts.get("mae", ""))
    key = json.dumps({"tokenizer": tokenizer.fingerprint, "code": code, **facts}, sort_keys=True, default=str)
    return build_dataset(generate, FEATURES, hashlib.sha256(key.encode()).hexdigest()[:32], data.cache)
