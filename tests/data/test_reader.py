"""Files, data set names and the Arrow cache: sources that are read or refused, and the cost of a second start."""

import gzip
import json
import lzma
import os
import shutil
import tracemalloc

import datasets
import pytest

from tljax.core.errors import InputError
from tljax.data import reader
from tljax.data.formats.read import read_record, trajectory_from_record
from tljax.data.reader import open_trajectories
from tljax.data.records import read_records
from tljax.data.trajectory import Turn

TOOL = {"name": "f", "description": "F.", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
FINISH = {"type": "function", "function": {"name": "finish"}}


def raw(*messages, tools=(TOOL, FINISH), **fields):
    messages = [{"role": role, "content": content} for role, content in messages]
    return {"id": "a", "conversations": [{"role": "system", "content": json.dumps(tools)}, *messages], **fields}


GOOD = raw(("user", "q"), ("assistant", 'f\n{"x": 1}'), ("function", "1"), ("assistant", 'finish\n{"answer": "1"}'))


def call(name, arguments, identity=None):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps([GOOD, GOOD], indent=1)),
        ("a.txt", "\n \n" + json.dumps([GOOD, GOOD])),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps([GOOD, GOOD]).encode()),
        ("a.jsonl", lines(GOOD, GOOD)),
        ("lines.json", lines(GOOD, GOOD)),
        ("a.json.gz", gzip.compress(json.dumps([GOOD, GOOD]).encode(), mtime=0)),
        ("a.jsonl.gz", gzip.compress(lines(GOOD, GOOD).encode(), mtime=0)),
        ("blank.jsonl", b"\xef\xbb\xbf\n" + lines(GOOD).encode() + b"\r\n\r\n" + lines(GOOD).encode().rstrip()),
    ],
)
def test_formats_are_told_by_content(write, name, content):
    assert list(read_records(write(name, content))) == [(1, GOOD), (2, GOOD)]


def test_a_single_row_of_jsonl(write):
    assert list(read_records(write("one.jsonl", lines(GOOD)))) == [(1, GOOD)]


def test_numbers_and_key_order_survive(write):
    row = {"z": 1, "a": [1, 1.0, -0.5, 2**70, 1e30], "b": {"y": 2**63, "x": None}, "text": "é\u2028\U0001f600"}
    for path in (write("a.json", json.dumps([GOOD, row, GOOD])), write("a.jsonl", lines(GOOD, row, GOOD))):
        rows = list(read_records(path))
        assert json.dumps(rows) == json.dumps([(1, GOOD), (2, row), (3, GOOD)])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.json", "", "holds no rows"),
        ("blank.json", " \n\t\n", "holds no rows"),
        ("empty.json", "[]", "holds no rows"),
        (
            "wrapped.json",
            json.dumps({"data": [GOOD]}),
            "holds one JSON object; allowed: a JSON array of rows, or JSONL",
        ),
        ("wrapped.json", json.dumps({"data": [GOOD]}, indent=1), "holds one JSON object; allowed"),
        ("text.json", "hello", "begins with 'h'; allowed: a JSON array of rows, or JSONL"),
        ("cut.json", json.dumps([GOOD, GOOD, GOOD])[:-40], "after row 2: is not JSON (parse error: premature EOF)"),
        ("cut.json", "[", "row 1: is not JSON (parse error: premature EOF)"),
        ("odd.json", json.dumps([GOOD])[:-1] + ",,]", "after row 1: is not JSON (parse error: unallowed token"),
        ("tail.json", json.dumps([GOOD]) + "x", "after row 1: is not JSON (parse error: trailing garbage)"),
        ("big.json", f"[1, {2**70}, 2, nul]", "after row 3: is not JSON"),
        ("latin.json", b'[{"a": "\xe9"}]', "row 1: is not JSON (lexical error: invalid bytes in UTF8 string.)"),
        ("wide.json", json.dumps([GOOD]).encode("utf-16"), "is not text in UTF-8"),
        ("rows.json.xz", lzma.compress(b"[]"), "is compressed; unpack it first"),
        ("twice.gz", gzip.compress(gzip.compress(b"[]", mtime=0), mtime=0), "is compressed; unpack it first"),
        ("cut.json.gz", gzip.compress(b"[1, 2]", mtime=0)[:-9], "is a damaged gzip file"),
        ("one.json.gz", gzip.compress(b'{"a": 1}', mtime=0), "holds one JSON object"),
        ("rows.parquet", b"PAR1 and no more", "is a damaged Parquet file"),
    ],
)
def test_files_that_cannot_be_read(write, cache, name, content, message):
    path = write(name, content)
    with pytest.raises(InputError) as error:
        list(read_records(path))
    assert str(error.value).startswith(f"file {path}") and message in str(error.value) and "\n" not in str(error.value)
    for on_bad_row in ("refuse", "skip"):
        with pytest.raises(InputError) as again:
            open_trajectories(path, on_bad_row, cache)
        assert str(again.value) == str(error.value)


