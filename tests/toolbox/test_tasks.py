import json
import random
from collections import Counter

import pytest

from tljax.core.errors import InputError
from tljax.toolbox.execute import execute
from tljax.toolbox.tasks import draw, format_value, make_task
from tljax.toolbox.tools import ASK_TO_USER, FINISH, SPLITS, TOOLS

N = 600
TASKS = {split: [make_task(0, split, i) for i in range(N)] for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_the_solution_runs_and_gives_the_stated_results_and_state(split):
    for task in TASKS[split]:
        state = {}
        listed = {name: TOOLS[name] for name in task.tools if name in TOOLS}
        results = [execute(call.name, call.arguments, listed, state) for call in task.calls[:-1]]
        assert [result.value for result in results] == list(task.results)
        assert not any(result.error for result in results)
        assert state == task.state
        assert task.calls[-1].name == FINISH.name and task.calls[-1].arguments == {"answer": task.answer}
        assert set(task.answer.split(", ")) <= {part for result in task.results for part in result.split(", ")}
        assert task.results[-1] in task.answer
        assert all(TOOLS[call.name].split == split for call in task.calls[:-1])


@pytest.mark.parametrize("split", SPLITS)
def test_the_query_shows_every_value_that_no_result_gives(split):
    chained = 0
    for task in TASKS[split]:
        earlier: list[str] = []
        for call, result in zip(task.calls, task.results, strict=False):
            for name, value in call.arguments.items():
                if name + " the result" in task.query.replace(" =", "").replace(":", "").replace(" is", ""):
                    chained += (value if isinstance(value, str) else json.dumps(value)) in earlier
                else:
                    assert format_value(value) in task.query, task
                    assert name in task.query
            earlier.append(result)
    assert chained > N / 20


@pytest.mark.parametrize("split", SPLITS)
def test_lists_of_tools(split):
    shared = other = asking = 0
    sizes, lengths = Counter(), Counter()
    for task in TASKS[split]:
        assert len(set(task.tools)) == len(task.tools) and task.tools[-1] == FINISH.name
        asking += ASK_TO_USER.name in task.tools
        called = {call.name for call in task.calls[:-1]}
        names = [name for name in task.tools if name in TOOLS]
        assert called <= set(names)
        sizes[len(names)] += 1
        lengths[len(task.calls) - 1] += 1
        verbs = {name.split("_")[0] for name in called}
        for name in set(names) - called:
            shared += name.split("_")[0] in verbs
            other += name.split("_")[0] not in verbs
    assert set(sizes) == {2, 3, 4} and set(lengths) == {1, 2, 3, 4}
    assert lengths[1] > lengths[2] > lengths[3] > 0
    assert 0.05 < asking / N < 0.15
    # In the domain split a verb has few tools, so fewer can share it.
    assert shared / (shared + other) > (0.2 if split == "domain" else 0.4)


def test_the_called_tool_is_not_always_listed_first():
    places = Counter(task.tools.index(task.calls[0].name) for task in TASKS["train"])
    assert min(places[0], places[1]) > N / 5


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_samples_work_and_invalid_values_make_the_tool_raise(tool):
    rng = random.Random(0)
    draws = [{name: draw(rng, source) for name, source in tool.samples.items()} for _ in range(200)]
    failures = [result for result in (execute(tool.name, arguments, TOOLS, {}) for arguments in draws) if result.error]
    # Some pairs of samples do not go together: a word that is not in the list, more items than are left.
    assert len(failures) < 20
    for name, values in tool.invalid.items():
        for value in values:
            result = execute(tool.name, {**draws[0], name: value}, TOOLS, {})
            assert result.error and result.value.startswith(("ValueError: ", "ZeroDivisionError: ")), (name, value)
            assert "() argument" not in result.value


def test_every_tool_of_a_split_is_called():
    for split in SPLITS:
        tasks = (make_task(1, split, i) for i in range(2000))
        called = {call.name for task in tasks for call in task.calls} - {FINISH.name}
        assert called == {tool.name for tool in TOOLS.values() if tool.split == split}


def test_a_task_is_a_function_of_seed_split_and_index():
    assert make_task(3, "train", 17) == make_task(3, "train", 17)
    assert len({make_task(seed, "train", i).query for seed in (0, 1) for i in range(200)}) > 380


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="'test'; allowed: train, composition, domain"):
        make_task(0, "test", 0)
