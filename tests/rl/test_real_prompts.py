"""PPO on real prompts: ToolAlpaca's verified calls, a CodeLLaMA shrunk to 2 layers, in Hugging Face format."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from tljax.data.prompt import chat_template
from tljax.distributed.mesh import make_mesh
from tljax.model import llama
from tljax.model.hf import config as hf_config
from tljax.model.hf import export as hf_export
from tljax.model.hf import load as hf_load


@pytest.fixture(scope="module")
def codellama(shared, tmp_path_factory):
    """A checkpoint with CodeLLaMA's config but for its size, and with its tokenizer's 32,000 words."""
    config = dataclasses.replace(
        llama.preset("34b"), num_layers=2, d_model=64, num_heads=8, num_kv_heads=8, head_dim=8, d_ff=128
    )
    folder = tmp_path_factory.mktemp("codellama") / "hf"
    with jax.set_mesh(make_mesh(1, 8, 1)):
        params = jax.jit(llama.init_params, static_argnums=(1, 2))(jax.random.key(0), config, jnp.float32)
        tokenizer = hf_export.ChatTokenizer(shared / "tokenizer" / "llama2", chat_template("mae", bos=True))
        hf_export.export_checkpoint(folder, params, config, hf_export.WeightsFormat("bfloat16"), tokenizer)
    return folder


@pytest.mark.whole_run
@pytest.mark.parametrize("plan", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_three_updates_on_toolalpaca(plan, codellama, shared, launch, repo, tmp_path, capsys):
    flags = {
        "model.path": codellama,
        "data.source": shared / "data" / "train" / "toolalpaca_verified.json",
        "data.cache": tmp_path / "cache",
        "lora.rank": 4 if plan == "lora" else 0,
        "model.compute_dtype": "bfloat16",
        "rollout.max_prompt_tokens": 640,
        "rollout.max_new_tokens": 32,
        "rollout.prompts": 8,
        "rollout.group": 1,
        "critic.minibatches": 1,
        "rollout.rows": 8,
        "ppo.updates": 3,
        "ppo.minibatches": 1,
        "eval.sets": "",
        "eval.rows": 8,
        "data.eval_fraction": 0.0,
        "critic.warmup": 0,
        "log.every": 1,
        "export.dtype": "auto",
        "out": tmp_path / "run",
    }
    given = [f"--config.{name}={value}" for name, value in flags.items()]
    assert launch("train", f"--config={repo / 'configs' / 'ppo.py'}", *given) == 0
    printed = capsys.readouterr().out
    assert "131 trajectories" in printed and "too long" in printed
    assert ("trunk" in printed) == (plan == "lora") and ("reference" in printed) == (plan == "full")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if "kl" in line]
    assert [line["step"] for line in updates] == [1, 2, 3]
    for line in updates:
        # In bfloat16 the sampler and the scorer sum in other orders; the ratio is the scorer's with itself.
        assert line["ratio_first"] == pytest.approx(1, abs=1e-3) and line["clipped_first"] == 0
        assert line["sampler_gap"] < 0.2 and line["share_format"] > 0.5
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    goldens = shared / "data" / "train" / "toolalpaca_verified.json"
    called = {
        turn["content"].partition("\n")[0] for row in json.loads(goldens.read_text()) for turn in row["conversations"]
    }
    assert {sample["golden"].partition("(")[0] for sample in samples} <= called
    with jax.set_mesh(make_mesh(1, 8, 1)):
        config = hf_config.read_config(codellama)
        before, after = (
            hf_load.load_params(path, config, jnp.float32) for path in (codellama, tmp_path / "run" / "hf")
        )
    assert not jnp.array_equal(before["layers"]["q"], after["layers"]["q"])
