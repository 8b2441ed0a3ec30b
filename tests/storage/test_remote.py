"""gs:// addresses work wherever a path does; tested against a local emulator of Google Cloud Storage."""

import http
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh
from tljax.model.hf import export as hf_export
from tljax.storage import remote
from tljax.storage.run_folder import open_run_folder
from tljax.toolbox import trajectories
from tljax.toolbox.embedded import BASE_FOLDER
from tljax.training import model_source, resume
from tljax.training.checkpoint import Checkpoints
from tljax.training.fingerprint import fingerprint
from tljax.training.metrics import TIMING_FIELDS

BUCKET = "gs://bucket"
# aiohttp warns about the size of the uploads of gcsfs.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


def test_a_copy_is_renewed_only_if_the_object_changed(store):
    store.pipe("bucket/a/rows.jsonl", b"one")
    store.pipe("bucket/a/more/x.txt", b"x")
    file = remote.fetch(f"{BUCKET}/a/rows.jsonl", "config.x")
    assert file.read_bytes() == b"one" and file.name == "rows.jsonl"
    file.write_bytes(b"ONE")  # a marker in the copy, which a renewal would overwrite
    assert remote.fetch(f"{BUCKET}/a/rows.jsonl", "config.x").read_bytes() == b"ONE"
    store.pipe("bucket/a/rows.jsonl", b"two")
    assert remote.fetch(f"{BUCKET}/a/rows.jsonl", "config.x").read_bytes() == b"two"
    folder = remote.fetch(f"{BUCKET}/a/", "config.x", remote.ALL_FILES)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name[0] != "."} == {
        "rows.jsonl",
        "more/x.txt",
    }
    store.rm("bucket/a/more/x.txt")
    assert not list(remote.fetch(f"{BUCKET}/a", "config.x", remote.ALL_FILES).rglob("x.txt"))


def test_errors_of_stores_are_one_line(store, monkeypatch):
    def refused(*_, **__):
        raise OSError("Forbidden: https://storage.googleapis.com\nAnonymous caller does not have storage.objects.list")

    cases = [
        (f"{BUCKET}/none.json", "config.data.source gs://bucket/none.json: there is no such bucket, folder or file"),
        ("gs://another/none.json", "there is no such bucket"),
        ("nowhere://bucket/x", "nowhere:// are not known; give gs://"),
        ("s3://bucket/x", "s3:// need a package that is not installed"),
    ]
    for address, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            remote.fetch(address, "config.data.source")
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(remote._open(BUCKET)[0], "find", refused)
    with pytest.raises(InputError, match=r"no permission \(Forbidden.*gcloud auth application-default login"):
        remote.fetch(f"{BUCKET}/rows.json", "config.data.source")


def upload(store, folder, address):
    for path in filter(Path.is_file, Path(folder).rglob("*")):
        store.pipe(f"{address}/{path.relative_to(folder)}".removeprefix("gs://"), path.read_bytes())


def test_a_model_at_an_address_is_the_model_that_was_uploaded(store):
    upload(store, BASE_FOLDER, f"{BUCKET}/base")
    model = model_source.open_model(f"{BUCKET}/base", "")
    assert model.name == f"{BUCKET}/base"
    assert fingerprint(model) == fingerprint(model_source.open_model(BASE_FOLDER, ""))


# Makes the updates of `trained` without its evaluations.
LESS = ("--config.eval.sets=", "--config.eval.best=loss", "--config.eval.every=0", "--config.checkpoint.keep_best=0")


def updates_of(text):
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING_FIELDS} for line in lines if "loss" in line]


