"""Fixtures: the benchmarks' files, the real ones and small ones of the same form."""

import json
from types import SimpleNamespace

import pytest

FILES = {
    "rotbench_clean": "RoTBench/First_Turn/clean.json",
    "toolalpaca_real": "ToolAlpaca/eval_real.json",
    "bfcl_exec": "BFCL_v3",
    "bfcl_simple": "BFCL_v3/BFCL_v3_simple.json",
}


@pytest.fixture(scope="session")
def benchmark(shared):
    """benchmark("rotbench_clean") -> the set in the benchmark's own file."""
    from tljax.evaluate.benchmarks.discover import read_sets

    return lambda name: read_sets(shared / "data" / "eval" / FILES[name])[-1]


def tool(name, *parameters, optional=()):
    properties = {key: {"type": "string", "description": f"The {key}."} for key in (*parameters, *optional)}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"name": name, "description": f"Does {name}.", "parameters": schema}


def react(name, **arguments):
    return f"Thought:\nAction: {name}\nAction Input: {json.dumps(arguments)}"


def rotbench_row(query, tools, golden, history=()):
    """A row as RoTBench has it; history: (role, text) between the query and the asked reply."""
    system = "Task: you have access of the following tools:\n" + json.dumps(tools) + "\n\nLet's Begin!\n"
    said = [("system", system), ("user", f"{query}\nBegin!\n"), *history, ("assistant", golden)]
    conversations = [{"from": role, "value": value} for role, value in said]
    return {"id": f"Turn 1: {query}", "scenario": "TG", "conversations": conversations}


ASK, FINISH = tool("ask_to_user", "question"), tool("finish", "answer")
LISTED = [tool("translate", "text", "to"), tool("weather", "city", optional=("unit",)), ASK, FINISH]
ROWS = [
    rotbench_row("Translate cat", LISTED, [react("translate", text="cat", to="de")]),
    rotbench_row("Rain in Rome?", LISTED, [react("weather", city="Rome", unit="None"), react("weather", city="Rome")]),
    rotbench_row("Which city?", LISTED, [react("ask_to_user", question="Which one?")]),
    rotbench_row(
        "Is it wet?",
        LISTED,
        [react("finish", answer="Yes.")],
        [("assistant", react("weather", city="Bonn")), ("function", "weather() is 'wet'")],
    ),
]


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def make():
    """Rows and files of the benchmarks' forms; `make.rows` are four of RoTBench."""
    return SimpleNamespace(
        tool=tool, react=react, row=rotbench_row, rows=ROWS, listed=LISTED, json=write_json, lines=write_lines
    )


@pytest.fixture
def rotbench(tmp_path):
    """A file of four rows in RoTBench's form."""
    return write_json(tmp_path / "clean.json", ROWS)
