"""The formats of Seal-Tools: a query with its calls, or both as texts with the tools, for fine-tuning.

{"id": ..., "query": ..., "calling": [{"api": <tool name>, "parameters": {...}, "responses": ["API_call_0"]}]}
{"id": ..., "conversations": [
  {"from": "human", "value": "... api_list = [<Python list of tools>]\\ntask_instruction = \\"...\\"\\nOutput:\\n"},
  {"from": "gpt", "value": "[{'api': <tool name>, 'parameters': {...}, 'responses': ['API_call_0']}]"}]}

`responses` gives names to results, by which later parameters may refer to them, and is no part of the call.
"""

from __future__ import annotations

import re
from typing import Any

from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.core.json_fields import check_not_blank, expect_type, get_or_default, refuse_unknown, shorten
from tljax.data.formats.fields import parse_arguments, parse_messages, parse_tools
from tljax.data.formats.texts import find_tools, parse_value
from tljax.data.trajectory import Conversation, Turn

SCHEMA = '{"query", "calling": [{"api", "parameters"}]} (Seal-Tools)'
MESSAGES = "calling"
SHAPE = ("query", "calling", "calling[].api", "calling[].parameters")
_CONVERSATIONS = "conversations"
_LIST = re.compile(r"api_list\s*=\s*")
_QUERY = re.compile(r'task_instruction\s*=\s*"(.*)"\s*Output:\s*\Z', re.DOTALL)


def matches(record: dict[str, Any]) -> bool:
    """Returns True if the record has calls under "calling", or a text with "api_list =" before one with calls."""
    if isinstance(record.get(MESSAGES), list):
        return True
    messages = record.get(_CONVERSATIONS)
    first = messages[0] if isinstance(messages, list) and messages else None
    text = first.get("value") if isinstance(first, dict) else None
    return isinstance(text, str) and "task_instruction" in text and _LIST.search(text) is not None


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one."""
    if record.get(MESSAGES) is None and record.get(_CONVERSATIONS) is not None:
        return _read_texts(record, location)
    query = expect_type(record.get("query"), str, f"{location}, field query")
    listed = expect_type(get_or_default(record, "tools", []), list, f"{location}, field tools")
    tools = parse_tools([_tool(tool) for tool in listed], f"{location}, field tools")
    field = f"{location}, field {MESSAGES}"
    calls = _calls(record.get(MESSAGES), field)
    return Conversation(tools, (Turn("user", query), *calls))


def _read_texts(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record with texts."""
    field = f"{location}, field {_CONVERSATIONS}"
    messages = parse_messages(record[_CONVERSATIONS], field)
    values = []
    for i, message in enumerate(messages):
        value = expect_type(message, dict, f"{field}[{i}]").get("value")
        refuse_unknown(message, ("from", "value", "id"), f"{field}[{i}]", "a message's text is read from value")
        values.append(expect_type(value, str, f"{field}[{i}].value"))
    if [message.get("from") for message in messages] != ["human", "gpt"]:
        raise InputError(f"{field}: is not one message of human and one of gpt; a row is {SCHEMA}")
    text = values[0]
    start = _LIST.search(text)
    found = find_tools(text[start.end() :]) if start else None
    query = _QUERY.search(text)
    if query is None or (found is None and "[]" not in text):
        raise InputError(
            f'{field}[0].value: has no api_list = [...] and task_instruction = "..."; fix it or remove the row'
        )
    tools = parse_tools([_tool(tool) for tool in (found[0] if found else [])], f"{field}[0].value, api_list")
    value, is_value = parse_value(values[1])
    if not is_value:
        raise InputError(f"{field}[1].value: {shorten(values[1])} is no list of calls; fix it or remove the row")
    return Conversation(tools, (Turn("user", query[1]), *_calls(value, f"{field}[1].value")))


def _tool(tool: Any) -> Any:
    """Returns a tool with OpenAI's names of the fields; its required parameters stand beside the parameters."""
    if not isinstance(tool, dict) or "api_name" not in tool:
        return tool
    parameters = tool.get("parameters")
    if isinstance(parameters, dict) and parameters:
        parameters = {**parameters, "required": get_or_default(tool, "required", [])}
    return {"name": tool["api_name"], "description": tool.get("api_description"), "parameters": parameters}


def _calls(entries: Any, location: str) -> list[Turn]:
    """Returns a turn for each call of a list."""
    turns = []
    for k, entry in enumerate(expect_type(entries, list, location)):
        field = f"{location}[{k}]"
        entry = expect_type(entry, dict, field)
        refuse_unknown(entry, ("api", "parameters", "responses"), field, "a call is read from api and parameters")
        name = check_not_blank(expect_type(entry.get("api"), str, f"{field}.api"), f"{field}.api")
        arguments = parse_arguments(entry.get("parameters"), f"{field}.parameters")
        turns.append(Turn("assistant", call=Call(name, arguments), parallel=k > 0))
    return turns
