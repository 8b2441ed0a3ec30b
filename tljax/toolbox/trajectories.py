"""Seeded trajectories in the raw schema: tasks, their solutions, and failing calls with the feedback of execution."""

import copy
import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.calls.tool import Call
from tljax.core.errors import InputError, explain_disk_errors
from tljax.storage.atomic import atomic_file
from tljax.toolbox.execute import execute
from tljax.toolbox.noise import NOISE_LEVELS, NOISE_TARGETS, noisy_row, render_raw_call
from tljax.toolbox.schema import LocalTool
from tljax.toolbox.tasks import draw, make_task
from tljax.toolbox.tools import ASK_TO_USER, FINISH, SPLITS, TOOLS

BASE_FOLDER = str(Path(__file__).parent / "base")
FAILURE_KINDS = ("unknown_tool", "missing_argument", "unexpected_argument", "wrong_value", "wrong_type")
MAX_ERROR_SHARE = 0.5
MAX_FAILURES = 8  # before one call; at an error share of 0.5, one call in 256 would have more


def generate_trajectories(
    *, seed: int, n: int, error_share: float, split: str, noise: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yields `n` rows {"id", "conversations"}. Row i depends on seed, split, i, error_share and noise, but not on n.

    error_share: the expected share of failing calls among all calls but `finish`, from 0 to 0.5. noise: a RoTBench
    level or None; each row draws whether tools or parameters are renamed. Raises InputError for arguments out of range.
    """
    if split not in SPLITS:
        raise InputError(f"toolbox split is {split!r}; allowed: {', '.join(SPLITS)}")
    if not 0 <= error_share <= MAX_ERROR_SHARE:
        raise InputError(f"toolbox error_share is {error_share}; allowed: 0 to {MAX_ERROR_SHARE}")
    if noise is not None and noise not in NOISE_LEVELS:
        raise InputError(f"toolbox noise is {noise!r}; allowed: None, {', '.join(NOISE_LEVELS)}")
    if n < 0:
        raise InputError(f"toolbox n is {n}; allowed: 0 or more trajectories")
    for index in range(n):
        row = make_row(seed, index, error_share, split)
        if noise is not None:
            rng = random.Random(f"noise/{seed}/{split}/{index}")
            row = noisy_row(row, noise, rng.choice(NOISE_TARGETS), rng)
        yield row


def write_trajectories(
    path: str | os.PathLike[str], *, seed: int, n: int, error_share: float, split: str, noise: str | None = None
) -> None:
    """Writes the rows of `generate_trajectories` by `write_rows`; raises the errors of both."""
    write_rows(path, generate_trajectories(seed=seed, n=n, error_share=error_share, split=split, noise=noise))


def write_rows(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows as one JSON array with one row per line. After an error the file is as it was before.

    Raises InputError if the file cannot be written.
    """
    target = Path(path)
    with explain_disk_errors(target, "name a file where there is room"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target, per_process=True) as file:
            file.write("[")
            for i, row in enumerate(rows):
                file.write(("\n" if i == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
            file.write("\n]\n")


def make_row(seed: int, index: int, error_share: float, split: str) -> dict[str, Any]:
    """Returns one trajectory: the calls of a task's solution, some of them after failing attempts."""
    task = make_task(seed, split, index)
    rng = random.Random(f"errors/{seed}/{split}/{index}")
    tools = {name: tool_by_name(name) for name in task.tools}
    system = [{"type": "function", "function": tool.schema} for tool in tools.values()]
    conversation = [
        {"role": "system", "content": json.dumps(system, ensure_ascii=False)},
        {"role": "user", "content": task.query},
    ]
    state: dict[str, Any] = {}
    for call, result in zip(task.calls[:-1], task.results, strict=True):
        for _ in range(MAX_FAILURES):
            if rng.random() >= error_share:
                break
            attempt, feedback = failing_call(rng, call, tools, state)
            conversation += [assistant_message(attempt), {"role": "function", "content": feedback}]
        execute(call.name, call.arguments, tools, state)
        conversation += [assistant_message(call), {"role": "function", "content": result}]
    conversation.append(assistant_message(task.calls[-1]))
    return {"id": f"toolbox-{split}-{seed}-{index}", "conversations": conversation}


def tool_by_name(name: str) -> LocalTool:
    """Returns the tool of this name, `finish` and `ask_to_user` included."""
    return {FINISH.name: FINISH, ASK_TO_USER.name: ASK_TO_USER}.get(name) or TOOLS[name]


def assistant_message(call: Call) -> dict[str, str]:
    return {"role": "assistant", "content": render_raw_call(call)}


def failing_call(
    rng: random.Random, call: Call, tools: Mapping[str, LocalTool], state: Mapping[str, Any]
) -> tuple[Call, str]:
    """Returns a failing attempt at a call, and its feedback.

    Tries the kinds of failure in random order; an unknown tool always fails.
    """
    for kind in rng.sample(FAILURE_KINDS, len(FAILURE_KINDS)):
        attempt = corrupt_call(rng, call, tools, kind)
        if attempt is not None:
            result = execute(attempt.name, attempt.arguments, tools, copy.deepcopy(dict(state)))
            if result.error:
                return attempt, result.value
    raise AssertionError(f"no failing form of {call}")


def corrupt_call(rng: random.Random, call: Call, tools: Mapping[str, LocalTool], kind: str) -> Call | None:
    """Returns the call with one error of this kind, or None if the call cannot have such an error.

    The error consists of words of the listed tools and of function words, so that no split gets words of another one.
    """
    tool, arguments = tools[call.name], dict(call.arguments)
    if kind == "unknown_tool":
        return Call(draw_unknown_name(rng, call.name, tools), arguments)
    if kind == "missing_argument" and tool.required:
        del arguments[rng.choice(tool.required)]
        return Call(call.name, arguments)
    if kind == "unexpected_argument":
        return Call(call.name, misname_argument(rng, tool, arguments, tools))
    if kind == "wrong_value" and tool.invalid:
        name = rng.choice(tuple(tool.invalid))
        return Call(call.name, {**arguments, name: rng.choice(tool.invalid[name])})
    if kind == "wrong_type" and arguments:
        name = rng.choice(tuple(arguments))
        return Call(call.name, {**arguments, name: mistype(arguments[name])})
    return None


def draw_unknown_name(rng: random.Random, name: str, tools: Mapping[str, LocalTool]) -> str:
    """Returns a name that is no tool's, made of the words of listed tools."""
    words = name.split("_")
    nouns = [other.split("_")[-1] for other in tools if other not in (name, FINISH.name, ASK_TO_USER.name)]
    names = [
        "_".join([*words[1:], words[0]]),
        words[0] + "".join(word.title() for word in words[1:]),
        "_".join(words[:-1]),
        f"{name}_of",
        f"the_{words[-1]}",
        *("_".join([*words[:-1], noun]) for noun in nouns),
    ]
    return rng.choice([new for new in names if new not in TOOLS and new not in tools])


def misname_argument(
    rng: random.Random, tool: LocalTool, arguments: Mapping[str, Any], tools: Mapping[str, LocalTool]
) -> dict[str, Any]:
    """Returns the arguments with one renamed, or with one more that is a parameter of another tool."""
    foreign = [
        (name, sampler) for other in tools.values() for name, sampler in other.samples.items() if name not in tool.types
    ]
    if foreign and (not arguments or rng.random() < 0.5):
        name, sampler = rng.choice(foreign)
        return {**arguments, name: draw(rng, sampler)}
    if not arguments:
        return {"input": True}
    wrong = rng.choice(tuple(arguments))
    return {misspell_name(rng, name) if name == wrong else name: value for name, value in arguments.items()}


def misspell_name(rng: random.Random, name: str) -> str:
    return rng.choice((f"the_{name}", f"input_{name}", f"{name}_input", f"my_{name}"))


def mistype(value: Any) -> Any:
    """Returns the value as another type, which its parameter does not take."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Sequence):
        return ", ".join(str(item) for item in value)
    return json.dumps(value)
