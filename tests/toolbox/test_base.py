"""The shipped base: its size, its model card, and its equality with torch."""

import hashlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import make_mesh
from tljax.evaluate import scored_replies
from tljax.evaluate.score import summarize
from tljax.evaluate.toolbox_queries import held_out_sets
from tljax.generate.sampling import SampleOptions
from tljax.model import cost, llama
from tljax.toolbox.embedded import BASE_FOLDER
from tljax.training import model_source

FOLDER = Path(BASE_FOLDER)
N = 12


@pytest.fixture(scope="module")
def base():
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        model = model_source.open_model(BASE_FOLDER, "")
        yield model.config, model_source.load_params(model, jnp.float32, 0), load_tokenizer(BASE_FOLDER)


@pytest.fixture(scope="module")
def scored(base):
    """The held-out sets, and the base's replies to them."""
    sets = held_out_sets(N, "mae")
    config, params, tokenizer = base
    options = SampleOptions.greedy(ConfigDict({"compute_dtype": "float32", "attention": "auto"}), 64, tokenizer.eos_id)
    return sets, scored_replies.score_replies(params, config, tokenizer, sets, options, rows=2 * N)


@pytest.fixture(scope="module")
def torch_model():
    pytest.importorskip("torch", reason="torch is the oracle; it is installed on Python 3.11 alone")
    import torch
    from transformers import AutoModelForCausalLM

    # More threads wait for each other in a busy loop: so small a model keeps none of them occupied.
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype="float32")


def test_the_base_is_complete_and_smaller_than_4_mb(base):
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(sizes.values()) < 4_000_000, sizes
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= sizes.keys()
    config, params, tokenizer = base
    assert not config.tie_embeddings and config.architecture == "LlamaForCausalLM"
    assert config.vocab_size == tokenizer.vocab_size
    assert sum(x.size for x in jax.tree.leaves(params)) == cost.count_weights(config)


def test_the_model_card_states_the_hash_of_the_weights():
    card = (FOLDER / "README.md").read_text()
    (digest,) = re.findall(r"sha256[^0-9a-f]+([0-9a-f]{64})", card)
    assert digest == hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert "python launch/train.py --config configs/base.py" in card


def test_scores_agree_with_the_model_card(scored):
    """The card's scores lie in the 95 % intervals of a few queries, at twice their width."""
    card = (FOLDER / "README.md").read_text()
    for name, members in scored_replies.scores_by_set(scored[1]).items():
        for metric, share in summarize(members).scores.items():
            (stated,) = re.findall(rf"\| {name} \|.*?{metric} ([0-9.]+)", card)
            assert 2 * share.low - share.percent <= float(stated) <= 2 * share.high - share.percent, (name, metric)


def test_logits_equal_those_of_torch(base, torch_model):
    import torch

    config, params, tokenizer = base
    ids = tokenizer.encode(held_out_sets(1, "mae")["domain"][0].prompt)[0]
    with torch.no_grad():
        theirs = torch_model(torch.tensor([ids])).logits[0].numpy()
    tokens = jnp.asarray([ids], jnp.int32)
    positions = jnp.arange(len(ids), dtype=jnp.int32)[None]
    options = llama.ForwardOptions("float32")
    hidden = llama.forward(params, config, tokens, positions, jnp.ones_like(tokens), options)
    np.testing.assert_allclose(np.asarray(llama.logits(params, config, hidden))[0], theirs, atol=2e-4)


def test_greedy_replies_equal_those_of_torch(base, torch_model, scored):
    import torch

    _config, _params, tokenizer = base
    sets, replies = scored
    for name, members in sets.items():
        for query, ours in list(zip(members, replies[name], strict=True))[:3]:
            ids = tokenizer.encode(query.prompt)[0]
            with torch.inference_mode():
                theirs = torch_model.generate(
                    torch.tensor([ids]), do_sample=False, max_new_tokens=64, pad_token_id=tokenizer.eos_id
                )
            reply = theirs[0, len(ids) :].tolist()
            reply = reply[: reply.index(tokenizer.eos_id)] if tokenizer.eos_id in reply else reply
            assert tokenizer.decode(reply).strip() == ours.text