@pytest.mark.slow
def test_another_machine_resumes_a_run_at_an_address(store, launch, quick, trained, capsys, monkeypatch, tmp_path):
    """It has no local file of the stopped run, and reaches the results of `trained`, an uninterrupted local run."""
    path = "bucket/runs/one"
    command = ("train", *quick, *LESS, f"--config.out=gs://{path}")
    save = Checkpoints.save

    def stop(self, step, *rest, **more):
        save(self, step, *rest, **more)
        if step == 4:
            raise InputError("enough")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        assert launch(*command) == 2
    store.invalidate_cache()
    assert store.exists(f"{path}/checkpoints/4/commit_success.txt")
    assert not store.exists(f"{path}/hf")
    capsys.readouterr()
    assert launch(*command) == 2
    assert f"config.out gs://{path} is not empty" in capsys.readouterr().err
    shutil.rmtree(remote.cache_folder())
    assert launch(*command, "--config.resume=auto") == 0
    output = capsys.readouterr().out
    assert "resumed at update 4 of 6" in output and f"model: gs://{path}/hf in Hugging Face format" in output
    store.invalidate_cache()
    assert updates_of(store.cat(f"{path}/metrics.jsonl").decode()) == updates_of(
        (trained / "metrics.jsonl").read_text()
    )
    for file in (trained / "hf").iterdir():
        assert store.cat(f"{path}/hf/{file.name}") == file.read_bytes()
    steps = {name.split("/")[-1] for name in store.ls(f"{path}/checkpoints")}
    assert steps >= {"4", "6"} and "2" not in steps
    # The address names the run as a model: with the weights of `trained` and the fingerprint of a local copy.
    model, copy = model_source.open_model(f"gs://{path}", ""), tmp_path / "copy"
    store.get(path, str(copy), recursive=True)
    assert model.checkpoint is not None and fingerprint(model) == fingerprint(model_source.open_model(str(copy), ""))
    with jax.set_mesh(make_mesh(1, 8, 1)):
        ours = model_source.load_params(model, jnp.float32, 0)
        theirs = model_source.load_params(model_source.open_model(str(trained), ""), jnp.float32, 0)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, ours, theirs))


@pytest.fixture
def two(start_several, quick, repo):
    """two(address) -> [(process, path of its log)] of a small run with two processes."""
    flags = [*quick, *LESS, "--config.batch.rows=2", "--config.data.max_tokens=512", "--config.export.dtype=float32"]
    return lambda out: start_several(2, 1, str(repo / "launch" / "train.py"), *flags, f"--config.out={out}")


@pytest.mark.slow
def test_two_processes_write_one_run_at_an_address(store, two):
    """Each has its own working folder and writes its part of the checkpoints; the last one equals the export."""
    path = "bucket/runs/two"
    started = two(f"gs://{path}")
    for process, log in started:
        assert process.wait(timeout=900) == 0, log.read_text()[:3000]
    assert f"model: gs://{path}/hf in Hugging Face format" in started[0][1].read_text()
    store.invalidate_cache()
    updates = updates_of(store.cat(f"{path}/metrics.jsonl").decode())
    assert [line["step"] for line in updates] == [1, 2, 3, 4, 5, 6]
    assert [name.split("/")[-1] for name in store.ls(f"{path}/checkpoints")] == ["4", "6"]
    with jax.set_mesh(make_mesh(1, 8, 1)):
        run, export = (model_source.open_model(f"gs://{path}{part}", "") for part in ("", "/hf"))
        assert run.checkpoint is not None
        ours, theirs = (model_source.load_params(model, jnp.float32, 0) for model in (run, export))
        assert jax.tree.all(jax.tree.map(jnp.array_equal, ours, theirs))


@pytest.mark.slow
def test_a_refused_upload_ends_both_processes(store, two, monkeypatch):
    """Process 0 uploads the metrics before a commit, while both processes wait for it."""
    from gcp_storage_emulator.handlers import objects

    upload = objects._multipart_upload

    def refuse(request, response, storage):
        if request.data["meta"]["name"] != "runs/refused/metrics.jsonl":
            return upload(request, response, storage)
        response.status = http.HTTPStatus.FORBIDDEN

    monkeypatch.setattr(objects, "_multipart_upload", refuse)
    (primary, log), (second, second_log) = two(f"{BUCKET}/runs/refused")
    assert (primary.wait(300), second.wait(60)) == (2, 2), log.read_text()
    message = f"error: config.out {BUCKET}/runs/refused/metrics.jsonl: no permission ("
    assert log.read_text().splitlines()[-1].startswith(message)
    assert second_log.read_text().splitlines()[-1].startswith("process 0 (") and message in second_log.read_text()


def test_an_unfinished_export_is_not_complete_and_is_started_again(store, tmp_path):
    """Nothing can be renamed at an address, so an extra object marks the export as unfinished until the end."""
    address = f"{BUCKET}/exports/one"

    def fill(folder):
        (folder / "model.safetensors").write_bytes(b"weights")
        if not (tmp_path / "again").exists():
            raise OSError("the machine was taken away")
        (folder / "config.json").write_text("{}")

    with pytest.raises(InputError, match="the machine was taken away"):
        hf_export.write_folder(address, fill, iter(()))
    store.pipe("bucket/exports/one/model-00002-of-00002.safetensors", b"a shard of an earlier export")
    store.invalidate_cache()
    assert not hf_export.is_complete(model_source.as_path(address))
    (tmp_path / "again").touch()
    hf_export.write_folder(address, fill, iter(()))
    store.invalidate_cache()
    assert hf_export.is_complete(model_source.as_path(address))
    assert sorted(store.ls("bucket/exports/one")) == [
        f"bucket/exports/one/{n}" for n in ("config.json", "model.safetensors")
    ]
    with pytest.raises(InputError, match="is not empty, and exports never overwrite"):
        hf_export.write_folder(address, fill, iter(()))


