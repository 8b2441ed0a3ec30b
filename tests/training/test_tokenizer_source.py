"""The tokenizer of a model that is named by a folder, a run's folder or a hub id."""

import shutil

import pytest

from tljax.core.errors import InputError
from tljax.data.tokenizer import load_tokenizer
from tljax.toolbox.embedded import BASE_FOLDER
from tljax.training.tokenizer_source import tokenizer_folder


def test_a_run_names_the_tokenizer_that_it_trained_with(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copytree(BASE_FOLDER, tmp_path / "run" / "model")
    folder = tokenizer_folder(str(tmp_path / "run"))
    assert load_tokenizer(folder).fingerprint == load_tokenizer(str(BASE_FOLDER)).fingerprint


def test_a_folder_and_a_hub_id_stay_as_they_are():
    assert tokenizer_folder(str(BASE_FOLDER)) == str(BASE_FOLDER)
    assert tokenizer_folder("org/name") == "org/name"


def test_a_file_that_does_not_exist_is_named():
    with pytest.raises(InputError, match=r"absent\.gguf: there is no such file"):
        tokenizer_folder("absent.gguf")
