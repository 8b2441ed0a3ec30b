"""The embedded default: the toolbox's trajectories as a file, made once for the same settings."""

import hashlib
import json
from pathlib import Path

from ml_collections import ConfigDict

from tljax.data.arrow import cache_folder
from tljax.toolbox import trajectories

BASE = trajectories.BASE


def toolbox_file(toolbox: ConfigDict, cache: str) -> Path:
    """The raw JSON file of a config's `toolbox` block, written into `cache` ("": that of the datasets library) if new.

    Raises InputError for settings out of range and where the folder cannot be written.
    """
    settings = {
        "seed": toolbox.seed,
        "n": toolbox.trajectories,
        "error_share": toolbox.error_share,
        "split": "train",
        "noise": toolbox.noise or None,
    }
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    digest = hashlib.sha256(json.dumps(settings).encode() + code).hexdigest()[:16]
    file = cache_folder(cache) / "tljax" / f"toolbox-{digest}.json"
    if not file.is_file():
        trajectories.write_raw(file, **settings)
    return file
