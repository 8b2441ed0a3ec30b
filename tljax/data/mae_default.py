"""The default MAE rule for one feedback: returns the kind of an error and the excerpt that shows it.

In a structured feedback (JSON, or the repr of a Python value) the rule reads the envelope: error fields that are not
empty, status codes from 400 to 599, failed status words, messages. It never reads a field that belongs to the tool's
domain (a file that holds the word "error", a ticket whose title is "Platform Error"). A plain text is searched for
phrases only if it is short; in a long text only the opening counts.
"""

import ast
import json
import re
import warnings
from collections.abc import Callable
from typing import Any

from tljax.core.errors import excerpt

# A feedback of up to this many characters is read as one message. Error texts of Python and of web services are
# shorter; search results, abstracts and pages that merely mention an error are longer.
SHORT = 300
# Envelopes nest (a list of answers in a response in a gateway's reply). Deeper levels are not read.
DEPTH = 6
# str(result) writes the repr of a dict. Parsing it is slow, and an error is short, so longer ones stay text.
LONGEST_REPR = 10_000

Table = tuple[tuple[str, re.Pattern[str]], ...]


def _table(rows: dict[str, tuple[str, ...]]) -> Table:
    return tuple((kind, re.compile("|".join(patterns), re.IGNORECASE)) for kind, patterns in rows.items())


# Phrases that are an error anywhere in a short text: messages of Python's own exceptions and of web services.
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

# Phrases that are an error at the start of a text of any length.
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
            # str(KeyError(key)) is only the quoted key.
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
            # "Error: none" reports no error, but "Error: None of the rooms is free" does: the value must end there.
            r"(?:error|fatal)s?\s*(?:[:!(](?!\s{0,9}(?:none|null|nil|no(?: errors?)?|0(?: errors?)?|false)"
            r"\s{0,9}(?:[.)]?\s{0,9}$|[\n,;|]))|code\b|\d)",
            r"error (?:while|when|calling|executing|running) ",
            r"(?:an? )?(?:\w+ )?(?:error|exception) (?:has )?occurr?ed\b",
        ),
        "not found": (r"(?:\S{1,40} ){0,6}?not found\W{0,3}$",),
    }
)

TRACEBACK_END = re.compile(r"^(?:\w{1,40}\.){0,5}[A-Z]\w{0,40}(?:Error|Exception|Exit|Interrupt)\b", re.MULTILINE)
# ToolAlpaca's simulator writes the status before the body. The body may have an error field although the status is 200.
STATUS_LINE = re.compile(
    r"\s*(?:http )?status(?: code)?\s*[:=]?\s*(\d{3})\b\W{0,5}(?:response|body)\s*:\s*", re.IGNORECASE
)
# A payload that the tool's length limit cuts off does not parse, but an error at its start is still visible.
CUT_ERROR = re.compile(
    r"""[\s\[{]*["'](?:errors?|exception|error_?message)["']\s*:\s*(?:true\b|[\[{]{0,2}\s*["']\s*\w)""", re.IGNORECASE
)

# Keys are compared in lower case, and only by their letters and digits: "Error Message", error_message, errorMessage.
ERROR_TEXTS = frozenset("error errors exception errormessage errormsg errmsg errordescription traceback fault".split())
ERROR_CODES = frozenset("errorcode errcode errno".split())
HTTP_CODES = frozenset("statuscode httpstatus httpstatuscode httpcode".split())
MESSAGES = frozenset("message msg note notice info information detail details reason".split())
RESULTS = frozenset("data result results response responses body output payload".split())
SUCCESSES = frozenset("ok success successful succeeded".split())
HEADS = frozenset("status meta header head".split())
# A dict that has only these keys is about the call. With any other key it is the tool's own data, where "status":
# "failed" may belong to a build and "code": 415 to an area.
ENVELOPE = (
    (ERROR_TEXTS | ERROR_CODES | HTTP_CODES | MESSAGES | RESULTS | HEADS | SUCCESSES)
    | frozenset("code cod type title instance timestamp path method".split())
    | frozenset("requestid traceid documentationurl help hint warning warnings suggestion retryafter".split())
)
FAILED_WORDS = frozenset("error fail failed failure".split())
NO_ERROR = frozenset(
    ["", "0", "200", "none", "null", "nil", "false", "no", "no error", "no errors", "ok", "success", "n/a"]
)


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


def _dict_failure(fields: dict[str, Any], depth: int) -> str | None:
    items = [(re.sub(r"[^a-z0-9]", "", key.lower()), key, value) for key, value in fields.items()]
    is_envelope = ENVELOPE.issuperset(name for name, _, _ in items)
    messages = "".join(f", {key}: {value}" for name, key, value in items if name in MESSAGES and isinstance(value, str))
    for name, key, value in items:
        # "errors": 3 is a count. Beside the tool's own data, "error": 1 is a quantity, but an error code remains one.
        is_quantity = isinstance(value, int) and not isinstance(value, bool) and (name == "errors" or not is_envelope)
        if ((name in ERROR_TEXTS and not is_quantity) or name in ERROR_CODES) and not _means_no_error(value):
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return f"error field: {excerpt(f'{key}: {shown}')}"
        if _http_error(value) and (name in HTTP_CODES or (is_envelope and name in ("status", "code", "cod"))):
            return f"http status: {excerpt(f'{key}: {value}{messages}')}"
    for name, key, value in items if is_envelope else ():
        failed_word = isinstance(value, str) and value.strip().lower() in FAILED_WORDS
        if (failed_word and name == "status") or (value is False and name in SUCCESSES):
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
        if match := find(pattern, searched):
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
    if (
        len(text) > SHORT
        and "Traceback (most recent call last)" in text
        and (ends := list(TRACEBACK_END.finditer(tail)))
    ):
        return f"exception: {excerpt(tail[ends[-1].start() :])}"
    return None


def _parse(text: str) -> Any:
    """Returns the value whose JSON or repr `text` is, or else `text` itself."""
    text = text.strip()
    # Bare words, numbers and 'quoted keys' stay text; the parsers would turn "NaN" or "1e5" into numbers.
    if not text or text[0] not in '{["':
        return text
    try:
        value, end = json.JSONDecoder().raw_decode(text)
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
    """Returns "kind: excerpt" if a tool's feedback is an error, else None.

    It never raises, and takes time linear in the length of the feedback.
    """
    try:
        return _failure(feedback, 0)
    except RecursionError:
        return None  # brackets nest deeper than Python's stack; no service reports an error like that
