"""The default rule: errors that it finds, successes that it keeps, and its time on long texts."""

import json
import time

import pytest

from tljax.data.mae_default import find_error

ERRORS = {
    "get_x() missing 1 required positional argument: 'y'": "missing argument",
    "get_x() missing 2 required keyword-only arguments: 'y' and 'z'": "missing argument",
    "Missing required parameter: city": "missing argument",
    "get_x() got an unexpected keyword argument 'limit'": "unexpected argument",
    "get_x() takes 2 positional arguments but 3 were given": "unexpected argument",
    "name 'get_y' is not defined": "unknown tool",
    "cannot import name 'get_y' from 'tools' (unknown location)": "unknown tool",
    "Tool 'get_y' does not exist": "unknown tool",
    "'ja'": "exception",
    "KeyError: 'ja'": "exception",
    "'<' not supported between instances of 'str' and 'int'": "exception",
    "Object of type bytes is not JSON serializable": "exception",
    "local variable 'x' referenced before assignment": "exception",
    "slice indices must be integers or None or have an __index__ method": "exception",
    "list index out of range": "exception",
    "float division by zero": "exception",
    "Traceback (most recent call last):\n" + "  File x.py, line 3\n" * 50 + "ValueError: no": "exception",
    "line\n" * 100 + "Traceback (most recent call last):\n  File x.py\nkeys.Bad_Error: no": "exception",
    "[Errno 2] No such file or directory: 'a.txt'": "exception",
    "requests.exceptions.ConnectionError: no route": "exception",
    "could not convert string to float: 'ten'": "invalid argument",
    "Invalid URL 'x': No scheme supplied.": "invalid argument",
    'Parameter type error: "size", expected one of [1, 2], but got "3".': "invalid argument",
    "The read operation timed out": "connection",
    "Unauthorized": "unauthorized",
    " not found": "not found",
    "/bin/sh: 1: cd: can't cd to /home": "shell error",
    "Error executing tool: boom": "failed",
    "Error: boom": "failed",
    "404 Client Error: Not Found for url: https://x": "http status",
    "<html>\n<head><title>503 Service Temporarily Unavailable</title></head>" + "." * 400: "http status",
    'Status Code: 404. Response: {"error": "gone"}. You may retry.': "http status",
    'Status Code: 200. Response: {"error": "gone"}': "error field",
    '{"status_code": 200, "response": [{"status_code": 400, "rank": ""}]}': "http status",
    '{"cod": "404", "message": "city unknown"}': "http status",
    '{"status": "failure", "code": 401, "message": "Who are you?"}': "http status",
    '{"status": "fail", "data": {"title": "A title is needed"}}': "failed status",
    '{"success": false, "message": "no"}': "failed status",
    '{"error": "connection error."}': "error field",
    '{"error": true}': "error field",
    '{"Error Message": "Bad call."}': "error field",
    '{"errors": [{"code": "D4", "detail": "Nothing"}]}': "error field",
    '{"status": {"error_code": 1001, "error_message": "key"}}': "error field",
    "{'error': 'said in Python', 'ids': (1, 2)}": "error field",
    r"{'path': 'C:\data', 'error': 'an escape Python warns about'}": "error field",
    '{"error": "", "response": "{\'errors\': [\'not subscribed\']}"}': "error field",
    '{"error": "cut off by a length limit ' + "x" * 3000: "error field",
    '{"message": "You have exceeded the rate limit per minute for your plan"}': "rate limit",
    '{"Note": "Please try again."}': "try again",
    "Please specify a date and try again.": "try again",
}

