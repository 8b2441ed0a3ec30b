"""Plans that fit according to the TPU compiler. Each takes minutes, and none needs a TPU:

pip install -e '.[test,tpu]' && pytest -m slow tests/plan/test_tpu.py -s [-k small]
"""

import re

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def compiled(plan, capsys):
    """Compiles a plan that must fit, replicate no operation, and attend with the TPU's kernel."""
    pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install 'tljax[tpu]'")

    def run(config, topology, *flags):
        code, out, error = plan(config, f"--config.topology={topology}", *flags)
        with capsys.disabled():
            print(out)
        assert code == 0, error or out
        assert "\nfits: " in out and "rematerialization" not in out and "Pallas kernels in" in out
        return out

    return run


def sft(tokens, rows, remat):
    shape = {"batch.tokens": tokens, "data.max_tokens": min(tokens, 16384), "batch.rows": rows, "model.remat": remat}
    return [f"--config.{field}={value}" for field, value in shape.items()]


def ppo(remat, **fields):
    return [f"--config.model.remat={remat}", *(f"--config.{name.replace('__', '.')}={n}" for name, n in fields.items())]


# CodeLLaMA on slices that people may train it on. Rows and remat are about what `--search` finds.
LISTED = {
    "7b v5e 4k": ("sft.py:7b", "v5e:4x4", sft(4096, 16, "full")),
    "7b v5e 8k": ("sft.py:7b", "v5e:4x4", sft(8192, 16, "attention")),
    "7b v4 4k": ("sft.py:7b", "v4:2x2x4", sft(4096, 16, "dots")),
    "7b v4 8k": ("sft.py:7b", "v4:2x2x4", sft(8192, 32, "attention")),
    "7b v6e 4k": ("sft.py:7b", "v6e:2x4", sft(4096, 8, "dots")),
    "7b v6e 8k": ("sft.py:7b", "v6e:2x4", sft(8192, 8, "attention")),
    "7b v5p 4k": ("sft.py:7b", "v5p:2x2x2", sft(4096, 32, "dots")),
    "7b v5p 8k": ("sft.py:7b", "v5p:2x2x2", sft(8192, 16, "dots")),
    "13b v5e": ("sft.py:13b", "v5e:4x8", sft(4096, 32, "full")),
    "34b v5p": ("sft.py:34b", "v5p:2x4x4", sft(4096, 64, "dots")),
    "34b v6e": ("sft.py:34b", "v6e:8x8", sft(4096, 64, "attention")),
    "70b v5p": ("sft.py:70b", "v5p:4x4x4", sft(4096, 256, "attention")),
    "7b long": ("sft.py:7b", "v5e:4x4", [*sft(32768, 4, "full"), "--config.mesh.sequence=4"]),
    "7b two slices": ("sft.py:7b", "v5e:4x4", [*sft(4096, 32, "full"), "--config.mesh.slices=2"]),
    "7b ppo": ("ppo.py:7b", "v5p:2x2x2", ppo("attention", ppo__accumulate=2)),
    "7b ppo lora": (
        "ppo.py:7b,lora",
        "v5e:2x2",
        ppo("attention", ppo__accumulate=16, rollout__rows=4, eval__rows=4, rollout__max_prompt_tokens=3584),
    ),
}


# The maximum of GB on a device. A bare step of the same size, without packing or clipping, took 10.8.
MAX_GB = {"7b v5e 4k": 10.8}


@pytest.mark.parametrize("name", LISTED)
def test_codellama_fits_and_gathers_weights_layer_by_layer(compiled, name):
    config, topology, flags = LISTED[name]
    out = compiled(config, topology, *flags)
    # The loop over the 32 layers gathers each layer's weights for the forward and for the backward pass.
    gathers = re.findall(r"inside the layer loop +([\d,]+) x all-gather", out)
    assert gathers and int(gathers[0].replace(",", "")) >= 2 * 32
    size = re.search(r"\nfits: .* takes ([\d.]+) GB", out)
    assert size and float(size[1]) <= MAX_GB.get(name, float("inf"))


def test_a_small_step_fits(compiled):
    out = compiled("sft.py", "v5e:2x2", "--config.batch.tokens=4096")
    assert "4 x TPU v5e (fsdp 4)" in out and "inside the layer loop" in out


def test_only_gradients_cross_between_two_slices(compiled):
    out = compiled("sft.py", "v5e:2x2", "--config.batch.tokens=4096", "--config.mesh.slices=2")
    assert "8 x TPU v5e (2 slices x fsdp 4)" in out and "all-reduce" in out
    between_slices = [line for line in out.splitlines() if "between slices" in line]
    assert between_slices and all("all-reduce" in line for line in between_slices) and "network" in out


def test_a_small_step_with_split_rows_fits(compiled):
    flags = ["--config.batch.tokens=16384", "--config.mesh.sequence=2", "--config.batch.rows=2"]
    assert "(fsdp 2 x sequence 2)" in compiled("sft.py", "v5e:2x2", *flags)
