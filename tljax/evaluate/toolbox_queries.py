"""The toolbox's held-out queries: each asks for one call, at the beginning of a task or in the middle of it."""

import random
from collections.abc import Sequence

from tljax.data.formats.read import trajectory_from_record
from tljax.data.prompt import Dialect, render_prompt
from tljax.evaluate.benchmarks.sets import Example, Query
from tljax.evaluate.score import random_tool_ts
from tljax.toolbox.tools import FINISH
from tljax.toolbox.trajectories import generate_trajectories

HELD_OUT_SPLITS = ("composition", "domain")
QUERY_SEED = 1  # the same for every model, so that scores can be compared


def held_out_queries(split: str, n: int, dialect: Dialect) -> list[Query]:
    """Returns `n` queries of a split, one from each task, so that they are independent.

    The golden call is drawn from a task's calls other than `finish`, which needs no choice of a tool; the prompt holds
    the calls before it. Raises InputError for an unknown split.
    """
    queries = []
    for number, row in enumerate(generate_trajectories(seed=QUERY_SEED, n=n, error_share=0.0, split=split), start=1):
        trajectory = trajectory_from_record(row, f"toolbox {split}", number)
        calls = [(i, turn.call) for i, turn in enumerate(trajectory.turns) if turn.call is not None]
        candidates = [(i, call) for i, call in calls if call.name != FINISH.name]
        position, golden = random.Random(f"query/{QUERY_SEED}/{split}/{number}").choice(candidates)
        prompt = render_prompt(trajectory.tools, trajectory.turns[:position], dialect, trajectory.system)
        example = Example(number - 1, str(trajectory.id), trajectory.tools, (), (golden,))
        queries.append(Query(prompt, example))
    return queries


def held_out_sets(n: int, dialect: Dialect) -> dict[str, list[Query]]:
    """Returns `n` queries of each held-out split, by the split's name."""
    return {split: held_out_queries(split, n, dialect) for split in HELD_OUT_SPLITS}


def random_tool_ts_of(queries: Sequence[Query]) -> float:
    """Returns the expected TS in percent of naming a listed tool at random."""
    return random_tool_ts([query.example.golden for query in queries], [query.tools for query in queries])
