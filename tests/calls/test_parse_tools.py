"""Tool lists read back from rendered prompts: real files in both dialects, odd texts, what cannot be read."""

import json
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tljax.calls.parse_tools import parse_tools
from tljax.calls.render import DIALECTS, render_tools
from tljax.calls.schema_text import json_types, nested_lines, with_facts
from tljax.calls.tool import Tool
from tljax.core.errors import InputError
from tljax.data.formats.read import trajectory_from_record
from tljax.data.prompt import render_trajectory


def shown(tool, dialect="mae"):
    """Returns all that a prompt shows of a tool. In `full`, facts and nested properties belong to the descriptions."""
    texts = {name: schema.get("description") or "" for name, schema in tool.properties.items()}
    if dialect == "full":
        texts = {name: with_facts(s) + nested_lines(s, "    ") for name, s in tool.properties.items()}
    described = {name: (json_types(schema), texts[name]) for name, schema in tool.properties.items()}
    return tool.name, tool.description, tool.parameters, tool.required, {n: described[n] for n in tool.parameters}


def prompt_of(tools, dialect, system=""):
    lead = system + "\n\n" if system else ""
    return f"System: {lead}{render_tools(tools, dialect)}\nUser: What is\n\nFunction:\ndef f(x)?\nAssistant:"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "name", ["rotbench_third_clean", "rotbench_third_slight", "toolalpaca_verified", "bfcl_multiturn_errors"]
)
def test_real_tools_come_back(shared, name, dialect):
    file = shared / "data" / "train" / f"{name}.json"
    rows = json.loads(file.read_text())
    assert len(rows) >= 70
    for number, row in enumerate(rows, 1):
        trajectory = trajectory_from_record(row, str(file), number)
        rendered = render_trajectory(trajectory, dialect)
        text = rendered.text[: rendered.replies[0].start]
        tools = parse_tools(text)
        assert list(map(shown, tools)) == [shown(tool, dialect) for tool in trajectory.tools]
        assert render_tools(tools, dialect) == render_tools(trajectory.tools, dialect)
        assert render_tools(tools, dialect) in text


README = (
    'Function:\ndef random_advice():\n    """\n    Returns a random advice slip as a slip object.\n    """\n\n'
    'Function:\ndef search_advice(query:str, limit:int = None):\n    """\n    An array of slip objects.\n\n    Args:\n'
    '        query (string): The search query provided.\n        limit (integer): \n    """\n\n'
)


def test_the_released_models_card():
    random, search = parse_tools(f"System: {README}\nUser: Could you give me some advice?\nAssistant:")
    assert (random.name, random.properties) == ("random_advice", {})
    query = {"type": "string", "description": "The search query provided."}
    assert search.properties == {"query": query, "limit": {"type": "integer"}}
    assert search.required == ("query",)


SYSTEM = "You have\n\ntools (x): y."
WORDS = st.text(string.ascii_letters + " .,:=()|\"'\n", max_size=12)
NAMES = st.text(string.ascii_letters + "_.- ,:=('", min_size=1, max_size=6).filter(lambda n: n == n.strip())
TRICKY = st.sampled_from(
    [
        "def f(x):",
        '\n    """\n    ',
        "\n\n    Args:\n    a (string): b",
        "\n        a (string): b\n    a (string): c",
        "Function:\ndef g(a: string):",
        " (string): ",
        '"""',
        "a: string = None, b",
    ]
)
TEXTS = st.lists(WORDS | TRICKY, max_size=3).map("".join)
TYPES = st.sampled_from(["string", "integer", "any", "dict[str, int]", "List (of any)", ["string", "null"], ["object"]])
SCHEMAS = st.builds(lambda kind, text: {"type": kind, "description": text}, TYPES, TEXTS)
TOOLS = st.lists(
    st.builds(
        lambda name, text, properties, required: Tool(
            name, text, properties, tuple(n for i, n in enumerate(properties) if required >> i & 1)
        ),
        st.text(string.ascii_letters + "_.- ", min_size=1, max_size=8).filter(str.strip),
        TEXTS,
        st.dictionaries(NAMES, SCHEMAS, max_size=4),
        st.integers(0, 15),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(TOOLS, st.sampled_from(DIALECTS), st.sampled_from(["", SYSTEM]))
@example([Tool("f", "", {"a,b": {}, "code:": {}, "x=y": {}, "get (x)": {}}, ("code:",))], "mae", "")
@example([Tool("f", "", {}, ()), Tool("f", "again", {}, ())], "readme", SYSTEM)
@example([Tool("f", "", {"a": {"description": "\n    b (string): no"}, "b": {"type": "string"}}, ())], "mae", "")
@example([Tool("f", 'x\n    """\n\n    Args:\n    a (any): ', {"a": {}}, ("a",))], "mae", "")
def test_rendering_what_was_read_gives_the_same_text(tools, dialect, system):
    text = prompt_of(tools, dialect, system)
    read = parse_tools(text)
    # The dialect is found out, and some texts are the same in both.
    again = {prompt_of(read, d, system) for d in DIALECTS}
    assert text in again
    assert [tool.name for tool in read] == [tool.name for tool in tools]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_odd_names_and_descriptions_come_back_whole(dialect):
    properties = {
        "a,b": {"type": "string", "description": "one\n\ntwo: 'x' (y): \"z\""},
        "code:": {"type": ["string", "null"], "description": "\ndef walk(self, step: int):\n    return (string): "},
        "from (date)": {"description": "Args:"},
    }
    odd = Tool("get.it now", 'Say """hi"""\n    """\n\n    Args:\n    a,b (string): not yet', properties, ("code:",))
    plain = Tool("finish", "", {"answer": {"type": "string"}}, ("answer",))
    assert list(map(shown, parse_tools(prompt_of([odd, plain, odd], dialect)))) == list(map(shown, [odd, plain, odd]))


@pytest.mark.parametrize(
    "text", ["", "System: You help.\nUser: Function:\ndef f(): hi\nAssistant:", "User: hi\nAssistant:"]
)
def test_a_prompt_without_tools_has_none(text):
    assert parse_tools(text) == ()


def test_a_list_of_another_hand_is_read_by_its_signatures():
    text = (
        'Function:\ndef find( query : str , limit:int=5):\n    """\n    It.\n\n    Args:\n  query: words\n    """\n\n'
    )
    text += 'Function:\ndef stop():\n    """\n    Stops.\n    """\nUser: go\nAssistant:'
    find, stop = parse_tools(text)
    assert (find.name, find.parameters, find.required) == ("find", ("query", "limit"), ("query",))
    assert find.description == "It."
    assert (stop.name, stop.description) == ("stop", "Stops.")


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ('def f(a string):\n    """\n    x\n    """', r"the signature def f\(a string: cannot be read at 'a string'"),
        ('def f(a: string)\n    """\n    x\n    """', r"tool at 'def f\(a: string\)' has no text in triple quotes"),
        ('def f(a: string):\n    """\n    x', r"tool at 'def f\(a: string\):' has no text in triple quotes"),
        ('def (a: string):\n    """\n    x\n    """', "names no tool"),
        ('def ():\n    """\n    x\n    """', "names no tool"),
    ],
)
def test_what_cannot_be_read_is_one_line(tool, said):
    with pytest.raises(InputError, match=f"^file f.json, row 3: .*{said}") as caught:
        parse_tools(f"System: Function:\n{tool}\nUser: hi\nAssistant:", "file f.json, row 3")
    assert "\n" not in str(caught.value)
