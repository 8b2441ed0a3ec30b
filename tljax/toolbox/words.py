"""The words of tools and rows, by which splits are compared, and the words that all splits share."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tljax.toolbox.tools import ASK_TO_USER, FINISH

# getHTTPCode -> get, HTTP, Code.
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

# Function words of English, and words of queries, of Python's error texts and of types. No word names an action.
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
    """Returns the words of two letters or more in lower case; a single letter may be a pitch or an initial."""
    return {word.lower() for word in WORD.findall(text) if len(word) > 1}


def content_words(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Returns the words of raw rows without function words and without the words of `finish` and `ask_to_user`.

    The words of a tool are those that `tool_words` returns, without the keywords of JSON Schema.
    """
    content: set[str] = set()
    for row in rows:
        system, *messages = row["conversations"]
        for tool in json.loads(system["content"]):
            content |= tool_words(tool["function"])
        for message in messages:
            content |= words(message["content"])
    return content - FUNCTION_WORDS - tool_words(FINISH.schema) - tool_words(ASK_TO_USER.schema)


def tool_words(schema: Mapping[str, Any]) -> set[str]:
    """Returns the words of a tool's name and description, and of its parameters' names and descriptions."""
    result = words(schema["name"]) | words(schema["description"])
    for name, parameter in schema["parameters"]["properties"].items():
        result |= words(name) | words(parameter["description"])
    return result
