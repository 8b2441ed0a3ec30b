"""Logs of APIs: an object that wraps a request and its response -> the record of the conversation.

{"request": {"messages", "tools"}, "response": {"choices": [{"message": ...}]}}, in which "body" may wrap either once
more, as in OpenAI's batch files, and the request may be the object itself. OpenAI's Responses and Anthropic's messages
are wrapped alike. {"input": {"messages", "tools"}, "preferred_output": [...]} is OpenAI's file of preferences.
"""

from __future__ import annotations

from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import join_names, refuse_unknown

_REQUESTS = ("request", "input", "body")
_RESPONSES = ("response", "output", "completion")
_SHARED = ("tools", "functions", "system", "instructions", "previous_response_id")
# Keys of a message that is a whole response, beside those of the message.
_ENVELOPE = ("usage", "stop_reason", "stop_sequence", "type", "model")
_CHOICE = ("index", "message", "finish_reason", "logprobs", "content_filter_results")


def unwrap(record: dict[str, Any], location: str) -> dict[str, Any]:
    """Returns the record of the conversation that a log entry holds; any other record stays as it is.

    Its id is that of the entry, else its custom_id, else that of the response. Raises InputError for a response with
    several choices, and for one without a reply where the request has none either.
    """
    request, response = _part(record, _REQUESTS), _part(record, _RESPONSES)
    if request is None and response is None:
        return record
    request, response = request or record, response or {}
    fields = {key: request[key] for key in _SHARED if request.get(key) is not None}
    if isinstance(request.get("messages"), list):
        fields["messages"] = _messages(request["messages"], record.get("preferred_output"), response, location)
    elif isinstance(response.get("output"), list):
        fields = {key: response[key] for key in _SHARED if response.get(key) is not None} | fields
        fields |= {"input": request.get("input"), "output": response["output"]}
    else:
        return record
    identities = (record.get("id"), record.get("custom_id"), response.get("id"))
    return fields | {"id": next((name for name in identities if name is not None), None)}


def _part(record: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any] | None:
    """Returns the first object under one of the names, without the "body" around it."""
    part = next((record[name] for name in names if isinstance(record.get(name), dict)), None)
    if part is not None and isinstance(part.get("body"), dict):
        part = part["body"]
    return part


def _messages(messages: list[Any], preferred: Any, response: dict[str, Any], location: str) -> list[Any]:
    """Returns the messages of a request with those of its response."""
    if isinstance(preferred, list):
        return [*messages, *preferred]
    reply = _reply(response, location)
    last = messages[-1] if messages else None
    if reply is not None:
        return messages if last == reply else [*messages, reply]
    if response and not (isinstance(last, dict) and last.get("role") == "assistant"):
        raise InputError(
            f"{location}, field response: has no message (fields here: {join_names(response)}); allowed: choices, or a "
            "message with role and content; take the row out"
        )
    return messages


def _reply(response: dict[str, Any], location: str) -> dict[str, Any] | None:
    """Returns the message of a response; None if there is none."""
    choices = response.get("choices")
    if isinstance(choices, list) and choices:
        if len(choices) > 1:
            raise InputError(f"{location}, field response.choices: has {len(choices)} replies; keep the one to learn")
        response = choices[0] if isinstance(choices[0], dict) else {}
        refuse_unknown(response, _CHOICE, f"{location}, field response.choices[0]", "a reply is read from message")
    reply = response.get("message", response)
    if not isinstance(reply, dict) or reply.get("role") is None:
        return None
    return {key: value for key, value in reply.items() if key not in _ENVELOPE}
