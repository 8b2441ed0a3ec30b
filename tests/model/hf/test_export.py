"""Exports: byte for byte what was loaded, read by transformers, complete or not at all."""

import copy
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh
from tljax.model.hf import config as hf_config
from tljax.model.hf import export as hf_export
from tljax.model.hf import load as hf_load

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
TOKENS = np.random.default_rng(0).integers(0, 256, (8, 40)).astype(np.int32)


def read_raw(folder):
    """name -> (dtype, shape, bytes) by the safetensors library."""
    from safetensors import deserialize

    tensors = {}
    for file in folder.glob("*.safetensors"):
        for name, entry in deserialize(file.read_bytes()):
            assert name not in tensors
            tensors[name] = (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
    return tensors


def export(folder, params, c, tokenizer_folder, source_config=None, **weights):
    weights = hf_export.WeightsFormat(**{"dtype": "float32"} | weights)
    tokenizer = hf_export.ChatTokenizer(tokenizer_folder, TEMPLATE)
    hf_export.export_checkpoint(folder, params, c, weights, tokenizer, source_config)


@pytest.mark.parametrize(
    "name, dtype, shard, mesh",
    [
        ("gqa", "float32", 5e9, (1, 8, 1)),
        pytest.param("qwen2", "bfloat16", 3e4, (2, 2, 2), marks=pytest.mark.extended),
        ("tied", "float16", 3e4, (8, 1, 1)),
        ("mistral", "bfloat16", 5e9, (1, 1, 8 // 8)),
    ],
)
def test_there_and_back_is_byte_equal(name, dtype, shard, mesh, torch, checkpoints, tokenizer_folder, tmp_path):
    _, model = checkpoints(name)
    source = tmp_path / "source"
    copy.deepcopy(model).to(getattr(torch, dtype)).save_pretrained(source, max_shard_size=20_000)
    assert len(list(source.glob("*.safetensors"))) > 1
    c = hf_config.read_config(source)
    assert hf_load.checkpoint_dtype(source) == dtype
    with jax.set_mesh(make_mesh(*mesh, devices=jax.devices()[: int(np.prod(mesh))])):
        params = hf_load.load_params(source, c, jnp.float32)
        config = json.loads((source / "config.json").read_text())
        out = tmp_path / "new" / "out"
        export(out, params, c, tokenizer_folder, dtype=dtype, source_config=config, max_shard_bytes=shard)
    assert read_raw(out) == read_raw(source)
    written = json.loads((out / "config.json").read_text())
    # An export names its end token, which Qwen2Config leaves open.
    assert {field: written.get(field) for field in config} == config | {"eos_token_id": 2}
    sizes = [file.stat().st_size for file in out.glob("*.safetensors")]
    assert (len(sizes) == 1) == (shard == 5e9) and max(sizes) < max(shard, 40_000) + 4096
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["llama3", "qwen2", "mistral", "linear", "tied"])
def test_transformers_loads_an_export_written_without_a_source_config(
    name, torch, checkpoints, tokenizer_folder, tmp_path, one_device, torch_logits
):
    import transformers

    folder, model = checkpoints(name)
    c = hf_config.read_config(folder)
    export(tmp_path / "out", hf_load.load_params(folder, c, jnp.float32), c, tokenizer_folder, max_shard_bytes=5e4)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(again) is type(model) and again.dtype == torch.float32
    np.testing.assert_array_equal(torch_logits(again, TOKENS[:2]), torch_logits(model, TOKENS[:2]), strict=True)
    assert hf_config.read_config(tmp_path / "out") == c
    assert (again.generation_config.bos_token_id, again.generation_config.eos_token_id) == (1, 2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a b"}], tokenize=False) == "a b"
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE


def test_round_trip_without_torch(tmp_path, tokenizer_folder, small_tensors, write_checkpoint):
    tensors = small_tensors() | {"model.layers.1.self_attn.rotary_emb.inv_freq": np.ones(4, ml_dtypes.bfloat16)}
    folder = write_checkpoint(tmp_path / "in", files={"model.safetensors": tensors})
    c = hf_config.read_config(folder)
    assert (c.rope_theta, c.num_kv_heads, c.head_dim) == (1e4, 2, 8)
    with jax.set_mesh(make_mesh(2, 2, 2)):
        params = hf_load.load_params(folder, c, jnp.float32)
        q = np.asarray(params["layers"]["q"])
        export(tmp_path / "out", params, c, tokenizer_folder, dtype=hf_load.checkpoint_dtype(folder))
    stored = tensors["model.layers.1.self_attn.q_proj.weight"].astype(np.float32)
    np.testing.assert_array_equal(q[1, :, 1, :], stored[8:16].T)
    del tensors["model.layers.1.self_attn.rotary_emb.inv_freq"]
    raw = read_raw(tmp_path / "out")
    assert {name: entry[2] for name, entry in raw.items()} == {name: x.tobytes() for name, x in tensors.items()}


def test_exports_overwrite_nothing_and_leave_nothing_behind(tmp_path, tokenizer_folder, one_device, write_checkpoint):
    folder = write_checkpoint(tmp_path / "in")
    c = hf_config.read_config(folder)
    params = hf_load.load_params(folder, c, jnp.float32)
    before = read_raw(folder)
    with pytest.raises(InputError, match="is not empty"):
        export(folder, params, c, tokenizer_folder)
    with pytest.raises(InputError, match="is a file"):
        export(folder / "config.json", params, c, tokenizer_folder)
    with pytest.raises(InputError, match=r"export.dtype is 'int8'; allowed are float32, bfloat16, float16"):
        export(tmp_path / "out", params, c, tokenizer_folder, dtype="int8")
    with pytest.raises(InputError, match=r"holds no tokenizer\.json"):
        export(tmp_path / "out", params, c, tmp_path / "in")
    too_large = params | {"final_norm": params["final_norm"] * 1e6}
    with pytest.raises(InputError, match=r"weight model.norm.weight is not finite in float16"):
        export(tmp_path / "out", too_large, c, tokenizer_folder, dtype="float16")
    (tmp_path / "empty").mkdir()
    export(tmp_path / "empty", params, c, tokenizer_folder)
    assert read_raw(folder) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "in"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, tokenizer_folder, write_checkpoint):
    """With a limit on file size, which the kernel enforces on every write as it would a full disk."""
    folder = write_checkpoint(tmp_path / "in")
    program = f"""
import jax, pathlib, resource, signal
from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh
from tljax.model.hf.config import read_config
from tljax.model.hf.export import ChatTokenizer, WeightsFormat, export_checkpoint
from tljax.model.hf.load import load_params
with jax.set_mesh(make_mesh(1, 1, 1)):
    c = read_config({str(folder)!r})
    params = load_params({str(folder)!r}, c, "float32")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
    try:
        tokenizer = ChatTokenizer(pathlib.Path({str(tokenizer_folder)!r}), "")
        export_checkpoint({str(tmp_path / "out")!r}, params, c, WeightsFormat("float32"), tokenizer)
    except InputError as error:
        print(error)
"""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"{tmp_path}/out: cannot be written \(File too large\).*\n", run.stdout)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
