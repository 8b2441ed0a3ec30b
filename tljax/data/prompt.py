"""Tools, calls and conversations as the text that the model reads, in one of three dialects.

`mae` is what the released mae.py writes, byte for byte, `readme` what the released TL-CodeLLaMA-2 expects, and `full`
is `mae` with all that the tools' schemas say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tljax.calls.render import DIALECTS, check_dialect, render_call, render_tool
from tljax.calls.tool import Tool
from tljax.data import model_template
from tljax.data.model_template import ModelTemplate
from tljax.data.rendered import RenderedStep, RenderedTrajectory, ReplySpan
from tljax.data.trajectory import Trajectory, Turn

Dialect = str | ModelTemplate  # one of DIALECTS, or the chat template of a model

_TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")
_ROLES = {"system": "System", "user": "User", "assistant": "Assistant", "function": "Output"}


def render_steps(trajectory: Trajectory, dialect: Dialect) -> list[RenderedStep]:
    """Returns the text of every step of a trajectory: all that precedes the reply, and the reply."""
    if isinstance(dialect, ModelTemplate):
        return model_template.render_steps(trajectory, dialect)
    rendered = render_trajectory(trajectory, dialect)
    listed = tuple(tool.name for tool in trajectory.tools)
    return [
        RenderedStep(
            rendered.text[: reply.end],
            reply,
            names=() if reply.name is None else (reply.name,),
            listed=listed,
            tool_names=rendered.tool_names,
        )
        for reply in rendered.replies
    ]


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


def render_prompt(tools: Sequence[Tool], turns: Sequence[Turn], dialect: Dialect, system: str = "") -> str:
    """Returns the text that a model continues with its reply to these turns; it ends with "Assistant:".

    With a model's template it ends as the template has it. Raises InputError for turns that the template refuses.
    """
    if isinstance(dialect, ModelTemplate):
        return model_template.render_prompt(tools, turns, dialect, system)
    # Rendering ends with the last reply, so a stand-in for the reply follows the turns, and is cut off again.
    rendered = render_trajectory(Trajectory("", tuple(tools), (*turns, Turn("assistant", ".")), system), dialect)
    return rendered.text[: rendered.replies[-1].start]


def render_feedback(text: str, dialect: Dialect) -> str:
    """Returns the text between a reply and the next one: a tool's feedback, and "Assistant:" in a line of its own."""
    if isinstance(dialect, ModelTemplate):
        return model_template.render_feedback(text, dialect)
    return f"\n{_ROLES['function']}: {text}\n{_ROLES['assistant']}:"


def call_dialect(dialect: Dialect) -> str:
    """Returns the dialect in which a golden call is written for people and for rewards, which read every syntax."""
    return dialect if isinstance(dialect, str) and dialect in DIALECTS else "mae"


def chat_template(dialect: Dialect, *, bos: bool) -> str:
    """Returns a Jinja chat template for `tokenizer.apply_chat_template`, which writes what `render_trajectory` writes.

    bos: True to begin with the tokenizer's first token. apply_chat_template does not add it on its own, and a model
    that was trained with it has never seen a prompt without it.

    The template takes OpenAI messages with `tools=` (arguments as objects). It also takes messages whose roles are
    System, User, Assistant and Output already, and leaves their text as it is. The end token closes the last message,
    unless `add_generation_prompt` asks for "\\nAssistant:" there. The template of a model is returned as it is.
    """
    if isinstance(dialect, ModelTemplate):
        return dialect.source
    check_dialect(dialect)
    # The template writes `readme` calls with "%r"|format, which is Python's repr in every Jinja of Python. An engine in
    # another language that lacks it needs rendered messages.
    template = _TEMPLATE_FILE.read_text(encoding="utf-8").strip()
    return "{{- bos_token -}}" * bos + template.replace("DIALECT", dialect)
