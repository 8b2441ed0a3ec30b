"""The phrases by which the default MAE rule knows an error in a text, by the kind of the error.

They are the public error styles of languages, shells, databases, web services and tool protocols. The rule reads
at most mae_default.SHORT characters of a text with them, so their cost is bounded.
"""

import re

Table = tuple[tuple[str, re.Pattern[str]], ...]


def _table(rows: dict[str, tuple[str, ...]]) -> Table:
    """Returns a compiled table of two expressions for each kind: patterns that begin with a word border, and others.

    `re` skips most positions of a text if all alternatives begin alike: 13 instead of 80 microseconds for exceptions.
    """
    words = {kind: [p for p in patterns if p.startswith(r"\b")] for kind, patterns in rows.items()}
    others = {kind: [p for p in patterns if not p.startswith(r"\b")] for kind, patterns in rows.items()}
    return tuple(
        (kind, re.compile("|".join(group[kind]), re.IGNORECASE))
        for kind in rows
        for group in (words, others)
        if group[kind]
    )


# "Error: none" reports no error, but "Error: None of the rooms is free" does: the whole value must mean nothing.
_NOT_NOTHING = (
    r"(?!\s{0,9}(?:none|null|nil|no(?: errors?)?|0(?: errors?)?|false|0 (?:of|out of) \d{1,9} (?:\w{1,20} ){0,3}failed"
    r"|(?:none|no errors?|0|0 errors?) (?:found|detected|reported))"
    r"(?:\s?\([^)\n]{0,60}\))?\s{0,9}(?:[.)!]?\s{0,9}$|[\n,;|]))"
)

