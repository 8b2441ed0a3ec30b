"""The default MAE rule for one feedback: returns the kind of an error and the excerpt that shows it.

In a structured feedback (JSON, or the repr of a Python value) the rule reads the envelope: error fields that are not
empty, status codes from 400 to 599, failed status words, messages. It never reads a field that belongs to the tool's
domain (a file that holds the word "error", a ticket whose title is "Platform Error"). A plain text is searched for
phrases only if it is short; in a long text only the opening counts.
"""

import ast
import functools
import json
import re
import warnings
from collections.abc import Callable
from typing import Any

from tljax.core.errors import excerpt
from tljax.data.mae_phrases import CUT_ERROR, OPENINGS, PHRASES, STATUS_LINE, TRACEBACK_END, Table

# A feedback of up to this many characters is read as one message. Error texts of Python and of web services are
# shorter; search results, abstracts and pages that merely mention an error are longer.
SHORT = 300
# Envelopes nest (a list of answers in a response in a gateway's reply). Deeper levels are not read.
DEPTH = 6
DECODER = json.JSONDecoder()
# str(result) writes the repr of a dict. Parsing it is slow, and an error is short, so longer ones stay text.
LONGEST_REPR = 10_000

# Keys are compared in lower case, and only by their letters and digits: "Error Message", error_message, errorMessage.
ERROR_TEXTS = frozenset("error errors exception errormessage errormessages errormsg errmsg".split()) | frozenset(
    "errordescription odataerror traceback fault".split()
)
ERROR_CODES = frozenset("errorcode errcode errno".split())
HTTP_CODES = frozenset("statuscode httpstatus httpstatuscode httpcode".split())
MESSAGES = frozenset("message msg statusmessage note notice info information detail details reason".split())
RESULTS = frozenset("data result results response responses body output payload".split())
SUCCESSES = frozenset("ok success successful succeeded".split())
FAILURES = frozenset("failed failure haserror".split())
EXCEPTION_NAME = re.compile(r"(?:\w{1,40}[.#])*\w{0,60}(?:Exception|Error)")  # AWS: {"__type": "ValidationException"}
HEADS = frozenset("status meta header head".split())
# A dict that has only these keys is about the call. With any other key it is the tool's own data, where "status":
# "failed" may belong to a build and "code": 415 to an area.
ENVELOPE = (
    (ERROR_TEXTS | ERROR_CODES | HTTP_CODES | MESSAGES | RESULTS | HEADS | SUCCESSES | FAILURES)
    | frozenset("code cod object type title instance timestamp path method rootcause tool".split())
    | frozenset("requestid traceid documentationurl moreinfo help hint warning warnings suggestion retryafter".split())
)
# A result of MCP's tools/call, of Anthropic's messages, or a tool message: the flag tells whether the call failed.
CONTENT_KEYS = frozenset("content iserror structuredcontent meta type tooluseid toolcallid role".split())
# A result of a shell: the exit code tells whether the command failed.
SHELL_KEYS = frozenset("stdout stderr output exitcode returncode command cwd duration durationms".split())
# The range of JSON-RPC 2.0's own error codes.
RPC_CODES = range(-32768, -31999)
# Tags in which chat templates put a tool's text.
RESPONSE_TAG = re.compile(r"</?(?:tool_response|tool_result|tool_output|function_response|function_results?)>")
BLOCK_KEYS = frozenset("type text annotations cache_control citations _meta".split())
# Lines of a stack trace in JavaScript, Java and .NET, and the name of an exception in the line above them.
TRACE_LINE = re.compile(r"\s{0,20}(?:at [\w.$<]|at async |\.\.\. \d{1,5} more\b|--- )")
TRACE_HEAD = re.compile(r"(?:^|[\s.\"])(?:[A-Z]\w{0,60})?(?:Error|Exception)(?:\$\w{1,40})?\s?(?::|$)")
# Messages of Django and others on a wrong field of the request: {"email": ["This field may not be blank."]}.
FIELD_ERROR = re.compile(
    r"(?:this field |enter a valid |ensure this |not a valid "
    r"|.{0,60}\b(?:can't|cannot|may not|must not) be (?:blank|null|empty)\b"
    r"|.{0,60}\b(?:is (?:required|invalid|too (?:short|long))|has already been taken)\b)",
    re.IGNORECASE,
)
FAILED_WORDS = frozenset("error fail failed failure".split())
NO_ERROR = frozenset(
    ["", "0", "200", "none", "null", "nil", "false", "no", "no error", "no errors", "ok", "success", "n/a"]
)


@functools.lru_cache(maxsize=4096)
def _name(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())


