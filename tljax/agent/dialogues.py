"""Toolbox tasks, benchmark rows, or a file of queries -> requests for dialogues; the check of a task's solution."""

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tljax.agent.executors import FileExecutor, MockExecutor, ToolboxExecutor, read_tool_schemas
from tljax.agent.loop import Opening
from tljax.agent.worker import split_tools
from tljax.calls.compare import ToolList, as_tool_list
from tljax.core.errors import InputError
from tljax.data.prompt import Dialect, render_prompt
from tljax.data.prompt_records import (
    check_input_file,
    check_nonempty,
    check_text,
    check_unique_id,
    record_id,
    require_one_of,
    unanswered_conversation,
)
from tljax.data.records import read_records
from tljax.data.trajectory import Conversation, Turn
from tljax.evaluate.benchmarks.discover import discover_sets
from tljax.evaluate.benchmarks.sets import EvalSet, Example
from tljax.evaluate.toolbox_queries import HELD_OUT_SPLITS, QUERY_SEED
from tljax.toolbox.execute import Result
from tljax.toolbox.tasks import Task, make_task
from tljax.toolbox.tools import FINISH
from tljax.toolbox.trajectories import tool_by_name

SCHEMAS = (
    'either {"id", "query"} or {"id", "messages"} (OpenAI), with "tools" where config.tools names no file; or give a '
    "file of a benchmark"
)


@dataclass(frozen=True, slots=True)
class DialogueRequest:
    """A dialogue to generate: a query of a set.

    task: the toolbox's; None for others. row: the row of a user's file as it is there; {} for others.
    """

    set: str
    id: str | int
    query: str
    opening: Opening
    task: Task | None = None
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def toolbox_requests(n: int, dialect: Dialect) -> list[DialogueRequest]:
    """Returns `n` tasks of each held-out split, the same for every model. Their tools run, one state per dialogue."""
    return [toolbox_task_request(QUERY_SEED, split, index, dialect) for split in HELD_OUT_SPLITS for index in range(n)]


def toolbox_task_request(seed: int, split: str, index: int, dialect: Dialect) -> DialogueRequest:
    """Returns the dialogue that begins with task number `index` of a split."""
    task = make_task(seed, split, index)
    tools = as_tool_list([tool_by_name(name).schema for name in task.tools])
    prompt = render_prompt(tools.tools, [Turn("user", task.query)], dialect)
    opening = Opening(prompt, tools, FINISH.name, functools.partial(ToolboxExecutor, task.tools), dialect)
    return DialogueRequest(split, f"toolbox-{split}-{seed}-{index}", task.query, opening, task)


def benchmark_requests(path: str, dialect: Dialect, finish: str) -> list[DialogueRequest]:
    """Returns the rows of a benchmark's files, also those with a broken golden answer; a mock answers their calls.

    Prints which files and rows are left out. finish: the tool that ends a dialogue if the row names none; see
    `add_finish_tool`. Raises InputError as `discover_sets` does, and if two files contain the same queries.
    """
    discovered = discover_sets(path)
    for line in discovered.unread:
        print(f"not read: {line}")
    requests, files = [], dict[tuple[str, ...], str]()
    for eval_set in discovered.sets:
        if eval_set.parts:  # a joined set repeats the rows of its parts
            continue
        rows = [_benchmark_request(eval_set.name, example, dialect, finish) for example in _examples(eval_set)]
        if not rows:
            continue
        first = files.setdefault(tuple(row.opening.prompt for row in rows), eval_set.file)
        if first != eval_set.file:
            raise InputError(
                f"config.data {path}: {first} and {eval_set.file} ask the same {len(rows):,} queries with the same "
                "tools; give one of the two files"
            )
        requests += rows
    return requests


def _examples(eval_set: EvalSet) -> list[Example]:
    """Returns all readable rows of a file in its order; prints which are left out."""
    for row in eval_set.skipped:
        if row.example is None:
            print(f"not asked: set {eval_set.name}, row {row.index}: {row.reason}")
    without_golden = [row.example for row in eval_set.skipped if row.example is not None]
    return sorted([*eval_set.examples, *without_golden], key=lambda example: example.index)


def _benchmark_request(name: str, example: Example, dialect: Dialect, finish: str) -> DialogueRequest:
    tools, ends = add_finish_tool(
        as_tool_list(example.tools), example.finish or finish, f"set {name}, row {example.index}"
    )
    prompt = render_prompt(tools.tools, example.turns, dialect, example.system)
    opening = Opening(prompt, tools, ends, functools.partial(MockExecutor, tools), dialect)
    query = next((turn.text for turn in example.turns if turn.role == "user"), "")
    return DialogueRequest(name, example.id, query, opening)


