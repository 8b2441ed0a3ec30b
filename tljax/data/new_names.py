"""New names for the tools of a trajectory and for their parameters, so that a model learns to copy names.

The names of many data sets follow from the user's words ("getWeather"), and a model that is trained on them writes
names that its prompt does not list. With names that follow from nothing, it has to read them in the prompt, beside
their descriptions. The idea is function masking (Hammer, arXiv 2410.04587), which draws random letters; two of the
three ways below give names that look like those of an API.
"""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tljax.calls.tool import Call, Tool
from tljax.data.trajectory import Trajectory, Turn

PARAMETER_SHARE = 0.5  # the share of the renamed trajectories whose parameters get new names too
# Words that say nothing about what a tool or a parameter is for.
TOOL_WORDS = (
    *("get", "list", "fetch", "query", "run", "call", "do", "post", "read", "find", "check", "make", "result"),
    *("current", "latest", "info", "data", "api", "v1", "v2", "main", "all", "item", "service"),
)
PARAMETER_WORDS = ("value", "input", "param", "field", "arg", "key", "item", "data", "text", "opt", "first", "second")
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"
# One tool list has one style of names: snake_case, camelCase, PascalCase or words joined as they are.
_STYLES = ("snake", "camel", "pascal", "plain")
_WORD_BREAK = re.compile(r"[^0-9A-Za-z]+|(?<=[a-z0-9])(?=[A-Z])")
_PLAIN_WORD = re.compile(r"[A-Za-z]?[a-z]*")  # "search" may be the tool's name or the English word
_IDENTIFIER = re.compile(r"[\w.-]*\w")


def rename_trajectory(trajectory: Trajectory, rng: random.Random) -> Trajectory:
    """Returns the trajectory with new names for its tools and, half of the time, for their parameters.

    A tool or parameter without a description keeps its name, since nothing else tells what it is for; so does a tool
    that the user names. Names of nested properties stay, and so do calls of unlisted tools. Names that stand in
    feedback and in replies change as well.
    """
    with_parameters = rng.random() < PARAMETER_SHARE
    calls = [turn.call for turn in trajectory.turns if turn.call is not None]
    reserved = {tool.name for tool in trajectory.tools} | {call.name for call in calls}
    users_words = {word for turn in trajectory.turns if turn.role == "user" for word in _IDENTIFIER.findall(turn.text)}
    renamed = [
        tool.name
        for tool in trajectory.tools
        if tool.description.strip() and (tool.name not in users_words or _PLAIN_WORD.fullmatch(tool.name))
    ]
    names = _draw_names(renamed, reserved, TOOL_WORDS, rng)
    parameters: dict[str, dict[str, str]] = {}
    for tool in trajectory.tools if with_parameters else ():
        renamed = [name for name, schema in tool.properties.items() if schema.get("description")]
        used = {argument for call in calls if call.name == tool.name for argument in call.arguments}
        parameters[tool.name] = _draw_names(renamed, {*tool.properties, *used}, PARAMETER_WORDS, rng)
    return replace(
        trajectory,
        tools=tuple(_rename_tool(tool, names, parameters.get(tool.name, {})) for tool in trajectory.tools),
        turns=tuple(_rename_turns(trajectory.turns, names, parameters)),
        system=_rename_text(trajectory.system, names, {}),
    )


def _draw_names(
    names: Sequence[str], reserved: Collection[str], words: Sequence[str], rng: random.Random
) -> dict[str, str]:
    """Returns new names of one style by old name, all different from one another and from the reserved ones."""
    style = rng.choice(_STYLES)
    renamed: dict[str, str] = {}
    for name in dict.fromkeys(names):
        new = name
        while new in reserved or new in renamed.values():
            new = _draw_name(name, words, style, rng)
        renamed[name] = new
    return renamed


def _draw_name(name: str, words: Sequence[str], style: str, rng: random.Random) -> str:
    """Returns a name of random syllables, of words without meaning, or of some of the old name's words and such a
    word, each way as often as the others."""
    way = rng.randrange(3)
    if way == 0:
        parts = [_draw_syllables(rng) for _ in range(rng.randint(1, 2))]
    elif way == 1:
        # A third word where two do not give enough names for a long tool list.
        parts = rng.sample(words, rng.randint(2, 3))
    else:
        own = [word for word in _WORD_BREAK.split(name) if word] or [_draw_syllables(rng)]
        parts = rng.sample(own, rng.randint(1, len(own)))
        parts.insert(rng.randint(0, len(parts)), rng.choice(words))
    parts = [part.lower() for part in parts]
    if not parts[0][0].isalpha():
        parts.insert(0, rng.choice(words))
    if style in ("camel", "pascal"):
        parts = [part.capitalize() if i or style == "pascal" else part for i, part in enumerate(parts)]
    return ("_" if style == "snake" else "").join(parts)


def _draw_syllables(rng: random.Random) -> str:
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 4)))


def _rename_tool(tool: Tool, names: Mapping[str, str], parameters: Mapping[str, str]) -> Tool:
    return Tool(
        name=names.get(tool.name, tool.name),
        description=_rename_text(tool.description, names, parameters),
        properties={parameters.get(name, name): schema for name, schema in tool.properties.items()},
        required=tuple(parameters.get(name, name) for name in tool.required),
    )


def _rename_turns(
    turns: Sequence[Turn], names: Mapping[str, str], parameters: Mapping[str, Mapping[str, str]]
) -> list[Turn]:
    """Returns the turns with the new names in their calls and texts; the user's words stay as they are."""
    renamed = []
    last: Call | None = None
    for turn in turns:
        call = turn.call
        if call is not None:
            last = call
            own = parameters.get(call.name, {})
            arguments = {own.get(name, name): value for name, value in call.arguments.items()}
            call = Call(names.get(call.name, call.name), arguments)
        text = turn.text
        if turn.role != "user":
            text = _rename_text(text, names, parameters.get(last.name, {}) if last else {})
        renamed.append(replace(turn, text=text, call=call))
    return renamed


def _rename_text(text: str, names: Mapping[str, str], parameters: Mapping[str, str]) -> str:
    """Returns the text with the new names of tools, and with those of parameters where they stand in quotes.

    A name that is also an English word is taken for the tool only in quotes or before a parenthesis.
    """
    new_names = {**parameters, **names}
    if not text or not new_names:
        return text
    either = "|".join(re.escape(name) for name in sorted(new_names, key=len, reverse=True))

    def new_name(match: re.Match[str]) -> str:
        name = match[2]
        quoted = bool(match[1]) and match[1] == match[3]
        is_tool = name in names and (match[3] == "(" or not _PLAIN_WORD.fullmatch(name))
        return match[1] + (new_names[name] if quoted or is_tool else name) + match[3]

    return re.sub(rf"([\"'`]?)(?<![\w.-])({either})(?![\w-])([\"'`(]?)", new_name, text)
