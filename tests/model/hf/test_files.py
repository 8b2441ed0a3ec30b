"""The files of a checkpoint folder: what is read, and the one line for each that is broken or not of this model."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.model.hf import config as hf_config
from tljax.model.hf import files as hf_files
from tljax.model.hf import load as hf_load


def test_broken_folders_are_refused(tmp_path, one_device, small_tensors, write_checkpoint, refused):
    tensors = small_tensors()
    names = sorted(tensors)
    a, b = ({name: tensors[name] for name in part} for part in (names[:12], names[12:]))
    index = {name: "a.safetensors" if name in a else "b.safetensors" for name in tensors}

    folder = write_checkpoint(
        tmp_path / "twice", files={"a.safetensors": a, "b.safetensors": b | {names[0]: a[names[0]]}}, index=index
    )
    assert f"tensor {names[0]} is both in a.safetensors and in b.safetensors" in refused(folder)
    folder = write_checkpoint(
        tmp_path / "lost", files={"a.safetensors": a, "b.safetensors": b}, index=index | {"x": "a.safetensors"}
    )
    assert "index promises x in a.safetensors, which is absent" in refused(folder)
    folder = write_checkpoint(tmp_path / "absent", files={"a.safetensors": a}, index=index)
    assert "b.safetensors named by model.safetensors.index.json is absent" in refused(folder)
    folder = write_checkpoint(tmp_path / "none", files={})
    assert "holds neither model.safetensors nor model.safetensors.index.json" in refused(folder)

    folder = write_checkpoint(tmp_path / "cut")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "cut short" in refused(folder)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    assert "Git LFS pointer" in refused(folder)
    with pytest.raises(InputError, match="is not a folder"):
        hf_files.open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"config.json: cannot be read"):
        hf_config.read_config(tmp_path / "nowhere")
    (folder / "config.json").write_text("{,}")
    with pytest.raises(InputError, match=r"config.json: is not JSON"):
        hf_config.read_config(folder)


def entry(start, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header, size, message",
    [
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, 12, "invalid offset for tensor `b`"),
        ({"a": entry(0, 8, [2]), "b": entry(12, 20, [2])}, 20, "invalid offset for tensor `b`"),
        ({"a": entry(0, 8, [3])}, 8, "invalid shape, data type, or offset"),
        ({"a": entry(0, 8, [2])}, 12, "file not fully covered"),
        ({"a": entry(0, 8, [2])}, 4, "file not fully covered"),
        ({"a": entry(0, 8, [2], "X32")}, 8, "unknown variant `X32`"),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8, "missing field `data_offsets`"),
        ([], 0, "invalid"),
    ],
    ids=["overlap", "gap", "length", "long", "short", "dtype", "no_offsets", "no_object"],
)
def test_a_file_whose_header_is_wrong_is_refused_by_name(header, size, message, tmp_path):
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    with pytest.raises(InputError) as error:
        hf_files.open_checkpoint(tmp_path)
    assert str(error.value).startswith(f"{file}: is not a valid safetensors file (")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_torch_files_are_read_or_refused_with_the_remedy(
    tmp_path, one_device, monkeypatch, small_tensors, write_checkpoint, refused
):
    folder = write_checkpoint(tmp_path, files={})
    (folder / "pytorch_model.bin").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in refused(folder)
    monkeypatch.undo()
    torch = pytest.importorskip("torch", reason="reading .bin needs torch, installed on Python 3.11 alone")
    assert "torch cannot read it" in refused(folder)
    tensors = {name: torch.tensor(x.astype(np.float32)).to(torch.bfloat16) for name, x in small_tensors().items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    params = hf_load.load_params(folder, hf_config.read_config(folder), jnp.float32)
    wanted = small_tensors()["model.layers.1.mlp.up_proj.weight"].astype(np.float32).T
    np.testing.assert_array_equal(np.asarray(params["layers"]["up"])[1], wanted)
    assert hf_load.checkpoint_dtype(folder) == "bfloat16"


def write_index(folder, tensors, name):
    """A checkpoint whose index names the file `name` for every tensor."""
    index = {"weight_map": dict.fromkeys(tensors, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["parts/a.safetensors", "./parts/a.safetensors"])
def test_files_in_a_subfolder_load(name, tmp_path, one_device, small_tensors, write_checkpoint):
    tensors = small_tensors()
    (tmp_path / "parts").mkdir()
    folder = write_checkpoint(tmp_path, files={"parts/a.safetensors": tensors})
    write_index(folder, tensors, name)
    stored = hf_files.open_checkpoint(folder)
    assert stored.keys() == tensors.keys() and {tensor.file for tensor in stored.values()} == {"parts/a.safetensors"}
    params = hf_load.load_params(folder, hf_config.read_config(folder), jnp.float32)
    wanted = tensors["model.layers.1.mlp.up_proj.weight"].astype(np.float32).T
    np.testing.assert_array_equal(np.asarray(params["layers"]["up"])[1], wanted)


@pytest.mark.parametrize("name", ["../a.safetensors", "parts/../../a.safetensors", "/etc/a.safetensors"])
def test_files_outside_the_folder_are_refused_for_that_reason(name, tmp_path, small_tensors, write_checkpoint, refused):
    folder = write_checkpoint(tmp_path / "model", files={"../a.safetensors": small_tensors()})
    write_index(folder, small_tensors(), name)
    assert f"names the file {name!r}" in refused(folder) and "lies outside the model's folder" in refused(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": None}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": ["a.safetensors"]}, "has no weight_map"),
        ({}, "has no weight_map"),
        ([], "holds a JSON list"),
        ({"weight_map": {"lm_head.weight": None}}, "weight_map has None for lm_head.weight"),
        ({"weight_map": {"lm_head.weight": ["a"]}}, r"weight_map has ['a'] for lm_head.weight"),
        ({"weight_map": {"lm_head.weight": ""}}, "weight_map has '' for lm_head.weight"),
    ],
)
def test_an_index_without_files_is_refused(index, message, tmp_path, write_checkpoint, refused):
    folder = write_checkpoint(tmp_path, files={})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert message in refused(folder)


@pytest.fixture
def save_bin(torch, tmp_path, small_tensors, write_checkpoint):
    """save_bin(wrap, **options) -> a folder with the torch file wrap(state_dict)."""

    def save(wrap, **options):
        folder = write_checkpoint(tmp_path, files={})
        tensors = {name: torch.tensor(x.astype(np.float32)) for name, x in small_tensors(np.float32).items()}
        torch.save(wrap(tensors), folder / "pytorch_model.bin", **options)
        return folder

    return save


WRAPPED = {
    "alone": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "model_state_dict": lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {"state": {}}},
    "model": lambda weights: {"model": weights, "optimizer": dict(weights), "loss": weights["lm_head.weight"].sum()},
    "module": lambda weights: {"module": {"state_dict": weights}},
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_weights_inside_a_training_programs_file_are_found(wrap, save_bin, one_device, small_tensors):
    folder = save_bin(WRAPPED[wrap])
    params = hf_load.load_params(folder, hf_config.read_config(folder), jnp.float32)
    wanted = small_tensors(np.float32)["model.layers.1.mlp.up_proj.weight"].T
    np.testing.assert_array_equal(np.asarray(params["layers"]["up"])[1], wanted)


def test_torch_files_of_the_old_format_load(save_bin, one_device):
    folder = save_bin(lambda weights: weights, _use_new_zipfile_serialization=False)
    assert len(hf_files.open_checkpoint(folder)) == 21


UNNAMED = {
    "ambiguous": (lambda weights: {"model": weights, "state_dict": weights}, "state_dict and model may both be"),
    "list": (lambda weights: list(weights.values()), "holds a list in place of tensors by name"),
    "tensor": (lambda weights: weights["lm_head.weight"], "holds a Tensor in place of tensors by name"),
    "empty": (lambda weights: {"state_dict": {}}, "holds nothing in place of tensors by name"),
    "number": (lambda weights: weights | {"epoch": 3}, "entry 'epoch' is a int, no named tensor"),
    "unnamed": (lambda weights: dict(enumerate(weights.values())), "entry 0 is a Tensor, no named tensor"),
    "sparse": (lambda weights: {"a": weights["lm_head.weight"].to_sparse()}, "tensor a is sparse or has no data"),
    "no data": (lambda weights: {"a": weights["lm_head.weight"].to("meta")}, "tensor a is sparse or has no data"),
}


@pytest.mark.parametrize("wrap", UNNAMED)
def test_torch_files_without_named_weights_are_refused(wrap, save_bin, refused):
    content, message = UNNAMED[wrap]
    assert message in refused(save_bin(content))
