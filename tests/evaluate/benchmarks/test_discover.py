"""Benchmark files are read whole and told by what they hold; broken golden answers are named and left out."""

import json

import pytest

from tljax.calls.compare import AcceptedValues, AnyValue
from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.evaluate.benchmarks.discover import discover_sets, read_sets
from tljax.evaluate.benchmarks.sets import example_prompt

# Rows, golden calls of rows that are scored, rows left out: counted by another program.
COUNTS = {
    "BFCL_v3_exec_multiple": (50, 50, 0),
    "BFCL_v3_exec_parallel": (50, 188, 0),
    "BFCL_v3_exec_parallel_multiple": (40, 113, 0),
    "BFCL_v3_exec_simple": (100, 100, 0),
    "BFCL_v3_simple": (400, 400, 0),
    "clean": (105, 166, 0),
    "slight": (210, 332, 0),
    "eval_real": (114, 143 - 13, 10),
    "scenario_data_zero_processed": (382, 0, 0),
    "bfcl_exec": (240, 451, 0),
}


@pytest.fixture(scope="session")
def everything(shared):
    return {one.name: one for one in read_sets(shared / "data" / "eval")}


def test_all_files_of_a_folder_are_counted(everything):
    found = {n: (s.rows, sum(len(e.golden) for e in s.examples), len(s.skipped)) for n, s in everything.items()}
    assert found == COUNTS
    for one in everything.values():
        indices = sorted([e.index for e in one.examples] + [row.index for row in one.skipped])
        assert indices == list(range(one.rows))
    tools = {tool.name for e in everything["scenario_data_zero_processed"].examples for tool in e.tools}
    assert len(tools) > 500


def test_the_executable_rows_are_in_their_order(everything):
    ids = [example.id for example in everything["bfcl_exec"].examples]
    assert [ids[i] for i in (0, 99, 100, 149, 150, 199, 200, 239)] == [
        *("exec_simple_0", "exec_simple_99", "exec_multiple_0", "exec_multiple_49"),
        *("exec_parallel_0", "exec_parallel_49", "exec_parallel_multiple_0", "exec_parallel_multiple_39"),
    ]
    assert [example.index for example in everything["bfcl_exec"].examples] == list(range(240))


def test_keys_of_apis_are_neither_shown_nor_compared(everything):
    rows = [example for example in everything["eval_real"].examples if example.ignored]
    assert len(rows) == 10 + 13 + 11 - 4
    for row in rows:
        assert not row.ignored & {name for tool in row.tools for name in tool.properties}
        assert row.ignored & row.golden[0].arguments.keys()
        assert not any(name in example_prompt(row, "mae").replace(row.turns[0].text, "") for name in row.ignored)


def test_prompts_are_those_of_training(rotbench):
    (one,) = read_sets(rotbench)
    prompt = example_prompt(one.examples[3], "mae")
    assert prompt.startswith("System: Function:\ndef translate(text: string, to: string):\n")
    assert "\n\nFunction:\ndef weather(city: string, unit: string = None):\n" in prompt
    assert prompt.endswith(
        "\nUser: Is it wet?\nAssistant: weather(city=\"Bonn\")\nOutput: weather() is 'wet'\nAssistant:"
    )


def test_what_rotbench_does_not_judge(rotbench):
    (one,) = read_sets(rotbench)
    assert (one.name, one.benchmark, one.rows) == ("clean", "rotbench", 4)
    first, second, third, fourth = one.examples
    assert first.golden == (Call("translate", {"text": "cat", "to": "de"}),)
    assert second.golden[0] == Call("weather", {"city": "Rome", "unit": AnyValue()})
    assert third.golden == (Call("ask_to_user", {"question": AnyValue()}),)
    assert fourth.golden == (Call("finish", {"answer": AnyValue()}),) and fourth.finish == "finish"


def test_doubled_ids_are_told_apart_by_their_rows(make, tmp_path):
    file = make.json(tmp_path / "slight.json", [*make.rows, *make.rows])
    (one,) = read_sets(file)
    assert [example.index for example in one.examples] == list(range(8))
    assert one.examples[0].id == one.examples[4].id