def test_an_interrupted_removal_leaves_the_export_unfinished(store, monkeypatch):
    """Without its mark, the rest of the export would pass for a complete one at the next start."""
    address = f"{BUCKET}/exports/half"
    for name in (hf_export.UNFINISHED, "model-1.safetensors", "model-2.safetensors"):
        store.pipe(f"bucket/exports/half/{name}", b"x")

    def cut_off(paths, **_):
        (paths,) = [[paths] if isinstance(paths, str) else paths]
        store.rm_file(sorted(store.find(paths[0]) if len(paths) == 1 else paths)[0])
        raise OSError("the machine was taken away")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "rm", lambda self, paths, **more: cut_off(paths, **more))
        with pytest.raises(InputError, match="the machine was taken away"):
            hf_export.write_folder(address, lambda folder: None, iter(()))
    store.invalidate_cache()
    assert not hf_export.is_complete(model_source.as_path(address))


def test_the_copy_of_a_folder_has_no_file_that_the_store_has_removed(store):
    """The removed file had been copied alone before."""
    for name in ("old.json", "new.json"):
        store.pipe(f"bucket/bench/{name}", b"[]")
    remote.fetch(f"{BUCKET}/bench/old.json", "config.data")
    store.rm("bucket/bench/old.json")
    folder = remote.fetch(f"{BUCKET}/bench", "config.data", remote.ALL_FILES)
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["new.json"]


def test_a_run_that_did_not_start_leaves_no_model_files_at_its_address(store):
    """A leftover adapter_config.json would turn the next run into an adapter."""
    config = ConfigDict({"run": "sft", "seed": 0, "out": "", "resume": "never"})
    folder = open_run_folder(f"{BUCKET}/runs/never")
    for name in ("adapter_config.json", "config.json"):
        with resume.lock_run_folder(folder, config):
            (folder / "model").mkdir()
            (folder / "model" / name).write_text("{}")
            resume.record_first_start(folder, {"rows": "a"})
        shutil.rmtree(folder / "model")
        folder = open_run_folder(f"{BUCKET}/runs/never")
    store.invalidate_cache()
    assert store.ls("bucket/runs/never/model") == ["bucket/runs/never/model/config.json"]


def test_the_next_command_finishes_an_upload_that_failed(store, monkeypatch):
    """The report comes after the files that belong to it, and is uploaded once."""
    address = f"{BUCKET}/late/report.json"

    def command():
        config = ConfigDict({"out": address})
        with remote.with_local_paths(config, reads=(), writes=("out",)):
            report = Path(config.out)
            report.write_text("report")
            report.with_name("report.predictions.jsonl").write_text("replies")

    upload_files = remote.upload

    def once(files, field):
        upload_files(files, field)
        raise InputError("the network is away")

    with monkeypatch.context() as patch:
        patch.setattr(remote, "upload", once)
        with pytest.raises(InputError, match="the network is away"):
            command()
    store.invalidate_cache()
    assert store.ls("bucket/late") == ["bucket/late/report.predictions.jsonl"]
    with pytest.raises(InputError, match="could not upload it; it has been uploaded now"):
        command()
    store.invalidate_cache()
    assert store.cat("bucket/late/report.json") == b"report"
    with pytest.raises(InputError, match="is there already; name another"):
        command()


def test_a_command_reads_from_and_writes_to_addresses(store, launch, repo):
    rows = remote.cache_folder() / "rows.json"
    rows.parent.mkdir(parents=True, exist_ok=True)
    trajectories.write_trajectories(rows, seed=3, n=4, error_share=0.0, split="train")
    store.pipe("bucket/data/rows.json", rows.read_bytes())
    local, address = rows.with_name("steps.jsonl"), f"{BUCKET}/made/steps.jsonl"
    flags = (f"--config={repo / 'configs' / 'data.py'}", f"--config.data.tokenizer={BASE_FOLDER}")
    assert launch("prepare_data", *flags, f"--config.data.source={rows}", f"--config.out={local}") == 0
    command = ("prepare_data", *flags, f"--config.data.source={BUCKET}/data/rows.json", f"--config.out={address}")
    assert launch(*command) == 0
    store.invalidate_cache()
    assert store.cat("bucket/made/steps.jsonl") == local.read_bytes()
    assert store.ls("bucket/made") == ["bucket/made/steps.jsonl"]
    assert launch(*command) == 2
