"""The default MAE rule on one feedback: is it an error, of which kind, and what shows it.

A structured feedback (JSON, or the repr of a Python value) is judged by its envelope: error fields that say
something, status codes from 400 to 599, failed status words, messages. A field whose content belongs to the tool's
domain (a file that holds the word "error", a ticket whose title is "Platform Error") is never read. A plain text is
searched for phrases only while it is short; of a long one only the opening counts.
"""

import ast
import json
import re
import warnings
from collections.abc import Callable
from typing import Any

from tljax.core.errors import excerpt

# Feedbacks up to this many characters are read as one message. Python's and web services' error texts are shorter;
# search results, abstracts and pages that merely mention an error are longer.
SHORT = 300
# Envelopes nest (a list of answers in a response in a gateway's reply), but not without end.
DEPTH = 6
# repr() is what str(result) leaves of a dict; parsing it is slow, and an error is short.
LONGEST_REPR = 10_000

Table = tuple[tuple[str, re.Pattern[str]], ...]


def _table(rows: dict[str, tuple[str, ...]]) -> Table:
    return tuple((kind, re.compile("|".join(patterns), re.IGNORECASE)) for kind, patterns in rows.items())


# Errors wherever they stand in a short text: what Python's own exceptions say, and the words of web services.
PHRASES = _table(
    {
        "unknown tool": (
            r"\bname '[^']{1,100}' is not defined",
            r"\bcannot import name\b",
            r"\bmodule '[^']{1,100}' has no attribute",
            r"\b(?:unknown|unrecognized|no such) (?:tool|function)\b",
            r"\b(?:tool|function|API|endpoint)\b[^.]{0,80}\b(?:not found|(?:does not|doesn't) exist)",
        ),
        "missing argument": (
            r"\bmissing \d+ required (?:positional|keyword-only) argument",
            r"\bmissing (?:a |the )?(?:required |mandatory )?(?:parameter|argument)",
            r"\brequired (?:parameter|argument|field)\b[^.]{0,60}\b(?:missing|not (?:provided|given|set))\b",
            r"\b(?:parameter|argument|field)\b[^.]{0,60}\b(?:is|are) required\b",
            r"\bis a required property",
            r"^field required\b",
        ),
        "unexpected argument": (
            r"\bgot an unexpected keyword argument",
            r"\bgot multiple values for (?:keyword )?argument",
            r"\bgot some positional-only arguments passed as keyword",
            r"\btakes (?:no|from \d+ to \d+|exactly \d+|\d+) (?:\w+ )?arguments?\b",
            r"\b(?:unknown|unexpected|unrecognized) (?:keyword )?(?:parameter|argument)",
        ),
        "invalid argument": (
            r"\binvalid (?:api call|parameter|argument|request|input)\b",
            r"\binvalid literal for \w+\(",
            r"\bcould not convert string to",
            r"\bdoes not match format '",
            r"\bexpected [^.]{1,60}\bgot\b",
        ),
        "exception": (
            r"\breferenced before assignment",
            r"\bcannot access (?:local|free) variable",
            r"\bis not JSON serializable",
            r"\bslice indices must be",
            r"\bindices must be integers",
            r"\bis out of range\b|\bindex out of range\b",
            r"\bpop from (?:an )?empty",
            r"\b(?:is|x) not in (?:list|tuple|deque)\b",
            r"\barg(?:ument)? is an empty|\bargument is empty\b",
            r"\bnot supported between instances of",
            r"\bunsupported (?:operand )?type",
            r"\bcan't multiply sequence by",
            r"\bcan only concatenate",
            r"\bmust be (?:a )?(?:str|string|int|integer|float|real number|bytes), not\b",
            r"' object (?:is not|has no attribute|does not support|cannot be interpreted)",
            r"\bargument of type '[^']{1,60}' is not",
            r"\bhas no len\(\)",
            r"\b(?:division|modulo) by zero\b",
            r"\bcannot be raised to a negative power",
            r"\bmath domain error\b",
            r"\bmaximum recursion depth exceeded",
            r"\b(?:not enough|too many) values to unpack",
            r"\bnot (?:enough|all) arguments (?:for format|converted)",
            r"\binvalid syntax\b|\bunterminated string literal",
            r"\bexpecting (?:value|property name|',' delimiter)\b.{0,60}\bline \d",
            r"\bcodec can't (?:en|de)code",
            r"\[Errno -?\d+\]",
        ),
        "connection": (
            r"\bconnection (?:error|refused|reset|aborted|failed|timed out|timeout)",
            r"\bmax retries exceeded|\bfailed to establish a new connection",
            r"\bname resolution\b|\bname or service not known",
            r"\b(?:read|connect|connection|request|gateway|operation|execution) ?timed? ?out\b|^time limit\b",
            r"\bservice (?:is )?(?:temporarily |currently )?unavailable",
            r"\bbad gateway|\binternal server error",
        ),
        "rate limit": (
            r"\brate limit|\btoo many requests|\bcall frequency\b",
            r"\bexceeded [^.]{0,40}\b(?:quota|limit)\b",
        ),
        "unauthorized": (
            r"\bnot authori[sz]ed\b|\bnot subscribed\b",
            r"\b(?:authentication|authorization) (?:failed|required|error|credentials)",
            r"\b(?:invalid|missing|expired) (?:api|access|auth)[ _-]?(?:key|token)",
        ),
        "http status": (r"\b[45]\d\d (?:client|server) error\b",),
        "not supported": (r"\b(?:is|are) not supported\b",),
        "try again": (
            r"\bplease\b[^.]{0,80}\btry again\b|\btry again later\b",
            r"^something went wrong\b",
        ),
    }
)