def test_broken_golden_calls_of_rotbench_are_left_out(make, tmp_path):
    broken = ["Action: translate", "Action: translate\nAction Input: {text", "Action: translate\nAction Input: [1]"]
    rows = [make.row("q", make.listed, [text]) for text in broken] + [make.row("q", make.listed, []), make.rows[0]]
    (one,) = read_sets(make.json(tmp_path / "clean.json", rows))
    assert [row.index for row in one.skipped] == [0, 1, 2, 3] and one.examples[0].index == 4


def api(**fields):
    """An API of ToolAlpaca with one function of each kind."""
    described = {
        "find": 'Find a pet\nParameters: {"id": "Required. integer. Its number.", '
        '"tags": "Array[string]. One of: [a, b]. Tags.", "key": "Required. string. Secret."}\nOutput: A pet.',
        "all": "Parameters: {}\nOutput: Pets.",
        "components": "not a function",
    }
    return {
        "Name": "Pets",
        "Function_Description": described,
        "Instructions": ["one", "two"],
        "Golden_Answers": [[{"Action": "find", "Action_Input": '{"id": 3, "key": "K"}'}], [step("all", "{}")]],
        "Authentication": {"key": "***"},
    } | fields


def step(name, text):
    return {"Action": name, "Action_Input": text}


def test_toolalpacas_functions(make, tmp_path):
    (one,) = read_sets(make.json(tmp_path / "eval_real.json", [api(), api(Name="Other", Authentication={})]))
    find, everything = one.examples[0].tools
    assert find.properties == {
        "id": {"type": "integer", "description": "Its number."},
        "tags": {"type": "array", "description": "One of: [a, b]. Tags."},
    }
    assert (find.description, find.required) == ("Find a pet", ("id",))
    assert (everything.description, everything.properties) == ("", {})
    assert [example.id for example in one.examples] == ["Pets 00", "Pets 01", "Other 00", "Other 01"]
    assert [example.index for example in one.examples] == [0, 1, 2, 3]
    assert "key" in one.examples[2].tools[0].properties and not one.examples[2].ignored


def test_toolalpacas_broken_steps_are_named(make, tmp_path):
    answers = [
        [step("find", '{"id": 3}'), step("gone", "{}")],
        [step("find", '{"id": "x": 3}')],
        [step("find", '{"id": ${id from all}, "tags": ["${tag}", "b"]}')],
        [step("find", '{"id": 3}'), step("getDetails", '{"Question": "Which?"}')],
        [],
    ]
    file = make.json(tmp_path / "e.json", [api(Instructions=list("abcde"), Golden_Answers=answers)])
    (one,) = read_sets(file)
    assert [(row.index, row.id) for row in one.skipped] == [(0, "Pets 00"), (1, "Pets 01"), (4, "Pets 04")]
    assert "gone is not among the functions" in one.skipped[0].reason and "not JSON" in one.skipped[1].reason
    assert one.examples[0].golden == (Call("find", {"id": AnyValue(), "tags": [AnyValue(), "b"]}),)
    assert one.examples[1].golden[1].name == "getDetails" and one.examples[0].tools[-1].name == "getDetails"


def test_golden_arguments_with_half_a_character_are_broken(make, tmp_path):
    half = '{"id": 1, "tags": ["\\ud83d"]}'
    assert "\\ud83d" in half and half.isascii()
    file = make.json(tmp_path / "e.json", [api(Golden_Answers=[[step("find", half)], [step("all", "{}")]])])
    (one,) = read_sets(file)
    assert [row.reason for row in one.skipped] == ["golden answer is broken: holds \\ud83d, half of a character pair"]
    odd = f"Thought:\nAction: translate\nAction Input: {half}"
    rows = [make.row("q", make.listed, [odd]), make.rows[0]]
    (one,) = read_sets(make.json(tmp_path / "clean.json", rows))
    assert [row.index for row in one.skipped] == [0]
    rows = [
        bfcl_row("exec_simple", i, ground_truth=[text]) for i, text in enumerate([r"area(a='\ud83d')", "area(a=1)"])
    ]
    (one,) = read_sets(make.lines(tmp_path / "BFCL_v3_exec_simple.json", rows))
    assert [row.index for row in one.skipped] == [0]


def bfcl_row(category, number, **more):
    function = {
        "name": "area",
        "description": "Area.",
        "parameters": {
            "type": "dict",
            "properties": {"a": {"type": "float"}, "o": {"type": "dict"}, "t": {"type": "any"}},
            "required": ["a"],
        },
    }
    question = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How large?"}]]
    return {"id": f"{category}_{number}", "question": question, "function": [function]} | more


