"""Tools, calls and conversations as the text that the model reads, in one of three dialects.

`mae` is what the released mae.py writes, byte for byte, `readme` what the released TL-CodeLLaMA-2 expects, and `full`
is `mae` with all that the tools' schemas say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tljax.calls.render import check_dialect, render_call, render_tool
from tljax.calls.tool import Tool
from tljax.data.trajectory import Trajectory, Turn

_TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")
_ROLES = {"system": "System", "user": "User", "assistant": "Assistant", "function": "Output"}


@dataclass(frozen=True, slots=True)
class ReplySpan:
    """The positions of one assistant turn, in characters of `RenderedTrajectory.text`.

    start: right after "Assistant:"
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


def render_trajectory(trajectory: Trajectory, dialect: str) -> RenderedTrajectory:
    """Returns the conversation as lines `Role: content`; turns after the last reply are left out."""
    check_dialect(dialect)

    # The system message: free text and tools.
    text, names = "", []
    if trajectory.system or trajectory.tools:
        text = "System: "
        if trajectory.system:
            text += trajectory.system + ("\n\n" if trajectory.tools else "")
        for i, tool in enumerate(trajectory.tools):
            if i and dialect != "readme":
                text += "\n\n"
            start = len(text) + len("Function:\ndef ")
            names.append((start, start + len(tool.name)))
            text += render_tool(tool, dialect)
            if dialect == "readme":
                text += "\n\n"

    # The turns. `length` is the length of all pieces together.
    pieces, length, replies = [text], len(text), []
    last = max((i for i, turn in enumerate(trajectory.turns) if turn.role == "assistant"), default=-1)
    for turn in trajectory.turns[: last + 1]:
        head = ("\n" if length else "") + _ROLES[turn.role] + ":"
        before, call = turn.text, ""
        if turn.call is not None:
            call = render_call(turn.call, dialect)
            before += "\n" if before else ""
        pieces += [head, " ", before, call]
        start = length + len(head)
        length = start + 1 + len(before) + len(call)
        if turn.role == "assistant":
            name_start = length - len(call)
            name = None if turn.call is None else (name_start, name_start + len(turn.call.name))
            replies.append(ReplySpan(start, start + 1, length, name))
    return RenderedTrajectory("".join(pieces), tuple(replies), tuple(names))


def render_prompt(tools: Sequence[Tool], turns: Sequence[Turn], dialect: str, system: str = "") -> str:
    """Returns the text that a model continues with its reply to these turns; it ends with "Assistant:"."""
    # Rendering ends with the last reply, so a stand-in for the reply follows the turns, and is cut off again.
    rendered = render_trajectory(Trajectory("", tuple(tools), (*turns, Turn("assistant", ".")), system), dialect)
    return rendered.text[: rendered.replies[-1].start]


def render_feedback(text: str) -> str:
    """Returns the text between a reply and the next one: a tool's feedback, and "Assistant:" in a line of its own."""
    return f"\n{_ROLES['function']}: {text}\n{_ROLES['assistant']}:"


def chat_template(dialect: str, *, bos: bool) -> str:
    """Returns a Jinja chat template for `tokenizer.apply_chat_template`, which writes what `render_trajectory` writes.

    bos: True to begin with the tokenizer's first token. apply_chat_template does not add it on its own, and a model
    that was trained with it has never seen a prompt without it.

    The template takes OpenAI messages with `tools=` (arguments as objects). It also takes messages whose roles are
    System, User, Assistant and Output already, and leaves their text as it is. The end token closes the last message,
    unless `add_generation_prompt` asks for "\\nAssistant:" there.
    """
    check_dialect(dialect)
    # The template writes `readme` calls with "%r"|format, which is Python's repr in every Jinja of Python. An engine in
    # another language that lacks it needs rendered messages.
    template = _TEMPLATE_FILE.read_text(encoding="utf-8").strip()
    return "{{- bos_token -}}" * bos + template.replace("DIALECT", dialect)
