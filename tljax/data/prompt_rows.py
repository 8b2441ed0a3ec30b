"""Trajectories, or the rows of a released irm_data.json -> rows of prompts with their golden calls."""

import dataclasses
import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from tljax.calls.compare import Comparison, ToolList, as_tool_list
from tljax.calls.parse_tools import parse_tools
from tljax.calls.render import render_call
from tljax.core.errors import InputError, locate_errors
from tljax.data import reader, records
from tljax.data.arrow import build_dataset
from tljax.data.examples import code_hash
from tljax.data.format_report import format_pairs
from tljax.data.mae import Rule, load_rule
from tljax.data.prompt import Dialect, call_dialect
from tljax.data.steps import TokenizeOptions, source_notes, tokenize_steps
from tljax.data.tokenizer import Tokenizer
from tljax.data.trajectory import Trajectory

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


@dataclass(frozen=True)
class PromptSource:
    """The rows of a source before the limits of prompts.

    skipped: the errors of malformed rows; formats: lines on the formats of the files; notes: on the rule of
    data.mae, and on what the dialect leaves out
    """

    rows: datasets.Dataset
    num_trajectories: int
    skipped: list[str]
    formats: list[str]
    notes: tuple[str, ...] = ()


def rows_of_trajectories(data: Any, file: str, tokenizer: Tokenizer, dialect: Dialect) -> PromptSource:
    """Returns a prompt for every step of the trajectories that data.mae keeps. Raises InputError for a bad source."""
    source = reader.open_trajectories(file, data.on_bad_row, data.cache or None, data.format)
    rule = load_rule(data.mae)
    notes = source_notes(rule, source, dialect)
    # Prompts do not need the weights of tokens.
    options = dataclasses.replace(TokenizeOptions.from_config(data, dialect), pkt="none", new_names=0.0)

    def generate() -> Iterator[dict[str, Any]]:
        progress = tqdm(source.trajectories(), total=len(source), desc="tokenizing", unit="row", disable=None)
        for number, trajectory in enumerate(progress):
            for row in _rows_of_trajectory(trajectory, rule, options, tokenizer):
                yield row | {"trajectory": number}

    facts = {name: data[name] for name in ("mae", "dialect", "max_tokens")} | {"source": source.fingerprint}
    rows = _build(generate, data, facts, tokenizer)
    return PromptSource(rows, len(source), source.skipped, source.format_lines(), tuple(notes))


def _rows_of_trajectory(
    trajectory: Trajectory, rule: Rule, options: TokenizeOptions, tokenizer: Tokenizer
) -> Iterator[dict[str, Any]]:
    """Yields a row for each step, without the number of the trajectory."""
    tools = as_tool_list(trajectory.tools)
    steps = tokenize_steps(trajectory, rule, tokenizer, options)
    turns = [turn for turn in trajectory.turns if turn.role == "assistant"]
    for step, turn in zip(steps, turns, strict=True):
        row = _empty_row(trajectory.row, trajectory.id, step.step)
        golden = "" if turn.call is None else render_call(turn.call, call_dialect(options.dialect))
        if step.tokenized is None:
            yield row | {"blocked": step.reason}
        elif reason := _unreadable(golden, tools):
            yield row | {"dropped": reason}
        else:
            text = step.text[: step.prompt_length]
            tokens = step.tokenized.tokens[: step.tokenized.reply_start]
            yield row | _prompt(text, tokens, golden, tools) | {"unlisted": step.tokenized.unlisted}


def rows_of_pairs(data: Any, file: str, tokenizer: Tokenizer) -> PromptSource:
    """Returns a prompt for every row {"instruction", "output"}. Raises InputError for a bad source."""

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
    errors = [error for error in column(rows, "error") if error]
    if data.on_bad_row == "refuse":
        reader.raise_first_error(errors)
    if len(errors) == len(rows):
        raise InputError(f"file {file}: none of its {len(rows)} rows is usable; the first: {errors[0]}")
    formats = format_pairs(file, len(rows) - len(errors))
    return PromptSource(rows, 1 + int(column(rows, "trajectory").max()), errors, formats)


def holds_pairs(file: str) -> bool:
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


def _build(
    generate: Callable[[], Iterator[dict[str, Any]]], data: Any, facts: dict[str, Any], tokenizer: Tokenizer
) -> datasets.Dataset:
    code = code_hash(facts.get("mae", ""))
    key = json.dumps({"tokenizer": tokenizer.fingerprint, "code": code, **facts}, sort_keys=True, default=str)
    return build_dataset(generate, FEATURES, hashlib.sha256(key.encode()).hexdigest()[:32], data.cache)


def column(rows: datasets.Dataset, name: str) -> np.ndarray:
    """Returns a column of a dataset without selection; reading it item by item would take a thousand times as long."""
    return rows.data.column(name).to_numpy()
