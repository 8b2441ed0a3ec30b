"""Rewards of a batch: the built-in rules, a user's function in worker processes, and the errors it may make."""

import contextlib
import json
import math
import os
import time
from pathlib import Path

import pytest

from tljax.calls.compare import as_tool_list
from tljax.core.errors import InputError
from tljax.data.prompt_table import Prompt
from tljax.rl.irm import Reward, reward
from tljax.rl.reward import RewardFunction

TOOL = {
    "name": "get",
    "description": "Gets it.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["city"],
    },
}
PROMPT = Prompt("t-7", 3, [1], "Assistant:", "get(city='x')", as_tool_list([TOOL]))

MODULE = """
import asyncio, os, signal, sys, time
import numpy as np
from tljax.rl.irm import Reward, reward

def length(prediction, golden, tools):
    time.sleep(0.01 * (len(prediction) % 3))
    return len(prediction) / 10

def table(prediction, golden, tools, rule="table"):
    return reward(prediction, golden, tools, rule)

def gives_tools(prediction, golden, tools):
    import json
    return Reward(0.5, "content", json.dumps(tools))

def of_its_own_kind(prediction, golden, tools):
    return Reward(np.float32(0.25), "wrong_tool", "mine\\n two")

def only_a_number(prediction, golden, tools):
    return Reward(prediction == golden, "", "")

def process(prediction, golden, tools):
    return os.getpid()

def raises(prediction, golden, tools): raise KeyError("city\\nnot there")
def exits(prediction, golden, tools): sys.exit(4)
def dies(prediction, golden, tools): os._exit(3)
def is_killed(prediction, golden, tools): os.kill(os.getpid(), signal.SIGKILL)
def hangs(prediction, golden, tools): return time.sleep(600) if prediction == "b" else 1.0
def gives_nan(prediction, golden, tools): return float("nan")
def gives_inf(prediction, golden, tools): return 10 ** 400 if prediction == "x" else -np.inf
def gives_too_much(prediction, golden, tools): return 1e39
def gives_none(prediction, golden, tools): pass
def gives_text(prediction, golden, tools): return "1.0"
def gives_rows(prediction, golden, tools): return np.eye(3)
def gives_kind(prediction, golden, tools): return Reward(1.0, "perfect", "")
def gives_nan_reward(prediction, golden, tools): return Reward(np.float64("nan"), "correct", "")

async def waits(prediction, golden, tools): return 1.0
def of_two(prediction, golden): return 1.0
def of_four(prediction, golden, tools, more): return 1.0
number = 3
"""


def worker_pids() -> set[int]:
    """The ids of the processes that this one has started for reward functions."""
    pids = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and "tljax.rl.reward_workers" in (status.parent / "cmdline").read_text():
                pids.add(int(status.parent.name))
    return pids