# Phrases that are an error anywhere in a short text: messages of Python's own exceptions and of web services.
PHRASES = _table(
    {
        "unknown tool": (
            r"\bname '[^']{1,100}' is not defined",
            r"\bcannot import name\b",
            r"\bmodule '[^']{1,100}' has no attribute",
            r"\b(?:unknown|unrecognized|no such) (?:tool|function)\b",
            r"\bno (?:tool|function) (?:is )?(?:named|called)\b",
            r"\bis not a valid (?:tool|function)\b",
            r"\b(?:tool|function|API|endpoint)\b[^.]{0,80}\b(?:not found|(?:does not|doesn't) exist)",
        ),
        "missing argument": (
            r"\bmissing \d+ required (?:positional|keyword-only) argument",
            r"\bmissing (?:a |the )?(?:required |mandatory )?(?:parameter|argument)",
            r"\brequired (?:parameter|argument|field)\b[^.]{0,60}\b(?:missing|not (?:provided|given|set))\b",
            r"\b(?:parameter|argument|field)\b[^.]{0,60}\b(?:is|are) required\b",
            r"\bis a required property",
            r"^field required\b",
            r"\b(?:option|argument|flag) requires an argument\b|\bmissing (?:\w+ ){0,3}operand\b",
            r"\bof required type [^.]{1,60} was not provided",
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
            r"\b(?:parameter|argument|field) [^.]{1,60}\bmust be\b",
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
            # JavaScript
            r"\bcannot (?:read|set) propert(?:y|ies)\b.{0,60}\b(?:undefined|null)\b",
            r"\bis not a (?:function|constructor)\W{0,2}$",
            r"\bunexpected (?:token\b|end of (?:json )?input)",
            r"\bE(?:NOENT|ACCES|PERM|EXIST|ISDIR|NOTDIR|PIPE|MFILE|NOSPC)\b: ",
            # Ruby, Go and Rust
            r"\bundefined (?:local variable or )?method [`']",
            r"\binvalid memory address or nil pointer|\bruntime error: (?:index|slice|integer|hash)",
            r"\bpanic serving \S|\bon an? `(?:Err|None)` value",
        ),
        "sql error": (
            r"\berror in your SQL syntax|\bsyntax error at or near\b",
            r"\bviolates (?:[\w-]+ ){1,3}constraint\b|\b(?:unique|check|foreign key|not null) constraint failed\b",
            r"\b(?:relation|column|table|database|schema|role|function) [\"'`][^\"'`]{1,100}[\"'`] "
            r"(?:of relation \S{1,100} )?(?:does not|doesn't) exist",
            r"\btable or view does not exist|\bunknown column '|\bduplicate entry '",
            r"\bdeadlock (?:detected|found when)|\bcanceling statement due to\b|\block wait timeout exceeded",
            r"\baccess denied for user\b",
        ),
        "rpc error": (
            r"\brpc error: code = (?!ok\b)",
            r"\bMCP error -?\d",
            r"\bdeadline exceeded\b",
            r"\bRPC that terminated with",
        ),
        "shell error": (
            r"(?m:^[\w./+-]{1,60}(?::\d+){0,2}: (?:fatal )?error: )",
            # git, after the lines that it prints first
            rf"(?m:^(?-i:error): {_NOT_NOTHING}(?-i:[a-z])|^ ?! \[(?:remote )?rejected\])",
            r": (?:no such file or directory|permission denied|command not found|is a directory|not a directory"
            r"|file exists|no space left on device|operation not permitted)\s?(?:$|\n)",
            r"\bis not recognized as (?:an internal or external command|the name of)",
            r"\b(?:failed|exited|terminated|finished) with (?:an? )?(?:non-zero )?(?:exit |return )?"
            r"(?:code|status):? (?!0\b)-?\d",
            r"\bsegmentation fault\b\W{0,2}(?:\(|$)|\(core dumped\)",
            r"\b(?:execution|process|command) (?:was )?(?:terminated|aborted|killed)\b",
        ),
        "connection": (
            # A text in quotation marks is only mentioned: "the bug 'connection refused' is fixed".
            r"(?<!['\"`])\bconnection (?:error|refused|reset|aborted|failed|timed out|timeout)",
            r"\bconnection\b[^\n]{0,80}\bwas (?:refused|reset|closed|lost)\b",
            r"\bE(?:CONNREFUSED|CONNRESET|NOTFOUND|TIMEDOUT|AI_AGAIN|HOSTUNREACH)\b",
            r"\bsocket hang up\b|\bno such host\b|\bcould not resolve host\b|\bupstream connect error\b",
            r"\b(?:server|service|host|upstream|API)\b[^.]{0,40}\b(?:did not|didn't|not) respond",
            r"\bmax retries exceeded|\bfailed to establish a new connection",
            r"\bname resolution\b|\bname or service not known",
            r"\b(?:read|connect|connection|request|gateway|operation|execution|query|command|call) timed out\b",
            # "timeout" is also a setting: "Request timeout updated to 60 s".
            r"\b(?:read|connect|connection|request|gateway|operation|execution) ?time-?out"
            r"(?! (?:is|was|set|updated|changed|in|of)\b|:? \d| ?=)\b|^time limit\b",
            r"\btimeout (?:of )?\d+ ?m?s exceeded",
            r"\b(?:memory|time|cpu) limit (?:of [^.]{1,20} |\([^)]{1,20}\) )?exceeded",
            r"\bservice (?:is )?(?:temporarily |currently )?unavailable",
            r"\bbad gateway|\binternal server error",
        ),
        "rate limit": (
            r"\brate limit|\btoo many requests|\bcall frequency\b",
            r"\bexceeded [^.]{0,40}\b(?:quota|limit)\b|\bused all [^.]{0,40}\b(?:requests|quota|credits)\b",
        ),
        "unauthorized": (
            r"\bnot (?:authori[sz]ed|authenticated)\b|\bnot subscribed\b",
            r"\b(?:do not|does not|don't|doesn't) have (?:\w{1,20} ){0,2}(?:permissions?|access) to\b",
            r"\b(?:api|access|auth)[ _-]?(?:key|token)\b[^.]{0,40}\b(?:is|was|has) (?:invalid|expired|missing|wrong)\b",
            r"^(?:missing|insufficient) permissions?\b",
            r"\b(?:session|token) (?:has |is )?expired\b",
            r"\b(?:authentication|authorization) (?:failed|required|error|credentials)",
            r"\b(?:invalid|missing|expired) (?:api|access|auth)[ _-]?(?:key|token)",
        ),
        "http status": (
            r"\b[45]\d\d (?:client|server) error\b",
            r"\b(?:failed|returned|responded|rejected|error) (?:with )?(?:an? )?(?:http )?(?:status|error)"
            r"(?: code| of)?:? [45]\d\d\b",
        ),
        "failed": (
            r"\b(?:request|call|operation|resource|query|command|tool|edit)\b[^.]{0,60}\bcould not be [a-z]",
            r"\bresource '[^'\n]{1,100}'[^.\n]{0,60}\bwas not found\b",
            r"\b(?:card|payment) (?:was |has been )?declined\b",
        ),
        "not supported": (r"\b(?:is|are) not supported\b",),
        "try again": (
            r"\bplease\b[^.]{0,80}\btry again\b|\btry again later\b",
            r"^(?:\w{1,20}\W{1,3}){0,2}something went wrong\b",
        ),
    }
)

