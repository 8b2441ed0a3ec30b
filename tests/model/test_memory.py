"""The bytes of a training state, counted by hand, and of activations against what the arrays of a pass hold."""

import jax
import pytest

from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh
from tljax.model import cost, llama, lora, memory
from tljax.model.remat import REMATS

WEIGHTS = 6_738_546_688  # of CodeLLaMA-7B


def test_a_trained_number_takes_sixteen_bytes_and_a_frozen_one_those_of_the_compute_dtype(one_device):
    c, options = llama.preset("7b"), lora.make_lora_options(64, 16, tuple(llama.MATRICES))
    adapter = 159_907_840
    assert cost.count_adapter(c, options) == adapter
    assert memory.state_bytes(WEIGHTS, 0, "bfloat16").total == 16 * WEIGHTS
    state = memory.state_bytes(adapter, WEIGHTS, "bfloat16")
    assert (state.weights, state.gradients, state.moments) == (2 * WEIGHTS + 4 * adapter, 4 * adapter, 8 * adapter)


def test_the_state_is_split_over_fsdp_sequence_and_tensor_but_not_over_data():
    with jax.set_mesh(make_mesh(2, 2, 2, devices=jax.devices()[:8])):
        assert memory.state_bytes(1000, 0, "float32").total == 16 * 1000 / 4


@pytest.mark.parametrize("fits", [True, False])
def test_a_state_that_exceeds_a_device_is_refused(one_device, monkeypatch, fits):
    monkeypatch.setattr(memory, "device_bytes", lambda device: 16e9)
    if fits:
        return memory.check_state_fits(16e9, "the weights take", "use more devices")
    with pytest.raises(InputError, match=r"^the weights take 16.1 GB on each of 1 device, which has 16.0 GB; use more"):
        memory.check_state_fits(16.1e9, "the weights take", "use more devices")


def test_the_cache_holds_keys_and_values_of_every_layer(one_device):
    c = llama.preset("34b")  # 48 layers, 8 key-value heads of 128
    assert memory.ActivationMemory.on_current_mesh(c, "bfloat16").cache_per_token() == 2 * 48 * 8 * 128 * 2


def test_less_is_saved_where_more_is_computed_again(one_device):
    activations = memory.ActivationMemory.on_current_mesh(llama.preset("7b"), "bfloat16")
    batch = memory.DeviceBatch(rows=1, tokens=4096, loss_chunk=1024)
    sizes = [activations.train(batch, remat, trains_embedding=True) for remat in REMATS]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] > activations.forward(batch)