def query_requests(file: str, dialect: Dialect, finish: str, tools_file: str, seconds: float) -> list[DialogueRequest]:
    """Returns the rows of a JSONL file or a JSON array: {"id", "query"} or {"id", "messages"}.

    tools_file: the Python file whose functions are the tools, or FILE.py:CLASS, whose methods are
    (`toolbox.schema.load_environment`), with a limit of `seconds` for each call. If it is "", every row lists its own
    tools, and a mock answers. Raises InputError, which names file, row and field, for a
    malformed row.
    """
    file = check_input_file(file, SCHEMAS)
    shared: ToolList | None = None
    file_functions: frozenset[str] = frozenset()
    if tools_file:
        shared = as_tool_list(read_tool_schemas(tools_file, seconds))
        file_functions = frozenset(shared.schemas)
    requests: list[DialogueRequest] = []
    rows: dict[str | int, int] = {}
    for number, row in read_records(file):
        if isinstance(row, InputError):
            raise row
        at = f"file {file}, row {number}"
        if not isinstance(row, dict):
            raise InputError(f"{at}: is not an object; a row is {SCHEMAS}")
        identity = record_id(row, file, number)
        check_unique_id(identity, rows, file, number)
        given, row = row, row | {"messages": _messages(row, at)}
        if shared is not None and row.get("tools"):
            raise InputError(
                f"{at}, field tools: is there, and config.tools names {tools_file} too; take the field out, or leave "
                "config.tools empty, which answers the listed tools' calls with a mock"
            )
        conversation = unanswered_conversation(row, at)
        listed = shared or as_tool_list(conversation.tools)
        if not listed.tools:
            raise InputError(f"{at}, field tools: is missing; list the tools, or name a Python file in config.tools")
        tools, ends = add_finish_tool(listed, finish, at)
        prompt = render_prompt(tools.tools, conversation.turns, dialect, conversation.system)
        check_text(prompt, f"{at}, field messages")
        begin = None
        if shared is None:
            open_tools = functools.partial(MockExecutor, tools)
        else:
            open_tools = functools.partial(FileExecutor, tools_file, seconds, tools, file_functions, ends)
        if split_tools(tools_file)[1]:
            # TRL's rows call the messages "prompt".
            open_tools = functools.partial(open_tools, row=row | {"prompt": row["messages"]})
            begin = functools.partial(_begin_environment, conversation=conversation, tools=tools, dialect=dialect)
        query = next((turn.text for turn in reversed(conversation.turns) if turn.role == "user"), "")
        opening = Opening(prompt, tools, ends, open_tools, dialect, begin)
        requests.append(DialogueRequest(Path(file).stem, identity, query, opening, row=given))
    return requests


def _begin_environment(executor: FileExecutor, conversation: Conversation, tools: ToolList, dialect: Dialect) -> Result:
    """Returns the prompt with what the environment shows first, appended to the last message, or an error."""
    shown = executor.reset()
    if shown.error:
        return shown
    last = conversation.turns[-1]
    turns = (*conversation.turns[:-1], dataclasses.replace(last, text=last.text + shown.value))
    return Result(render_prompt(tools.tools, turns, dialect, conversation.system), False)


def tools_hash(tools: str) -> str:
    """Returns a hash of the content of config.tools, FILE.py or FILE.py:CLASS."""
    return hashlib.sha256(Path(split_tools(tools)[0]).expanduser().read_bytes()).hexdigest()


def _messages(row: dict[str, Any], at: str) -> Any:
    if require_one_of(row, ("query", "messages"), at, SCHEMAS) == "messages":
        return row["messages"]
    query = row["query"]
    check_nonempty(query.strip() if isinstance(query, str) else query, f"{at}, field query", "the user's question")
    return [{"role": "user", "content": query}]


def add_finish_tool(tools: ToolList, finish: str, at: str) -> tuple[ToolList, str | None]:
    """Returns the tools with the tool that ends a dialogue, and its name.

    A tool named "finish" is added if it is not listed. If `finish` is "", no tool ends a dialogue: a reply without a
    call does. Raises InputError for any other name that is not listed.
    """
    if not finish:
        return tools, None
    if finish in tools.schemas:
        return tools, finish
    if finish != FINISH.name:
        raise InputError(
            f"{at}: config.finish is {finish!r}, which is not listed; there are {', '.join(tools.schemas)}; name one "
            f"of them, or {FINISH.name!r}, which is added, or leave it empty, so that a reply without a call ends"
        )
    return as_tool_list([*tools.tools, *as_tool_list([FINISH.schema]).tools]), finish


@dataclass(frozen=True, slots=True)
class SolutionCheck:
    """The two conditions of a solved task: the dialogue left the solution's state, and its answer is right."""

    state: bool
    answer: bool


def check_solution(task: Task, state: dict[str, Any], answer: str | None) -> SolutionCheck:
    """Compares the final state and answer of a dialogue with a task's solution. answer: None if there is none.

    An answer is right if it is the requested results and nothing else, separated by commas, as in training; their
    order and the blanks at commas are free. So the query itself is not an answer, even if it contains the result.
    """
    right = is_answer(answer, [",".join(order) for order in itertools.permutations(task.requested)])
    return SolutionCheck(state == task.state, right)


def is_answer(answer: str | None, allowed: Sequence[str]) -> bool:
    """Returns True if an answer is one of the allowed ones, up to blanks at its ends and at commas."""
    return answer is not None and _strip_blanks(answer) in map(_strip_blanks, allowed)


def _strip_blanks(text: str) -> str:
    return re.sub(r"\s*,\s*", ",", text.strip())