# Errors at the start of a text of any length.
OPENINGS = _table(
    {
        "http status": (
            r"(?:http|status)(?: status)?(?: code)?(?:/\d\.\d)?\s*[:=]?\s*[45]\d\d\b",
            r"error:?\s+[45]\d\d\b",
            r"<(?:!doctype|html)[\s\S]{0,250}?<title>\s*[45]\d\d\b",
        ),
        "exception": (
            r"Traceback \(most recent call last\)",
            r"(?-i:(?:\w{1,40}\.){0,5}[A-Z]\w{0,40}(?:Error|Exception)\b)\s?(?:[:(]|$)",
            # A quoted key is all that str(KeyError(key)) says.
            r"'[^'\s]{1,60}(?: [^'\s]{1,60}){0,2}'$",
        ),
        "invalid argument": (
            r"(?:parameter|argument|input|validation|type|value)s?(?: \w+)? error\b",
            r"(?:invalid|illegal|malformed|bad) (?:\w+ ){0,2}?(?:url|uri|date|value|format|type|domain)\b",
            r"(?:unknown|unrecognized|unsupported|no such) \w{1,40}(?:\s?[:'\"]|$)",
            r"\d+ validation errors? for ",
        ),
        "connection": (
            r"(?:server|network|request|response|gateway|timeout|http|api) error\b",
            r"HTTPS?ConnectionPool\(",
        ),
        "unauthorized": (r"(?:unauthori[sz]ed|access denied|permission denied|forbidden)\s?(?:$|[.:!])",),
        "shell error": (r"(?:/\S{0,40}/)?(?:ba|da|k|z)?sh: (?:line )?\d+: ",),
        "failed": (
            r"(?:failed|unable|not able) to \w|(?:could not|couldn't|cannot) \w",
            r"(?:error|fatal)s?\s*(?:[:!(](?!\s*(?:none|null|no|0|false)\b)|code\b|\d)",
            r"error (?:while|when|calling|executing|running) ",
            r"(?:an? )?(?:\w+ )?(?:error|exception) (?:has )?occurr?ed\b",
        ),
        "not found": (r"(?:\S{1,40} ){0,6}?not found\W{0,3}$",),
    }
)

TRACEBACK_END = re.compile(r"^(?:\w{1,40}\.){0,5}[A-Z]\w{0,40}(?:Error|Exception|Exit|Interrupt)\b", re.MULTILINE)
# ToolAlpaca's simulator writes the status before the body; 200 says nothing about the body's own error field.
STATUS_LINE = re.compile(
    r"\s*(?:http )?status(?: code)?\s*[:=]?\s*(\d{3})\b\W{0,5}(?:response|body)\s*:\s*", re.IGNORECASE
)
# A payload cut off by the tool's length limit does not parse; an error that opens it still shows.
CUT_ERROR = re.compile(
    r"""[\s\[{]*["'](?:errors?|exception|error_?message)["']\s*:\s*(?:true\b|[\[{]{0,2}\s*["']\s*\w)""", re.IGNORECASE
)

# Keys are compared in lower case without anything but letters and digits: "Error Message", error_message, errorMessage.
ERROR_TEXTS = frozenset("error errors exception errormessage errormsg errmsg errordescription traceback fault".split())
ERROR_CODES = frozenset("errorcode errcode errno".split())
HTTP_CODES = frozenset("statuscode httpstatus httpstatuscode httpcode".split())
MESSAGES = frozenset("message msg note notice info information detail details reason".split())
RESULTS = frozenset("data result results response responses body output payload".split())
SUCCESSES = frozenset("ok success successful succeeded".split())
HEADS = frozenset("status meta header head".split())
# A dict of these keys alone talks about the call. With any other key it is the tool's own data, where "status":
# "failed" may be a build's and "code": 415 an area's.
ENVELOPE = (
    (ERROR_TEXTS | ERROR_CODES | HTTP_CODES | MESSAGES | RESULTS | HEADS | SUCCESSES)
    | frozenset("code cod type title instance timestamp path method".split())
    | frozenset("requestid traceid documentationurl help hint warning warnings suggestion retryafter".split())
)
FAILED_WORDS = frozenset("error fail failed failure".split())
NO_ERROR = frozenset(
    ["", "0", "200", "none", "null", "nil", "false", "no", "no error", "no errors", "ok", "success", "n/a"]
)


