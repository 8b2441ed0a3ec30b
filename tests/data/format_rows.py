"""One dialogue, written in every format that is read: what tests of formats share."""

import json
from typing import Any

PARAMETERS = {"type": "object", "properties": {"place": {"type": "string"}, "people": {"type": "integer"}}}
BOOK = {"name": "book", "description": "Book a table.", "parameters": PARAMETERS | {"required": ["place"]}}
STOP = {"name": "stop", "description": "Stop.", "parameters": {"type": "object", "properties": {}}}
TOOLS = [BOOK, STOP]
ARGUMENTS = {"place": "Aldo's", "people": 2}
CALL = {"name": "book", "arguments": ARGUMENTS}
RESULT = '{"number": 7}'
ASK, DONE = "A table for two", "Table 7 is yours."
# The beginning of every dialogue's prompt, and the replies; a format with a query and calls alone has the first two.
PROMPT = (
    'System: Function:\ndef book(place: string, people: integer = None):\n    """\n    Book a table.\n\n    Args:\n'
    "    place (string): \n    people (integer): \n"
)
REPLIES = ['book(place="Aldo\'s", people=2)', DONE, "stop()"]


def _messages(role: str, text: str, *pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{role: name, text: value} for name, value in pairs]


def _call(name: str, arguments: Any, identity: str) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def _item(name: str, arguments: Any, identity: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": identity, "name": name, "arguments": json.dumps(arguments)}


_BOOK_CALL, _STOP_CALL = _call("book", ARGUMENTS, "c1"), _call("stop", {}, "c2")
_OPENAI = [
    {"role": "user", "content": ASK},
    {"role": "assistant", "content": None, "tool_calls": [_BOOK_CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": RESULT},
    {"role": "assistant", "content": DONE},
    {"role": "user", "content": "Thanks"},
]
_STOPPED = {"role": "assistant", "content": None, "tool_calls": [_STOP_CALL]}
_WRAPPED = [{"type": "function", "function": tool} for tool in TOOLS]
_TAGGED_CALLS = [f"<tool_call>\n{json.dumps(c)}\n</tool_call>" for c in (CALL, {"name": "stop", "arguments": {}})]
_SEAL = [{"api": "book", "parameters": ARGUMENTS, "responses": ["API_call_0"]}, {"api": "stop", "parameters": {}}]
_SEAL_TOOLS = [
    {
        "api_name": tool["name"],
        "api_description": tool["description"],
        "parameters": tool["parameters"]["properties"],
        "required": tool["parameters"].get("required", []),
    }
    for tool in TOOLS
]
_SINGLE_QUOTED = f"""{{"name": "book", "arguments": '{json.dumps(ARGUMENTS)}'}}"""
_CHAT = [
    f"USER: {ASK}",
    f"ASSISTANT: <functioncall> {_SINGLE_QUOTED} <|endoftext|>",
    f"FUNCTION RESPONSE: {RESULT}",
    f"ASSISTANT: {DONE} <|endoftext|>",
    "USER: Thanks",
    """ASSISTANT: <functioncall> {"name": "stop", "arguments": '{}'} <|endoftext|>""",
]
_OBJECTS = "\n\n".join(json.dumps(tool, indent=4) for tool in TOOLS)

# Name of the case -> (name of the format, row).
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "TL-Training": (
        "tl_training",
        {
            "conversations": _messages(
                "role", "content",
                ("system", json.dumps(TOOLS)), ("user", ASK), ("assistant", f"book\n{json.dumps(ARGUMENTS)}"),
                ("function", RESULT), ("assistant", DONE), ("user", "Thanks"), ("assistant", "stop\n{}"),
            )
        },
    ),
    "OpenAI": ("openai", {"tools": _WRAPPED, "messages": [*_OPENAI, _STOPPED]}),
    "OpenAI's older calls": (
        "openai",
        {
            "functions": TOOLS,
            "messages": [
                _OPENAI[0],
                {"role": "assistant", "content": None, "function_call": _BOOK_CALL["function"]},
                {"role": "function", "name": "book", "content": RESULT},
                *_OPENAI[3:],
                {"role": "assistant", "content": None, "function_call": _STOP_CALL["function"]},
            ],
        },
    ),
    "a log of OpenAI's chat": (
        "openai",
        {
            "request": {"model": "m", "messages": _OPENAI, "tools": _WRAPPED},
            "response": {"id": "x", "choices": [{"index": 0, "message": _STOPPED}]},
        },
    ),
    "OpenAI Responses": (
        "responses",
        {
            "tools": [{"type": "function", **tool} for tool in TOOLS],
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": ASK}]},
                _item("book", ARGUMENTS, "c1"),
                {"type": "function_call_output", "call_id": "c1", "output": RESULT},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": DONE}]},
                {"role": "user", "content": "Thanks"},
            ],
            "output": [_item("stop", {}, "c2")],
        },
    ),
    "Anthropic": (
        "anthropic",
        {
            "tools": [
                {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
                for tool in TOOLS
            ],
            "messages": _messages(
                "role", "content",
                ("user", ASK), ("assistant", [{"type": "tool_use", "id": "c1", "name": "book", "input": ARGUMENTS}]),
                ("user", [{"type": "tool_result", "tool_use_id": "c1", "content": RESULT}]), ("assistant", DONE),
                ("user", "Thanks"), ("assistant", [{"type": "tool_use", "id": "c2", "name": "stop", "input": {}}]),
            ),
        },
    ),
    "LLaMA-Factory": (
        "sharegpt",
        {
            "tools": json.dumps(TOOLS),
            "conversations": _messages(
                "from", "value",
                ("human", ASK), ("function_call", json.dumps(CALL)), ("observation", RESULT), ("gpt", DONE),
                ("human", "Thanks"), ("function_call", '{"name": "stop", "arguments": {}}'),
            ),
        },
    ),
    "Hermes": (
        "sharegpt",
        {
            "conversations": _messages(
                "from", "value",
                ("system", f"<tools>{json.dumps(_WRAPPED)}</tools>"), ("human", ASK), ("gpt", _TAGGED_CALLS[0]),
                ("tool", f"<tool_response>\n{RESULT}\n</tool_response>"), ("gpt", DONE), ("human", "Thanks"),
                ("gpt", _TAGGED_CALLS[1]),
            )
        },
    ),
    "Hermes in OpenAI's messages": (
        "sharegpt",
        {
            "messages": _messages(
                "role", "content",
                ("system", "<tools>\n" + "\n".join(map(json.dumps, TOOLS)) + "\n</tools>"), ("user", ASK),
                ("assistant", _TAGGED_CALLS[0]), ("tool", f"<tool_response>{RESULT}</tool_response>"),
                ("assistant", DONE), ("user", "Thanks"), ("assistant", _TAGGED_CALLS[1]),
            )
        },
    ),
    "ToolACE": (
        "sharegpt",
        {
            "system": json.dumps(TOOLS),
            "conversations": _messages(
                "from", "value",
                ("user", ASK), ("assistant", '[book(place="Aldo\'s", people=2)]'), ("tool", RESULT),
                ("assistant", DONE), ("user", "Thanks"), ("assistant", "[stop()]"),
            ),
        },
    ),
    "ToolBench": (
        "toolbench",
        {
            "conversations": _messages(
                "from", "value",
                ("system", str(TOOLS)), ("user", f"\n{ASK}\n"),
                ("assistant", f"\nThought: \nAction: book\nAction Input: {json.dumps(ARGUMENTS, indent=2)}"),
                ("function", RESULT), ("assistant", DONE), ("user", "Thanks"),
                ("assistant", "Thought:\nAction: stop\nAction Input: {}"),
            )
        },
    ),
    "ToolBench's answers": (
        "toolbench",
        {
            "answer_generation": {
                "valid_data": True,
                "function": TOOLS,
                "train_messages": [
                    [*_OPENAI[:1], {"role": "assistant", "content": None, "function_call": _BOOK_CALL["function"]}],
                    [
                        *_OPENAI[:1],
                        {"role": "assistant", "content": None, "function_call": _BOOK_CALL["function"]},
                        {"role": "function", "name": "book", "content": RESULT},
                        *_OPENAI[3:],
                        {"role": "assistant", "content": None, "function_call": _STOP_CALL["function"]},
                    ],
                ],
            }
        },
    ),
    "glaive": ("glaive", {"system": f"SYSTEM: {_OBJECTS}", "chat": "\n\n\n".join(_CHAT) + "\n\n\n"}),
    "glaive of version 1": ("glaive", {"sample": f"SYSTEM: {_OBJECTS}\n" + "\n".join(_CHAT)}),
    "xLAM": (
        "xlam",
        {
            "query": ASK,
            "tools": json.dumps(TOOLS),
            "answers": json.dumps([CALL, {"name": "stop", "arguments": {}}]),
        },
    ),
    "Seal-Tools": ("seal_tools", {"query": ASK, "tools": _SEAL_TOOLS, "calling": _SEAL}),
    "Seal-Tools' texts": (
        "seal_tools",
        {
            "conversations": _messages(
                "from", "value",
                ("human", f'Input:\napi_list = {_SEAL_TOOLS}\ntask_instruction = "{ASK}"\nOutput:\n'),
                ("gpt", str(_SEAL)),
            )
        },
    ),
}  # fmt: skip
QUERIES_ALONE = ("xLAM", "Seal-Tools", "Seal-Tools' texts")
