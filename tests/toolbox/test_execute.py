import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tljax.toolbox.execute import MAX_RESULT, execute
from tljax.toolbox.schema import local_tool
from tljax.toolbox.tools import TOOLS


def f(a: int, b: int, c: int, d: int = 0) -> int:
    """Add."""
    return a + b + c + d


@pytest.mark.parametrize(
    "arguments",
    [
        {"a": 1, "b": 2},
        {"a": 1},
        {},
        {"d": 1},
        {"a": 1, "b": 2, "c": 3, "e": 4},
        {"x": 1},
        {"a": 1, "y": 1, "z": 2},
        {"__class__": 1},
        {"a": 1, "b": 2, "c": 3, "": 4},
    ],
    ids=str,
)
def test_binding_errors_are_cpythons_own(arguments):
    with pytest.raises(TypeError) as own:
        f(**arguments)
    # From 3.13 on CPython may add "Did you mean ...".
    expected = str(own.value).split(". Did you mean")[0]
    result = execute("f", arguments, {"f": local_tool(f)})
    assert (result.value, result.error) == (expected, True)


def test_an_unknown_name_is_not_defined():
    with pytest.raises(NameError) as own:
        eval("lookup_price")
    assert execute("lookup_price", {}, TOOLS).value == str(own.value)
    assert execute("lookup_price", {}, TOOLS).error


def test_values_are_text_or_json():
    assert execute("get_forecast", {"city": "Paris", "days": 0}, TOOLS).value == "cloudy"
    assert execute("check_prime", {"number": 97}, TOOLS).value == "true"
    assert execute("sort_numbers", {"numbers": [3, 1, 2.5], "descending": True}, TOOLS).value == "[3, 2.5, 1]"
    assert (
        execute("convert_temperature", {"value": 100, "source": "celsius", "target": "fahrenheit"}, TOOLS).value
        == "212.0"
    )
    assert execute("get_weekday", {"date": "2024-12-25"}, TOOLS).value == "Wednesday"


def test_the_tools_own_exceptions_keep_their_text():
    assert execute("divide_numbers", {"first": 1, "second": 0}, TOOLS).value in (
        "ZeroDivisionError: division by zero",
        "ZeroDivisionError: float division by zero",
    )
    assert execute("get_humidity", {"city": "Gotham"}, TOOLS).value == "ValueError: unknown city 'Gotham'"


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("get_humidity", {"city": 5}, "TypeError: get_humidity() argument 'city' must be str, not int"),
        ("check_prime", {"number": True}, "TypeError: check_prime() argument 'number' must be int, not bool"),
        ("check_prime", {"number": 7.0}, "TypeError: check_prime() argument 'number' must be int, not float"),
        ("check_prime", {"number": None}, "TypeError: check_prime() argument 'number' must be int, not NoneType"),
        (
            "sum_numbers",
            {"numbers": [1, "2"]},
            "TypeError: sum_numbers() argument 'numbers' item must be float, not str",
        ),
        ("sum_numbers", {"numbers": [[1]]}, "TypeError: sum_numbers() argument 'numbers' item must be float, not list"),
        (
            "sum_numbers",
            {"numbers": [float("nan")]},
            "ValueError: sum_numbers() argument 'numbers' item must be finite",
        ),
        (
            "sort_numbers",
            {"numbers": [1], "descending": 1},
            "TypeError: sort_numbers() argument 'descending' must be bool, not int",
        ),
        ("get_humidity", [], "TypeError: get_humidity() argument after ** must be a mapping, not list"),
    ],
)
def test_wrong_types_are_type_errors(name, arguments, text):
    result = execute(name, arguments, TOOLS)
    assert (result.value, result.error) == (text, True)


def test_state_is_changed_in_place_and_only_by_calls_that_work():
    state = {}
    loan = {"title": "Walden", "person": "Emma"}
    assert [execute("borrow_book", loan, TOOLS, state).error for _ in range(3)] == [False, False, True]
    assert execute("count_copies", {"title": "Walden"}, TOOLS, state).value == "0"
    assert execute("return_book", loan, TOOLS, state).value == "Emma returned Walden"
    assert execute("count_copies", {"title": "Walden"}, TOOLS, state).value == "1"
    assert execute("count_copies", {"title": "Walden"}, TOOLS).value == "2"


@pytest.mark.parametrize(
    "name",
    [
        "__import__",
        "eval",
        "exec",
        "open",
        "__builtins__",
        "os.system",
        "f.__globals__",
        "execute",
        "",
        "print",
        "a" * 10**6,
    ],
)
def test_only_listed_names_can_be_called(name):
    result = execute(name, {"code": "print(1)"}, TOOLS)
    assert result.error and result.value.endswith("is not defined") and len(result.value) < 300


