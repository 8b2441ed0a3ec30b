"""The table of memory that a PPO run prints before anything is allocated."""

import re
import runpy

import jax
import pytest

from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh
from tljax.model import llama, lora
from tljax.model import memory as model_memory
from tljax.rl import memory
from tljax.rl.models import PPOModels


@pytest.fixture
def table(repo, monkeypatch):
    """Returns the table of a 7B run over eight devices of `gigabytes` each."""

    def run(options, gigabytes):
        for module in (memory, model_memory):
            monkeypatch.setattr(module, "device_bytes", lambda device: 1e9 * gigabytes)
        config = runpy.run_path(str(repo / "configs" / "ppo.py"))["get_config"](options)
        adapter = lora.LoraOptions.from_config(config.lora)
        models = PPOModels(llama.preset("7b"), has_critic=config.algorithm == "ppo", adapter=adapter)
        with jax.set_mesh(make_mesh(1, 8, 1, devices=jax.devices()[:8])):
            return memory.format_memory(config, models, max_prompt=300)

    return run


def test_each_model_has_a_row_of_weights_gradients_and_moments(table):
    lines = table("7b", 80).splitlines()
    assert lines[0] == "memory on each of 8 x cpu (80.0 GB)"
    # 6.74 billion weights over 8 devices: 4 bytes each, and as many for gradients, twice as many for moments.
    assert [line.split() for line in lines[1:5]] == [
        ["weights", "gradients", "moments"],
        ["actor", "3.4", "GB", "3.4", "GB", "6.7", "GB"],
        ["critic", "3.3", "GB", "3.3", "GB", "6.6", "GB"],  # no head over the vocabulary
        ["reference", "1.7", "GB", "-", "-"],
    ]
    assert re.fullmatch(r"  rollout \d.* GB \(weights again, cache\), update about .* GB; peak about .* GB", lines[5])
    assert [line.split()[0] for line in table("7b,lora", 80).splitlines()[2:5]] == ["trunk", "actor", "critic"]
    assert [line.split()[0] for line in table("7b,rloo", 80).splitlines()[2:4]] == ["actor", "reference"]


def test_a_rollout_or_update_that_is_too_large_gets_a_note(table):
    assert "note:" not in table("7b", 80)
    assert "note: that is more than the device has; lower rollout.rows and eval.rows" in table("7b", 30)


def test_models_that_exceed_a_device_are_refused(table):
    with pytest.raises(InputError, match=r"moments take 28\.4 GB on each of 8 devices, which has 20\.0 GB; use more"):
        table("7b", 20)
