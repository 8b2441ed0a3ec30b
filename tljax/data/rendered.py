"""Conversations as text, with the positions of the replies and of the tools' names in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplySpan:
    """The positions of one assistant turn, in characters of the text.

    start: the end of the prompt, right after "Assistant:"
    text_start: after the blank that follows it
    end: after the last character of the reply
    name: start and end of the called tool's name, None without a call
    """

    start: int
    text_start: int
    end: int
    name: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class RenderedTrajectory:
    """A trajectory as text up to its last reply, without end token.

    replies: one for each assistant turn; the text of step k is `text[:replies[k].end]`
    tool_names: start and end of each name that the tool list defines
    """

    text: str
    replies: tuple[ReplySpan, ...]
    tool_names: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RenderedStep:
    """The text of one step: its prompt and its reply.

    closing: the text of the token that closes the reply; "" if it is the tokenizer's end token, which has no text
    names: start and end of the name of each called tool in the reply
    listed: the names of the tools that the prompt lists
    tool_names: start and end of each name in the tool list, () where the list shows a name otherwise than a call does
    problem: why the step has no text that could be trained on, "" if it has one
    """

    text: str
    reply: ReplySpan
    closing: str = ""
    names: tuple[tuple[int, int], ...] = ()
    listed: tuple[str, ...] = ()
    tool_names: tuple[tuple[int, int], ...] = ()
    problem: str = ""
