"""Marks around calls: reasoning, tags of chat formats and HTML, bold and italic. None of them is part of a call."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

# The end of the reply, outside of calls and of reasoning.
_STOP = re.compile(r"</s>|\n(?:User|Output|Assistant|System):")
_MARKS = r"""
    # Reasoning.
    (?P<thought>(?:<|\[)(?P<closes>/?)(?:think|thinking|thoughts?|reasoning|reflection|scratchpad)(?:>|\]))
    # Between these tags a call stands alone, as if on a line of its own.
    | (?P<call></?(?:(?:tool|function)_?calls?|tool_code|call)>|<\|python_(?:start|end|tag)\|>|\[/?TOOL_CALLS\])
    # Marks around a name: **f**(a=1), <b>f</b>(a=1).
    | (?P<around>\*{1,3}|`{1,3}|<(?P<html>[a-z]{1,10})>)(?P<name>[\w.-]+)
        (?(html)</(?P=html)>|(?P=around))(?=\()
    # Other tags, and the beginning of a bold or an italic part.
    | <\|\w{1,40}\|> | (?<!\w)</?[a-z][\w-]{0,40}>
    | (?P<emphasis>(?<![\w*])\*{1,3}(?=[\w<`])|(?<!\w)(?:__?|~~)(?=[a-z<`*]))
"""


@dataclass(slots=True)
class Markup:
    """A text with the places of its marks.

    visible: the text in which blanks and line ends replace the marks; every other character keeps its index. stops:
    indices at which the reply ends, unless they lie in a call or in reasoning. opens, closes: (begin, end) of the tags
    that open and close a reasoning part. All are in order.
    """

    visible: str
    stops: list[int]
    opens: Sequence[tuple[int, int]] = ()
    closes: Sequence[tuple[int, int]] = ()

    def next_stop(self, i: int) -> int:
        """Returns the first stop from `i` on, or the length of the text."""
        if not self.stops:
            return len(self.visible)
        stop = bisect_left(self.stops, i)
        return self.stops[stop] if stop < len(self.stops) else len(self.visible)

    def next_thought(self, i: int) -> tuple[int, int] | None:
        """Returns the begin and end of the first reasoning part from `i` on, or None. One that never closes ends last.

        The search begins at `i`, not at the beginning of the text: tags inside of a call's values are text.
        """
        opening = bisect_left(self.opens, (i, 0))
        if opening == len(self.opens):
            return None
        begin, end = self.opens[opening]
        closing = bisect_left(self.closes, (end, 0))
        return begin, self.closes[closing][1] if closing < len(self.closes) else len(self.visible)

    def unopened_thought(self) -> tuple[int, int] | None:
        """Returns the tag that closes a reasoning part which began before the text, or None.

        The prompts of some models end with the opening tag, so their replies begin inside the reasoning part.
        """
        unopened = bisect_left(self.closes, self.opens[0]) if self.opens else len(self.closes)
        return self.closes[unopened - 1] if unopened else None


def find_markup(text: str, names: Iterable[str]) -> Markup:
    """Returns the marks of a text. Marks inside the listed `names` are part of the name."""
    stops = [stop.start() for stop in _STOP.finditer(text)] if "\n" in text or "</s>" in text else []
    # Without any of these strings a text holds no mark. A chain of `in` takes a third of the time of a loop.
    if not ("<" in text or "*" in text or "[T" in text or "[/T" in text or "[t" in text):
        if not (")_" in text or ")~" in text or "`(" in text or "[/t" in text):
            return Markup(text, stops)
    opens: list[tuple[int, int]] = []
    closes: list[tuple[int, int]] = []
    last: dict[str, int] = {}  # the last place where each emphasis ends

    def blank(mark: re.Match[str]) -> str:
        if mark["listed"] is not None:
            return mark[0]
        if mark["thought"] is not None:
            (closes if mark["closes"] else opens).append(mark.span())
            return " " * (len(mark[0]) - 1) + "\n"
        if mark["call"] is not None:
            return " " * (len(mark[0]) - 1) + "\n"
        if mark["around"] is not None:
            return mark["name"].rjust(len(mark[0]))
        emphasis = mark["emphasis"]
        if emphasis is not None:
            if emphasis not in last:
                last[emphasis] = text.rfind(emphasis if emphasis[:2] == "**" else ")" + emphasis)
            # A name may begin with such a character. It is a mark if it is written again.
            if last[emphasis] <= mark.start():
                return mark[0]
        return " " * len(mark[0])

    marked = tuple(name for name in names if _pattern(()).search(name + "("))
    visible = _pattern(marked).sub(blank, text)
    return Markup(visible, stops, opens, closes)


@lru_cache(maxsize=1024)
def _pattern(marked: tuple[str, ...]) -> re.Pattern[str]:
    """Returns the pattern of all marks, and of the listed names that hold marks themselves (group `listed`)."""
    listed = "|".join(f"(?-i:{re.escape(name)})" for name in sorted(marked, key=len, reverse=True)) or r"(?!)"
    return re.compile(f"(?P<listed>{listed})|{_MARKS}", re.VERBOSE | re.IGNORECASE)
