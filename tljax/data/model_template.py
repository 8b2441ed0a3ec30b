"""The chat template of a tokenizer as the text of conversations: data.dialect = template.

The text is what `apply_chat_template` of transformers writes. A reply is what the text with the reply has behind the
text of the prompt, up to the token that closes the turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tljax.calls.tool import Call, Tool, tool_to_json
from tljax.core.errors import InputError
from tljax.data.rendered import RenderedStep, ReplySpan
from tljax.data.trajectory import Trajectory, Turn

# Stands for a tool's name, to find where a template writes it. It holds no character that JSON or XML escapes.
_PLACEHOLDER = "Qj7wname4Zx"
_SAME = 8  # the number of characters at the end of a prompt that also stand before the reply


@dataclass(frozen=True, slots=True)
class ModelTemplate:
    """A chat template.

    source: the text of the Jinja template
    names: the names of the special tokens in the template, such as bos_token, with their texts
    closings: the texts of the special tokens, one of which may close a turn
    location: the file of the template, for messages
    parallel: False if the template takes one call a message; parallel calls then become messages of their own
    keeps_text: False if the template leaves out the text of a message that also has a call (Llama 3)
    """

    source: str
    names: tuple[tuple[str, str], ...]
    closings: tuple[str, ...]
    location: str
    parallel: bool = True
    keeps_text: bool = True

    def render(self, messages: Sequence[dict[str, Any]], tools: list[dict[str, Any]], *, prompt: bool) -> str:
        """Returns the text of messages; with `prompt`, also what precedes the assistant's next reply.

        Raises InputError where the template refuses the messages or fails on them.
        """
        # transformers takes three seconds to import, and the other dialects do without it.
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        arguments: Any = {"tools": tools or None, "chat_template": self.source, "add_generation_prompt": prompt}
        try:
            texts, _ = render_jinja_template([list(messages)], **arguments, **dict[str, Any](self.names))
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise InputError(f"the chat template {self.location} refuses it: {' '.join(str(error).split())}") from None
        return texts[0]

    def find_closing(self, text: str) -> tuple[int, str]:
        """Returns the end of the last reply in `text`, and the text of the token that closes it, "" if there is none.

        Blank text may follow the token.
        """
        closed = text.rstrip()
        closing = max((token for token in self.closings if closed.endswith(token)), key=len, default="")
        return len(closed) - len(closing), closing


def render_steps(trajectory: Trajectory, template: ModelTemplate) -> list[RenderedStep]:
    """Returns the text of every step of a trajectory.

    Each text ends with the step's reply, so that turns after it cannot change it: some templates write earlier turns
    otherwise than the last one (Qwen 3 leaves out their reasoning). Parallel calls are one message, which is the reply
    of the first call's step; the steps of the others have no text of their own.
    """
    turns = trajectory.turns if template.parallel else one_call_each(trajectory.turns)
    messages, tools = to_messages(turns, trajectory.system), [tool_to_json(tool) for tool in trajectory.tools]
    listed = tuple(tool.name for tool in trajectory.tools)
    steps: list[RenderedStep] = []
    replies = (i for i, message in enumerate(messages) if message["role"] == "assistant")
    for turn in turns:
        if turn.role != "assistant":
            continue
        if turn.parallel:
            steps.append(_without_text("in the reply of an earlier step: parallel calls are one message"))
            continue
        try:
            steps.append(_render_step(messages[: next(replies) + 1], tools, listed, template))
        except InputError as error:
            steps.append(_without_text(f"chat template: {error}"))
    return steps


def _without_text(problem: str) -> RenderedStep:
    return RenderedStep("", ReplySpan(0, 0, 0, None), problem=problem)


def _render_step(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], listed: tuple[str, ...], template: ModelTemplate
) -> RenderedStep:
    """Returns the text of the step whose reply is the last message."""
    prompt = template.render(messages[:-1], tools, prompt=True)
    whole = template.render(messages, tools, prompt=False)
    if not whole.startswith(prompt):
        start = _reply_start(messages, tools, whole, template)
        # Mistral's templates show the system text in the last message alone, so that a reply makes it disappear.
        if not whole[:start].endswith(prompt[-_SAME:]):
            return _without_text("chat template: the prompt does not begin the text with the reply")
        whole = prompt + whole[start:]
    end, closing = template.find_closing(whole)
    if end <= len(prompt):
        return _without_text("chat template: it writes nothing of the reply")
    names = _called_names(messages, tools, len(prompt), whole, template)
    if names is None:
        return _without_text("chat template: it does not write the name of a called tool")
    text_start = end - len(whole[len(prompt) : end].lstrip())
    reply = ReplySpan(len(prompt), text_start, end, names[0] if names else None)
    return RenderedStep(whole[:end], reply, closing, names, listed)


def _reply_start(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], whole: str, template: ModelTemplate
) -> int:
    """Returns where the last message begins in `whole`: where the text differs from that with another last message."""
    other = template.render([*messages[:-1], {"role": "assistant", "content": _PLACEHOLDER}], tools, prompt=False)
    return _shared_length(whole, other)


def _shared_length(one: str, other: str) -> int:
    """Returns the number of characters with which both texts begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _called_names(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], start: int, whole: str, template: ModelTemplate
) -> tuple[tuple[int, int], ...] | None:
    """Returns start and end of each tool's name that the last message calls in `whole`, None if one is not there.

    start: where the reply begins
    """
    reply = whole[start:]
    calls = messages[-1].get("tool_calls", [])
    names = [call["function"]["name"] for call in calls]
    spans = []
    for i, name in enumerate(names):
        found = reply.find(name)
        if reply.count(name) != 1:
            # An argument or another call has the same characters, so only another name shows which they are.
            renamed = [call | {"function": call["function"] | {"name": _PLACEHOLDER}} for call in calls[i : i + 1]]
            message = messages[-1] | {"tool_calls": [*calls[:i], *renamed, *calls[i + 1 :]]}
            other = template.render([*messages[:-1], message], tools, prompt=False)
            # Both texts differ in the name alone, so they end alike behind it.
            found = len(reply) - (len(other) - other.rfind(_PLACEHOLDER) - len(_PLACEHOLDER)) - len(name)
        if found < 0 or not reply.startswith(name, found):
            return None
        spans.append((start + found, start + found + len(name)))
    return tuple(spans)


