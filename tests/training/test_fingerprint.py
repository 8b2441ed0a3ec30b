"""The fingerprint tells two models apart by their files, and a copy has the same one."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tljax.toolbox.embedded import BASE_FOLDER
from tljax.training import fingerprint as module
from tljax.training.fingerprint import fingerprint
from tljax.training.model_source import open_model


@pytest.mark.parametrize("max_full_read", [module.MAX_FULL_READ, 0])
def test_a_copy_has_the_same_fingerprint_and_other_weights_or_configs_have_others(tmp_path, monkeypatch, max_full_read):
    monkeypatch.setattr(module, "MAX_FULL_READ", max_full_read)
    wanted = fingerprint(open_model(BASE_FOLDER, ""))
    copy = tmp_path / "copy"
    shutil.copytree(BASE_FOLDER, copy)
    model = open_model(str(copy), "")
    (copy / "README.md").write_text("Another card.")
    assert fingerprint(model) == wanted
    weights = copy / "model.safetensors"
    content = weights.read_bytes()
    for position in (len(content) - 1, len(content) // 2):
        weights.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert fingerprint(model) != wanted
    weights.write_bytes(content)
    (copy / "config.json").write_text(json.dumps(json.loads((copy / "config.json").read_text()) | {"rope_theta": 7.0}))
    assert fingerprint(model) != wanted


def test_checkpoints_of_a_run_have_different_fingerprints(tmp_path):
    """The files are no valid checkpoints: none is read as weights."""
    for step in (2, 4):
        folder = tmp_path / "checkpoints" / str(step) / "state"
        folder.mkdir(parents=True)
        (folder / "d").write_bytes(bytes([step]) * 100)
    model = dataclasses.replace(open_model(BASE_FOLDER, ""), checkpoint=(tmp_path, 2))
    other = dataclasses.replace(model, checkpoint=(tmp_path, 4))
    assert len({fingerprint(model), fingerprint(other), fingerprint(open_model(BASE_FOLDER, ""))}) == 3
    shutil.copytree(tmp_path / "checkpoints" / "2", Path(tmp_path / "moved" / "checkpoints" / "2"))
    assert fingerprint(dataclasses.replace(model, checkpoint=(tmp_path / "moved", 2))) == fingerprint(model)


def test_weights_in_a_subfolder_count(tmp_path):
    shutil.copytree(BASE_FOLDER, tmp_path / "copy")
    weights = tmp_path / "copy" / "parts" / "model.safetensors"
    weights.parent.mkdir()
    (tmp_path / "copy" / "model.safetensors").rename(weights)
    names = open_model(BASE_FOLDER, "").tensors or {}
    index = {"weight_map": dict.fromkeys(names, "parts/model.safetensors")}
    (tmp_path / "copy" / "model.safetensors.index.json").write_text(json.dumps(index))
    model = open_model(str(tmp_path / "copy"), "")
    before = fingerprint(model)
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprint(model) != before
