"""What runs a dialogue's calls: the mock's texts against CPython's own, and a user's file that does what it likes."""

from pathlib import Path

import pytest

from tljax.agent.executors import FileExecutor, MockExecutor, ToolboxExecutor, documentation_error, read_tool_schemas
from tljax.calls.compare import as_tool_list
from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.toolbox.execute import Result
from tljax.toolbox.schema import local_tool
from tljax.toolbox.tools import ASK_TO_USER, FINISH, NO_USER_REPLY, TOOLS

USER_FILE = '''
import os, time
COUNT = 0

def count(step: int = 1) -> int:
    """Count calls.

    Args:
        step: How far.
    """
    global COUNT
    COUNT += step
    return COUNT

def die() -> None:
    "End it all."
    os.kill(os.getpid(), 9)

def hang() -> None:
    "Never return."
    while True:
        pass

def fail(text: str) -> dict:
    "Say what went wrong, as web services do."
    print(text)
    return {"error": text}
'''


def f(a: int, b: str, c: list, d: float = 0.0):
    """Do it."""


TOOLS_OF_F = as_tool_list([local_tool(f).schema, FINISH.schema])


@pytest.mark.parametrize(
    "arguments",
    [{}, {"a": 1}, {"a": 1, "b": "x"}, {"a": 1, "b": 2, "c": 3, "e": 4, "g": 5}, {"e": 1}, {"d": 1, "b": 1}],
)
def test_the_mock_gives_cpythons_error_texts(arguments):
    with pytest.raises(TypeError) as raised:
        f(**arguments)
    result = MockExecutor(TOOLS_OF_F).execute(Call("f", arguments))
    assert result == Result(str(raised.value), True)
    assert documentation_error(Call("f", arguments), TOOLS_OF_F) == result.value


def test_the_mock_does_not_know_unlisted_tools_nor_check_types():
    with pytest.raises(NameError) as raised:
        eval("g(x=1)", {})
    assert MockExecutor(TOOLS_OF_F).execute(Call("g", {"x": 1})) == Result(str(raised.value), True)
    assert not MockExecutor(TOOLS_OF_F).execute(Call("f", {"a": "x", "b": 1, "c": None})).error


@pytest.mark.parametrize(
    ("name", "description", "value"),
    [
        ("is_open", "Tells.", "true"),
        ("check_mail", "", "true"),
        ("people", "Returns the number of people.", "42"),
        ("listAll", "", '["example result of listAll"]'),
        ("cities", "Get a list of cities.", '["example result of cities"]'),
        ("get_weather", "Get the weather.", '{"status": "success", "result": "example result of get_weather"}'),
        ("island", "", '{"status": "success", "result": "example result of island"}'),
        ("ask_to_user", "Ask.", "I have nothing to add; please decide yourself."),
    ],
)
def test_canned_values_are_of_the_type_that_the_tool_announces(name, description, value):
    tools = as_tool_list([{"name": name, "description": description, "parameters": {}}])
    assert MockExecutor(tools).execute(Call(name, {})) == Result(value, False)


def test_the_toolbox_runs_listed_tools_alone_each_dialogue_with_its_state():
    one, two = ToolboxExecutor(["add_stock", "finish"]), ToolboxExecutor(["add_stock", "finish"])
    call = Call("add_stock", {"item": "lamp", "amount": 2})
    first = one.execute(call)
    assert not first.error and one.execute(call).value != first.value and two.execute(call) == first
    assert one.execute(Call("add_numbers", {})).value == "name 'add_numbers' is not defined"
    assert one.execute(Call("finish", {"answer": "x"})) == Result("x", False)
    asking, asked = ToolboxExecutor(["ask_to_user"]), as_tool_list([ASK_TO_USER.schema])
    question = Call("ask_to_user", {"question": "Which?"})
    assert asking.execute(question) == MockExecutor(asked).execute(question) == Result(NO_USER_REPLY, False)
    assert documentation_error(call, as_tool_list([TOOLS["add_stock"].schema])) is None


@pytest.fixture
def user_file(tmp_path):
    file = tmp_path / "mytools.py"
    file.write_text(USER_FILE)
    return str(file)


def test_a_users_file_in_a_process_of_every_dialogues_own(user_file):
    schemas = read_tool_schemas(user_file, 5)
    assert [schema["name"] for schema in schemas] == ["count", "die", "hang", "fail"]
    assert schemas[0]["description"] == "Count calls."
    assert schemas[0]["parameters"]["properties"] == {"step": {"type": "integer", "description": "How far."}}
    own, tools = frozenset(schema["name"] for schema in schemas), as_tool_list([*schemas, FINISH.schema])
    one, two = (FileExecutor(user_file, 0.5, tools, own, "finish") for _ in range(2))
    try:
        assert [one.execute(Call("count", {})).value for _ in range(2)] == ["1", "2"]
        assert two.execute(Call("count", {"step": 5})) == Result("5", False)
        assert one.execute(Call("die", {})) == Result("RuntimeError: die() ended its process", True)
        assert two.execute(Call("hang", {})) == Result("TimeoutError: hang() took longer than 0.5 s", True)
        assert one.execute(Call("count", {})).value == "1"
        assert one.execute(Call("fail", {"text": "quota exceeded"})) == Result('{"error": "quota exceeded"}', True)
        assert one.execute(Call("fail", {"text": ""})) == Result('{"error": ""}', False)
        assert one.execute(Call("finish", {"answer": "done"})) == Result("done", False)
        assert one.execute(Call("COUNT", {})) == Result("name 'COUNT' is not defined", True)
        children = [one._worker.child, two._worker.child]
    finally:
        one.close()
        two.close()
    assert not any(child is not None and Path(f"/proc/{child.pid}").exists() for child in children)
    two.close()


def test_an_answer_may_speak_of_errors(tmp_path):
    (tmp_path / "mytools.py").write_text('def done(text: str) -> str:\n    "End."\n    return f"Error: {text}"\n')
    file = str(tmp_path / "mytools.py")
    tools, call = as_tool_list(read_tool_schemas(file, 5)), Call("done", {"text": "not found"})
    for ends, error in (("done", False), ("finish", True)):
        executor = FileExecutor(file, 5, tools, frozenset(["done"]), ends)
        try:
            assert executor.execute(call) == Result("Error: not found", error)
            assert executor.execute(Call("done", {})).error
        finally:
            executor.close()


def test_a_broken_users_file_is_refused_before_anything_runs(tmp_path):
    file = tmp_path / "mytools.py"
    file.write_text("import no_such_module\n")
    with pytest.raises(InputError, match=r"mytools.py: the file cannot be run \(ModuleNotFoundError: No module named"):
        read_tool_schemas(str(file), 5)