def test_bfcls_answers(make, tmp_path):
    given = [
        [{"area": {"a": [1, 1.0], "o": [{"k": [1, ""]}], "t": ["", "x"]}}],
        [{"area": {"a": []}}],
        [{"area": {"a": [2]}}, {"area": {"a": [3]}}],
        [],
    ]
    file = make.lines(tmp_path / "BFCL_v3_live_simple.json", [bfcl_row("live_simple", f"{i}-0-0") for i in range(4)])
    answers = [{"id": f"live_simple_{i}-0-{i // 2}", "ground_truth": one} for i, one in enumerate(given)]
    make.lines(tmp_path / "possible_answer" / file.name, answers)
    (one,) = read_sets(tmp_path)
    first, third = one.examples
    assert first.golden == (
        Call(
            "area",
            {
                "a": AcceptedValues((1, 1.0)),
                "o": AcceptedValues(({"k": AcceptedValues((1, ""))},)),
                "t": AcceptedValues(("", "x")),
            },
        ),
    )
    assert [call.arguments["a"] for call in third.golden] == [AcceptedValues((2,)), AcceptedValues((3,))]
    assert [(row.index, row.reason) for row in one.skipped] == [
        (1, "golden answer is broken: no value is right for a"),
        (3, "golden answer is broken: there is no golden call"),
    ]
    assert len(one.remarks) == 2 and "live_simple_2-0-1" in one.remarks[0]
    prompt = example_prompt(first, "mae")
    assert prompt.startswith("System: Be brief.\n\nFunction:\ndef area(a: number, o: object = None, t: any = None):")
    assert prompt.endswith("\nUser: How large?\nAssistant:")


@pytest.mark.parametrize(
    ("category", "expected"),
    [("irrelevance", "no call"), ("live_irrelevance", "no call"), ("live_relevance", "any call")],
)
def test_bfcls_rows_without_golden_calls(make, tmp_path, category, expected):
    (one,) = read_sets(make.lines(tmp_path / "x.json", [bfcl_row(category, 0)]))
    assert (one.examples[0].expected_reply, one.examples[0].golden) == (expected, ())


def test_executable_rows_hold_python_text(make, tmp_path):
    texts = ["area(a=1/4, t=[(1, 2)])", "area(1", "area(a=1) area(a=2)"]
    rows = [bfcl_row("exec_simple", i, ground_truth=[text]) for i, text in enumerate(texts)]
    (one,) = read_sets(make.lines(tmp_path / "BFCL_v3_exec_simple.json", rows))
    assert one.examples[0].golden == (Call("area", {"a": 0.25, "t": [[1, 2]]}),)
    assert [row.index for row in one.skipped] == [1, 2]


def test_parts_are_joined_where_all_four_are_there(make, tmp_path):
    for name, n in (("exec_parallel_multiple", 1), ("exec_simple", 2), ("exec_parallel", 1)):
        rows = [bfcl_row(name, i, ground_truth=["area(a=1)"]) for i in range(n)]
        make.lines(tmp_path / f"BFCL_v3_{name}.json", rows)
    assert len(read_sets(tmp_path)) == 3
    texts = ["area(a=1)", "area("]
    rows = [bfcl_row("exec_multiple", i, ground_truth=[text]) for i, text in enumerate(texts)]
    make.lines(tmp_path / "BFCL_v3_exec_multiple.json", rows)
    joined = read_sets(tmp_path)[-1]
    assert (joined.name, joined.rows) == ("bfcl_exec", 6)
    assert [(e.index, e.id) for e in joined.examples] == [
        *((0, "exec_simple_0"), (1, "exec_simple_1"), (2, "exec_multiple_0")),
        *((4, "exec_parallel_0"), (5, "exec_parallel_multiple_0")),
    ]
    assert [row.index for row in joined.skipped] == [3]
    assert joined.parts[1] == ("BFCL_v3_exec_multiple", 2)