@pytest.mark.parametrize(
    "text", ["__import__('os').getcwd()", "{0.__class__}", "{text.__globals__}", "%s%n", "${HOME}", "`id`"]
)
def test_arguments_are_data(text):
    assert execute("reverse_text", {"text": text}, TOOLS).value == text[::-1]
    assert execute("repeat_text", {"text": text, "times": 1}, TOOLS).value == text
    assert execute("join_words", {"words": [text, text], "separator": text}, TOOLS).value == text * 3
    assert execute("get_humidity", {"city": text}, TOOLS).value == f"ValueError: unknown city '{text}'"
    assert (
        execute("get_humidity", {text: "Paris"}, TOOLS).value
        == f"get_humidity() got an unexpected keyword argument '{text}'"
    )


NUMBERS = [10**9, -(10**9), 10**18, 10**5000, 1e308, 5e-324]
HUGE = [*NUMBERS, "x" * 10**7, "9" * 10**6, [1] * 10**6, {"a": 1}, "\ud800", "\ud800" * 999]


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_huge_arguments_neither_hang_nor_escape(tool):
    start = time.perf_counter()
    for value in HUGE:
        for names in [*([name] for name in tool.types), list(tool.types)]:
            arguments = {name: value for name in tool.types}
            for name, source in tool.samples.items():
                if name not in names and not callable(source):
                    arguments[name] = source[0]
            for name, kind in tool.types.items():
                if name in names and kind in (list[float], list[str]):
                    arguments[name] = [value] * 50
            result = execute(tool.name, arguments, TOOLS)
            # A lone surrogate is written as an escape of six characters.
            assert len(result.value.encode()) <= 6 * MAX_RESULT
    assert time.perf_counter() - start < 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.extended
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_json_gives_a_result(data):
    tool = TOOLS[data.draw(st.sampled_from(sorted(TOOLS)))]
    keys = st.sampled_from([*tool.types, "other"])
    by_type = {
        str: st.text(max_size=10) | st.sampled_from(["Paris", "Dune", "meter", "2024-02-29", "lamp"]),
        int: st.integers(),
        float: st.floats(),
        bool: st.booleans(),
    }
    typed = {name: by_type[kind] for name, kind in tool.types.items() if kind in by_type}
    arguments = data.draw(st.fixed_dictionaries(typed) | st.dictionaries(keys, JSON, max_size=4))
    result = execute(tool.name, arguments, TOOLS, {})
    assert isinstance(result.value, str) and len(result.value) <= MAX_RESULT
    assert result == execute(tool.name, arguments, TOOLS, {})


def test_large_arguments_are_refused_by_name():
    for name, arguments, text in (
        ("add_numbers", {"first": 10**12, "second": 1}, "'first' must be between -1000000000 and 1000000000"),
        ("add_numbers", {"first": 1, "second": -1e10}, "'second' must be between -1000000000 and 1000000000"),
        ("count_words", {"text": "a" * 1001}, "'text' has more than 1000 characters"),
        ("sum_numbers", {"numbers": [1] * 101}, "'numbers' has more than 100 items"),
        ("join_words", {"words": ["a" * 1001]}, "'words' item has more than 1000 characters"),
        ("get_basket_price", {"basket": {"a" * 1001: 1}}, "'basket' key has more than 1000 characters"),
    ):
        result = execute(name, arguments, TOOLS)
        assert (result.value, result.error) == (f"ValueError: {name}() argument {text}", True)
    assert execute("sum_numbers", {"numbers": [10**9] * 100}, TOOLS).value == "100000000000.0"


def test_lone_surrogates_become_escapes():
    assert execute("reverse_text", {"text": "a\ud800"}, TOOLS).value == "\\ud800a"
    assert execute("get_humidity", {"city": "\ud800"}, TOOLS).value == r"ValueError: unknown city '\ud800'"
    assert execute("\ud800", {}, TOOLS).value == r"name '\ud800' is not defined"
    assert execute("get_humidity", {"\ud800": 1}, TOOLS).value.endswith(r"argument '\ud800'")


def test_thousands_of_calls_a_second():
    start = time.perf_counter()
    for _ in range(5000):
        execute("get_flight_price", {"source": "Paris", "target": "Oslo", "people": 2}, TOOLS)
    assert 5000 / (time.perf_counter() - start) > 5000
