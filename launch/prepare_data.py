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
    from tljax.toolbox.embedded import BASE_FOLDER, GENERATED_SOURCES, resolve_source_file

    if not config.data.tokenizer and config.data.source not in GENERATED_SOURCES:
        raise InputError("config.data.tokenizer is empty; name the folder or the hub id of the model to train")
    tokenizer = load_tokenizer(config.data.tokenizer or str(BASE_FOLDER))
    dialect, tokenizer = open_dialect(config.data.dialect, config.data.chat_template, tokenizer, "data.chat_template")
    file = resolve_source_file(config.data.source, config.toolbox, config.data.cache)
    out = config.out
    with with_local_paths(config, reads=(), writes=("out",)):
        print(prepare_data(config.data, file, tokenizer, config.out, dialect))
    if out == config.out:
        print(f"written       {out}")


if __name__ == "__main__":
    main(prepare, about=__doc__ or "", required_fields=("data", "toolbox", "out"))