@pytest.mark.parametrize("source", ["missing.json", "/no/such/folder", "./data/rows.jsonl", ""])
def test_missing_file(source):
    with pytest.raises(InputError, match="does not exist; give an existing file") as error:
        open_trajectories(source, "refuse")
    assert "\n" not in str(error.value)


def test_dataset_that_cannot_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for source in ("nobody/no-such-dataset:train", str(tmp_path)):
        with pytest.raises(InputError, match=r"cannot be loaded \(.*; give an existing file") as error:
            open_trajectories(source, "refuse")
        assert source in str(error.value) and "\n" not in str(error.value)


BROKEN = '{"id": 3, \n'


def test_bad_rows_are_refused_or_listed(write, cache):
    path = write("rows.jsonl", lines(GOOD) + BROKEN + "7\n" + lines({**GOOD, "id": "ok"}) + b"\xff\n".decode("latin-1"))
    with pytest.raises(InputError) as error:
        open_trajectories(path, "refuse", cache)
    assert f"file {path}, row 2: is not JSON" in str(error.value)
    assert '(one of 3 malformed rows); data.on_bad_row="skip"' in str(error.value)
    source = open_trajectories(path, "skip", cache)
    assert len(source) == 2 and [t.id for t in source.trajectories()] == ["a", "ok"]
    assert [t.row for t in source.trajectories()] == [1, 4] and source[1].id == "ok"
    assert [text.split(":")[0] for text in source.skipped] == [f"file {path}, row {n}" for n in (2, 3, 5)]
    assert "is a number, not an object" in source.skipped[1]
    with pytest.raises(InputError, match="'warn'; allowed: refuse, skip"):
        open_trajectories(path, "warn", cache)


def test_json_lines_whose_first_row_is_broken(write):
    first, second = read_records(write("rows.json", "{broken\n" + lines(GOOD)))
    assert "row 1: is not JSON" in str(first[1]) and second == (2, GOOD)


def test_no_usable_row(write, cache):
    path = write("rows.json", "[1, 2]")
    with pytest.raises(InputError, match=r"none of its 2 rows is usable; the first: file .*row 1: is a number"):
        open_trajectories(path, "skip", cache)


def test_text_that_has_no_bytes_is_refused(write, cache):
    path = write("rows.jsonl", lines(GOOD, raw(("user", "\ud800"), ("assistant", "ok"))))
    with pytest.raises(InputError, match=r"row 2: holds \\ud800, half of a character pair"):
        open_trajectories(path, "refuse", cache)
    bad_role = {"conversations": [{"role": "\udc00", "content": ""}]}
    assert len(open_trajectories(write("roles.jsonl", lines(GOOD, bad_role)), "skip", cache).skipped) == 1


def test_source_gives_back_what_the_rows_hold(shared, cache):
    path = shared / "data/train/rotbench_third_clean.json"
    rows = json.loads(path.read_text())
    source = open_trajectories(str(path), "refuse", cache)
    want = [trajectory_from_record(row, str(path), number) for number, row in enumerate(rows, start=1)]
    assert len(source) == 70 and list(source.trajectories()) == want
    assert source.skipped == [] and source.file == str(path)