def _says_nothing(value: Any) -> bool:
    """Whether an error field's value means that there is no error."""
    if isinstance(value, str):
        return value.strip().lower().rstrip(".") in NO_ERROR
    if isinstance(value, dict):
        return all(_says_nothing(v) for v in value.values())
    if isinstance(value, list):
        return all(_says_nothing(v) for v in value)
    # A float is a measured error (a margin, a residual), not an error report.
    return value is None or isinstance(value, float) or value in (False, 0, 200)


def _http_error(value: Any) -> bool:
    if isinstance(value, str) and len(value) == 3 and value.isdecimal():
        value = int(value)
    return isinstance(value, int) and 400 <= value <= 599


def _dict_failure(fields: dict[str, Any], depth: int) -> str | None:
    items = [(re.sub(r"[^a-z0-9]", "", key.lower()), key, value) for key, value in fields.items()]
    pure = ENVELOPE.issuperset(name for name, _, _ in items)
    said = "".join(f", {key}: {value}" for name, key, value in items if name in MESSAGES and isinstance(value, str))
    for name, key, value in items:
        # "errors": 3 is a count and, beside domain data, "error": 1 a quantity; a code is a code anywhere.
        quantity = isinstance(value, int) and not isinstance(value, bool) and (name == "errors" or not pure)
        if ((name in ERROR_TEXTS and not quantity) or name in ERROR_CODES) and not _says_nothing(value):
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return f"error field: {excerpt(f'{key}: {shown}')}"
        if _http_error(value) and (name in HTTP_CODES or (pure and name in ("status", "code", "cod"))):
            return f"http status: {excerpt(f'{key}: {value}{said}')}"
    for name, key, value in items if pure else ():
        failed_word = isinstance(value, str) and value.strip().lower() in FAILED_WORDS
        if (failed_word and name == "status") or (value is False and name in SUCCESSES):
            return f"failed status: {excerpt(f'{key}: {value}{said}')}"
        if name in MESSAGES and isinstance(value, str) and (reason := _text_failure(value)):
            return reason
    for name, _, value in items:
        inside = name in RESULTS or (isinstance(value, dict) and (name in HEADS or len(items) == 1))
        if inside and (reason := _value_failure(value, depth + 1)):
            return reason
    return None


def _value_failure(value: Any, depth: int) -> str | None:
    if depth > DEPTH:
        return None
    if isinstance(value, str):
        return _failure(value, depth + 1)
    if isinstance(value, dict):
        return _dict_failure(value, depth)
    if isinstance(value, list) and value:
        # Partial success is success: a list has failed when each of its answers has.
        first = None
        for item in value:
            reason = _value_failure(item, depth + 1)
            if reason is None:
                return None
            first = first or reason
        return first
    return None


def _first(
    table: Table, find: Callable[[re.Pattern[str], str], re.Match[str] | None], searched: str, text: str
) -> str | None:
    for kind, pattern in table:
        if match := find(pattern, searched):
            return f"{kind}: {excerpt(text, match.start(), match.end())}"
    return None


def _text_failure(text: str) -> str | None:
    text = text.strip()
    # Phrases first: they name the kind better than an opening like "cannot ..." does.
    if len(text) <= SHORT and (reason := _first(PHRASES, re.Pattern.search, text, text)):
        return reason
    # No opening that wants the end of the text is as long as SHORT, so none takes the cut for the end.
    if reason := _first(OPENINGS, re.Pattern.match, text[:SHORT], text):
        return reason
    # An interpreter prints what the program wrote, then the traceback; its last line names the exception.
    tail = text[-SHORT:]
    if (
        len(text) > SHORT
        and "Traceback (most recent call last)" in text
        and (ends := list(TRACEBACK_END.finditer(tail)))
    ):
        return f"exception: {excerpt(tail[ends[-1].start() :])}"
    return None


def _parse(text: str) -> Any:
    """The value that text is the JSON or the repr of, or text itself."""
    text = text.strip()
    # Bare words, numbers and 'quoted keys' stay text: json would make "NaN" or "1e5" of them and repr a string.
    if not text or text[0] not in '{["':
        return text
    try:
        value, end = json.JSONDecoder().raw_decode(text)
        # Advice to the model follows some error payloads.
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


def _failure(feedback: str, depth: int) -> str | None:
    if status := STATUS_LINE.match(feedback):
        if _http_error(status[1]):
            return f"http status: {excerpt(feedback)}"
        return None if depth > DEPTH else _failure(feedback[status.end() :], depth + 1)
    value = _parse(feedback)
    if not isinstance(value, str):
        return _value_failure(value, depth)
    if CUT_ERROR.match(value[:SHORT]):
        return f"error field: {excerpt(value)}"
    return _text_failure(value)


def find_error(feedback: str) -> str | None:
    """Why a tool's feedback is an error, as "kind: excerpt", or None; never raises, linear in its length."""
    try:
        return _failure(feedback, 0)
    except RecursionError:
        return None  # brackets nested as deep as Python's stack: no service reports an error like that
