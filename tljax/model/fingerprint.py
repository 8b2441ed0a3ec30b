"""What tells one model's weights from another's, without reading gigabytes."""

import hashlib

from tljax.model import hf_adapter
from tljax.model.source import Model

WHOLE = 2**22  # bytes; a larger file is read in BLOCKS blocks of BLOCK bytes, evenly spread, first and last included
BLOCKS, BLOCK = 64, 2**16
WEIGHTS = (".safetensors", ".bin")


def fingerprint(model: Model) -> str:
    """A hash of config.json, and of names, sizes and samples of the files that hold the weights.

    Training changes every block of a file, so that two checkpoints differ in it; a copy in another place does not. Of
    an adapter it is that of its own files and of its base.
    """
    assert model.folder is not None
    home = model.adapter or model.folder
    if model.checkpoint is None:
        root = home
        files = sorted(path for path in root.iterdir() if path.suffix in WEIGHTS)
    else:
        run, step = model.checkpoint
        root = run / "checkpoints" / str(step)
        files = sorted(path for path in root.rglob("*") if path.is_file())
    name = "config.json" if model.adapter is None else hf_adapter.CONFIG
    digest = hashlib.sha256((home / name).read_bytes())
    if model.base is not None:
        digest.update(fingerprint(model.base).encode())
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root)} {size}\n".encode())
        with open(path, "rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for i in range(BLOCKS):
                file.seek(i * (size - BLOCK) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