def test_names_of_a_folder(make, tmp_path):
    for folder in ("First_Turn", "Third_Turn"):
        make.json(tmp_path / folder / "clean.json", make.rows)
    make.json(tmp_path / "First_Turn" / "slight.json", make.rows)
    make.lines(tmp_path / "BFCL_v3_java.json", [bfcl_row("java", 0)])
    make.json(tmp_path / "package.json", {"name": "x"})
    make.json(tmp_path / ".git" / "clean.json", [])
    (tmp_path / "report.json").write_text(json.dumps({"sets": [{"name": "x"}]}, indent=2))
    found = discover_sets(tmp_path)
    assert [one.name for one in found.sets] == ["First_Turn/clean", "slight", "Third_Turn/clean"]
    assert len(found.unread) == 3
    assert "java" in found.unread[0] and "fields of its first row: name" in found.unread[1]
    assert found.unread[2] == f"file {tmp_path / 'report.json'}: holds no list of rows"


def dialogue(**fields):
    row = {"id": "q", "path": "p", "conversations": [{"from": "system", "value": "x"}, {"from": "user", "value": "y"}]}
    return [row | fields]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty"]),
        ("[1, 2", ["is not JSON", "cut off"]),
        ('{"a": 1}\n{"b"', ["line 2", "is not JSON"]),
        ('{\n"a": 1\n}', ["holds no list of rows"]),
        ("[]", ["holds no list of rows", "allowed: a file of RoTBench"]),
        ('{"a": 1}', ["fields of its first row: a", "RoTBench, ToolAlpaca, BFCL or ToolEyes"]),
        (json.dumps([{"query": "q", "path": "p"}]), ["raw file has no tool lists", "zero_processed"]),
        (json.dumps(dialogue()), ["row 0, field conversations[0].value", "the tool list cannot be read"]),
        (json.dumps([api(), {"Name": "x"}]), ["row 1", "lacks one of Function_Description"]),
        (json.dumps([api(Instructions=["one"])]), ["row 0", "1 Instructions and 2 Golden_Answers"]),
        (json.dumps([api(Golden_Answers=[None, []])]), ["row 0, field Golden_Answers[0]: is None", "a list of steps"]),
        (json.dumps([api(Instructions=[1, "two"])]), ["row 0, field Instructions[0]: is 1", "a string"]),
        (json.dumps([api(Authentication=[{"a": 1}])]), ["row 0, field Authentication: is [{'a': 1}]", "list of names"]),
        (
            json.dumps([api(Function_Description={"f": "F\nParameters: [1]"})]),
            ["row 0, field Function_Description.f: its Parameters cannot be read ([1] is not an object)"],
        ),
        (json.dumps([api(Instructions=["a \ud83d", "b"])]), ["row 0, field Instructions: holds \\ud83d, half of a"]),
        (json.dumps(bfcl_row("simple", 0)), ["golden answers are missing", "possible_answer"]),
        (json.dumps(bfcl_row("simple", 0, question=[[{"role": "user"}]])), ["row 0, field question", "multi-turn"]),
        (json.dumps(bfcl_row("irrelevance", 0, function=None)), ["row 0, field function: is missing"]),
        (json.dumps(bfcl_row("multi_turn_base", 0)), ["category multi_turn_base is not one of single-turn"]),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, content, words):
    file = tmp_path / "data.json"
    file.write_text(content)
    with pytest.raises(InputError) as error:
        read_sets(file)
    line = str(error.value)
    assert "\n" not in line and str(file) in line and all(word in line for word in words), line


def test_rows_of_another_file_and_no_file(make, tmp_path):
    with pytest.raises(InputError, match="row 1, field conversations: does not end with a list of calls"):
        read_sets(make.json(tmp_path / "mixed.json", [make.rows[0], *dialogue()]))
    with pytest.raises(InputError, match="row 0: lists 1 tools; the last two"):
        read_sets(make.json(tmp_path / "few.json", [make.row("q", make.listed[:1], [make.react("translate")])]))
    with pytest.raises(InputError, match="there is no such file or folder"):
        read_sets(tmp_path / "gone")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_sets(tmp_path / "binary.json")
    make.lines(tmp_path / "q.json", [bfcl_row("simple", 0)] * 2)
    make.lines(tmp_path / "possible_answer" / "q.json", [{"id": "simple_0", "ground_truth": []}])
    with pytest.raises(InputError, match="has 1 rows for the 2"):
        read_sets(tmp_path / "q.json")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"config\.data .*nothing: holds no \.json file"):
        read_sets(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"^config\.eval\.sets .*nothing: holds no \.json file"):
        read_sets(tmp_path / "nothing", "config.eval.sets")
