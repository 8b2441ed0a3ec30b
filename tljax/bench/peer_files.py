"""The files through which a peer gets the same model, batches and prompts as tljax; reading them needs no JAX."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tljax.storage.atomic import write_json

BATCHES, MODEL, PROMPTS, EXPORT, REPLIES = "batches.npz", "model.json", "prompts.json", "export.json", "replies.json"


def write_batches(work: Path, batches: Sequence[dict[str, np.ndarray]]) -> None:
    """Writes the arrays of every update, each [rows, tokens]."""
    arrays = {f"{name} {n}": array for n, batch in enumerate(batches) for name, array in batch.items()}
    np.savez(work / BATCHES, allow_pickle=False, **arrays)


def read_arrays(work: Path, n: int) -> dict[str, np.ndarray]:
    """Returns the arrays of update `n`, from 0, by name."""
    with np.load(work / BATCHES) as file:
        return {name.split()[0]: file[name] for name in file.files if name.split()[1] == str(n)}


def write_model(work: Path, folder: str, gguf: str) -> None:
    """Names the Hugging Face folder of the model, and the GGUF file that it came from, if any."""
    write_json(work / MODEL, {"folder": folder, "gguf": gguf})


def read_model(work: Path) -> str:
    """Returns the Hugging Face folder of the model."""
    return json.loads((work / MODEL).read_text(encoding="utf-8"))["folder"]


def read_gguf(work: Path) -> str:
    """Returns the GGUF file of the model, "" if it came from none."""
    return json.loads((work / MODEL).read_text(encoding="utf-8"))["gguf"]


def write_prompts(work: Path, prompts: dict[str, Any]) -> None:
    """Writes the prompts' tokens and what the replies are made with."""
    write_json(work / PROMPTS, prompts)


def read_prompts(work: Path) -> dict[str, Any]:
    return json.loads((work / PROMPTS).read_text(encoding="utf-8"))


def write_export_dtype(work: Path, dtype: str) -> None:
    """Writes the dtype of the weights that tljax exports."""
    write_json(work / EXPORT, dtype)


def read_export_dtype(work: Path) -> str:
    return json.loads((work / EXPORT).read_text(encoding="utf-8"))


def write_replies(work: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows {"input_ids", "completion_mask"}: prompt, reply and end token; 1 for the last two and 0 before."""
    write_json(work / REPLIES, list(rows))


def read_replies(work: Path) -> list[dict[str, Any]]:
    return json.loads((work / REPLIES).read_text(encoding="utf-8"))
