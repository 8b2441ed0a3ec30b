"""What ships with tljax as data: the toolbox's trajectories and the base's text, as files made once a setting."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tljax.data.arrow import dataset_cache_folder
from tljax.storage.remote import ALL_FILES, is_remote, local_path
from tljax.toolbox import trajectories
from tljax.toolbox.invented import pretraining_rows

BASE_FOLDER = trajectories.BASE_FOLDER  # folder of the small base and its tokenizer
BASE_PRESET = "base"  # as model.path: the small base
CODE_ENDINGS = (".py", ".txt")  # endings of the files that decide what is generated
GENERATED_SOURCES = ("toolbox", "invented")  # as data.source; any other is a file or a data set


def resolve_model_path(path: str) -> str:
    """The folder or hub id that `path` means: itself, or that of the small base for SHIPPED."""
    return BASE_FOLDER if path == BASE_PRESET else path


def resolve_source_file(source: str, toolbox: Any, cache: str) -> str:
    """The file that `source` means: itself, a copy of an address's, or of SOURCES raw JSON by a `toolbox` block.

    That is written into `cache` ("": that of the datasets library) if new. Raises InputError for settings out of range
    and where the folder cannot be written.
    """
    if source not in GENERATED_SOURCES:
        return str(local_path(source, "config.data.source", ALL_FILES)) if is_remote(source) else source
    code = b"".join(
        path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*")) if path.suffix in CODE_ENDINGS
    )
    digest = hashlib.sha256(f"{source} {json.dumps(toolbox.to_dict())}".encode() + code).hexdigest()[:16]
    file = dataset_cache_folder(cache) / "tljax" / f"{source}-{digest}.json"
    if not file.is_file():
        trajectories.write_rows(file, generate_rows(source, toolbox))
    return str(file)


def generate_rows(source: str, toolbox: Any) -> Iterator[dict[str, Any]]:
    if source == "invented":
        return pretraining_rows(seed=toolbox.seed, copied=toolbox.copied, n=toolbox.trajectories)
    return trajectories.generate_trajectories(
        seed=toolbox.seed,
        n=toolbox.trajectories,
        error_share=toolbox.error_share,
        split="train",
        noise=toolbox.noise or None,
    )