def test_tools_of_different_shapes_share_a_file(write, cache):
    other = {"name": "g", "parameters": {"properties": {"x": {"type": ["string", "null"], "enum": [1, "a", None]}}}}
    openai = {"tools": [other], "messages": [{"role": "assistant", "tool_calls": [call("g", {"x": [1, "a", {}]})]}]}
    source = open_trajectories(write("rows.json", json.dumps([GOOD, openai])), "refuse", cache)
    assert source[0].tools[0].properties == {"x": {"type": "integer"}}
    assert source[1].tools[0].properties == other["parameters"]["properties"]
    assert source[1].turns[0].call.arguments == {"x": [1, "a", {}]} and source[1].id == 2


def test_second_start_reads_nothing_and_content_decides(write, cache, tmp_path, monkeypatch):
    path = write("rows.jsonl", lines(GOOD))
    first = open_trajectories(path, "refuse", cache)
    read = []
    monkeypatch.setattr(reader, "read_record", lambda *given: read.append(1) or read_record(*given))
    again = open_trajectories(path, "refuse", cache)
    assert not read and again.fingerprint == first.fingerprint and list(again.trajectories()) == [first[0]]
    copy = shutil.copy2(path, tmp_path / "copy.jsonl")
    assert open_trajectories(str(copy), "refuse", cache).fingerprint == first.fingerprint
    stat = os.stat(path)
    write("rows.jsonl", lines({**GOOD, "id": "b"}))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = open_trajectories(path, "refuse", cache)
    assert changed[0].id == "b" and changed.fingerprint != first.fingerprint and read


def test_datasets_on_disk(write, tmp_path, cache, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ok"}]
    saved = datasets.Dataset.from_list([{"id": 5, "tools": "[]", "messages": messages}])
    saved.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "both"))
    folder = tmp_path / "folder"
    folder.mkdir()
    write("folder/train.jsonl", lines({"id": 5, "tools": "[]", "messages": messages}))
    for name in ("saved", "both", "folder"):
        source = open_trajectories(str(tmp_path / name), "refuse", cache)
        assert [t.id for t in source.trajectories()] == [5]
        assert source[0].turns == (Turn("user", "q"), Turn("assistant", "ok"))
    assert len(open_trajectories(str(tmp_path / "saved"), "refuse", cache).fingerprint) == 32


def test_cache_that_cannot_be_written(write):
    path = write("rows.jsonl", lines(GOOD))
    with pytest.raises(InputError, match="cache cannot be written") as error:
        open_trajectories(path, "refuse", path + "/cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_memory_does_not_grow_with_the_file(write, cache, kind):
    row = raw(("user", "q" * 20_000), ("assistant", 'f\n{"x": 1}'))
    rows = [{**row, "id": i} for i in range(400)]
    path = write(f"rows.{kind}", json.dumps(rows) if kind == "json" else lines(*rows))
    assert os.path.getsize(path) > 8_000_000
    del rows
    open_trajectories(write("warm.jsonl", lines(GOOD)), "refuse", cache)
    tracemalloc.start()
    assert sum(1 for _ in read_records(path)) == 400
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    source = open_trajectories(path, "refuse", cache)
    assert sum(len(t.turns) for t in source.trajectories()) == 800
    # 100 rows wait for the Arrow writer at a time.
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_arguments_of_other_calls_do_not_become_null_in_arrow(tmp_path, cache, column):
    def row(name, arguments):
        call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
        return {
            column: [{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        }

    arguments = [{"a": "x", "l": [{"p": 1}]}, {"b": {"c": 2}}, {"l": [{"q": None}, {}]}]
    rows = [row(name, value) for name, value in zip("fgh", arguments, strict=True)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    for name in ("saved", "rows.parquet"):
        source = open_trajectories(str(tmp_path / name), "refuse", cache)
        found = [t.turns[1].call.arguments for t in source.trajectories()]
        # A null that the row wrote cannot be told from one that Arrow added; in JSON it stays.
        assert found == [*arguments[:2], {"l": [{}, {}]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    source = open_trajectories(str(tmp_path / "rows.jsonl"), "refuse", cache)
    assert [t.turns[1].call.arguments for t in source.trajectories()] == arguments
