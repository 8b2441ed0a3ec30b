"""Folders by path or by their name on the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from tljax.core.errors import InputError
from tljax.storage.remote import fetch, is_remote


def local_or_hub(path: str, what: str, patterns: Sequence[str]) -> Path:
    """The folder `path`, or a copy here of that at an address, or of the hub's model of that name; files of `patterns`.

    `what` names the setting in the InputError that a path gets which is neither.
    """
    if is_remote(path):
        copy = fetch(path, what, patterns)
        if not copy.is_dir():
            raise InputError(f"{what} {path}: is a file; give a folder")
        return copy
    local = Path(path).expanduser()
    if path and local.is_dir():
        return local
    if path and local.exists():
        raise InputError(f"{what} {path}: is a file; give a folder")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise InputError(f"{what} {path!r}: no such folder; give a folder with the model's files, or a hub id")
    # Slow to import, and only a hub id needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(path, allow_patterns=list(patterns)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) < 160 else reason[:160].rpartition(" ")[0] + " ..."
        raise InputError(
            f"{what} {path}: neither a folder here nor a model that the Hugging Face hub could deliver "
            f"({type(error).__name__}: {reason}); check the name, the network, HF_HUB_OFFLINE and HF_TOKEN"
        ) from None