ANSWERS = [
    "",
    " ",
    "null",
    "{}",
    "[]",
    "275.0",
    "open",
    '"hello"',
    "Code executed successfully.",
    "No errors found.",
    "Mean squared error: 0.23",
    "Errors in measurement are common.",
    "The Forbidden City is in Beijing.",
    "'a quoted sentence of more than three words'",
    '{"rank": "50", "error": "", "status_code": 200}',
    '{"errors": [], "results": 0, "response": []}',
    '{"status": {"error_code": 0, "error_message": null}, "data": [{"id": 1}]}',
    '{"error": {"code": 0, "message": "OK"}, "id": 1}',
    '{"mean": 3.2, "error": 0.1}',
    '{"file": "x.py", "errors": 3, "warnings": 0}',
    '{"code": 415, "city": "San Francisco"}',
    '{"job": 3, "status": "failed", "seconds": 12}',
    '{"name": "FalconSat", "success": false, "failures": [{"reason": "engine failure"}]}',
    '{"title": "Platform Error", "description": "KeyError: \'x\'", "status": "Open"}',
    '{"file_content": "Error: the disk is full"}',
    '{"matching_lines": ["Error: one", "Error: two"]}',
    '{"results": [{"error": "gone"}, {"value": 3}]}',
    '{"message": {"type": "notice", "text": "No advice slips found matching that search term."}}',
    'Status Code: 200. Response: {"comment": "Multiple failed logins, connection refused"}',
    '[{"title": "Quantum error correction", "summary": "' + "Connection errors and KeyError: 'x'. " * 40 + '"}]',
    "Title: Error mitigation\n" + "The error is not defined; connection refused; rate limit exceeded. " * 20,
    '[{"title": "cut off", "error": "", "summary": "' + "name 'x' is not defined " * 100,
]


@pytest.mark.parametrize(("feedback", "kind"), ERRORS.items(), ids=lambda value: value[:40])
def test_errors_are_found_with_kind_and_excerpt(feedback, kind):
    found, _, shown = (find_error(feedback) or "").partition(": ")
    assert found == kind
    assert 0 < len(shown) <= 80 and "\n" not in shown


@pytest.mark.parametrize("feedback", ANSWERS, ids=lambda value: value[:40])
def test_answers_are_no_errors(feedback):
    assert find_error(feedback) is None


@pytest.mark.parametrize(
    "unit",
    [
        *'a \\"{[(\n',
        *("x ", "not ", "'a ", '{"a":', "{'error':[", "A.", "Status ", "sh: ", "Traceback (most recent call last)\n"),
        *("please ", "required parameter ", "<html", '["error", ', "missing a "),
    ],
)
def test_time_is_linear_in_the_feedback(unit):
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    for feedback in (text, f"<html{text}", f"'{text}", f"/{text}sh", json.dumps({"error": "", "data": [text]})):
        find_error(feedback)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("depth", [900, 5_000, 100_000])
def test_deep_nesting_never_overflows_the_stack(depth):
    assert find_error("[" * depth + "'ja'" + "]" * depth) is None
    assert find_error("[(" * depth + "1" + ")]" * depth) is None
    assert find_error('{"a":' * depth + '{"error": "deep"}' + "}" * depth) is None
    find_error('{"error":' * depth + "1" + "}" * depth)  # an error or too deep to say, by the Python version


def test_envelopes_are_opened_to_a_depth():
    assert find_error('{"data":' * 4 + '{"error": "gone"}' + "}" * 4) == "error field: error: gone"
    assert find_error('{"data":' * 40 + '{"error": "gone"}' + "}" * 40) is None


@pytest.mark.parametrize(
    "feedback",
    [
        "Error: no such table: a",
        "Error: No flights found",
        "Error: None of the rooms is free",
        "Error: 0 arguments given, 1 expected",
        "fatal: no upstream branch",
    ],
)
def test_an_error_text_that_begins_with_a_word_for_nothing_is_an_error(feedback: str) -> None:
    assert find_error(feedback) == f"failed: {feedback}"


@pytest.mark.parametrize(
    "feedback",
    ["Error: none", "error: null", "Errors: 0", "Error: No error", "Errors: 0\nWarnings: 3", "errors: 0, warnings: 2"],
)
def test_an_error_field_of_a_text_whose_whole_value_is_nothing_is_no_error(feedback: str) -> None:
    assert find_error(feedback) is None


