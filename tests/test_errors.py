"""Bad input: one line that says what, where, what is allowed; exit code 2; nothing written or overwritten."""

import json
import shutil
from pathlib import Path

import pytest

ROW = {
    "id": "a",
    "conversations": [
        {"role": "system", "content": json.dumps([{"function": {"name": "f", "parameters": {"properties": {}}}}])},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "f\n{}"},
    ],
}


@pytest.fixture(scope="module")
def hf_model(trained, tmp_path_factory) -> Path:
    """A Hugging Face folder that each test may copy and spoil."""
    return trained / "hf"


@pytest.fixture
def refused(launch, quick, capsys, tmp_path):
    """Runs a script that must fail; returns its one line after checking code, length and that no run was begun."""

    def check(*argv, script="train", flags=quick, out=tmp_path / "out"):
        capsys.readouterr()
        before = sorted(tmp_path.rglob("*"))
        code = launch(script, *flags, *([f"--config.out={out}"] if out else []), *map(str, argv))
        error = capsys.readouterr().err.strip()
        assert code == 2, error
        lines = [line for line in error.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in error, error
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return lines[0]

    return check


def write(path, value) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def spoiled(**changes):
    return ROW | changes


BAD_ROWS = {
    "not JSON": ('[{"id": "a", "conversations": [', ["rows.json", "row 1"]),
    "no messages": ([ROW, {"id": "b"}], ["rows.json", "row 2", "conversations"]),
    "unknown role": (
        [spoiled(conversations=[*ROW["conversations"], {"role": "bot", "content": "x"}])],
        ["row 1", "conversations[3].role", "'bot'", "assistant"],
    ),
    "content of a wrong type": (
        [spoiled(conversations=[ROW["conversations"][0], {"role": "user", "content": 3}, ROW["conversations"][2]])],
        ["row 1", "conversations[1].content"],
    ),
    "broken call": (
        [spoiled(conversations=[*ROW["conversations"][:2], {"role": "assistant", "content": 'f\n{"a": '}])],
        ["row 1", "conversations[2].content"],
    ),
    "tools are no list": (
        [spoiled(conversations=[{"role": "system", "content": "be nice"}, *ROW["conversations"][1:]])],
        ["row 1", "conversations[0]"],
    ),
    "nothing to learn": ([spoiled(conversations=ROW["conversations"][:2])], ["row 1", "no assistant"]),
    "empty": ([], ["rows.json"]),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(refused, tmp_path, case):
    content, told = BAD_ROWS[case]
    line = refused(f"--config.data.source={write(tmp_path / 'rows.json', content)}")
    assert all(word in line for word in told), line


FLAGS = {
    "unknown field": (["--config.optim.lrr=1"], ["optim.lrr", "lr"]),
    "wrong type": (["--config.optim.lr=fast"], ["optim.lr", "'fast'", "number"]),
    "unknown argument": (["rows.json"], ["'rows.json'"]),
    "unknown choice": (["--config.data.pkt=papr"], ["data.pkt", "'papr'", "paper"]),
    "out of range": (["--config.optim.epochs=0"], ["optim.epochs", "allowed: 1 to"]),
    "seed below 0": (["--config.seed=-1"], ["config.seed", "-1", "allowed: 0 to"]),
    "optimizer out of range": (["--config.optim.b2=2"], ["optim.b2", "2"]),
    "model too large": (
        ["--config.model.path=scratch", "--config.model.preset=70b"],
        ["billion weights", "GB", "config.mesh.fsdp"],
    ),
    "no model given": (["--config.model.path="], ["config.model.path is empty", "scratch"]),
    "attention of another device": (["--config.model.attention=splash"], ["splash", "TPU", "cpu"]),
    "wandb not installed": (["--config.log.wandb=true"], ["wandb", "pip install"]),
    "impossible mesh": (["--config.mesh.fsdp=3"], ["fsdp=3", "8 devices", "nearest"]),
    "slices that do not divide the devices": (["--config.mesh.slices=3"], ["slices=3", "8 devices", "nearest"]),
    "rows that do not divide the mesh": (["--config.batch.rows=12"], ["12", "8", "mesh fsdp=4, sequence=2"]),
    "row length that does not divide": (
        ["--config.mesh.sequence=4", "--config.batch.tokens=4100"],
        ["batch.tokens is 4100", "parts", "4096 or 4104"],
    ),
    "rows that do not divide into parts": (["--config.batch.accumulate=3"], ["batch.rows", "accumulate", "3"]),
    "rows shorter than a step may be": (["--config.batch.tokens=128"], ["batch.tokens", "data.max_tokens"]),
    "prompt trained beside MAE": (["--config.data.prompt_weight=1"], ["data.prompt_weight", "data.mae=none"]),
    "prompt weight below 0": (["--config.data.prompt_weight=-1", "--config.data.mae=none"], ["-1", "at least 0"]),
    "queries that do not divide the mesh": (["--config.eval.rows=12", "--config.eval.queries=1"], ["eval.rows", "8"]),
    "no such set": (["--config.eval.sets=toolbox,rotbench"], ["config.eval.sets", "'rotbench'", "held_out"]),
    "best by a set that is not asked": (
        ["--config.eval.best=held_out_CF", "--config.eval.sets=toolbox"],
        ["config.eval.best", "'held_out_CF'", "domain_CF"],
    ),
    "best by rows that are not there": (
        ["--config.eval.best=held_out_CF", "--config.eval.sets=held_out", "--config.data.eval_fraction=0"],
        ["config.eval.best", "no row is held out", "data.eval_fraction"],
    ),
    "no such source": (["--config.data.source=nowhere.json"], ["nowhere.json", "does not exist"]),
    "no such rule": (["--config.data.mae=strict"], ["strict", "default"]),
    "broken pattern": (['--config.data.mae=["("]'], ["("]),
    "every step blocked": (
        ['--config.data.mae=["."]', "--config.data.max_tokens=40"],
        ["no step is left", "pattern .", "too long", "config.data.max_tokens"],
    ),
    "no such tokenizer": (["--config.data.tokenizer=/nowhere"], ["tokenizer '/nowhere'", "no such folder"]),
    "no such model": (["--config.model.path=/nowhere"], ["/nowhere"]),
    "mesh that splits no head": (["--config.mesh.tensor=8", "--config.mesh.fsdp=1"], ["heads", "8"]),
}


@pytest.mark.parametrize("case", FLAGS)
def test_bad_flags(refused, case):
    flags, told = FLAGS[case]
    line = refused(*flags)
    assert all(word in line for word in told), line


def test_config_options_and_files(refused, quick, repo):
    line = refused(flags=[f"--config={repo / 'configs' / 'sft.py'}:9b"], out=None)
    assert "'9b'" in line and "7b" in line
    assert "configs/nowhere.py" in refused(flags=["--config=configs/nowhere.py"], out=None)
    assert "usage" in refused(flags=[], out=None)
    assert "no run and no model" in refused(flags=[f"--config={repo / 'configs' / 'data.py'}"])


def change_config(folder: Path, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder: Path, change):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors, np)
    save_file(tensors, folder / "model.safetensors")


def drop(tensors, np):
    del tensors["model.layers.2.mlp.up_proj.weight"]


def add(tensors, np):
    tensors["model.layers.0.extra.weight"] = np.zeros(3, np.float32)


def cut(tensors, np):
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].copy()


