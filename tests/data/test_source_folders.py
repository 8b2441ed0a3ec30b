"""A folder as the source: its files are read in order, each by its own shape, and other files are named."""

import gzip
import json

import datasets
import pyarrow
import pytest

from tljax.core.errors import InputError
from tljax.data.reader import open_trajectories
from tljax.data.records import read_records


def row(identity=None, text="ok", **fields):
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": text}]
    return {"id": identity, "messages": messages} | fields


def xlam(identity):
    return {"id": identity, "query": "go", "tools": "[]", "answers": '[{"name": "f", "arguments": {}}]'}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def opened(folder, tmp_path):
    def run(source=folder, on_bad_row="refuse"):
        return open_trajectories(str(source), on_bad_row, str(tmp_path / "cache"))

    return run


def fill(folder):
    """Writes a file of every kind with one or two rows, and files without rows."""
    (folder / "a.json").write_text(json.dumps([row("a1"), xlam("a2")]))
    (folder / "b.jsonl").write_text(lines(row("b1"), row()))
    (folder / "c.json.gz").write_bytes(gzip.compress(json.dumps([row("c")]).encode(), mtime=0))
    (folder / "d").mkdir()
    (folder / "d" / "e.jsonl.gz").write_bytes(gzip.compress(lines(xlam("e")).encode(), mtime=0))
    datasets.Dataset.from_list([row("f")]).to_parquet(str(folder / "f.parquet"))
    datasets.Dataset.from_list([row("g1"), row("g2")]).save_to_disk(str(folder / "g"))
    table = pyarrow.Table.from_pylist([row("h")])
    with pyarrow.ipc.new_file(str(folder / "h.arrow"), table.schema) as file:
        file.write_table(table)
    (folder / "i.json").write_text(json.dumps(row("i"), indent=1))
    (folder / "README.md").write_text("[![badge](x)](y)\n")
    (folder / ".gitattributes").write_text("*.json filter=lfs\n")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "rows.json").write_text("[]")
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    (folder / "settings.json").write_text(json.dumps({"version": 1}))


def test_a_mix_of_files_is_read_in_sorted_order(folder, opened):
    fill(folder)
    source = opened()
    # A row without an id has its number among all rows.
    assert [t.id for t in source.trajectories()] == ["a1", "a2", "b1", 4, "c", "e", "f", "g1", "g2", "h", "i"]
    assert [record["id"] for _, record in read_records(str(folder))][-4:] == ["g1", "g2", "h", "i"]
    report = source.format_lines()
    assert [line.strip().split(";")[0] for line in report[1:11]] == [
        "a.json: openai, 1 row (1)",
        "a.json: xlam, 1 row (2)",
        "b.jsonl: openai, 2 rows",
        "c.json.gz: openai, 1 row",
        "d/e.jsonl.gz: xlam, 1 row",
        "f.parquet: openai, 1 row",
        "g: openai, 2 rows",
        "h.arrow: openai, 1 row",
        "i.json: openai, 1 row",
        "passed over (hidden): .cache, .gitattributes",
    ]
    assert report[11:] == [
        "  passed over (no JSON, JSONL, Parquet or Arrow file): README.md",
        "  passed over (describes a data set): dataset_info.json",
        "  passed over (one JSON object that is no row): settings.json",
    ]


def test_errors_name_the_file_and_the_row_in_it(folder, opened):
    (folder / "a.jsonl").write_text(lines(row("a")))
    (folder / "b.jsonl").write_text(lines(row("b"), row("bad", text="")))
    with pytest.raises(InputError, match=rf"^file {folder}/b.jsonl, row 2, field messages\[1\].content: is empty"):
        opened()
    source = opened(on_bad_row="skip")
    assert [t.id for t in source.trajectories()] == ["a", "b"]
    assert source.skipped[0].startswith(f"file {folder}/b.jsonl, row 2, ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.json", "[1, ", "after row 1: is not JSON"),
        ("b.jsonl", "", "holds no rows"),
        ("b.parquet", "PAR1 and no more", "is a damaged Parquet file"),
        ("b.arrow", "ARROW1 and no more", "is a damaged Arrow file"),
        ("b.parquet", "version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("b.json", json.dumps({"data": [row("b")], "x": 1}), "holds one JSON object"),
    ],
)
def test_a_damaged_file_is_refused_by_name(folder, opened, name, content, message):
    (folder / "a.jsonl").write_text(lines(row("a")))
    (folder / name).write_text(content)
    with pytest.raises(InputError) as error:
        opened()
    assert str(error.value).startswith(f"file {folder}/{name}") and message in str(error.value)


def test_a_folder_without_rows_is_refused(folder, opened):
    with pytest.raises(InputError, match=rf"^folder {folder}: cannot be loaded"):
        opened()
    (folder / "README.md").write_text("x")
    with pytest.raises(InputError, match=rf"^folder {folder}: cannot be loaded"):
        opened()
    (folder / "settings.json").write_text("{}")
    (folder / "other.json").write_text("{}")
    with pytest.raises(InputError, match="none of its 2 rows has the shape of a row"):
        opened()


def test_files_that_are_held_out_by_name_are_passed_over(folder, opened):
    for name in ("train-00001-of-00002", "train-00000-of-00002", "test-00000-of-00001", "extra"):
        (folder / f"{name}.jsonl").write_text(lines(row(name)))
    source = opened()
    assert [t.id for t in source.trajectories()] == ["extra", "train-00000-of-00002", "train-00001-of-00002"]
    assert any("held out" in line and "test-00000-of-00001.jsonl" in line for line in source.format_lines())
    assert [t.id for t in opened(f"{folder}:test").trajectories()] == ["test-00000-of-00001"]
    with pytest.raises(InputError, match=rf"^folder {folder}: the name of no file in it says 'dev'; files here: extra"):
        opened(f"{folder}:dev")
    for name in ("train-00001-of-00002", "train-00000-of-00002"):
        (folder / f"{name}.jsonl").unlink()
    assert len(opened()) == 2


def test_the_splits_of_a_saved_data_set_are_told_apart(folder, opened):
    splits = {name: datasets.Dataset.from_list([row(name)]) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    assert [t.id for t in opened().trajectories()] == ["train"]
    assert [t.id for t in opened(f"{folder}:test").trajectories()] == ["test"]


def test_the_content_of_every_file_decides_on_the_cache(folder, opened):
    (folder / "a.jsonl").write_text(lines(row("a")))
    (folder / "b.jsonl").write_text(lines(row("b")))
    before = opened().fingerprint
    (folder / "README.md").write_text("x")
    assert opened().fingerprint == before
    (folder / "b.jsonl").write_text(lines(row("c")))
    after = opened()
    assert after.fingerprint != before and [t.id for t in after.trajectories()] == ["a", "c"]


def test_one_object_in_a_json_file_is_a_row_if_it_has_the_shape_of_one(folder, opened):
    for indent in (None, 1):
        path = folder / "one.json"
        path.write_text(json.dumps(row("one"), indent=indent))
        assert [t.id for t in opened(path).trajectories()] == ["one"]
