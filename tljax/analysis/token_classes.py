"""A golden reply -> the class of every token: name, parameter, value, syntax, free text.

The positions of name, parameters and values in the reply's text and PKT's key positions decide; the spelling of a token
does not.
"""

from bisect import bisect_right
from collections.abc import Sequence

from tljax.calls.render import EQUALS, render_call, render_value
from tljax.calls.tool import Call

FIRST_NAME, BRANCH, NAME = "first name token", "branch token", "name rest"
PARAMETER, VALUE, SYNTAX, TEXT = "parameter name", "value", "syntax", "free text"
BLANK, END = "blank before", "end token"
# The classes in the order in which they are reported, with their meanings.
CLASSES = {
    FIRST_NAME: "where the tool's name begins",
    BRANCH: "where it branches off from another listed tool's name, which may be right after it",
    NAME: "all others of the tool's name",
    PARAMETER: "the names of parameters",
    VALUE: "their values, without the quotes around a string",
    SYNTAX: "parentheses, commas, equals signs, quotes around strings",
    TEXT: "what stands before the call",
    BLANK: "the blank between prompt and reply, where it is a token of its own",
    END: "the token that ends the reply",
}
NAME_CLASSES = (FIRST_NAME, BRANCH, NAME)

# A token may span several classes, such as '="' with the letter after it. The first class in this list decides.
_DECISIVE = (NAME, PARAMETER, VALUE, TEXT, SYNTAX)


def character_classes(reply: str, call: Call | None, dialect: str) -> list[tuple[int, str]]:
    """Returns the ranges of characters of one class, as (start, class), ascending; a class is one of NAME to TEXT.

    reply: free text, or free text and a newline before the call as `render_call` writes it. The quotes around a string
    are syntax; the text between them, or the complete text of any other value, is the value.
    """
    if call is None:
        return [(0, TEXT)]
    position = len(reply) - len(render_call(call, dialect))
    ranges = [(0, TEXT)] if position else []

    def take(length: int, token_class: str) -> None:
        nonlocal position
        if length:
            ranges.append((position, token_class))
            position += length

    take(len(call.name), NAME)
    take(1, SYNTAX)
    for i, (key, value) in enumerate(call.arguments.items()):
        take(2 if i else 0, SYNTAX)
        take(len(key), PARAMETER)
        quote = int(isinstance(value, str))
        take(len(EQUALS[dialect]) + quote, SYNTAX)
        take(len(render_value(value, dialect)) - 2 * quote, VALUE)
        take(quote, SYNTAX)
    take(1, SYNTAX)
    return ranges


def token_classes(spans: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, str]], key: Sequence[int]) -> list[str]:
    """Returns the class of every reply token; the end token is the last.

    spans: the character ranges of the reply's tokens without the end token, relative to the reply's first character; a
    blank before it starts at -1. ranges: from `character_classes`. key: the positions of the key tokens, ascending; the
    first one begins the tool's name.
    """
    starts = [start for start, _ in ranges]
    classes = []
    for start, end in spans:
        if end <= 0:
            classes.append(BLANK)
            continue
        first = max(bisect_right(starts, start) - 1, 0)
        last = max(bisect_right(starts, end - 1) - 1, first)
        kinds = {ranges[i][1] for i in range(first, last + 1)}
        classes.append(next(kind for kind in _DECISIVE if kind in kinds))
    for position in key:
        if position < len(classes):
            classes[position] = FIRST_NAME if position == key[0] else BRANCH
    return [*classes, END]
