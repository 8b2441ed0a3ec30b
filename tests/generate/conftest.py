"""A counter of the steps of decoding, which tests of several files use."""

import jax
import pytest

from tljax.generate import decode
from tljax.generate.sampling import sample_tokens


@pytest.fixture
def decoding_steps(monkeypatch):
    """decoding_steps() -> the number of steps of decoding since the last call, or since the test began."""
    steps = []

    def counted(logits, *rest):
        jax.debug.callback(lambda: steps.append("a step"))
        return sample_tokens(logits, *rest)

    def count() -> int:
        jax.effects_barrier()
        number = len(steps)
        steps.clear()
        return number

    monkeypatch.setattr(decode, "sample_tokens", counted)
    jax.clear_caches()  # programs that were traced before do not count
    yield count
    jax.clear_caches()