def _means_no_error(value: Any) -> bool:
    """Returns True if this value of an error field means that there is no error."""
    if isinstance(value, str):
        return value.strip().lower().rstrip(".") in NO_ERROR
    if isinstance(value, dict):
        return all(_means_no_error(v) for v in value.values())
    if isinstance(value, list):
        return all(_means_no_error(v) for v in value)
    # A float is a measured error (a margin, a residual), not an error report.
    return value is None or isinstance(value, float) or value in (False, 0, 200)


def _http_error(value: Any) -> bool:
    if isinstance(value, str) and len(value) == 3 and value.isdecimal():
        value = int(value)
    return isinstance(value, int) and 400 <= value <= 599


def _is_validation_error(value: Any) -> bool:
    """Returns True for an item of FastAPI's "detail" or of zod's list, which names a wrong field of the request."""
    return isinstance(value, dict) and (value.keys() >= {"loc", "msg"} or value.keys() >= {"code", "path", "message"})


def _validation_failure(value: Any) -> str | None:
    """Returns the error of a list of validation errors, None for any other value."""
    if isinstance(value, list) and value and all(map(_is_validation_error, value)):
        return f"invalid argument: {excerpt(json.dumps(value, ensure_ascii=False))}"
    return None


def _are_field_errors(value: Any) -> bool:
    """Returns True for the messages on one field of the request, as Django and Rails write them."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and FIELD_ERROR.match(v) for v in value)


def _text_of_blocks(value: Any) -> str | None:
    """Returns the text of a list of content blocks, as MCP and chat services write it; None for any other value."""
    if not isinstance(value, list) or not value:
        return None
    texts = []
    for block in value:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            return None
        if block["type"] == "text":
            if not isinstance(block.get("text"), str) or not BLOCK_KEYS.issuperset(block):
                return None
            texts.append(block["text"])
        elif block["type"] not in ("image", "audio", "resource", "resource_link"):
            return None
    return "\n".join(texts)


def _result_failure(fields: dict[str, Any], depth: int) -> str | None:
    """Returns the error of the result of a tool call, whose keys are CONTENT_KEYS."""
    flag, content = fields.get("iserror"), fields.get("content")
    text = _text_of_blocks(content)
    if flag is True:
        shown = text if text else content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        return f"error result: {excerpt(shown) or 'isError'}"
    if flag is False or depth > DEPTH:
        return None
    if text is None and not {"tooluseid", "toolcallid"}.isdisjoint(fields):
        return _value_failure(content, depth + 1)
    return None if text is None else _failure(text, depth + 1)


def _dict_failure(fields: dict[str, Any], depth: int) -> str | None:
    items = [(_name(key), key, value) for key, value in fields.items()]
    is_envelope = ENVELOPE.issuperset(name for name, _, _ in items)
    by_name = {name: value for name, _, value in items}
    if ("content" in by_name or "iserror" in by_name) and CONTENT_KEYS.issuperset(by_name):
        return _result_failure(by_name, depth)
    if items and all(_are_field_errors(value) for value in fields.values()):
        return f"invalid argument: {excerpt(json.dumps(fields, ensure_ascii=False))}"
    messages = "".join(f", {key}: {value}" for name, key, value in items if name in MESSAGES and isinstance(value, str))
    for name, key, value in items:
        # "errors": 3 is a count. Beside the tool's own data, "error": 1 is a quantity, but an error code remains one.
        is_quantity = isinstance(value, int) and not isinstance(value, bool) and (name == "errors" or not is_envelope)
        if ((name in ERROR_TEXTS and not is_quantity) or name in ERROR_CODES) and not _means_no_error(value):
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return f"error field: {excerpt(f'{key}: {shown}')}"
        if _http_error(value) and (name in HTTP_CODES or (is_envelope and name in ("status", "code", "cod"))):
            return f"http status: {excerpt(f'{key}: {value}{messages}')}"
        if name in ("exitcode", "returncode") and SHELL_KEYS.issuperset(by_name) and isinstance(value, int) and value:
            shown = by_name.get("stderr") or by_name.get("stdout") or by_name.get("output") or ""
            return f"shell error: {excerpt(f'{key}: {value}, {shown}')}"
    code = by_name.get("code")
    if is_envelope and isinstance(code, int) and code in RPC_CODES and "message" in by_name:
        return f"rpc error: {excerpt(f'code: {code}{messages}')}"
    for name, key, value in items if is_envelope else ():
        if name == "detail" and (reason := _validation_failure(value)):
            return reason
        failed_word = isinstance(value, str) and value.strip().lower() in FAILED_WORDS
        is_named = name == "status" or (name in ("object", "type") and value == "error" and messages)
        exception = name == "type" and messages and isinstance(value, str) and EXCEPTION_NAME.fullmatch(value)
        flag = (value is False and name in SUCCESSES) or (value is True and name in FAILURES)
        if (failed_word and is_named) or exception or flag:
            return f"failed status: {excerpt(f'{key}: {value}{messages}')}"
        if name in MESSAGES and isinstance(value, str) and (reason := _text_failure(value)):
            return reason
    # Nested envelopes.
    for name, _, value in items:
        nested = name in RESULTS or (isinstance(value, dict) and (name in HEADS or len(items) == 1))
        if nested and (reason := _value_failure(value, depth + 1)):
            return reason
    return None


def _value_failure(value: Any, depth: int) -> str | None:
    if depth > DEPTH:
        return None
    if isinstance(value, str):
        return _failure(value, depth + 1)
    if isinstance(value, dict):
        return _dict_failure(value, depth)
    if (text := _text_of_blocks(value)) is not None:
        return _failure(text, depth + 1)
    if reason := _validation_failure(value):
        return reason
    if isinstance(value, list) and value:
        # Partial success is success: a list has failed only if each of its items has.
        first = None
        for item in value:
            reason = _value_failure(item, depth + 1)
            if reason is None:
                return None
            first = first or reason
        return first
    return None


def _first_match(
    table: Table, find: Callable[[re.Pattern[str], str], re.Match[str] | None], searched: str, text: str
) -> str | None:
    for kind, pattern in table:
        # A text in backticks, or a literal of a call in program code, is only mentioned.
        if (match := find(pattern, searched)) and not searched.endswith(("`", '("', "('"), 0, match.start()):
            return f"{kind}: {excerpt(text, match.start(), match.end())}"
    return None


def _text_failure(text: str) -> str | None:
    text = text.strip()
    # Phrases come first because they name the kind better than an opening like "cannot ...".
    if len(text) <= SHORT and (reason := _first_match(PHRASES, re.Pattern.search, text, text)):
        return reason
    # Every opening that requires the end of the text is shorter than SHORT, so none mistakes the cut for the end.
    if reason := _first_match(OPENINGS, re.Pattern.match, text[:SHORT], text):
        return reason
    # An interpreter prints the program's output, then the traceback, whose last line names the exception.
    tail = text[-SHORT:]
    if "Traceback (most recent call last)" in text and (ends := list(TRACEBACK_END.finditer(tail))):
        return f"exception: {excerpt(tail[ends[-1].start() :])}"
    return _stack_trace(text) if "\n" in text else None


def _stack_trace(text: str) -> str | None:
    """Returns the exception of a text that ends in a stack trace of JavaScript, Java or .NET."""
    end = len(text)
    traced = False
    while end > 0:
        start = text.rfind("\n", 0, end) + 1
        line = text[start : min(end, start + SHORT)]
        if not TRACE_LINE.match(line):
            if line.strip():
                return f"exception: {excerpt(line)}" if traced and TRACE_HEAD.search(line) else None
        else:
            traced = True
        end = start - 1
    return None


def _parse(text: str) -> Any:
    """Returns the value whose JSON or repr `text` is, or else `text` itself."""
    text = text.strip()
    # Bare words, numbers and 'quoted keys' stay text; the parsers would turn "NaN" or "1e5" into numbers.
    if not text or text[0] not in '{["':
        return text
    try:
        value, end = DECODER.raw_decode(text)
        # Some error payloads are followed by advice to the model.
        return value if end == len(text) or isinstance(value, dict) else text
    except (ValueError, RecursionError):
        pass
    if text[0] == '"' or len(text) > LONGEST_REPR:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in somebody's repr
            return json.loads(json.dumps(ast.literal_eval(text), skipkeys=True, default=str))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _in_tags(part: str, depth: int) -> str | None:
    """Returns the error of one response in tags. Hermes writes {"name": tool, "content": result} there."""
    value = _parse(part)
    if isinstance(value, dict) and "content" in value and {"name", "content", "tool_call_id", "id"}.issuperset(value):
        return _value_failure(value["content"], depth + 1)
    return _failure(part, depth + 1)


def _failure(feedback: str, depth: int) -> str | None:
    if status := STATUS_LINE.match(feedback):
        if _http_error(status[1]):
            return f"http status: {excerpt(feedback)}"
        return None if depth > DEPTH else _failure(feedback[status.end() :], depth + 1)
    if RESPONSE_TAG.match(feedback.lstrip()[:30]):
        parts = (_in_tags(part, depth) for part in RESPONSE_TAG.split(feedback) if part.strip())
        return next(filter(None, parts), None)
    value = _parse(feedback)
    if not isinstance(value, str):
        return _value_failure(value, depth)
    if CUT_ERROR.match(value[:SHORT]):
        return f"error field: {excerpt(value)}"
    return _text_failure(value)


def find_error(feedback: str) -> str | None:
    """Returns "kind: excerpt" if a tool's feedback is an error, else None.

    It never raises, and takes time linear in the length of the feedback.
    """
    try:
        return _failure(feedback, 0)
    except RecursionError:
        return None  # brackets nest deeper than Python's stack; no service reports an error like that
