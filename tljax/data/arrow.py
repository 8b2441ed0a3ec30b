"""Arrow files on disk: built once for a key, memory-mapped after that, without the chatter of `datasets`."""

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
    """The folder that a config's data.cache names; "" is the cache of the datasets library."""
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
    """What `generate(**arguments)` yields, as a data set; generated only where the cache holds none under `key`.

    Raises InputError as `generate` does, and where the cache cannot be written.
    """
    folder = dataset_cache_folder(cache)
    try:
        table = without_progress_bars(
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
    assert isinstance(table, datasets.Dataset)
    return table


def without_progress_bars(load: Callable[[], Any]) -> Any:
    """The result of `load()` without progress bars, and without a line for every retry of a hub out of reach."""
    silent = datasets.are_progress_bars_disabled()
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
        if not silent:
            datasets.enable_progress_bars()
