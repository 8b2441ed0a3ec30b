"""The benchmarks' own files, read just far enough to feed the scorer."""

import json
from dataclasses import dataclass, field

import pytest

from tljax.data.calls import Call
from tljax.data.compare import AnyValue, Choices, ToolList, tool_list

EXEC = ("exec_simple", "exec_multiple", "exec_parallel", "exec_parallel_multiple")


@dataclass
class Row:
    tools: ToolList
    golden: list[Call]
    ignored: frozenset = field(default_factory=frozenset)
    finish: str | None = None


def _rotbench(folder):
    rows = []
    for row in json.loads((folder / "RoTBench/First_Turn/clean.json").read_text()):
        system = row["conversations"][0]["value"]
        tools = tool_list(json.loads(system[system.index("[") : system.rindex("]") + 1]))
        free = {tool.name for tool in tools.tools[-2:]}
        golden = []
        for text in row["conversations"][-1]["value"]:
            name, _, arguments = text.partition("Action: ")[2].partition("\nAction Input:")
            given = json.loads(arguments).items()
            golden.append(Call(name, {k: AnyValue() if v == "None" or name in free else v for k, v in given}))
        rows.append(Row(tools, golden, finish=tools.tools[-1].name))
    return rows


def _toolalpaca(folder):
    rows = []
    for api in json.loads((folder / "ToolAlpaca/eval_real.json").read_text()):
        tools = []
        for name, text in api["Function_Description"].items():
            if name != "components":
                listed = json.loads(text.partition("Parameters: ")[2].partition("\nOutput:")[0])
                properties = {key: {"description": words} for key, words in listed.items()}
                tools.append({"name": name, "parameters": {"properties": properties}})
        for steps in api["Golden_Answers"]:
            golden = []
            for step in steps:
                try:
                    golden.append(Call(step["Action"], json.loads(step["Action_Input"])))
                except ValueError:
                    golden.append(Call("broken", {}))
            rows.append(Row(tool_list(tools), golden, ignored=frozenset(api["Authentication"])))
    return rows


def _exec(folder):
    rows = []
    for name in EXEC:
        for line in (folder / f"BFCL_v3/BFCL_v3_{name}.json").read_text().splitlines():
            row = json.loads(line)
            tools = tool_list(row["function"])
            rows.append(Row(tools, [tools.parse(text).calls[0] for text in row["ground_truth"]]))
    return rows


def _choices(values):
    return Choices(tuple(_nested(value) for value in values))


def _nested(value):
    if isinstance(value, dict):
        return {key: _choices(values) for key, values in value.items()}
    return [_nested(item) for item in value] if isinstance(value, list) else value


def _simple(folder):
    questions = (folder / "BFCL_v3/BFCL_v3_simple.json").read_text().splitlines()
    answers = (folder / "BFCL_v3/possible_answer/BFCL_v3_simple.json").read_text().splitlines()
    rows = []
    for question, answer in zip(map(json.loads, questions), map(json.loads, answers), strict=True):
        golden = [
            Call(name, {key: _choices(values) for key, values in arguments.items()})
            for call in answer["ground_truth"]
            for name, arguments in call.items()
        ]
        rows.append(Row(tool_list(question["function"]), golden))
    return rows


READERS = {"rotbench_clean": _rotbench, "toolalpaca_real": _toolalpaca, "bfcl_exec": _exec, "bfcl_simple": _simple}


@pytest.fixture(scope="session")
def benchmark_rows(shared):
    """benchmark_rows("rotbench_clean") -> its rows."""
    return lambda name: READERS[name](shared / "data" / "eval")