def format_left_out_text(dialect: Any, trajectories: Iterable[Trajectory]) -> str:
    """Returns a note on texts beside calls that the dialect does not write, "" if there are none."""
    if not isinstance(dialect, ModelTemplate) or dialect.keeps_text:
        return ""
    count = sum(bool(turn.text and turn.call) for trajectory in trajectories for turn in trajectory.turns)
    return f"the chat template leaves out text that stands beside a call ({count:,} times)" if count else ""


def one_call_each(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Returns the turns without the mark of parallel calls."""
    return tuple(dataclasses.replace(turn, parallel=False) if turn.parallel else turn for turn in turns)


def render_prompt(tools: Sequence[Tool], turns: Sequence[Turn], template: ModelTemplate, system: str) -> str:
    """Returns the text that a model continues with its reply to these turns. Raises InputError as `render` does."""
    turns = turns if template.parallel else one_call_each(turns)
    return template.render(to_messages(turns, system), [tool_to_json(tool) for tool in tools], prompt=True)


def render_feedback(text: str, template: ModelTemplate) -> str:
    """Returns the text between a reply and the next one: the end of the turn, a tool's feedback, the next prompt."""
    tools = [tool_to_json(Tool("f", "", {}, ()))]
    turns = (Turn("user", "."), Turn("assistant", call=Call("f", {})), Turn("function", text))
    messages = to_messages(turns, "")
    whole = template.render(messages[:2], tools, prompt=False)
    end, closing = template.find_closing(whole)
    after = template.render(messages, tools, prompt=True)
    if after.startswith(whole[:end]):
        return after[end:]
    # Qwen 3 leaves out the empty reasoning of a reply that is not the last one.
    start = _shared_length(after, template.render(messages[:1], tools, prompt=True))
    end = after.find(closing, start) if closing else -1
    if end < 0:
        raise InputError(f"the chat template {template.location} writes a reply otherwise once feedback follows it")
    return after[end:]


def to_messages(turns: Sequence[Turn], system: str) -> list[dict[str, Any]]:
    """Returns turns as messages of OpenAI's format with arguments as objects; parallel calls are one message.

    Calls are numbered in order; their ids have the nine letters and digits that Mistral's templates ask for.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    number, name = 0, ""
    calls: list[dict[str, Any]] = []
    for turn in turns:
        if turn.call is not None:
            number, name = number + 1, turn.call.name
            function = {"name": name, "arguments": turn.call.arguments}
            call = {"id": f"call{number:05d}", "type": "function", "function": function}
            if turn.parallel and calls:
                calls.append(call)
                continue
            calls = [call]
            messages.append({"role": "assistant", "content": turn.text, "tool_calls": calls})
        elif turn.role == "function":
            identity = f"call{number:05d}"
            messages.append({"role": "tool", "tool_call_id": identity, "name": name, "content": turn.text})
        else:
            messages.append({"role": turn.role, "content": turn.text})
    return messages