@pytest.fixture
def make(tmp_path, monkeypatch):
    """RewardFunction of a function in a module beside the working folder; closed at the end."""
    (tmp_path / "my_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    made = []

    def run(rule, clip=0.0, timeout=60.0, workers=1):
        made.append(RewardFunction(rule=rule, clip=clip, timeout=timeout, workers=workers))
        return made[-1]

    yield run
    for function in made:
        function.close()
    assert not worker_pids()


@pytest.mark.parametrize("rule", ["table", "release"])
def test_the_rules_equal_the_reward_in_order(make, shared, rule):
    golden = json.loads((shared / "golden" / "rewards.json").read_text())
    lists = [as_tool_list(tools) for tools in golden["tool_lists"]]
    prompts = [Prompt(i, 1, [], "", c["golden"], lists[c["tools"]]) for i, c in enumerate(golden["cases"])]
    predictions = [case["prediction"] for case in golden["cases"]]
    found = make(rule, clip=5.0).score(predictions, prompts)
    assert found == [reward(t, p.golden, p.tools, rule) for t, p in zip(predictions, prompts, strict=True)]
    if rule == "release":
        assert [r.value for r in found] == [case["release_reward"] for case in golden["cases"]]
    else:
        differ = [i for i, case in enumerate(golden["cases"]) if found[i].value != case["release_reward"]]
        assert len(differ) == 59 and min(differ) >= 300


@pytest.mark.parametrize(("clip", "values"), [(0.0, [1.0, -2.0]), (1.5, [1.0, -1.5]), (0.5, [0.5, -0.5])])
def test_rewards_are_clipped(make, clip, values):
    found = make("table", clip=clip).score([PROMPT.golden, "no"], [PROMPT] * 2)
    assert [r.value for r in found] == values and [r.kind for r in found] == ["correct", "format"]


def test_a_users_numbers_keep_their_order_and_get_the_tables_kinds(make):
    predictions = ["get(city='x')", "get(city='yy')", "no", "go()", "get(city='x', n=1)"] * 8
    found = make("my_rewards:length", clip=1.4, workers=2).score(predictions, [PROMPT] * len(predictions))
    assert [r.value for r in found] == [min(len(text) / 10, 1.4) for text in predictions]
    judged = [reward(text, PROMPT.golden, PROMPT.tools) for text in predictions]
    assert [(r.kind, r.detail) for r in found] == [(r.kind, r.detail) for r in judged]


def test_a_users_function_gets_a_reply_and_its_tools_and_returns_a_reward(make):
    predictions = ["get(city='x')", "get(city='y', n=2)", "", "\ud800"]
    prompts = [PROMPT] * len(predictions)
    assert make("my_rewards:table").score(predictions, prompts) == make("table").score(predictions, prompts)
    (got,) = make("my_rewards:gives_tools").score(["x"], [PROMPT])
    assert json.loads(got.detail) == [TOOL] and got.kind == "content"
    assert make("my_rewards:of_its_own_kind").score(["x"], [PROMPT]) == [Reward(0.25, "wrong_tool", "mine two")]
    found = make("my_rewards:only_a_number").score([PROMPT.golden, "no"], [PROMPT] * 2)
    assert found == [Reward(1.0, "correct", ""), Reward(0.0, "format", "no call in the reply")]


def test_processes_are_apart_and_stay(make):
    function = make("my_rewards:process", workers=2)
    first = {r.value for r in function.score(["x"] * 20, [PROMPT] * 20)}
    pids = worker_pids()
    assert os.getpid() not in first and first <= pids and len(pids) == 2
    assert {r.value for r in function.score(["x"] * 20, [PROMPT] * 20)} <= pids == worker_pids()
    assert function.score([], []) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", r"raised KeyError: 'city\\nnot there'; mend it, or choose another rule"),
        ("exits", r"raised SystemExit: 4"),
        ("dies", r"ended its process, which ended with exit code 3"),
        ("is_killed", r"ended its process, which was killed by signal 9"),
        ("gives_nan", r"returned nan; allowed: a finite number"),
        ("gives_inf", r"returned -inf; allowed: a finite number"),
        ("gives_too_much", r"returned 1e\+39; allowed: a finite number"),
        ("gives_none", r"returned None, of type NoneType; allowed: a finite number"),
        ("gives_text", r"returned '1\.0', of type str; allowed"),
        ("gives_rows", r"returned array\(\[\[1., 0., 0.\], .*, of type ndarray"),
        ("gives_kind", r"returned the kind 'perfect'; allowed: correct, "),
        ("gives_nan_reward", r"returned nan; allowed"),
    ],
)
def test_a_result_that_is_no_reward_is_one_line_with_the_prompt(make, name, said):
    function = make(f"my_rewards:{name}")
    with pytest.raises(
        InputError, match=rf"^prompt 't-7', step 3: config\.reward\.rule my_rewards:{name} {said}"
    ) as error:
        function.score(["a"], [PROMPT])
    assert "\n" not in str(error.value)
    assert not worker_pids()
    with pytest.raises(RuntimeError, match="have been closed"):
        function.score(["a"], [PROMPT])


def test_a_function_that_hangs_is_stopped(make):
    prompts = [PROMPT, Prompt("slow", 1, [], "", "get()", PROMPT.tools), PROMPT, PROMPT]
    function = make("my_rewards:hangs", timeout=1.0, workers=2)
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"^prompt 'slow', step 1: .*hangs took more than 1 seconds; mend it, or raise"
    ):
        function.score(["a", "b", "a", "a"], prompts)
    assert 1 <= time.monotonic() - start < 30 and not worker_pids()


BROKEN = {
    "broken": "import nothing_of_that_name",
    "leaves": "import os; os._exit(5)",
    "says": "raise ValueError('no\\n')",
}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("no_such_module:f", "importing no_such_module failed .*No module named 'no_such_module'.*PYTHONPATH"),
        ("broken:f", "importing broken failed .*No module named 'nothing_of_that_name'"),
        ("says:f", "importing says failed .*ValueError: no"),
        ("leaves:f", "a process that imports leaves ended with exit code 5"),
        ("my_rewards:absent", "module my_rewards has no absent"),
        ("my_rewards:number", "is of type int, not a function; allowed: fn"),
        ("my_rewards:of_two", r"of_two\(prediction, golden\) does not fit .*allowed: fn"),
        ("my_rewards:of_four", r"missing a required argument: 'more'"),
        ("my_rewards:waits", "is async"),
        ("__main__:f", "other processes cannot import; move the function to a module"),
        ("my_rewards.length", "allowed: table, release, binary, toolrl, module:function"),
        ("my_rewards:<lambda>", "allowed: table, release, binary, toolrl, module:function"),
        (lambda prediction, golden, tools: 1.0, "is of type function; write the function into a module"),
        (None, "is of type NoneType"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_refused_at_once(make, tmp_path, rule, said):
    for name, code in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(InputError, match=rf"^config\.reward\.rule.*{said}") as error:
        make(rule)
    assert "\n" not in str(error.value) and not worker_pids()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"clip": -1.0}, "config.reward.clip is -1.0; it must be at least 0 and finite"),
        ({"clip": math.nan}, "config.reward.clip is nan"),
        ({"timeout": 0.0}, "config.reward.timeout is 0.0; it must be above 0 and finite"),
        ({"timeout": math.inf}, "config.reward.timeout is inf"),
        ({"workers": 0}, "config.reward.workers is 0; it must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(make, fields, said):
    with pytest.raises(InputError, match=said):
        make("table", **fields)
