"""Fixtures: checkpoints of small models, random ones by torch transformers and one written by hand."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tljax.toolbox.embedded import BASE_FOLDER

BASE = dict(
    vocab_size=256,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    initializer_range=0.15,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=5e5,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32)
FACTORS = [1.0, 1.25, 2.0, 4.5]
LONGROPE = dict(rope_type="longrope", rope_theta=1e4, short_factor=FACTORS, long_factor=FACTORS, factor=1.0)
# name -> (class prefix in transformers, fields that differ from BASE)
CASES = {
    "mha": ("Llama", dict(rope_parameters=dict(rope_type="default", rope_theta=1e4))),
    "codellama": ("Llama", dict(vocab_size=32016, rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "gqa": ("Llama", dict(num_key_value_heads=2, head_dim=16)),
    "mqa": ("Llama", dict(num_key_value_heads=1)),
    "llama3": ("Llama", dict(num_key_value_heads=2, head_dim=16, rope_parameters=LLAMA3)),
    "llama3_2": ("Llama", dict(head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3 | dict(factor=32.0))),
    "linear": ("Llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0))),
    "yarn": ("Qwen2", dict(num_key_value_heads=2, rope_parameters=YARN)),
    "factors": ("Llama", dict(rope_parameters=LONGROPE | dict(attention_factor=1.0))),
    "tied": ("Llama", dict(tie_word_embeddings=True)),
    "gguf": ("Llama", dict(vocab_size=320, num_key_value_heads=2, hidden_size=64)),
    "gguf_tied": ("Llama", dict(vocab_size=320, tie_word_embeddings=True)),
    "gguf_qwen2": ("Qwen2", dict(vocab_size=320, num_key_value_heads=2)),
    "gguf_yarn": ("Qwen2", dict(vocab_size=320, num_key_value_heads=2, rope_parameters=YARN)),
    "gguf_llama3": ("Llama", dict(vocab_size=320, num_key_value_heads=2, head_dim=16, rope_parameters=LLAMA3)),
    "qwen2": ("Qwen2", dict(num_key_value_heads=2)),
    "qwen3": ("Qwen3", dict(num_key_value_heads=2, head_dim=16, tie_word_embeddings=True)),
    "gguf_qwen3": ("Qwen3", dict(vocab_size=320, num_key_value_heads=2, head_dim=128)),
    "mistral": ("Mistral", dict(num_key_value_heads=2, sliding_window=None)),
}
SMALL = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    hidden_act="silu",
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    torch_dtype="bfloat16",
)


@pytest.fixture
def one_device():
    import jax

    from tljax.distributed.mesh import make_mesh

    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        yield


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tokenizer")
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in ("<unk>", "<s>", "</s>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = dict(
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token="<s>",
        eos_token={"__type": "AddedToken", "content": "</s>"},
        unk_token="<unk>",
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip(
        "torch", reason="torch is the oracle of these tests; it is installed on Python 3.11 alone"
    )


@pytest.fixture(scope="session")
def checkpoints(torch, tmp_path_factory):
    """name -> (folder, torch model) of a random checkpoint of that case, made once."""
    import transformers

    made = {}

    def make(name):
        if name not in made:
            prefix, fields = CASES[name]
            torch.manual_seed(0)
            config = getattr(transformers, f"{prefix}Config")(**(BASE | fields))
            model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval()
            with torch.no_grad():  # norms and biases start at 1 and 0, where a lost one would not show
                for weight in model.parameters():
                    if weight.ndim == 1:
                        weight.add_(0.3 * torch.randn(weight.shape))
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            made[name] = folder, model
        return made[name]

    return make


@pytest.fixture(scope="session")
def torch_logits(torch):
    """(torch model, tokens) -> float32 logits [B, T, V]."""

    def run(model, tokens):
        with torch.no_grad():
            return model(torch.tensor(tokens, dtype=torch.long)).logits.float().numpy()

    return run


@pytest.fixture(scope="session")
def small_config():
    """config.json of the checkpoint written by hand."""
    return SMALL


@pytest.fixture(scope="session")
def small_tensors():
    """Makes that checkpoint's tensors."""
    return draw_small_tensors


@pytest.fixture(scope="session")
def write_checkpoint():
    """Writes a checkpoint folder: (folder, config.json, file name -> tensors, index)."""
    return write_by_hand


def draw_small_tensors(dtype=ml_dtypes.bfloat16):
    """A checkpoint for SMALL, its names and shapes written out: nothing here comes from the code under test."""
    rng = np.random.default_rng(1)
    shapes = {"model.embed_tokens.weight": (64, 16), "model.norm.weight": (16,), "lm_head.weight": (64, 16)}
    for layer in ("model.layers.0.", "model.layers.1."):
        shapes |= {f"{layer}self_attn.{x}_proj.weight": (16, 16) for x in "qkvo"}
        shapes |= {f"{layer}mlp.{x}_proj.weight": (24, 16) for x in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj.weight": (16, 24)}
        shapes |= {f"{layer}{x}_layernorm.weight": (16,) for x in ("input", "post_attention")}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def write_by_hand(folder, config=None, files=None, index=None):
    """files: name -> tensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL if config is None else config))
    for name, tensors in ({"model.safetensors": draw_small_tensors()} if files is None else files).items():
        save_file(tensors, folder / name, {"format": "pt"})
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.fixture(scope="session")
def one_layer_base(tmp_path_factory) -> Path:
    """The folder of the small base with its first layer alone, which compiles in a fraction of the time."""
    folder = Path(shutil.copytree(BASE_FOLDER, tmp_path_factory.mktemp("base") / "one_layer"))
    weights = load_file(folder / "model.safetensors")
    first = {name: x for name, x in weights.items() if ".layers." not in name or ".layers.0." in name}
    save_file(first, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    return folder
