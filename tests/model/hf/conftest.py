"""Fixtures of the tests of imports and exports."""

import warnings

import jax.numpy as jnp
import pytest

from tljax.core.errors import InputError
from tljax.model.hf import config as hf_config
from tljax.model.hf import load as hf_load


@pytest.fixture
def refused(one_device):
    """The one line with which loading a folder is refused."""

    def load(folder):
        with pytest.raises(InputError) as error:
            hf_load.load_params(folder, hf_config.read_config(folder), jnp.float32)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
        return str(error.value)

    return load


@pytest.fixture
def gguf_cache(tmp_path, monkeypatch):
    """The folder in which config and tokenizer of an opened file are written."""
    monkeypatch.setattr("tljax.model.hf.gguf_folder.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def llama_cpp():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("llama_cpp", reason="llama-cpp-python is absent: pip install -e '.[llamacpp]'")
