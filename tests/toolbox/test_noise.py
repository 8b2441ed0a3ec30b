import itertools
import json
import random

import pytest

from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.toolbox.execute import execute
from tljax.toolbox.noise import NOISE_LEVELS, NOISE_TARGETS, draw_renaming, noisy_row, parse_raw_call
from tljax.toolbox.schema import local_tool
from tljax.toolbox.trajectories import generate_trajectories

PLANE = [(level, target) for level in NOISE_LEVELS[:3] for target in NOISE_TARGETS]


def tool(name, *parameters, required=None):
    properties = {p: {"type": "string", "description": f"{p} of {name}"} for p in parameters}
    required = list(parameters if required is None else required)
    return {
        "name": name,
        "description": f"Does {name}.",
        "parameters": {"type": "object", "properties": properties, "required": required},
    }


TOOLS = [
    tool("get_city_weather", "city", "country", "unit", required=["city", "country"]),
    {"type": "function", "function": tool("get_city_distance", "source", "target")},
    tool("list_cities"),
    tool("finish", "answer"),
]
CALLS = [Call("get_city_weather", {"city": "Paris", "country": "France"}), Call("finish", {"answer": "x"})]


def names(tools):
    return [item.get("function", item)["name"] for item in tools]


def parameters(tool):
    return list(tool.get("function", tool)["parameters"]["properties"])


def documented(call, tools):
    """Whether the call is one that the list allows."""
    found = next(
        (item.get("function", item) for item in tools if item.get("function", item)["name"] == call.name), None
    )
    if found is None:
        return False
    spec = found["parameters"]
    return set(spec["required"]) <= set(call.arguments) <= set(spec["properties"])


@pytest.mark.parametrize(("level", "target"), PLANE)
@pytest.mark.parametrize("seed", range(40))
def test_called_names_always_change_and_stay_allowed(level, target, seed):
    renaming = draw_renaming(TOOLS, CALLS, level, target, random.Random(seed))
    new_tools = [renaming.tool(item) for item in TOOLS]
    new_calls = [renaming.call(call) for call in CALLS]
    assert all(documented(call, new_tools) for call in new_calls)
    assert len(set(names(new_tools))) == len(TOOLS)
    assert all(
        len(set(parameters(new))) == len(parameters(new)) >= len(parameters(old))
        for old, new in zip(TOOLS, new_tools, strict=True)
    )
    for old, new in zip(CALLS, new_calls, strict=True):
        if target == "tool":
            assert new.name != old.name and new.arguments == old.arguments
            # The description, not the name, says which tool it is.
            index = names(new_tools).index(new.name)
            assert new_tools[index]["description"] == f"Does {old.name}."
        else:
            assert new.name == old.name and list(new.arguments.values())[: len(old.arguments)] == list(
                old.arguments.values()
            )
            moved = [a != b for a, b in zip(old.arguments, new.arguments, strict=False)]
            assert all(moved) or (level == "heavy" and not any(moved) and len(new.arguments) == len(old.arguments) + 1)
    assert TOOLS[1]["function"]["name"] == "get_city_distance", "the input is left as it was"