# Phrases that are an error at the start of a text of any length.
OPENINGS = _table(
    {
        "http status": (
            r"(?:http|status)(?: status)?(?: code)?(?:/\d\.\d)?\s*[:=]?\s*[45]\d\d\b(?![\w ]{0,30}\bmeans\b)",
            r"error:?\s+[45]\d\d\b|(?:4(?:0\d|1\d|2[269])|50[0-4]): (?!\d)",
            r"[45]\d\d(?: -|:)? (?:bad|unauthorized|payment|forbidden|not|method|proxy|request|conflict|gone|length"
            r"|precondition|payload|uri|unsupported|unprocessable|too|internal|service|gateway)\b"
            r"(?: [a-z]{1,15}){0,3}\s?(?:$|[.:!,\n])",
            r"(?:bad request|method not allowed|not acceptable|unprocessable (?:entity|content)|not implemented"
            r"|payload too large|gateway time-?out|request time-?out)\s?(?:$|[.:!\n])",
            r"<(?:!doctype|html)[\s\S]{0,250}?<title>\s*(?:[45]\d\d\b|error:)",
        ),
        "exception": (
            r"Traceback \(most recent call last\)",
            r"(?-i:(?:\w{1,40}(?:\.|::)){0,9}(?:[A-Z]\w{0,40})?(?<=[\w:])(?:Error|Exception)\b)"
            r"(?:\$\w{1,40})?\s{0,9}(?:[:(]|$|at [\w.$<])",
            rf"(?-i:Exception)[:!] ?{_NOT_NOTHING}",
            r"(?:uncaught|unhandled) (?:\(in promise\) )?(?:promise )?(?:\w{0,40}error|\w{0,40}exception|rejection)\b",
            r'exception in thread "|caused by: \S|PHP (?:fatal|parse) error:',
            r"(?:go: )?panic: \S|thread '[^'\n]{1,60}' (?:\(\d{1,9}\) )?panicked at\b",
            r"(?-i:Err)\(|node:internal/\S{1,100}:\d{1,7}\s",
            # A syntax error has no traceback before it.
            r'File "[^"\n]{1,150}", line \d{1,7}\b[^\n]{0,40}\n[\s\S]{0,200}?\n(?-i:[A-Z]\w{0,40}Error)\b',
            r"\S{1,100}:\d{1,7}:in [`']",
            # str(KeyError(key)) is only the quoted key.
            r"'[^'\s]{1,60}(?: [^'\s]{1,60}){0,2}'$",
        ),
        "invalid argument": (
            r"(?!type I{1,3} )(?:parameter|argument|input|validation|type|value)s?(?: \w+)? error\b",
            r"(?:observation: )?invalid (?:action|command|tool|function)\b",
            r"(?:invalid|illegal|malformed|bad) (?:\w+ ){0,2}?(?:url|uri|date|value|format|type|domain)\b"
            r"(?! (?:is|was|are|were) (?:an?|the)\b)",
            rf"(?:invalid|illegal|malformed)(?: [\w-]{{1,40}}){{1,2}}: {_NOT_NOTHING}(?!\d)",
            r"(?:unknown|unrecognized|unsupported|no such) \w{1,40}(?:\s?[:'\"]|$)",
            r"\d+ validation errors? for ",
        ),
        "connection": (
            r"(?:server|network|request|response|gateway|timeout|http|api) error\b",
            r"HTTPS?ConnectionPool\(|net::ERR_[A-Z]",
            r"(?:error: )?time[d-]? ?out(?: ?error| expired| exceeded| reached)?\s?[.!]?$",
            r"(?:error: )?time[d-]? ?out:? (?:after|while|waiting|exceeded|expired|reached)\b|dial (?:tcp|udp) ",
        ),
        "unauthorized": (r"(?:unauthori[sz]ed|access denied|permission denied|forbidden)\s?(?:$|[.:!(])",),
        "shell error": (
            r"(?:/\S{0,40}/)?(?:ba|da|k|z)?sh: (?:line )?\d+: ",
            r"(?:/\S{0,40}/)?(?:ba|da|k|z|fi|tc)?sh: [^\n]{0,100}\b(?:not found|cannot|denied|syntax error)\b",
            r"(?!note|warning|info|tip|hint)(?-i:[a-z][\w.+-]{0,30}): (?:cannot|can't|could not|unable to|failed to"
            r"|missing|invalid|illegal|unrecognized|unknown|no such|fatal|command not found)\b",
            r"(?-i:[a-z][\w.+-]{0,30}): [^\n]{0,160}: (?:no such file|permission denied|cannot open)\b",
            r"[^\n]{1,250}\nAt line:\d{1,7} char:\d",  # PowerShell
            r"curl: \(\d{1,3}\) |(?:g|c)?make(?:\[\d{1,3}\])?: \*\*\* |npm ERR! |npm error |(?-i:E: [A-Z])",
            r"(?:[\w-]{1,30}: )?error (?:response )?from (?:server|daemon)\b",
            r"(?:command|script|process) (?:failed|exited|terminated)\b(?!: ?0)",
            r"exit (?:code|status):? [1-9]\d{0,2}\s?(?:$|\n)",
        ),
        "sql error": (
            r"SQLSTATE(?:\[| ?:? ?(?!0[012])[0-9A-Z]{5}\b)|ORA-\d{5}: |Msg \d{1,6}, Level \d|PLS-\d{5}: ",
            r"invalid (?:object|column) name '",
        ),
        "rpc error": (
            r"(?:\d{1,2} |status(?:code)?[.:=] ?|code[:=] ?)?(?-i:INVALID_ARGUMENT|DEADLINE_EXCEEDED|NOT_FOUND"
            r"|ALREADY_EXISTS|PERMISSION_DENIED|RESOURCE_EXHAUSTED|FAILED_PRECONDITION|OUT_OF_RANGE|DATA_LOSS"
            r"|UNIMPLEMENTED|UNAUTHENTICATED)\s?(?:$|[:,\n])",
            # These words alone are also values of a tool's domain: "status: CANCELLED".
            r"(?:\d{1,2} |StatusCode\.)(?-i:CANCELLED|UNKNOWN|ABORTED|INTERNAL|UNAVAILABLE)\s?(?:$|[:,\n])",
            r"(?-i:UNAVAILABLE|INTERNAL|ABORTED): [a-z]",
        ),
        "cloud error": (
            r"\((?-i:[A-Z]\w{1,60}(?:NotFound|Denied|Failed|Invalid|Exceeded|Error|Exception|Conflict)\w{0,20})\) ",
            r"(?:<\?xml[^>]{0,100}>\s{0,9})?<(?:\w{1,20}:)?(?:error|fault|exception|tool_use_error|tool_error)>",
            r"(?:<\?xml[^>]{0,100}>\s{0,9})?<(?:[\w-]{1,20}:)?envelope\b[\s\S]{0,200}?<(?:[\w-]{1,20}:)?fault>",
        ),
        "failed": (
            # "Cannot Buy My Soul" is a title.
            r"(?:(?:failed|unable|not able) to|could not|couldn't|cannot) (?-i:[a-z\d'\"`_]|[A-Z]{2})",
            rf"(?:error|fatal)s?\s*(?:[:!(]{_NOT_NOTHING}|\[\w{{1,9}}\]:|code\b|\d| - {_NOT_NOTHING})",
            rf"[\[(](?:error|fatal)[\])]:? {_NOT_NOTHING}",
            rf"[╷│╵\s]{{1,9}}error: {_NOT_NOTHING}",
            r"no (?:replacement|edit|change)s? (?:was|were) (?:performed|applied|made)[,:;] ",
            r"(?:graphql|rpc|database|sql|runtime|syntax|parse|fatal|unexpected|internal|execution|tool) error"
            r"\s?(?:[:(!.]|$|\n|(?:at|in|near|on|while)\b)",
            rf"(?!\d)(?:[\w-]{{1,30}} ){{1,3}}failed\s?: {_NOT_NOTHING}(?!\d)",
            r"(?:tool|function|request|call|execution|query|operation|upload|download|validation|login) "
            r"(?:\w{1,20} )?failed\s?[.!]?$",
            r"(?:I|we) (?:could not|couldn't|was unable to|were unable to|failed to) "
            r"(?:run|execute|call|process|complete|parse|find|access|open|load|reach)\b",
            r"[❌✗✘⛔🚫]\s?[^\n]{0,80}\b(?:failed|error|not|cannot|could|denied|invalid)\b",
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
