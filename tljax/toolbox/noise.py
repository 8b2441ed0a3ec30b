"""RoTBench's noise (arXiv 2401.08326): new names of tools or parameters, in a tool list and in the calls that use it.

Called tools and the parameters of calls are always renamed, all others with probability 1/2. The levels:

* slight: insertion, deletion or substitution of less than a third of a name's characters;
* medium: the name reversed, or random letters (1 to 10 for a tool, 1 to 5 for a parameter);
* heavy: a permutation of the tools' names in which no called tool keeps its name; a permutation of the parameters'
  names within a tool, or an extra required parameter whose description gives its value (for a single tool: medium);
* union: tool noise of a random level, then parameter noise of a random level.
"""

import copy
import json
import random
import re
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tljax.calls.tool import Call
from tljax.core.errors import InputError

NOISE_LEVELS = ("slight", "medium", "heavy", "union")
NOISE_TARGETS = ("tool", "parameter")
LETTERS = string.ascii_letters
EXTRA_DESCRIPTION = 'Whenever you use this parameter, please set it as "{}"'
NAME_START = re.compile(r"[A-Za-z_]")


@dataclass(frozen=True, slots=True)
class Renaming:
    """New names for one tool list.

    tools: old -> new name. parameters: tool's old name -> {old -> new name}. extra: tool's old name -> (name and value
    of an extra parameter).
    """

    tools: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    extra: dict[str, tuple[str, str]] = field(default_factory=dict)

    def tool(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a tool's JSON, flat or wrapped, with the new names."""
        if "function" in schema:
            return {**schema, "function": self.tool(schema["function"])}
        names = self.parameters.get(schema["name"], {})
        new = copy.deepcopy(dict(schema))
        new["name"] = self.tools.get(schema["name"], schema["name"])
        parameters = new.setdefault("parameters", {"type": "object"})
        parameters["properties"] = {names.get(p, p): spec for p, spec in parameters.get("properties", {}).items()}
        parameters["required"] = [names.get(p, p) for p in parameters.get("required", [])]
        if schema["name"] in self.extra:
            name, value = self.extra[schema["name"]]
            parameters["properties"][name] = {"type": "string", "description": EXTRA_DESCRIPTION.format(value)}
            parameters["required"].append(name)
        return new

    def call(self, call: Call) -> Call:
        """Returns a call with the new names, and with the value of the extra parameter if its tool has one."""
        names = self.parameters.get(call.name, {})
        arguments = {names.get(p, p): value for p, value in call.arguments.items()}
        if call.name in self.extra:
            name, value = self.extra[call.name]
            arguments[name] = value
        return Call(self.tools.get(call.name, call.name), arguments)

    def feedback(self, text: str, call: Call) -> str:
        """Returns Python's error text about a call with the new names, and any other feedback as it is."""
        head = re.match(rf"(?:\w+: )?{re.escape(call.name)}\(\) ", text)
        if head is None:
            return text
        names = self.parameters.get(call.name, {})
        rest = re.sub(r"'(\w+)'", lambda m: f"'{names.get(m[1], m[1])}'", text[head.end() :])
        return head[0].replace(f"{call.name}()", f"{self.tools.get(call.name, call.name)}()") + rest


def draw_renaming(
    tools: Sequence[Mapping[str, Any]], calls: Sequence[Call], level: str, target: str, rng: random.Random
) -> Renaming:
    """Returns new names of one level ("slight", "medium", "heavy") for a tool list and the calls that use it.

    target: "tool" or "parameter". Raises InputError for an unknown level or target.
    """
    # The tools, and which of them and of their parameters are called.
    if level not in NOISE_LEVELS[:3] or target not in NOISE_TARGETS:
        raise InputError(
            f"noise is {level!r} on {target!r}; allowed: {', '.join(NOISE_LEVELS[:3])} on {', '.join(NOISE_TARGETS)}"
        )
    functions = [tool.get("function", tool) for tool in tools]
    listed = [function["name"] for function in functions]
    called_parameters = {name: {p for call in calls if call.name == name for p in call.arguments} for name in listed}
    called = {call.name for call in calls}
    if target == "tool":
        # A call of an unlisted tool must stay one, so its name is not used.
        return Renaming(tools=draw_new_names(listed, called, level, 10, called - set(listed), rng))
    # The parameters, tool by tool.
    renaming = Renaming()
    for function in functions:
        name = function["name"]
        parameters = list(function.get("parameters", {}).get("properties", {}))
        if level == "heavy":
            if name not in called and rng.random() < 0.5:
                continue
            if len(parameters) < 2 or rng.random() < 0.5:
                value = random_name(rng, 3, 3, ())
                renaming.extra[name] = (random_name(rng, 2, 5, {*parameters, *called_parameters[name]}), value)
                continue
        reserved = called_parameters[name] - set(parameters)
        renaming.parameters[name] = draw_new_names(parameters, called_parameters[name], level, 5, reserved, rng)
    return renaming


def draw_new_names(
    names: Sequence[str],
    called: Collection[str],
    level: str,
    max_length: int,
    reserved: Collection[str],
    rng: random.Random,
) -> dict[str, str]:
    """Returns new names by old name, all different; names in `called` always change.

    max_length: that of a random name. reserved: names that no new name may equal.
    """
    names = list(dict.fromkeys(names))
    if level == "heavy" and len(names) > 1:
        moving = [name for name in names if name in called]
        shuffled = rng.sample(names, len(names))
        while any(old == new and old in moving for old, new in zip(names, shuffled, strict=True)):
            shuffled = rng.sample(names, len(names))
        return dict(zip(names, shuffled, strict=True))
    renamed: dict[str, str] = {}
    for name in names:
        if name in called or rng.random() < 0.5:
            used = {*names, *renamed.values(), *reserved}
            renamed[name] = (
                edit_name(rng, name, used)
                if level == "slight"
                else reversed_or_random_name(rng, name, max_length, used)
            )
    return renamed


def edit_name(rng: random.Random, name: str, used: Collection[str]) -> str:
    """Returns the name after one or more edits of one kind, on less than a third of its characters."""
    while True:
        characters = list(name)
        edit = rng.choice(("insert", "delete", "substitute"))
        for _ in range(rng.randint(1, max(1, (len(name) - 1) // 3))):
            if edit == "insert":
                characters.insert(rng.randint(0, len(characters)), rng.choice(LETTERS))
            elif edit == "substitute":
                characters[rng.randrange(len(characters))] = rng.choice(LETTERS)
            elif len(characters) > 1:
                del characters[rng.randrange(len(characters))]
        new = "".join(characters)
        if new not in used and (NAME_START.match(new) or not NAME_START.match(name)):
            return new


def reversed_or_random_name(rng: random.Random, name: str, max_length: int, used: Collection[str]) -> str:
    backwards = name[::-1]
    if rng.random() < 0.5 and backwards not in used and NAME_START.match(backwards):
        return backwards
    return random_name(rng, 1, max_length, used)


def random_name(rng: random.Random, min_length: int, max_length: int, used: Collection[str]) -> str:
    while True:
        name = "".join(rng.choices(LETTERS, k=rng.randint(min_length, max_length)))
        if name not in used:
            return name


def noisy_row(row: Mapping[str, Any], level: str, target: str, rng: random.Random) -> dict[str, Any]:
    """Returns a raw row with new names in its tool list, its calls, and Python's error texts about them.

    target: "tool" or "parameter"; the level `union` renames both.
    """
    if level == "union":
        row = noisy_row(row, rng.choice(NOISE_LEVELS[:3]), "tool", rng)
        return noisy_row(row, rng.choice(NOISE_LEVELS[:3]), "parameter", rng)
    system, *messages = row["conversations"]
    tools = json.loads(system["content"])
    calls = [parse_raw_call(message["content"]) if message["role"] == "assistant" else None for message in messages]
    renaming = draw_renaming(tools, [call for call in calls if call], level, target, rng)
    conversation = [{**system, "content": json.dumps([renaming.tool(tool) for tool in tools], ensure_ascii=False)}]
    last = None
    for message, call in zip(messages, calls, strict=True):
        content = message["content"]
        if call is not None:
            content, last = render_raw_call(renaming.call(call)), call
        elif message["role"] == "function" and last is not None:
            content = renaming.feedback(content, last)
        conversation.append({**message, "content": content})
    return {**row, "conversations": conversation}


def parse_raw_call(content: str) -> Call | None:
    """Returns the call of a raw assistant message: a name, and a JSON object on the next line. None for other text."""
    name, _, arguments = content.partition("\n")
    if not arguments.strip().startswith("{"):
        return None
    return Call(name.strip(), json.loads(arguments))


def render_raw_call(call: Call) -> str:
    """Returns the call as the content of a raw assistant message."""
    return f"{call.name}\n{json.dumps(call.arguments, ensure_ascii=False)}"
