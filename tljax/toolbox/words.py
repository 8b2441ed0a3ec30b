"""What counts as a word when two splits are compared, and which words belong to all of them."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tljax.toolbox.tools import ASK_TO_USER, FINISH

# getHTTPCode -> get, HTTP, Code. A single letter is no word: it may be a pitch, a flight, an initial.
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

# English glue; the words around a call (queries, Python's error texts, type names); nothing that names a thing to do.
FUNCTION_WORDS = frozenset(
    """
    an the of to in on at by for from with into over upon behind and or but not nor no if is are be must
    it its this that which who what where when how as than then also too some any all each both one only you your me my
    we can want need please many much using use result such
    name defined missing required positional argument arguments got unexpected keyword input item key
    type value error unknown between
    str int float bool list dict true false null
    """.split()
)


def words(text: str) -> set[str]:
    """The words of two letters or more, in lower case."""
    return {word.lower() for word in WORD.findall(text) if len(word) > 1}


def content_words(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """All words of raw-schema rows but function words and those of `finish` and `ask_to_user`.

    Of a tool they are those of its name, description and parameters, not JSON schema's own.
    """
    found: set[str] = set()
    for row in rows:
        system, *messages = row["conversations"]
        for tool in json.loads(system["content"]):
            found |= tool_words(tool["function"])
        for message in messages:
            found |= words(message["content"])
    return found - FUNCTION_WORDS - tool_words(FINISH.schema) - tool_words(ASK_TO_USER.schema)


def tool_words(schema: Mapping[str, Any]) -> set[str]:
    """The words of a tool's name, description and parameters."""
    found = words(schema["name"]) | words(schema["description"])
    for name, parameter in schema["parameters"]["properties"].items():
        found |= words(name) | words(parameter["description"])
    return found
