"""Where dialogues begin: the benchmarks' own files, files of queries, the tool that ends a dialogue."""

import json

import pytest

from tljax.agent.dialogues import add_finish_tool, benchmark_requests, query_requests, toolbox_requests
from tljax.calls.compare import as_tool_list
from tljax.core.errors import InputError
from tljax.evaluate.benchmarks.discover import read_sets

TOOL = {"name": "look_up", "description": "Look.", "parameters": {"properties": {"word": {"type": "string"}}}}


def test_tooleyes_ends_in_its_own_finish(shared):
    asked = benchmark_requests(str(shared / "data/eval/ToolEyes"), "mae", "finish")
    assert len(asked) == 382 and {one.opening.finish for one in asked} == {"finish"}
    assert {tuple(tool.name for tool in one.opening.tools.tools[-2:]) for one in asked} == {("ask_to_user", "finish")}
    one = asked[0]
    assert one.query.startswith("I'm in need of assistance in generating a random string")
    assert one.opening.prompt.endswith(f"\nUser: {one.query}\nAssistant:")
    assert one.opening.prompt.count("def ") == len(one.opening.tools.tools)


def test_a_renamed_finish_ends_a_dialogue_and_a_missing_one_is_added(shared):
    asked = benchmark_requests(str(shared / "data/eval/RoTBench/First_Turn/slight.json"), "mae", "finish")
    ends = {one.opening.finish for one in asked}
    assert "finish" in ends and len(ends) > 20
    assert all(one.opening.finish == one.opening.tools.tools[-1].name for one in asked)
    asked = benchmark_requests(str(shared / "data/eval/BFCL_v3/BFCL_v3_exec_simple.json"), "readme", "finish")
    assert all(one.opening.tools.tools[-1].name == one.opening.finish == "finish" for one in asked)
    assert all("def finish(answer:str)" in one.opening.prompt for one in asked)
    asked = benchmark_requests(str(shared / "data/eval/BFCL_v3/BFCL_v3_exec_simple.json"), "readme", "")
    assert all(one.opening.finish is None and "def finish" not in one.opening.prompt for one in asked)


def test_sets_made_of_other_sets_are_held_once(shared, tmp_path):
    for part in ("simple", "multiple", "parallel", "parallel_multiple"):
        name = f"BFCL_v3_exec_{part}.json"
        (tmp_path / name).symlink_to(shared / "data/eval/BFCL_v3" / name)
    assert len(benchmark_requests(str(tmp_path), "mae", "finish")) == 240


def test_a_broken_golden_answer_does_not_matter(shared, make, tmp_path, capsys):
    """ToolAlpaca's file has golden steps that cannot be read; its dialogues need none."""
    asked = benchmark_requests(str(shared / "data/eval/ToolAlpaca/eval_real.json"), "mae", "finish")
    (one,) = read_sets(shared / "data/eval/ToolAlpaca/eval_real.json")
    left_out = {row.index: row.id for row in one.skipped}
    assert len(asked) == one.rows == 114 and left_out and all(asked[i].id == id for i, id in left_out.items())
    assert all(asked[i].query and len(asked[i].opening.tools.tools) > 1 for i in left_out)
    rows = [make.rows[0], make.row("q", make.listed, ["Thought: none"])]
    asked = benchmark_requests(str(make.json(tmp_path / "clean.json", rows)), "mae", "finish")
    assert len(asked) == 1 and "not asked: set clean, row 1: golden calls cannot be read" in capsys.readouterr().out


def test_files_that_ask_the_same_are_refused(shared, tmp_path, capsys):
    """ToolEyes' zero- and five-shot files differ in what their prompts tell beside tools and query."""
    rows = json.loads((shared / "data/eval/ToolEyes/scenario_data_zero_processed.json").read_text())[:3]
    (tmp_path / "zero.json").write_text(json.dumps(rows))
    for row in rows:
        row["conversations"][0]["value"] = "Examples. " + row["conversations"][0]["value"]
    (tmp_path / "five.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"five.json and .*zero.json ask the same 3 queries.*; give one of the two"):
        benchmark_requests(str(tmp_path), "mae", "finish")
    (tmp_path / "five.json").write_text(json.dumps([{"query": "q", "path": "p"}]))
    assert len(benchmark_requests(str(tmp_path), "mae", "finish")) == 3
    assert "five.json: ToolEyes' raw file has no tool lists" in capsys.readouterr().out


def test_queries_with_their_own_tools_and_history(tmp_path):
    file = tmp_path / "queries.jsonl"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is x?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "look_up", "arguments": '{"word": "x"}'}}]},
        {"role": "tool", "content": "a letter"},
        {"role": "user", "content": "And y?"},
    ]
    rows = [{"id": "a", "query": "What is x?", "tools": [TOOL]}, {"messages": messages, "tools": [TOOL]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = query_requests(str(file), "mae", "finish", "", 1.0)
    assert (one.set, one.id, one.query, two.id, two.query) == ("queries", "a", "What is x?", 2, "And y?")
    assert [tool.name for tool in two.opening.tools.tools] == ["look_up", "finish"]
    assert two.opening.prompt.startswith("System: Be brief.\n\nFunction:\ndef look_up(word: string = None):")
    assert two.opening.prompt.endswith(
        '\nUser: What is x?\nAssistant: look_up(word="x")\nOutput: a letter\nUser: And y?\nAssistant:'
    )


@pytest.mark.parametrize("query", ["", "  ", 3, "\ud800"])
def test_a_query_that_is_none_is_refused(tmp_path, query):
    file = tmp_path / "queries.jsonl"
    file.write_text(json.dumps({"id": "a", "query": query, "tools": [TOOL]}))
    with pytest.raises(InputError, match=r"queries.jsonl, row 1, field (query|messages): "):
        query_requests(str(file), "mae", "finish", "", 1.0)


def test_which_tool_ends_a_dialogue():
    tools = as_tool_list([TOOL])
    assert add_finish_tool(tools, "", "here") == (tools, None)
    assert add_finish_tool(tools, "look_up", "here") == (tools, "look_up")
    added, name = add_finish_tool(tools, "finish", "here")
    assert ([tool.name for tool in added.tools], name) == (["look_up", "finish"], "finish")
    with pytest.raises(InputError, match=r"here: config.finish is 'done', which is not listed; there are look_up"):
        add_finish_tool(tools, "done", "here")


def test_tasks_are_the_same_for_every_model_and_begin_in_either_dialect():
    mae, readme = toolbox_requests(3, "mae"), toolbox_requests(3, "readme")
    assert [one.id for one in mae] == [one.id for one in readme] and [one.set for one in mae][2:4] == [
        "composition",
        "domain",
    ]
    assert mae[0].task == toolbox_requests(1, "mae")[0].task
    assert "finish(answer: string)" in mae[0].opening.prompt and "finish(answer:str)" in readme[0].opening.prompt