def shrink_vocabulary(folder: Path):
    def first_words(tensors, np):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:100].copy()

    change_tensors(folder, first_words)
    change_config(folder, vocab_size=100)


MODELS = {
    "missing tensor": (lambda f: change_tensors(f, drop), ["model.layers.2.mlp.up_proj.weight"]),
    "unknown tensor": (lambda f: change_tensors(f, add), ["model.layers.0.extra.weight"]),
    "wrong shape": (lambda f: change_tensors(f, cut), ["model.norm.weight", "127", "128"]),
    "unsupported field": (lambda f: change_config(f, hidden_act="gelu"), ["config.json", "hidden_act", "gelu"]),
    "other architecture": (lambda f: change_config(f, architectures=["GPT2LMHeadModel"]), ["GPT2LMHeadModel"]),
    "tokenizer too large": (shrink_vocabulary, ["words", "100", "tokenizer"]),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ["tokenizer.json"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors"]),
}


@pytest.mark.parametrize("case", MODELS)
def test_bad_models(refused, hf_model, tmp_path_factory, case):
    spoil, told = MODELS[case]
    folder = tmp_path_factory.mktemp("model") / "hf"
    shutil.copytree(hf_model, folder)
    spoil(folder)
    line = refused(f"--config.model.path={folder}")
    assert all(word in line for word in told), line


@pytest.mark.extended
def test_folders_in_use(refused, trained, tmp_path):
    assert "not empty" in refused(out=trained)
    assert "is a file" in refused(out=write(tmp_path / "file", "x"))
    assert "cannot be written" in refused(out="/proc/run")
    assert "gs://" in refused(out="gs://bucket/run")


def test_resume_of_another_run(refused, trained):
    line = refused("--config.resume=auto", "--config.optim.lr=0.5", out=trained)
    assert "optim.lr" in line and "0.5" in line and "0.0003" in line


def test_exports(refused, repo, trained, tmp_path):
    flags = [f"--config={repo / 'configs' / 'export.py'}"]
    full = tmp_path / "full"
    full.mkdir()
    write(full / "keep", "x")
    line = refused(f"--config.run={trained}", script="export_hf", flags=flags, out=full)
    assert "not empty" in line and (full / "keep").read_text() == "x"
    assert "not a run" in refused(f"--config.run={full}", script="export_hf", flags=flags)
    assert "is a model, not a run" in refused(f"--config.run={trained / 'hf'}", script="export_hf", flags=flags)
    assert "step 5" in refused(f"--config.run={trained}", "--config.step=5", script="export_hf", flags=flags)
    assert "config.run" in refused(script="export_hf", flags=flags)


@pytest.mark.extended
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(launch, quick, capsys, tmp_path):
    out = tmp_path / "run"
    code = launch("train", *quick, f"--config.out={out}", "--config.optim.lr=1e30", "--config.optim.clip_norm=0")
    error = capsys.readouterr().err
    assert code == 1 and "stopped: step" in error and "Traceback" not in error
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] is None or lines[-1]["grad_norm"] is None
    assert not (out / "hf").exists()
