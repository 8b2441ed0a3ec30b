"""Trajectories -> one JSON line per assistant step, and a summary that counts kept and blocked steps and weights."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError, explain_disk_errors, one_line
from tljax.data.check import check_data
from tljax.data.mae import load_rule
from tljax.data.prompt import Dialect
from tljax.data.reader import format_first_errors, open_trajectories
from tljax.data.steps import Step, TokenizeOptions, format_unlisted_tools, source_notes, tokenize_trajectories
from tljax.data.tokenizer import Tokenizer
from tljax.storage.atomic import atomic_file

SHOWN = 20  # reasons that the summary lists
# JSON allows these characters inside a string, but str.splitlines and some readers of JSONL end a line there.
_LINE_ENDS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}


@dataclass
class DataSummary:
    """Counts over steps; `str()` is the report for people.

    lengths: the steps that MAE keeps, by their number of tokens; steps over `max_tokens` are among them
    """

    max_tokens: int
    trajectories: int = 0
    kept: int = 0
    blocked: Counter[str] = field(default_factory=Counter)  # by kind of reason
    lengths: Counter[int] = field(default_factory=Counter)
    weight: float = 0.0  # sum over all reply tokens
    key_weight: float = 0.0  # sum over the key tokens among them
    reply_tokens: int = 0
    key_tokens: int = 0
    skipped: list[str] = field(default_factory=list)
    unlisted: Counter[str] = field(default_factory=Counter)  # called tools that the prompt does not list
    notes: list[str] = field(default_factory=list)  # on the rule of data.mae, and on what the dialect leaves out
    formats: list[str] = field(default_factory=list)  # lines on the formats of the files

    def add(self, step: Step) -> None:
        """Counts one step."""
        reply = step.tokenized
        if step.length:
            self.lengths[step.length] += 1
        if reply is None:
            self.blocked[(step.reason or "").partition(":")[0]] += 1
            return
        self.kept += 1
        if reply.unlisted:
            self.unlisted[reply.unlisted] += 1
        key = reply.key_positions
        self.weight += float(reply.weights.sum())
        self.key_weight += float(reply.weights[key].sum())
        self.reply_tokens += len(reply.weights)
        self.key_tokens += len(key)

    def percentile(self, share: float) -> int:
        """Returns the smallest length that at least `share` of the steps do not exceed."""
        count = 0
        for length in sorted(self.lengths):
            count += self.lengths[length]
            if count >= share * self.lengths.total():
                return length
        return 0

    def __str__(self) -> str:
        steps = self.kept + self.blocked.total()
        lines = [
            f"trajectories  {self.trajectories:,}",
            f"steps         {steps:,}",
            f"  kept        {self.kept:,} ({_percent(self.kept, steps)})",
            f"  blocked     {self.blocked.total():,} ({_percent(self.blocked.total(), steps)})",
        ]
        lines += [f"    {count:>7,}  {kind}" for kind, count in self.blocked.most_common(SHOWN)]
        if (more := len(self.blocked) - SHOWN) > 0:
            lines.append(f"             and {more:,} more kinds")
        too_long = sum(count for length, count in self.lengths.items() if length > self.max_tokens)
        percentiles = [f"{share} %: {self.percentile(share / 100):,}" for share in (50, 90, 99)]
        lines += [
            f"tokens/step   {', '.join(percentiles)}, longest: {max(self.lengths, default=0):,}",
            f"too long      {too_long:,} over {self.max_tokens:,} tokens",
            f"key tokens    {_percent(self.key_weight, self.weight)} of the weight, "
            f"{_percent(self.key_tokens, self.reply_tokens)} of the reply tokens",
            f"rows skipped  {len(self.skipped):,}",
        ]
        lines += [*format_first_errors(self.skipped), *self.formats]
        lines += [f"note          {note}" for note in self.notes]
        if self.unlisted:
            lines.append(f"note          {format_unlisted_tools(self.unlisted)}")
        return "\n".join(lines)


def prepare_data(data: Any, file: str, tokenizer: Tokenizer, out: str, dialect: Dialect | None = None) -> DataSummary:
    """Writes `out`, one line per assistant step of `file` in source order, and returns a summary of the lines.

    data: the `data` block of a config; file: data.source, or the file that stands in for it; dialect: the opened
    data.dialect, None for a dialect that needs no opening. A line holds id, step
    (from 1), kept, reason, text and reply. A kept step also has tokens, reply_start, key (positions from the first
    reply token), weight, and weights (one per reply token, the end token included).

    Raises InputError for bad input, for an `out` that exists, for a disk that refuses to read or write, and if every
    step is blocked. `out` is not written then.
    """
    # All checks that need no reading.
    target = _check_out(out)
    check_data(data)
    if data.prompt_weight:
        raise InputError(
            f"config.data.prompt_weight is {data.prompt_weight}, but the lines hold weights of replies alone; "
            "leave it at 0 here"
        )
    rule = load_rule(data.mae)
    source = open_trajectories(file, data.on_bad_row, data.cache or None, data.format)
    options = TokenizeOptions.from_config(data, dialect or data.dialect)
    steps_of_all = tokenize_trajectories(source, rule, tokenizer, options, "preparing")
    summary = DataSummary(
        data.max_tokens,
        skipped=source.skipped,
        notes=source_notes(rule, source, options.dialect),
        formats=source.format_lines(),
    )

    with explain_disk_errors(f"config.out={target}", "nothing was left there"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target, per_process=True) as lines:
            for steps in _explain_read_errors(steps_of_all, file):
                summary.trajectories += 1
                for step in steps:
                    summary.add(step)
                    lines.write(format_step(step) + "\n")
            if not summary.kept:
                counts = ", ".join(f"{kind} {count:,}" for kind, count in summary.blocked.most_common(SHOWN))
                raise InputError(
                    f"file {file}: every step is blocked ({counts}), so nothing was written; "
                    "choose another rule in config.data.mae or raise config.data.max_tokens"
                )
            _check_out(str(target))  # another process may have written it meanwhile
    return summary


def _explain_read_errors(steps: Iterator[list[Step]], file: str) -> Iterator[list[Step]]:
    """Yields from `steps`. Raises InputError that names the file that cannot be read, so that `out` is not blamed."""
    try:
        yield from steps
    except OSError as error:
        raise InputError(
            f"file {error.filename or file}: cannot be read ({error.strerror or one_line(error)}); check the disk that "
            "holds it, and its permissions"
        ) from error


def format_step(step: Step) -> str:
    """Returns a step as one line of JSON."""
    fields: dict[str, Any] = {name: getattr(step, name) for name in ("id", "step", "kept", "reason", "text", "reply")}
    if (reply := step.tokenized) is not None:
        fields |= {
            "tokens": reply.tokens.tolist(),
            "reply_start": reply.reply_start,
            "key": reply.key_positions,
            "weight": reply.key_weight,
            "weights": reply.weights.tolist(),
        }
    return json.dumps(fields, ensure_ascii=False).translate(_LINE_ENDS)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def _check_out(out: str) -> Path:
    """Returns the path of the file to write. Raises InputError if it is not named or exists already."""
    if not out:
        raise InputError("config.out is empty; name the file to write, as in --config.out=steps.jsonl")
    target = Path(out).expanduser()
    # A device such as /dev/null exists without being a file, and the rename would replace it.
    if target.exists() and (not target.is_file() or target.stat().st_size):
        raise InputError(f"config.out={out}: exists already; remove it or name another file")
    return target
