"""MAE, mitigating adverse effects: the rules that decide which assistant steps are trained on.

A step whose tool feedback shows an error is blocked from the gradient; it stays in the context of later steps
(TL-Training, section 3.1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tljax.calls.tool import Call
from tljax.core import errors
from tljax.core.errors import InputError
from tljax.core.user_function import describe_exception, is_function_path, load_function
from tljax.data import mae_default
from tljax.data.mae_labels import Labels, read_labels
from tljax.data.reader import TrajectoryDataset
from tljax.data.trajectory import Trajectory
from tljax.storage.remote import local_path

ALLOWED = (
    "allowed: default, release, release_no_filter, none, a JSON list of regular expressions, "
    "a .txt file with one regular expression a line, a .jsonl file with verdicts on steps, module:function"
)

# The released script's keywords. Keywords and feedback are folded before the substring test, so that '"error":' becomes
# the bare word error.
RELEASE_KEYWORDS = (
    "is not defined",
    "positional argument",
    "unexpected keyword",
    "'related_searches'",
    "ConnectionError",
    '"error":',
    "not supported",
    "Invalid API call",
    "Response error",
    "Object of type SerpResults is not JSON serializable",
    "400 Client Error",
    "'error'",
    "slice indices must be integers or None or have an __index__ method",
    "connection error",
)
# Inside the brackets "^" is a character like any other after the first, so the released folding keeps it.
RELEASE_FOLD = re.compile("[^\u4e00-\u9fa5^a-z^A-Z^0-9]")


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about one step: True and None for a kept step, False and "kind: excerpt" for a blocked one."""

    kept: bool
    reason: str | None


NOT_LEARNED = "not learned: the row gives this message the weight 0"
Rule = Callable[[Trajectory], list[Decision]]
UserFunction = Callable[[Call | None, str | None], str | None]


@dataclass(frozen=True, slots=True)
class _LabelRule:
    """The rule of a file with verdicts on steps."""

    labels: Labels

    def __call__(self, trajectory: Trajectory) -> list[Decision]:
        num_steps = sum(turn.role == "assistant" for turn in trajectory.turns)
        return [_decision(reason) for reason in self.labels.reasons(trajectory, num_steps)]


@dataclass(frozen=True, slots=True)
class _LearnedRule:
    """A rule that also blocks the turns that their record marks as not to be learned."""

    rule: Rule

    def __call__(self, trajectory: Trajectory) -> list[Decision]:
        turns = [turn for turn in trajectory.turns if turn.role == "assistant"]
        return [
            decision if turn.learned else Decision(False, NOT_LEARNED)
            for turn, decision in zip(turns, self.rule(trajectory), strict=True)
        ]


def check_rule(rule: Rule, source: TrajectoryDataset) -> str:
    """Checks a file with verdicts against its source. Returns a note for the summary, or "".

    Raises InputError for a verdict on a trajectory or a step that the source does not have.
    """
    if not isinstance(rule, _LearnedRule) or not isinstance(rule.rule, _LabelRule):
        return ""
    return rule.rule.labels.check(source.trajectories(), len(source.skipped))


def load_rule(spec: str | Sequence[str]) -> Rule:
    """Returns the rule that `spec` names. A rule returns one Decision per assistant turn, in order.

    default: blocks the errors that mae_default finds
    release, release_no_filter: the released mae.py with and without --is_mae
    none: keeps every step
    a sequence, a JSON list, or a .txt file with one item a line: regular expressions, which are searched in a step's
        feedback without regard to case
    a .jsonl file: the verdicts of any critic on steps (mae_labels.py)
    module:function: `fn(call, feedback) -> reason | None` is called for every step; call or feedback are None if the
        step has none

    Whatever the rule says, a turn that its record marks as not to be learned is blocked. Raises InputError for anything
    else. A function rule also raises it while it runs, and names row and step.
    """
    return _LearnedRule(_load_rule(spec))


def _load_rule(spec: str | Sequence[str]) -> Rule:
    if not isinstance(spec, str):
        if not isinstance(spec, Sequence) or not all(isinstance(pattern, str) for pattern in spec):
            raise InputError(f"data.mae: {spec!r:.60} is neither a string nor a list of strings; {ALLOWED}")
        return _pattern_rule([(pattern, f"pattern {i}") for i, pattern in enumerate(spec, 1)])
    name = spec.strip()
    if name == "default":
        return _default
    if name == "release":
        return lambda trajectory: _release(trajectory, RELEASE_KEYWORDS)
    if name == "release_no_filter":
        return lambda trajectory: _release(trajectory, ())
    if name == "none":
        return lambda trajectory: [Decision(True, None) for _, _ in _steps(trajectory)]
    if name.startswith("["):
        return _load_rule(_json_patterns(name))
    if name.endswith(".txt"):
        return _pattern_rule(_file_patterns(name))
    if name.endswith(".jsonl"):
        return _LabelRule(read_labels(name))
    if is_function_path(name):
        return _function_rule(name, load_function(name, "data.mae", "fn(call, feedback) -> str | None"))
    raise InputError(f"data.mae: unknown rule {spec!r}; {ALLOWED}")


