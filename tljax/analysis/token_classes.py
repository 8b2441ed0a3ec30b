"""What each token of a golden reply is for: the tool's name, a parameter's, a value, or what holds them together.

Classes come from the places that name, parameters and values take in the reply's text and from PKT's key positions;
what a token spells decides nothing.
"""

from bisect import bisect_right
from collections.abc import Sequence

from tljax.calls.render import EQUALS, render_call, render_value
from tljax.calls.tool import Call

FIRST_NAME, BRANCH, NAME = "first name token", "branch token", "name rest"
PARAMETER, VALUE, SYNTAX, TEXT = "parameter name", "value", "syntax", "free text"
BLANK, END = "blank before", "end token"
# In the order in which they are reported, with what they are.
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

# A token over several classes of characters, such as '="' with the letter after it, belongs to the least predictable.
_DECISIVE = (NAME, PARAMETER, VALUE, TEXT, SYNTAX)


def character_classes(reply: str, call: Call | None, dialect: str) -> list[tuple[int, str]]:
    """Where each stretch of a reply's characters begins, ascending, and its class; one of NAME to TEXT.

    The reply is free text, or free text and a newline before the call as `render_call` writes it. The quotes around a
    string are syntax; what lies between them, and all of any other value, is the value.
    """
    if call is None:
        return [(0, TEXT)]
    at = len(reply) - len(render_call(call, dialect))
    found = [(0, TEXT)] if at else []

    def take(length: int, kind: str) -> None:
        nonlocal at
        if length:
            found.append((at, kind))
            at += length

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
    return found


def token_classes(
    spans: Sequence[tuple[int, int]], stretches: Sequence[tuple[int, str]], key: Sequence[int], name_token: int | None
) -> list[str]:
    """The class of every reply token, the end token's at the end.

    spans: character ranges of the reply's tokens, without the end token, counted from the reply's first character,
    which a blank before it makes -1. key, name_token: positions among them as `data.steps.Step` has them.
    """
    starts = [start for start, _ in stretches]
    classes = []
    for start, end in spans:
        if end <= 0:
            classes.append(BLANK)
            continue
        first = max(bisect_right(starts, start) - 1, 0)
        last = max(bisect_right(starts, end - 1) - 1, first)
        kinds = {stretches[i][1] for i in range(first, last + 1)}
        classes.append(next(kind for kind in _DECISIVE if kind in kinds))
    for position in key:
        if position < len(classes):
            classes[position] = FIRST_NAME if position == name_token else BRANCH
    return [*classes, END]
