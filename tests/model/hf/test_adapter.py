"""Adapters to and from the `peft` library, which is the oracle, and every way in which one may not fit."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.distributed.mesh import make_mesh
from tljax.model import llama, lora
from tljax.model.hf import adapter as hf_adapter
from tljax.model.hf import config as hf_config
from tljax.model.hf import load as hf_load
from tljax.training import model_source

# peft asks transformers for what the latter calls by another name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TOKENS = np.random.default_rng(0).integers(0, 256, (2, 24)).astype(np.int32)
OPTIONS = lora.LoraOptions(rank=3, alpha=12.0, targets=("q", "v", "o", "gate", "down"))


@pytest.fixture(scope="session")
def peft(torch):
    return pytest.importorskip("peft", reason="peft is the oracle of these tests; it is installed with torch alone")


def logits_of(params, c):
    positions = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)

    @jax.jit
    def run(params, tokens, positions, segments):
        options = llama.ForwardOptions("float32", attention="reference")
        hidden = llama.forward(params, c, tokens, positions, segments, options)
        return llama.logits(params, c, hidden)

    return np.asarray(run(params, TOKENS, positions, np.ones_like(TOKENS)))


def make_adapter(c, options=OPTIONS):
    """As after training, on the current mesh."""
    rng = np.random.default_rng(0)
    return {
        name: jax.device_put(rng.normal(0, 0.3, leaf.shape).astype(np.float32), leaf.sharding)
        for name, leaf in lora.abstract_adapter(c, options).items()
    }


@pytest.mark.parametrize(
    ("name", "rslora"), [("gqa", False), ("gqa", True), pytest.param("qwen2", False, marks=pytest.mark.extended)]
)
def test_peft_computes_the_logits_of_our_export(
    name, rslora, peft, torch, checkpoints, torch_logits, tmp_path, one_device
):
    folder, model = checkpoints(name)
    c, options = hf_config.read_config(folder), dataclasses.replace(OPTIONS, rslora=rslora)
    params, adapter = hf_load.load_params(folder, c, jnp.float32), make_adapter(c)
    hf_adapter.export_adapter(tmp_path / "adapter", adapter, c, options, str(folder))
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert not [key for key in theirs.state_dict() if "lora" in key and "k_proj" in key]
    wanted = torch_logits(theirs, TOKENS)
    assert np.abs(wanted - torch_logits(model, TOKENS)).max() > 1
    for ours in (lora.attach_adapter(params, adapter, options), lora.merge_adapter(params, adapter, options)):
        np.testing.assert_allclose(logits_of(ours, c), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("targets", "rslora"),
    [
        (["q_proj", "k_proj", "up_proj"], False),
        (["v_proj", "gate_proj"], True),
        *(
            pytest.param(target, False, marks=pytest.mark.extended)
            for target in ("all-linear", r".*\.layers\.\d+\.mlp\.down_proj")
        ),
    ],
)
def test_an_adapter_that_peft_wrote_gives_its_logits(
    targets, rslora, peft, torch, checkpoints, torch_logits, tmp_path, one_device
):
    folder, _ = checkpoints("gqa")
    model = peft.AutoPeftModelForCausalLM  # the base is loaded anew: peft changes the model it is given
    from transformers import AutoModelForCausalLM

    options = dict(r=4, lora_alpha=6, init_lora_weights=False, task_type="CAUSAL_LM", use_rslora=rslora)
    config = peft.LoraConfig(target_modules=targets, **options)
    torch.manual_seed(1)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).eval()
    model.save_pretrained(tmp_path)
    opened = model_source.open_model(str(tmp_path), "")
    assert opened.base is not None and opened.base.folder == folder
    wanted = torch_logits(model, TOKENS)
    params = model_source.load_with_adapter(opened, jnp.float32, 0)
    np.testing.assert_allclose(logits_of(params, opened.config), wanted, rtol=0, atol=5e-5)
    plain = model_source.load_params(opened.base, jnp.float32, 0)
    assert np.abs(logits_of(plain, opened.config) - wanted).max() > 0.1


@pytest.fixture
def small(tmp_path, small_tensors, write_checkpoint, one_device):
    """A base and an adapter of it, written by us; nothing here needs torch."""
    base = write_checkpoint(tmp_path / "base")
    c = hf_config.read_config(base)
    hf_adapter.export_adapter(tmp_path / "adapter", make_adapter(c), c, OPTIONS, str(base))
    return tmp_path / "adapter", c


def test_an_export_comes_back_bit_for_bit_on_another_mesh(small):
    folder, c = small
    wanted = jax.device_get(make_adapter(c))
    with jax.set_mesh(make_mesh(2, 2, 2)):
        adapter, options = hf_adapter.load_adapter(folder, c)
        assert options == OPTIONS
        assert jax.tree.map(lambda x: x.sharding, adapter) == jax.tree.map(
            lambda x: x.sharding, lora.abstract_adapter(c, options)
        )
    assert adapter.keys() == wanted.keys()
    for name, half in adapter.items():
        np.testing.assert_array_equal(half, wanted[name])
    with pytest.raises(InputError, match=r"is not empty, and exports never overwrite"):
        hf_adapter.export_adapter(folder, make_adapter(c), c, OPTIONS, "base")


def change_config(**fields):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def change_tensors(change):
    def apply(folder):
        from safetensors.numpy import load_file, save_file

        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return apply


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
LAST = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
SPOILED = {
    "dora": (change_config(use_dora=True), ["use_dora is True", "not supported"]),
    "bias": (change_config(bias="all"), ["bias is 'all'"]),
    "modules": (change_config(modules_to_save=["lm_head"]), ["modules_to_save is ['lm_head']"]),
    "ranks": (change_config(rank_pattern={"q_proj": 8}), ["rank_pattern"]),
    "a field of tomorrow": (change_config(use_magic="yes"), ["use_magic is 'yes'"]),
    "changed base": (change_config(init_lora_weights="pissa"), ["init_lora_weights is 'pissa'"]),
    "kind": (change_config(peft_type="IA3"), ["peft_type is 'IA3'", "'LORA'"]),
    "rank": (change_config(r="8"), ["r is '8'", "number above 0"]),
    "target": (change_config(target_modules=["q_proj", "lm_head"]), ["'lm_head'", "q_proj, k_proj"]),
    "no targets": (change_config(target_modules=None), ["target_modules is None"]),
    "no base": (change_config(base_model_name_or_path=""), ["base_model_name_or_path is ''"]),
    "lost base": (change_config(base_model_name_or_path="/nowhere"), ["base_model_name_or_path", "/nowhere"]),
    "other rank": (change_config(r=4), ["20 of wrong shape", "(is [3, 24], must be [4, 24])"]),
    "fewer targets": (change_config(target_modules=["q_proj"]), ["16 unexpected", "down_proj"]),
    "some layers": (
        change_tensors(lambda t: [t.pop(key) for key in list(t) if "layers.0.mlp.gate_proj" in key]),
        ["target_modules adapts gate_proj in 1 of 2 layers only (1)", "must be on all layers"],
    ),
    "missing": (change_tensors(lambda t: t.pop(LAST)), ["1 missing: " + LAST]),
    "extra": (change_tensors(lambda t: t.update({"lm_head.lora_A.weight": t[FIRST]})), ["1 unexpected: lm_head"]),
    "shape": (change_tensors(lambda t: t.update({FIRST: t[FIRST][:, :8]})), [FIRST, "is [3, 8], must be [3, 16]"]),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), ["holds neither adapter_model.safetensors"]),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), ["adapter_config.json", "is not JSON"]),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_does_not_fit_is_told_in_one_line(case, small):
    folder, _ = small
    spoil, told = SPOILED[case]
    spoil(folder)
    with pytest.raises(InputError) as error:
        model_source.open_model(str(folder), "")
    line = str(error.value)
    assert "\n" not in line and str(folder) in line and all(word in line for word in told), line


def test_an_adapter_that_is_not_finite_is_refused(small):
    folder, c = small
    change_tensors(lambda tensors: tensors[LAST].fill(np.nan))(folder)
    with pytest.raises(InputError, match=rf"^{folder}: {LAST} holds NaN or infinity"):
        hf_adapter.load_adapter(folder, c)


def test_an_adapter_of_another_model_is_refused(small, small_config, write_checkpoint, tmp_path):
    folder, _ = small
    shutil.rmtree(tmp_path / "base")
    write_checkpoint(tmp_path / "base", small_config | {"intermediate_size": 32}, files={})
    with pytest.raises(InputError, match=r"holds neither model\.safetensors"):
        model_source.open_model(str(folder), "")
    wider = hf_config.read_config(tmp_path / "base")
    with pytest.raises(InputError, match=r"4 of wrong shape: .*gate_proj.*must be \[32, 3\]"):
        hf_adapter.check_adapter(folder, wider)
