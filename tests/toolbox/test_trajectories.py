import json
import os
import random
import subprocess
import sys
import time

import pytest

from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import load_rule
from tljax.toolbox.execute import execute
from tljax.toolbox.noise import NOISE_LEVELS, parse_raw_call
from tljax.toolbox.tasks import make_task
from tljax.toolbox.tools import FINISH, SPLITS, TOOLS
from tljax.toolbox.trajectories import (
    FAILURE_KINDS,
    corrupt_call,
    failing_call,
    generate_trajectories,
    write_trajectories,
)


def is_error(feedback: str) -> bool:
    """Returns True for Python's text of a failed call; no tool of the toolbox returns such a text."""
    texts = ("Error: ", "() got an unexpected keyword argument", "() missing ", " is not defined")
    return any(text in feedback for text in texts)


def calls_and_feedback(row):
    messages = row["conversations"]
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            yield parse_raw_call(message["content"]), messages[i + 1]["content"] if i + 1 < len(messages) else None


@pytest.mark.parametrize("share", [0.0, 0.17, 0.4])
@pytest.mark.parametrize("split", SPLITS)
def test_the_share_of_failing_calls_is_the_requested_one(split, share):
    feedback = [
        text
        for row in generate_trajectories(seed=2, n=700, error_share=share, split=split)
        for call, text in calls_and_feedback(row)
        if call.name != FINISH.name
    ]
    realised = sum(map(is_error, feedback)) / len(feedback)
    # Three standard errors of a share over this many calls.
    assert abs(realised - share) <= 3 * (share * (1 - share) / len(feedback)) ** 0.5


def test_every_kind_of_error_is_at_least_a_twentieth_of_all():
    kinds = dict.fromkeys(("is not defined", "() missing ", "() got an unexpected", "ValueError: ", "TypeError: "), 0)
    for row in generate_trajectories(seed=4, n=1500, error_share=0.17, split="train"):
        for _, text in calls_and_feedback(row):
            for kind in kinds:
                kinds[kind] += text is not None and kind in text
    assert min(kinds.values()) > sum(kinds.values()) / 20


@pytest.mark.parametrize("split", SPLITS)
def test_every_failure_is_repaired(split):
    for i, row in enumerate(generate_trajectories(seed=4, n=300, error_share=0.4, split=split)):
        task = make_task(4, split, i)
        worked = [(call, text) for call, text in calls_and_feedback(row) if text is None or not is_error(text)]
        assert tuple(call for call, _ in worked) == task.calls
        assert tuple(text for _, text in worked) == (*task.results, None)


@pytest.mark.parametrize("kind", FAILURE_KINDS)
def test_a_spoiled_call_has_the_error_of_its_kind(kind):

    tools = {name: TOOLS[name] for name in ("convert_length", "get_forecast")}
    call = Call("convert_length", {"value": 3, "source": "mile", "target": "meter"})
    expected = {
        "unknown_tool": "is not defined",
        "missing_argument": "missing 1 required positional argument",
        "unexpected_argument": "got an unexpected keyword argument",
        "wrong_value": "ValueError: unknown unit",
        "wrong_type": "TypeError: convert_length() argument",
    }
    rng = random.Random(0)
    for _ in range(50):
        attempt = corrupt_call(rng, call, tools, kind)
        assert attempt is not None and attempt != call
        result = execute(attempt.name, attempt.arguments, tools)
        assert result.error and expected[kind] in result.value


def test_a_failing_call_fails_in_the_state_of_its_episode():
    tools = {"add_contact": TOOLS["add_contact"]}
    call = Call("add_contact", {"person": "Nina", "phone": "555 0142"})
    state = {"removed": ["Alice", "Bob"]}
    for seed in range(100):
        _, feedback = failing_call(random.Random(seed), call, tools, state)
        assert is_error(feedback)
    assert state == {"removed": ["Alice", "Bob"]}


@pytest.mark.parametrize("noise", [None, *NOISE_LEVELS])
def test_rows_are_read_back_and_mae_blocks_exactly_the_failing_calls(noise):
    rule = load_rule("default")
    for split in SPLITS:
        for i, row in enumerate(
            generate_trajectories(seed=5, n=120, error_share=0.3, split=split, noise=noise), start=1
        ):
            trajectory = trajectory_from_record(row, "toolbox", i)
            assert trajectory.id == row["id"]
            failed = [text is not None and is_error(text) for _, text in calls_and_feedback(row)]
            decisions = rule(trajectory)
            assert [not decision.kept for decision in decisions] == failed, row


def test_the_last_call_finishes_and_has_no_feedback():
    for row in generate_trajectories(seed=6, n=50, error_share=0.2, split="train"):
        *_, (call, feedback) = calls_and_feedback(row)
        assert call.name == FINISH.name and set(call.arguments) == {"answer"} and feedback is None


def test_files_are_the_same_bytes_in_another_process(tmp_path):
    script = (
        "import sys; from tljax.toolbox.trajectories import write_trajectories\n"
        "for split in ('train', 'composition', 'domain'):\n"
        "    for noise in (None, 'slight', 'heavy', 'union'):\n"
        "        path = f'{sys.argv[1]}/{split}-{noise}.json'\n"
        "        write_trajectories(path, seed=8, n=40, error_share=0.3, split=split, noise=noise)\n"
    )
    # The hash seed of this process is random, or another one than that process gets.
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=env)
    assert len(list(tmp_path.iterdir())) == 12
    for split in SPLITS:
        for noise in (None, "slight", "heavy", "union"):
            path = tmp_path / "here.json"
            write_trajectories(path, seed=8, n=40, error_share=0.3, split=split, noise=noise)
            assert path.read_bytes() == (tmp_path / f"{split}-{noise}.json").read_bytes()


def test_row_i_does_not_depend_on_n(tmp_path):
    long = list(generate_trajectories(seed=1, n=30, error_share=0.2, split="train", noise="medium"))
    assert list(generate_trajectories(seed=1, n=10, error_share=0.2, split="train", noise="medium")) == long[:10]
    write_trajectories(tmp_path / "new" / "rows.json", seed=1, n=30, error_share=0.2, split="train", noise="medium")
    assert json.loads((tmp_path / "new" / "rows.json").read_text()) == long
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.json"]
    assert len({row["id"] for row in long}) == 30


def test_no_rows_are_written_as_an_empty_list(tmp_path):
    write_trajectories(tmp_path / "rows.json", seed=1, n=0, error_share=0.2, split="train")
    assert json.loads((tmp_path / "rows.json").read_text()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "split is 'test'; allowed: train, composition, domain"),
        ({"error_share": 0.9}, "error_share is 0.9; allowed: 0 to 0.5"),
        ({"error_share": float("nan")}, "error_share is nan"),
        ({"noise": "loud"}, "noise is 'loud'; allowed: None, slight, medium, heavy, union"),
        ({"n": -1}, "n is -1; allowed: 0 or more"),
    ],
)
def test_arguments_out_of_range_are_refused_and_leave_the_file(tmp_path, change, message):
    path = tmp_path / "rows.json"
    path.write_text("before")
    with pytest.raises(InputError, match=message):
        write_trajectories(path, **{"seed": 0, "n": 2, "error_share": 0.1, "split": "train", "noise": None, **change})
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_trajectories(tmp_path / "file" / "rows.json", seed=0, n=1, error_share=0.1, split="train")


def test_thousands_of_rows_take_seconds(tmp_path):
    start = time.perf_counter()
    write_trajectories(tmp_path / "rows.json", seed=0, n=2000, error_share=0.17, split="train")
    assert time.perf_counter() - start < 10
