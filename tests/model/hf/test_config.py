"""config.json: every field is read, and what would change the result and is not supported is refused by name."""

import math

import pytest

from tljax.core.errors import InputError
from tljax.model import llama
from tljax.model.hf import config as hf_config
from tljax.model.hf.config import parse_config

REFUSED = {
    "architectures": ["LlamaForSequenceClassification"],
    "hidden_act": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
    "partial_rotary_factor": 0.5,
    "quantization_config": {"quant_method": "gptq"},
    "auto_map": {"AutoModelForCausalLM": "modeling.Model"},
    "rope_scaling": {"type": "yarn", "factor": 2.0},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "num_hidden_layers": "2",
    "rms_norm_eps": None,
    "hidden_size": 0,
    "num_key_value_heads": 3,
}


def test_every_field_of_the_config_is_read(checkpoints):
    c = hf_config.read_config(checkpoints("llama3")[0])
    assert (c.num_layers, c.d_model, c.num_heads, c.num_kv_heads, c.head_dim, c.d_ff) == (3, 32, 4, 2, 16, 64)
    assert (c.vocab_size, c.rope_theta, c.norm_eps, c.max_tokens) == (256, 5e5, 1e-5, 128)
    assert c.rope_scaling == llama.RopeScaling(
        kind="llama3", factor=8, low_freq_factor=1, high_freq_factor=4, original_max_tokens=64
    )


@pytest.mark.parametrize("field", REFUSED)
def test_config_fields_that_would_change_the_result_are_refused_by_name(field, small_config):
    with pytest.raises(InputError, match=rf"^in/config.json: .*\b{field}\b") as error:
        parse(small_config | {field: REFUSED[field]})
    assert "\n" not in str(error.value)


def test_config_fields_that_change_nothing_are_read_over(small_config):
    plain = parse(small_config)
    harmless = dict(pretraining_tp=2, use_cache=False, attention_bias=False, rope_scaling=None, new_field="x")
    assert parse(small_config | harmless) == plain
    linear = parse(small_config | {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e6})
    assert (linear.rope_theta, linear.rope_scaling) == (1e6, llama.RopeScaling(kind="linear", factor=2.0))
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    scaling = parse(small_config | {"rope_scaling": yarn}).rope_scaling
    assert scaling is not None and (scaling.beta_fast, scaling.beta_slow, scaling.truncate) == (32.0, 1.0, True)
    assert scaling.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    by_type = {name: value for name, value in small_config.items() if name != "architectures"}
    assert parse(by_type) == plain


def test_sliding_windows_bound_the_rows(small_config):
    mistral = small_config | dict(
        architectures=["MistralForCausalLM"], num_key_value_heads=2, max_position_embeddings=8192
    )
    assert parse(mistral | {"sliding_window": None}).max_tokens == 8192
    assert parse(mistral).max_tokens == 4096
    c = parse(mistral | {"sliding_window": 1024})
    llama.check_length(c, 1024)
    with pytest.raises(InputError, match=r"data.max_tokens is 1025.*sliding_window.*1024"):
        llama.check_length(c, 1025)
    qwen = small_config | dict(architectures=["Qwen2ForCausalLM"], num_key_value_heads=2, sliding_window=32)
    assert parse(qwen).max_tokens == 64
    assert parse(qwen | {"use_sliding_window": True}).max_tokens == 32


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        (dict(max_window_layers=0), 32),
        (dict(max_window_layers=1), 32),
        # Qwen 2 applies the window from layer max_window_layers on, and this model has two layers.
        (dict(max_window_layers=2), 64),
        (dict(max_window_layers=28), 64),
        (dict(layer_types=["full_attention"] * 2), 64),
        (dict(layer_types=["full_attention"] * 2, max_window_layers=0), 64),
        (dict(layer_types=["full_attention", "sliding_attention"], max_window_layers=2), 32),
        (dict(max_window_layers=0, sliding_window=None), 64),
    ],
)
def test_a_qwen_window_that_no_layer_has_bounds_nothing(small_config, fields, max_tokens):
    qwen = small_config | dict(architectures=["Qwen2ForCausalLM"], num_key_value_heads=2, sliding_window=32)
    assert parse(qwen | {"use_sliding_window": True} | fields).max_tokens == max_tokens


@pytest.mark.parametrize(
    ("field", "value"),
    [("layer_types", ["full_attention"]), ("layer_types", ["full_attention", "chunked"]), ("max_window_layers", -1)],
)
def test_layers_of_an_unknown_kind_are_refused(small_config, field, value):
    qwen = small_config | dict(architectures=["Qwen2ForCausalLM"], num_key_value_heads=2, use_sliding_window=True)
    with pytest.raises(InputError, match=rf"^in/config.json: {field} is .*must be"):
        parse(qwen | {field: value})


def parse(config):
    return parse_config(config, "in/config.json")