def _steps(trajectory: Trajectory) -> Iterator[tuple[int, str | None]]:
    """Yields the index and the feedback of every assistant turn; the feedback is None if no function turn follows."""
    for i, turn in enumerate(trajectory.turns):
        if turn.role == "assistant":
            feedbacks = _feedbacks(trajectory, i)
            yield i, "\n".join(feedbacks) if feedbacks else None


def _feedbacks(trajectory: Trajectory, i: int) -> list[str]:
    """Returns the texts of the function turns right after turn i."""
    texts = []
    for turn in trajectory.turns[i + 1 :]:
        if turn.role != "function":
            break
        texts.append(turn.text)
    return texts


def _decision(reason: str | None) -> Decision:
    return Decision(reason is None, reason)


def _default(trajectory: Trajectory) -> list[Decision]:
    return [
        # Each feedback is examined on its own, since two JSON payloads joined are no JSON.
        _decision(next(filter(None, map(mae_default.find_error, _feedbacks(trajectory, i))), None))
        for i, _ in _steps(trajectory)
    ]


def _fold(text: str) -> str:
    return RELEASE_FOLD.sub("", text).lower()


def _release(trajectory: Trajectory, keywords: Sequence[str]) -> list[Decision]:
    """Returns the released script's decisions. It reads only the next message, and keeps a step that has none."""
    decisions = []
    for i, _ in _steps(trajectory):
        after = trajectory.turns[i + 1] if i + 1 < len(trajectory.turns) else None
        reason = None
        if after is not None and after.role != "function":
            reason = f"no feedback: the next message is the {after.role}'s"
        elif after is not None:
            folded = _fold(after.text)
            if (keyword := next((k for k in keywords if _fold(k) in folded), None)) is not None:
                reason = f"keyword {keyword}: {errors.excerpt(after.text)}"
        decisions.append(_decision(reason))
    return decisions


def _json_patterns(text: str) -> list[str]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'data.mae: {text!r} is no JSON list ({error}); write ["regex", ...]') from None


def _file_patterns(file: str) -> list[tuple[str, str]]:
    try:
        lines = local_path(file, "config.data.mae").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"data.mae: cannot read {file} ({error}); allowed: a UTF-8 text file with one regular expression a line"
        ) from None
    return [(line, f"{file}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]


def _pattern_rule(sources: Sequence[tuple[str, str]]) -> Rule:
    """Returns the rule for pairs of a regular expression and its location, which an error names."""
    if not sources:
        raise InputError("data.mae: the list of regular expressions is empty; give at least one, or the rule none")
    patterns = []
    for text, location in sources:
        try:
            patterns.append(re.compile(text, re.IGNORECASE))
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(
                f"data.mae: {location}, {text!r}, is no regular expression ({error}); escape special characters with \\"
            ) from None

    def reason(feedback: str | None) -> str | None:
        for pattern in patterns if feedback is not None else ():
            if match := pattern.search(feedback or ""):
                return f"pattern {pattern.pattern}: {errors.excerpt(feedback or '', match.start(), match.end())}"
        return None

    return lambda trajectory: [_decision(reason(feedback)) for _, feedback in _steps(trajectory)]


def _function_rule(path: str, function: UserFunction) -> Rule:
    def rule(trajectory: Trajectory) -> list[Decision]:
        decisions = []
        for step, (i, feedback) in enumerate(_steps(trajectory), 1):
            location = f"row {trajectory.row} (id {trajectory.id!r}), step {step}: data.mae {path}"
            try:
                reason = function(trajectory.turns[i].call, feedback)
            except Exception as error:  # the user's code may raise anything
                raise InputError(
                    f"{location} raised {describe_exception(error)}; mend it, or choose another rule"
                ) from error
            if reason is not None and not (isinstance(reason, str) and reason.strip()):
                raise InputError(
                    f"{location} returned {reason!r:.60}; allowed: None, or the reason to block as a string"
                )
            decisions.append(_decision(None if reason is None else " ".join(reason.split())))
        return decisions

    return rule