# Public error styles beside Python's own: JavaScript, Java, Go, Rust, SQL, shells, gRPC, MCP, JSON-RPC, GraphQL.
STYLES = {
    "Request failed with status code 500": "http status",
    "404 Not Found": "http status",
    "Timeout": "connection",
    "Error: connect ECONNREFUSED 127.0.0.1:5432": "connection",
    "/srv/a.js:10\n    throw new Error('x');\n\nError: x\n    at Object.<anonymous> (/srv/a.js:10:11)": "exception",
    "start\n" * 80 + "java.io.FileNotFoundException: a.bin\n\tat java.io.Reader.open(Reader.java:7)": "exception",
    "panic: assignment to entry in nil map": "exception",
    "thread 'main' panicked at src/main.rs:4:37:\nindex": "exception",
    "SQLSTATE[42S02]: Base table missing": "sql error",
    "zsh: command not found: kubectl": "shell error",
    "ls: cannot access 'data': No such file or directory": "shell error",
    "Command failed with exit code 127": "shell error",
    "rpc error: code = NotFound desc = user 17": "rpc error",
    "MCP error -32602: Invalid arguments for tool get_weather": "rpc error",
    '{"code": -32603, "message": "Internal error"}': "rpc error",
    '{"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "Method not found"}}': "error field",
    '{"data": null, "errors": [{"message": "User not permitted", "path": ["user"]}]}': "error field",
    '{"detail": [{"loc": ["query", "city"], "msg": "wrong", "type": "value_error"}]}': "invalid argument",
    '{"stdout": "", "stderr": "ls: x", "exit_code": 2}': "shell error",
    '{"content": [{"type": "text", "text": "a must be positive"}], "isError": true}': "error result",
    '{"type": "tool_result", "tool_use_id": "t", "content": "a must be positive", "is_error": true}': "error result",
    '{"jsonrpc": "2.0", "id": 7, "result": {"content": [], "isError": true}}': "error result",
    '{"content": [{"type": "text", "text": "Error: could not fetch"}]}': "failed",
    '[{"type": "text", "text": "Error executing tool search: boom"}]': "failed",
    '<tool_response>\n{"error": "No such user"}\n</tool_response>': "error field",
    '<tool_response>\n{"name": "f", "content": "Error: boom"}\n</tool_response>': "failed",
    "<tool_response>\n{}\n</tool_response>\n<tool_response>\nError: boom\n</tool_response>": "failed",
}

SUCCESSES = [
    '{"content": [{"type": "text", "text": "Error: the last line of the log"}], "isError": false}',
    '{"content": [{"type": "text", "text": "2 files changed"}]}',
    '{"content": [{"type": "image", "data": "QUJD", "mimeType": "image/png"}]}',
    '{"name": "log.txt", "isError": true, "size": 12}',
    '{"name": "log.txt", "content": "Error: the disk is full"}',
    '{"code": -32603, "message": "Internal error", "line": 12}',
    '{"stdout": "Error: none", "stderr": "", "exit_code": 0}',
    "<tool_response>\nThe error log is empty.\n</tool_response>",
    "Timeout set to 30 seconds.",
    "Errors: 0 found",
    "Error: 0 of 5 checks failed",
    "Error: none (all good)",
    "error: none found, warnings: 2",
    "java.lang.NullPointerException is thrown when a program uses null.",
    "The bug 'connection refused' is assigned to Ann.",
    "Cannot Buy My Soul is a concert series.",
    "SQLSTATE 00000",
    "status: CANCELLED",
    "exit code: 0",
    "at the station\nat noon",
]


@pytest.mark.parametrize(("feedback", "kind"), STYLES.items(), ids=lambda value: value[:40])
def test_errors_of_public_styles_are_found(feedback: str, kind: str) -> None:
    assert (find_error(feedback) or "").partition(": ")[0] == kind


@pytest.mark.parametrize("feedback", SUCCESSES, ids=lambda value: value[:40])
def test_successes_that_talk_about_errors_are_kept(feedback: str) -> None:
    assert find_error(feedback) is None


@pytest.mark.parametrize(
    "unit",
    ["<tool_response>", "<tool_response>x", "\n    at a.b(c)", "panic: ", "a: ", "\n\n", "failed ", "A$", "0 of "],
)
def test_time_is_linear_in_tags_content_blocks_and_stack_traces(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    for feedback in (text, f"Error: x\n{text}", json.dumps({"content": [{"type": "text", "text": text}]})):
        find_error(feedback)
    assert time.process_time() - start < 5
