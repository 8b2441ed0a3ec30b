"""Tools, calls and conversations as the text that the model reads, in two byte-exact dialects.

`mae` is what the released mae.py writes, `readme` what the released TL-CodeLLaMA-2 expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tljax.calls.render import (
    check_dialect,
    render_call,
    render_tool,
)
from tljax.calls.tool import Tool
from tljax.data.trajectory import Trajectory, Turn

_ROLES = {"system": "System", "user": "User", "assistant": "Assistant", "function": "Output"}


@dataclass(frozen=True, slots=True)
class ReplySpan:
    """Where one assistant turn lies, in characters of `Rendered.text`.

    `start` is right after "Assistant:", `text_start` after the blank that follows, `end` after the last character of
    the reply; `name` is the span of the called tool's name.
    """

    start: int
    text_start: int
    end: int
    name: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class RenderedTrajectory:
    """A trajectory as text up to its last reply, without end token; step k is `text[:replies[k].end]`.

    `tool_names` are the spans of the names that the tool list defines.
    """

    text: str
    replies: tuple[ReplySpan, ...]
    tool_names: tuple[tuple[int, int], ...]


def render_trajectory(trajectory: Trajectory, dialect: str) -> RenderedTrajectory:
    """The conversation as `Role: content` lines; what follows the last reply is left out."""
    check_dialect(dialect)
    text, names = "", []
    if trajectory.system or trajectory.tools:
        text = "System: "
        if trajectory.system:
            text += trajectory.system + ("\n\n" if trajectory.tools else "")
        for i, tool in enumerate(trajectory.tools):
            if dialect == "mae" and i:
                text += "\n\n"
            start = len(text) + len("Function:\ndef ")
            names.append((start, start + len(tool.name)))
            text += render_tool(tool, dialect)
            if dialect == "readme":
                text += "\n\n"
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
            name = length - len(call)
            span = None if turn.call is None else (name, name + len(turn.call.name))
            replies.append(ReplySpan(start, start + 1, length, span))
    return RenderedTrajectory("".join(pieces), tuple(replies), tuple(names))


def render_prompt(tools: Sequence[Tool], turns: Sequence[Turn], dialect: str, system: str = "") -> str:
    """What a model reads before the reply to these turns: the text up to and with the "Assistant:" of that reply."""
    # A reply as a stand-in: rendering ends with the last one, and only what precedes it is kept.
    rendered = render_trajectory(Trajectory("", tuple(tools), (*turns, Turn("assistant", ".")), system), dialect)
    return rendered.text[: rendered.replies[-1].start]


def render_feedback(text: str) -> str:
    """What stands between a reply and the next one, up to and with the "Assistant:" of that."""
    return f"\n{_ROLES['function']}: {text}\n{_ROLES['assistant']}:"


def chat_template(dialect: str, *, bos: bool) -> str:
    """A Jinja chat template that writes what `render` writes, for `tokenizer.apply_chat_template`.

    bos: begin with the tokenizer's first token, which apply_chat_template does not add on its own; where training
    prepends it, a prompt without it is one the model never saw.

    It takes OpenAI messages with `tools=` (arguments as objects) and messages whose roles are System, User, Assistant
    and Output already, whose text it leaves as it is. The end token closes the last message, unless
    `add_generation_prompt` asks for "\\nAssistant:" there.
    """
    check_dialect(dialect)
    return "{{- bos_token -}}" * bos + _TEMPLATE.strip().replace("DIALECT", dialect)


# "%r"|format is Python's repr in every Jinja of Python, which makes `readme` calls exact there; an engine in another
# language that lacks it has to be given rendered messages.
_TEMPLATE = r"""
{%- set roles = {'system': 'System', 'developer': 'System', 'user': 'User', 'assistant': 'Assistant',
                 'function': 'Output', 'tool': 'Output'} -%}
{%- set python = {'string': 'str', 'integer': 'int', 'number': 'float', 'boolean': 'bool', 'array': 'list',
                  'object': 'dict', 'null': 'None'} -%}
{%- set mae = 'DIALECT' == 'mae' -%}

{%- macro role_of(message) -%}
  {%- if message['role'] in roles -%}{{- roles[message['role']] -}}
  {%- elif message['role'] in ['System', 'User', 'Assistant', 'Output'] -%}{{- message['role'] -}}
  {%- else -%}{{- raise_exception(message['role'] ~ ' is not a role; allowed: ' ~ roles|join(', ')) -}}
  {%- endif -%}
{%- endmacro -%}

{%- macro text_of(message) -%}
  {%- if message['content'] is string -%}{{- message['content'] -}}
  {%- elif message['content'] -%}{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}

{%- macro kinds_of(schema, definitions) -%}
  {%- set members = schema['anyOf'] or schema['oneOf'] -%}
  {%- if schema['type'] is string -%}{{- schema['type'] -}}
  {%- elif schema['type'] is sequence and schema['type'] -%}{{- schema['type']|join(' | ') -}}
  {%- elif members is sequence and members is not string and members -%}
    {%- set found = namespace(kinds=[]) -%}
    {%- for member in members if member is mapping -%}
      {%- set found.kinds = found.kinds + kinds_of(member, definitions).split(' | ') -%}
    {%- endfor -%}
    {{- found.kinds|unique(true)|join(' | ') or 'any' -}}
  {%- elif schema['enum'] and schema['enum']|reject('string')|list|length == 0 -%}{{- 'string' -}}
  {%- elif schema['$ref'] is string and definitions[schema['$ref'].split('/')[-1]] is mapping -%}
    {{- kinds_of(definitions[schema['$ref'].split('/')[-1]], {}) -}}
  {%- else -%}{{- 'any' -}}
  {%- endif -%}
{%- endmacro -%}

