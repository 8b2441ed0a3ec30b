"""Model folders given by a path, an address or a name on the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from tljax.core.errors import InputError
from tljax.storage.remote import fetch, is_remote


def local_or_hub(path: str, field: str, patterns: Sequence[str]) -> Path:
    """Returns the folder `path` itself, or a local copy of the folder at an address or of a model on the hub.

    field: the setting that holds the path, for messages. patterns: the files to copy, such as "*.json". Raises
    InputError if `path` is none of the three or cannot be copied.
    """
    if is_remote(path):
        copy = fetch(path, field, patterns)
        if not copy.is_dir():
            raise InputError(f"{field} {path}: is a file; give a folder")
        return copy
    local = Path(path).expanduser()
    if path and local.is_dir():
        return local
    if path and local.exists():
        raise InputError(f"{field} {path}: is a file; give a folder")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise InputError(f"{field} {path!r}: no such folder; give a folder with the model's files, or a hub id")
    # Slow to import, and only a hub id needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(path, allow_patterns=list(patterns)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) < 160 else reason[:160].rpartition(" ")[0] + " ..."
        raise InputError(
            f"{field} {path}: neither a folder here nor a model that the Hugging Face hub could deliver "
            f"({type(error).__name__}: {reason}); check the name, the network, HF_HUB_OFFLINE and HF_TOKEN"
        ) from None
