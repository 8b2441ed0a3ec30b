"""A dialect -> the `response_template` of transformers, with which `tokenizer.parse_response(text)` gives `tool_calls`.

transformers reads it from tokenizer_config.json from version 5.13 on: regular expressions for the parts of a reply, and
the parser of each part.
"""

from __future__ import annotations

import re
from typing import Any

from tljax.calls.tool import Call, Tool
from tljax.data.model_template import ModelTemplate, render_feedback, render_prompt, render_steps
from tljax.data.prompt import Dialect, chat_template
from tljax.data.tokenizer import Tokenizer
from tljax.data.trajectory import Trajectory, Turn

# Strings, lists and objects of JSON at any depth, and whatever else has no comma.
_JSON = r'(?P<json>"(?:[^"\\]|\\.)*"|\[(?:[^\[\]{}"]|(?&json))*\]|\{(?:[^\[\]{}"]|(?&json))*\}|[^,\[\]{}"]+)'
_PYTHON = (
    r"(?P<python>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\[(?:[^\[\]{}'\"]|(?&python))*\]|"
    r"\{(?:[^\[\]{}'\"]|(?&python))*\}|[^,\[\]{}'\"]+)"
)
_FUNCTION = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
_EACH = {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}}


def chat_facts(dialect: Dialect, tokenizer: Tokenizer) -> tuple[str, dict[str, Any] | None, tuple[int, ...]]:
    """Returns what an export says of the text of conversations: chat template, response template and end tokens."""
    end = tokenizer.backend.id_to_token(tokenizer.eos_id) or ""
    template = chat_template(dialect, bos=tokenizer.bos_id is not None)
    return template, response_template(dialect, end), tokenizer.eos_ids


def response_template(dialect: Dialect, end: str) -> dict[str, Any] | None:
    """Returns the response template of a dialect, None for a chat template whose form of calls is not known here.

    end: the text of the end token. In the dialect readme, True, False, None and strings with escapes come back as text;
    `parse_response(..., tools=...)` makes values of them.
    """
    if isinstance(dialect, ModelTemplate):
        return _of_model(dialect, end)
    value, parser = (_PYTHON, {"string_delims": [["'", "'"]]}) if dialect == "readme" else (_JSON, {})
    # The call of `f(a="x")` has a line of its own; text may precede it.
    calls = {
        "open_pattern": r"(?:(?<=\n)|(?<=Assistant:)|\A)\s*(?P<name>[^\s()]+)\(",
        "close_pattern": rf"\)\s*(?:{re.escape(end)})?\s*\Z",
        "repeats": True,
        "content": "xml-inline",
        "content_args": {
            "tag_pattern": rf"(?P<key>[^=,\s][^=]*?)\s*=\s*(?P<value>{value})(?:,\s*|\Z)",
            "value_parser": {"name": "json", "args": {**parser, "allow_non_json": True}},
        },
        "transform": _FUNCTION,
    }
    return _template("\nAssistant:", {"tool_calls": calls}, end)


def _template(anchor: str | list[str], fields: dict[str, Any], end: str) -> dict[str, Any]:
    content = {"close_pattern": rf"\s*{re.escape(end)}", "content": "text"}
    return {"defaults": {"role": "assistant"}, "start_anchor": anchor, "fields": {**fields, "content": content}}


def _of_model(template: ModelTemplate, end: str) -> dict[str, Any] | None:
    """Returns the response template for a model's own chat template, by the form of a call that it writes."""
    tool = Tool("find_town", "", {"river": {"type": "string"}}, ("river",))
    turns = (Turn("user", "Where?"), Turn("assistant", call=Call("find_town", {"river": "Limmat"})))
    step = render_steps(Trajectory("", (tool,), turns), template)[0]
    reply = step.text[step.reply.text_start :]
    fields: dict[str, Any] = {"reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"}}
    call = '{"name": "find_town", "%s": {"river": "Limmat"}'
    if reply.endswith(f"<tool_call>\n{call % 'arguments'}}}\n</tool_call>"):
        fields["tool_calls"] = {
            # The blank text before a call would be a content of its own, and replace the one before it.
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        }
    elif reply == f"{call % 'parameters'}}}" or reply == f"{call % 'arguments'}}}":
        fields["tool_calls"] = {
            "open_pattern": r'\s*(?:<\|python_tag\|>)?\{"name":\s*"(?P<name>[^"]+)",\s*"(?:parameters|arguments)":\s*',
            "close_pattern": rf"\}}\s*(?:{re.escape(end)}|\Z)",
            "repeats": True,
            "content": "json",
            "transform": _FUNCTION,
        }
    elif reply.startswith("[TOOL_CALLS]") and call % "arguments" in reply:
        fields["tool_calls"] = {
            "open_pattern": r"\s*\[TOOL_CALLS\]\s*",
            "close_pattern": rf"(?<=\])\s*(?:{re.escape(end)}|\Z)",
            "content": "json",
            "transform": _EACH,
            "transform_each": True,
        }
    elif reply in ("[find_town(river='Limmat')]", '[find_town(river="Limmat")]'):
        fields["tool_calls"] = {
            "open_pattern": r"\s*(?=\[\w[\w.-]*\()",
            "close_pattern": rf"(?<=\)\])\s*(?:{re.escape(end)}|\Z)",
            "content": "python-call-list",
            "transform": _EACH,
            "transform_each": True,
        }
    else:
        return None
    return _template(_anchors(template, tool, turns[0]), fields, end)


def _anchors(template: ModelTemplate, tool: Tool, query: Turn) -> str | list[str]:
    """Returns the text behind which a reply begins: what asks for it, or the mark that ends the messages before it."""
    asked = render_prompt([tool], [query], template, "")
    closed = template.render([{"role": "user", "content": query.text}], [], prompt=False)
    opening = template.render([{"role": "user", "content": query.text}], [], prompt=True)
    if len(opening) > len(closed) and asked.endswith(opening[len(closed) :]):
        return opening[len(closed) :]
    ends = [asked, render_feedback("sun", template)]
    return list(dict.fromkeys(_last_mark(text, template) for text in ends))


def _last_mark(text: str, template: ModelTemplate) -> str:
    """Returns the special token at the end of a text, or its last line."""
    return template.find_closing(text)[1] or text.rpartition("\n")[2]