{%- macro render_tool(tool) -%}
  {%- set parameters = tool['parameters'] or {} -%}
  {%- set properties = parameters['properties'] or {} -%}
  {%- set definitions = parameters['$defs'] or parameters['definitions'] or {} -%}
  {%- set required = (parameters['required'] or [])|unique(true)|list -%}
  {%- set order = namespace(names=required) -%}
  {%- for name in properties if name not in required and properties[name] is not none -%}
    {%- set order.names = order.names + [name] -%}
  {%- endfor -%}
  {{- 'Function:\ndef ' ~ tool['name'] ~ '(' -}}
  {%- for name in order.names -%}
    {%- set shown = namespace(kinds=[]) -%}
    {%- for kind in kinds_of(properties[name], definitions).split(' | ') -%}
      {%- set shown.kinds = shown.kinds + [kind if mae else python.get(kind, kind)] -%}
    {%- endfor -%}
    {{- name ~ (': ' if mae else ':') ~ shown.kinds|join(' | ') ~ ('' if name in required else ' = None') -}}
    {{- '' if loop.last else ', ' -}}
  {%- endfor -%}
  {{- '):\n    \"\"\"\n    ' ~ (tool['description'] or '') ~ ('\n\n    Args:' if mae or order.names else '') -}}
  {%- for name in order.names -%}
    {%- set schema = properties[name] -%}
    {%- set target = definitions[(schema['$ref'] or '').split('/')[-1]] or {} -%}
    {{- ('\n    ' if mae else '\n        ') ~ name ~ ' (' ~ kinds_of(schema, definitions) ~ '): ' -}}
    {{- schema['description'] or target['description'] or '' -}}
  {%- endfor -%}
  {{- '\n    \"\"\"' -}}
{%- endmacro -%}

{%- macro render_call(call) -%}
  {%- set function = call['function'] or call -%}
  {%- set arguments = function['arguments'] or {} -%}
  {%- if arguments is not mapping -%}
    {{- raise_exception('arguments of ' ~ function['name'] ~ ' must be an object, not JSON text') -}}
  {%- endif -%}
  {{- function['name'] ~ '(' -}}
  {%- for name in arguments -%}
    {{- name ~ ('=' ~ arguments[name]|tojson if mae else ' = ' ~ '%r'|format(arguments[name])) -}}
    {{- '' if loop.last else ', ' -}}
  {%- endfor -%}
  {{- ')' -}}
{%- endmacro -%}

{%- set at = namespace(next=0, begun=false) -%}
{%- if tools -%}
  {{- 'System: ' -}}
  {%- if messages and role_of(messages[0]) == 'System' -%}
    {%- set at.next = 1 -%}
    {{- text_of(messages[0]) ~ ('\n\n' if text_of(messages[0]) else '') -}}
  {%- endif -%}
  {%- for tool in tools -%}
    {{- render_tool(tool['function'] if tool['function'] is mapping else tool) -}}
    {{- '' if mae and loop.last else '\n\n' -}}
  {%- endfor -%}
  {%- set at.begun = true -%}
{%- endif -%}
{%- for message in messages -%}
  {%- if loop.index0 >= at.next -%}
    {%- set here = loop.index0 -%}
    {%- set calls = message['tool_calls'] or ([message['function_call']] if message['function_call'] else []) -%}
    {%- if not calls -%}
      {{- ('\n' if at.begun else '') ~ role_of(message) ~ ': ' ~ text_of(message) -}}
    {%- else -%}
      {%- set run = namespace(end=here + 1, open=true, owners=[]) -%}
      {%- for reply in messages[here + 1:] -%}
        {%- set run.open = run.open and role_of(reply) == 'Output' -%}
        {%- if run.open -%}
          {%- set run.end = run.end + 1 -%}
          {%- set owner = namespace(by_id=none, by_order=none) -%}
          {%- for call in calls -%}
            {%- if owner.by_id is none and reply['tool_call_id'] and call['id'] == reply['tool_call_id'] -%}
              {%- set owner.by_id = loop.index0 -%}
            {%- endif -%}
            {%- if owner.by_order is none and loop.index0 not in run.owners -%}
              {%- set owner.by_order = loop.index0 -%}
            {%- endif -%}
          {%- endfor -%}
          {%- set by_order = calls|length - 1 if owner.by_order is none else owner.by_order -%}
          {%- set run.owners = run.owners + [by_order if owner.by_id is none else owner.by_id] -%}
        {%- endif -%}
      {%- endfor -%}
      {%- for call in calls -%}
        {%- set k = loop.index0 -%}
        {{- ('\n' if at.begun else '') ~ 'Assistant: ' -}}
        {{- text_of(message) ~ '\n' if k == 0 and text_of(message) else '' -}}
        {{- render_call(call) -}}
        {%- for reply in messages[here + 1:run.end] -%}
          {%- if run.owners[loop.index0] == k -%}{{- '\nOutput: ' ~ text_of(reply) -}}{%- endif -%}
        {%- endfor -%}
        {%- set at.begun = true -%}
      {%- endfor -%}
      {%- set at.next = run.end -%}
    {%- endif -%}
    {%- set at.begun = true -%}
  {%- endif -%}
{%- endfor -%}
{{- '\nAssistant:' if add_generation_prompt else (eos_token or '') -}}
"""
