"""Two models are told apart by their files, a copy is not."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tljax.toolbox.embedded import BASE_FOLDER
from tljax.training import fingerprint as module
from tljax.training.fingerprint import fingerprint
from tljax.training.model_source import open_model


@pytest.mark.parametrize("whole", [module.WHOLE, 0])
def test_a_copy_is_the_same_model_and_other_weights_are_not(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(module, "WHOLE", whole)
    wanted = fingerprint(open_model(BASE_FOLDER, ""))
    copy = tmp_path / "copy"
    shutil.copytree(BASE_FOLDER, copy)
    model = open_model(str(copy), "")
    (copy / "README.md").write_text("Another card.")
    assert fingerprint(model) == wanted
    weights = copy / "model.safetensors"
    content = weights.read_bytes()
    for place in (len(content) - 1, len(content) // 2):
        weights.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert fingerprint(model) != wanted
    weights.write_bytes(content)
    (copy / "config.json").write_text(json.dumps(json.loads((copy / "config.json").read_text()) | {"rope_theta": 7.0}))
    assert fingerprint(model) != wanted


def test_checkpoints_of_a_run_are_told_apart(tmp_path):
    """Of files alone; none of them is read as weights."""
    for step in (2, 4):
        folder = tmp_path / "checkpoints" / str(step) / "state"
        folder.mkdir(parents=True)
        (folder / "d").write_bytes(bytes([step]) * 100)
    model = dataclasses.replace(open_model(BASE_FOLDER, ""), checkpoint=(tmp_path, 2))
    other = dataclasses.replace(model, checkpoint=(tmp_path, 4))
    assert len({fingerprint(model), fingerprint(other), fingerprint(open_model(BASE_FOLDER, ""))}) == 3
    shutil.copytree(tmp_path / "checkpoints" / "2", Path(tmp_path / "moved" / "checkpoints" / "2"))
    assert fingerprint(dataclasses.replace(model, checkpoint=(tmp_path / "moved", 2))) == fingerprint(model)
