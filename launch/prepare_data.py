"""Prepares trajectories as steps: python launch/prepare_data.py --config configs/data.py --config.out=steps.jsonl"""

from typing import Any

from tljax.core.command import main
from tljax.core.errors import InputError
from tljax.storage.remote import with_local_paths


def prepare(config: Any) -> None:
    # Imported here, so that Ctrl-C while the libraries load ends in one line too.
    from tljax.data.dialect import open_dialect
    from tljax.data.prepare import prepare_data
    from tljax.data.tokenizer import load_tokenizer
    from tljax.toolbox.embedded import BASE_PRESET, GENERATED_SOURCES, resolve_model_path, resolve_source_file
    from tljax.training.tokenizer_source import tokenizer_folder

    if not config.data.tokenizer and config.data.source not in GENERATED_SOURCES:
        raise InputError("config.data.tokenizer is empty; name the folder or the hub id of the model to train")
    model = resolve_model_path(config.data.tokenizer or BASE_PRESET)
    tokenizer = load_tokenizer(tokenizer_folder(model))
    dialect, tokenizer = open_dialect(config.data.dialect, config.data.chat_template, tokenizer, "data.chat_template")
    file = resolve_source_file(config.data.source, config.toolbox, config.data.cache)
    out = config.out
    with with_local_paths(config, reads=(), writes=("out",)):
        print(prepare_data(config.data, file, tokenizer, config.out, dialect))
    if out == config.out:
        print(f"written       {out}")


if __name__ == "__main__":
    main(prepare, about=__doc__ or "", required_fields=("data", "toolbox", "out"))