def distance(a, b):
    """Levenshtein's."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        last, row = row, [i]
        for j, y in enumerate(b):
            row.append(min(row[-1] + 1, last[j + 1] + 1, last[j] + (x != y)))
    return row[-1]


def test_slight_edits_less_than_a_third():
    kinds = set()
    for seed in range(200):
        renaming = draw_renaming(TOOLS, CALLS, "slight", "tool", random.Random(seed))
        for old, new in renaming.tools.items():
            assert 1 <= distance(old, new) < len(old) / 3
            kinds.add((len(new) > len(old)) - (len(new) < len(old)))
    assert kinds == {-1, 0, 1}


def test_medium_reverses_or_draws_letters():
    seen = set()
    for seed in range(200):
        renaming = draw_renaming(TOOLS, CALLS, "medium", "tool", random.Random(seed))
        for old, new in renaming.tools.items():
            seen.add(new == old[::-1])
            assert new == old[::-1] or (new.isalpha() and len(new) <= 10)
        renaming = draw_renaming(TOOLS, CALLS, "medium", "parameter", random.Random(seed))
        for old, new in itertools.chain(*(p.items() for p in renaming.parameters.values())):
            assert new == old[::-1] or (new.isalpha() and len(new) <= 5)
    assert seen == {True, False}


def test_heavy_permutes_or_adds_a_required_parameter():
    seen = set()
    for seed in range(200):
        renaming = draw_renaming(TOOLS, CALLS, "heavy", "tool", random.Random(seed))
        assert sorted(renaming.tools) == sorted(renaming.tools.values()) == sorted(names(TOOLS))
        renaming = draw_renaming(TOOLS, CALLS, "heavy", "parameter", random.Random(seed))
        new = renaming.tool(TOOLS[0])
        call = renaming.call(CALLS[0])
        extra = set(parameters(new)) - set(parameters(TOOLS[0]))
        seen.add(bool(extra))
        if extra:
            (name,) = extra
            text = new["parameters"]["properties"][name]["description"]
            assert text == f'Whenever you use this parameter, please set it as "{call.arguments[name]}"'
            assert new["parameters"]["required"][-1] == name
        else:
            assert sorted(parameters(new)) == sorted(parameters(TOOLS[0])) and parameters(new) != parameters(TOOLS[0])
            # The n-th parameter keeps its description: its meaning has another name.
            described = [spec["description"] for spec in new["parameters"]["properties"].values()]
            assert described == [f"{p} of get_city_weather" for p in parameters(TOOLS[0])]
    assert seen == {True, False}


def test_names_that_are_not_called_are_hit_about_half_of_the_time():
    hit = sum(
        "list_cities" in draw_renaming(TOOLS, CALLS, "slight", "tool", random.Random(s)).tools for s in range(400)
    )
    assert 150 < hit < 250


def test_lists_of_one_tool_and_names_of_one_letter():
    one = [tool("f", "x")]
    for (level, target), seed in itertools.product(PLANE, range(50)):
        renaming = draw_renaming(one, [Call("f", {"x": 1})], level, target, random.Random(seed))
        call = renaming.call(Call("f", {"x": 1}))
        assert documented(call, [renaming.tool(one[0])]) and call != Call("f", {"x": 1})


def test_a_new_name_never_defines_what_was_undefined():
    unknown = [Call(letter, {"answer": "", "q": 1}) for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVW"]
    for seed in range(50):
        renaming = draw_renaming(TOOLS, [*CALLS, *unknown], "medium", "tool", random.Random(seed))
        assert not {call.name for call in unknown} & set(renaming.tools.values())


def f(city: str, unit: str, day: int = 1) -> str:
    """Weather."""
    raise ValueError(f"unknown city '{city}' or f() 'unit'")


@pytest.mark.parametrize(("level", "target"), PLANE)
def test_feedback_is_what_python_says_of_a_function_with_the_new_names(level, target):
    documentation = local_tool(f).schema
    bad = [
        {},
        {"city": "x"},
        {"city": "x", "unit": "y", "oops": 1},
        {"city": 1, "unit": "y"},
        {"city": "x", "unit": "y"},
    ]
    calls = [Call("f", arguments) for arguments in bad]
    for seed in range(20):
        renaming = draw_renaming([documentation, tool("g", "z")], calls, level, target, random.Random(seed))
        if renaming.extra.get("f"):
            continue
        new = renaming.tool(documentation)
        scope: dict = {}
        exec(f"def {new['name']}({', '.join(new['parameters']['properties'])}): ...", scope)
        for call in calls[1:3]:
            before = execute("f", call.arguments, {"f": local_tool(f)}).value
            after = renaming.call(call)
            new_function = scope[new["name"]]
            new_function.__defaults__ = (1,)
            with pytest.raises(TypeError) as own:
                new_function(**after.arguments)
            assert renaming.feedback(before, call) == str(own.value)
        own_text = execute("f", calls[-1].arguments, {"f": local_tool(f)}).value
        assert renaming.feedback(own_text, calls[-1]) == own_text
        kinds = execute("f", calls[3].arguments, {"f": local_tool(f)}).value
        assert f"{new['name']}() argument '{next(iter(new['parameters']['properties']))}' must be" in renaming.feedback(
            kinds, calls[3]
        )


@pytest.mark.parametrize("level", NOISE_LEVELS)
def test_rows_stay_solvable(level):
    clean = list(generate_trajectories(seed=9, n=60, error_share=0.0, split="train"))
    for i, row in enumerate(clean):
        for target in NOISE_TARGETS:
            noisy = noisy_row(row, level, target, random.Random(i))
            tools = json.loads(noisy["conversations"][0]["content"])
            calls = [parse_raw_call(m["content"]) for m in noisy["conversations"] if m["role"] == "assistant"]
            assert all(documented(call, tools) for call in calls)
            assert noisy != row and noisy["conversations"][1] == row["conversations"][1]
            assert [m for m in noisy["conversations"] if m["role"] == "function"] == [
                m for m in row["conversations"] if m["role"] == "function"
            ]


@pytest.mark.parametrize("name", ["rotbench_third_clean", "toolalpaca_verified", "bfcl_multiturn_errors"])
def test_noise_on_real_trajectories(shared, name):
    rows = json.loads((shared / "data" / "train" / f"{name}.json").read_text())[:60]
    for i, row in enumerate(rows):
        before = json.loads(row["conversations"][0]["content"])
        old = [parse_raw_call(m["content"]) for m in row["conversations"] if m["role"] == "assistant"]
        for level, target in [*PLANE, ("union", "tool")]:
            noisy = noisy_row(row, level, target, random.Random(i))
            trajectory_from_record(noisy, name, i + 1)
            after = json.loads(noisy["conversations"][0]["content"])
            new = [parse_raw_call(m["content"]) for m in noisy["conversations"] if m["role"] == "assistant"]
            assert len(after) == len(before)
            for a, b in zip(old, new, strict=True):
                assert (a is None) == (b is None)
                if a is not None and len(set(names(before))) == len(before) and a.name in names(before):
                    assert documented(b, after) == documented(a, before), (a, b)


def test_slight_noise_is_as_strong_as_rotbenchs_own(shared):
    """On the same clean rows: how many uncalled names are hit, and how hard a name is hit."""
    folder = shared / "data" / "train"
    rows = json.loads((folder / "rotbench_third_clean.json").read_text())
    theirs = json.loads((folder / "rotbench_third_slight.json").read_text())[: len(rows)]
    ours = [noisy_row(row, "slight", "tool", random.Random(i)) for i, row in enumerate(rows)]

    def strength(noisy_rows):
        pairs = []
        for clean, noisy in zip(rows, noisy_rows, strict=True):
            called = {parse_raw_call(m["content"]).name for m in clean["conversations"] if m["role"] == "assistant"}
            lists = (names(json.loads(row["conversations"][0]["content"])) for row in (clean, noisy))
            pairs += [(old, new, old in called) for old, new in zip(*lists, strict=True)]
        uncalled = [old != new for old, new, called in pairs if not called]
        shares = [distance(old, new) / len(old) for old, new, _ in pairs if old != new]
        return sum(uncalled) / len(uncalled), sum(shares) / len(shares), max(shares)

    (their_rate, their_mean, their_max), (our_rate, our_mean, our_max) = strength(theirs), strength(ours)
    # Theirs rounds half of a short list down.
    assert abs(their_rate - our_rate) < 0.15
    assert abs(their_mean - our_mean) < 0.03
    assert max(their_max, our_max) < 1 / 3


@pytest.mark.parametrize("level", ["slight", "medium"])
def test_new_names_start_as_python_names_do_where_the_old_one_did(level):
    calls = [Call("a1b2c3d", {"x9": 1}), Call("3d", {"0": 1})]
    for seed, target in itertools.product(range(100), NOISE_TARGETS):
        renaming = draw_renaming([tool("a1b2c3d", "x9"), tool("3d", "0")], calls, level, target, random.Random(seed))
        new = renaming.call(calls[0])
        assert new.name.isidentifier() and all(name.isidentifier() for name in new.arguments)
        assert renaming.call(calls[1]) != calls[1]


def test_unknown_levels_and_targets_are_refused():
    for level, target in (("loud", "tool"), ("slight", "value"), ("union", "tool")):
        with pytest.raises(InputError, match="allowed: slight, medium, heavy on tool, parameter"):
            draw_renaming(TOOLS, CALLS, level, target, random.Random(0))
