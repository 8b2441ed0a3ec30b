"""Loss, rank and most likely token at golden tokens equal those of torch on any mesh; argmax decides ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.analysis.token_scores import _of_logits, score_tokens
from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import make_mesh
from tljax.evaluate.toolbox_queries import held_out_queries
from tljax.model import llama
from tljax.toolbox.embedded import BASE_FOLDER
from tljax.training import model_source


@pytest.fixture(scope="module")
def pairs():
    """Prompts and golden replies of different lengths, one longer than a chunk of the head."""
    tokenizer, found = load_tokenizer(BASE_FOLDER), []
    for i, query in enumerate(held_out_queries("domain", 5, "mae")):
        reply = f" {query.golden.name}({'x' * 40 * i})"
        whole = tokenizer.encode(query.prompt + reply)[0]
        prompt = tokenizer.encode(query.prompt)[0]
        found.append((prompt, [*whole[len(prompt) :], tokenizer.eos_id]))
    assert len(found[-1][1]) > 64 > len(found[0][1])
    return found


def scored(pairs, mesh, rows):
    with jax.set_mesh(mesh):
        model = model_source.open_model(BASE_FOLDER, "")
        params = model_source.load_with_adapter(model, "float32", seed=0)
        found = {}
        options = llama.ForwardOptions("float32", attention="reference")
        for done in score_tokens(params, model.config, pairs, rows, options):
            found |= done
    return [found[i] for i in range(len(pairs))]


@pytest.mark.extended
def test_scores_equal_those_of_torch_on_any_mesh(pairs):
    torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed on Python 3.11 alone")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE_FOLDER, dtype="float32")
    one = scored(pairs, make_mesh(1, 1, 1, devices=jax.devices()[:1]), rows=8)
    spread = scored(pairs, make_mesh(1, 2, 2, 2), rows=8)
    for (prompt, reply), *both in zip(pairs, one, spread, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
        wanted = -logits.log_softmax(-1)[torch.arange(len(reply)), torch.tensor(reply)].numpy()
        own = logits[torch.arange(len(reply)), torch.tensor(reply)][:, None]
        for found in both:
            assert found.nll.shape == found.rank.shape == found.best.shape == (len(reply),)
            np.testing.assert_allclose(found.nll, wanted, atol=2e-4)
            # Logits that differ by rounding alone may change places.
            assert (found.rank >= 1 + (logits > own + 1e-3).sum(-1).numpy()).all()
            assert (found.rank <= (logits > own - 1e-3).sum(-1).numpy()).all()
            assert ((found.best == np.array(reply)) == (found.rank == 1)).all()
            np.testing.assert_array_equal(found.best, logits.argmax(-1).numpy())


def test_ties_are_broken_as_argmax_breaks_them():
    logits = np.array([[[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]], [[0.0, 0.0, 5.0, 1.0], [4.0, 3.0, 2.0, 1.0]]])
    targets = np.array([[2, 3], [2, 1]], np.int32)
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        found = _of_logits(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
    assert found["rank"].tolist() == [[2, 4], [1, 2]] and found["best"].tolist() == [[1, 0], [2, 0]]
    chances = np.take_along_axis(np.exp(logits), targets[..., None], -1)[..., 0] / np.exp(logits).sum(-1)
    np.testing.assert_allclose(found["nll"], -np.log(chances), rtol=1e-5)
