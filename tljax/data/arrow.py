"""Arrow files on disk, which are built once for each key and memory-mapped after that."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import datasets.config
from datasets.exceptions import DatasetGenerationError

from tljax.core.errors import InputError
from tljax.storage.remote import is_remote


def dataset_cache_folder(cache: str) -> Path:
    """Returns the folder that a config's data.cache names; "" is the cache of the datasets library.

    Raises InputError for an address such as gs://, since a memory-mapped file must be local.
    """
    if is_remote(cache):
        raise InputError(f"config.data.cache is {cache!r}; prepared rows are mapped into memory: give a folder here")
    return Path(cache).expanduser() if cache else Path(datasets.config.HF_DATASETS_CACHE)


def build_dataset(
    generate: Callable[..., Iterator[dict[str, Any]]],
    features: datasets.Features,
    key: str,
    cache: str,
    **arguments: Any,
) -> datasets.Dataset:
    """Returns the examples that `generate(**arguments)` yields as a dataset.

    `generate` is called only if the cache holds no dataset under `key`. Raises InputError as `generate` does, and if
    the cache cannot be written.
    """
    folder = dataset_cache_folder(cache)
    try:
        dataset = without_progress_bars(
            lambda: datasets.Dataset.from_generator(
                generate,
                features=features,
                cache_dir=str(folder),
                gen_kwargs=arguments,
                fingerprint=key,
                writer_batch_size=100,
            )
        )
    except (DatasetGenerationError, OSError) as error:
        # `datasets` wraps the errors of `generate` and of the disk, sometimes more than once.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError):
                raise InputError(str(cause)) from None
            if isinstance(cause, OSError):
                raise InputError(
                    f"folder {folder}: the cache cannot be written ({cause.strerror or cause}); make room or set "
                    "config.data.cache to another folder"
                ) from None
            cause = cause.__cause__ or cause.__context__
        raise
    assert isinstance(dataset, datasets.Dataset)
    return dataset


def without_progress_bars(load: Callable[[], Any]) -> Any:
    """Returns the result of `load()`, which shows no progress bars, and no line for each retry of a failed download."""
    were_disabled = datasets.are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "fsspec")]
    levels = [logger.level for logger in loggers]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        return load()
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not were_disabled:
            datasets.enable_progress_bars()
