"""Replies as BFCL's official result files, so that its own checker can score the same predictions.

Layout: DIR/BFCL_v3_CATEGORY_result.json with one JSON line {"id", "result"} for each row, where DIR is the folder of a
model in the result folder of `bfcl evaluate`. A result is the text of Python calls, "[f(x=1), g(y='a')]", as BFCL's
handlers of prompted models read it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.calls.compare import as_tool_list
from tljax.core.errors import InputError
from tljax.evaluate.benchmarks.bfcl import category_of
from tljax.evaluate.benchmarks.noisy import NOISE_MARK
from tljax.evaluate.benchmarks.predictions import Replies
from tljax.evaluate.benchmarks.sets import EvalSet
from tljax.storage.atomic import write_jsonl

VERSION = "BFCL_v3"
_RESULT = re.compile(rf"\.?{VERSION}_\w+_result\.json(\.tmp)?")  # also the temporary file of a killed run


def check_new_folder(folder: Path, begun: bool = False) -> None:
    """Raises InputError if the folder is not empty; after a stopped run (`begun`) it may hold result files."""
    paths = list(folder.iterdir()) if folder.is_dir() else []
    results = [path for path in paths if begun and _RESULT.fullmatch(path.name)]
    if folder.is_file() or len(results) < len(paths):
        raise InputError(f"config.bfcl_out {folder} is there already and not empty; name a new folder")


def write_bfcl_results(folder: Path, sets: Sequence[EvalSet], replies: Mapping[str, Replies]) -> list[Path]:
    """Writes a file for every category of BFCL's sets that have replies; returns their paths."""
    lines: dict[str, dict[str, str]] = {}
    for eval_set in sets:
        if eval_set.benchmark == "bfcl" and eval_set.name in replies and NOISE_MARK not in eval_set.name:
            of_set = replies[eval_set.name]
            # The official checker counts the rows, so the skipped ones are written too.
            texts = {row.index: (row.id, of_set.get(row.index) or "") for row in eval_set.skipped}
            texts |= {row.index: (row.id, result_text(of_set[row.index], row.tools)) for row in eval_set.examples}
            for _, (identity, text) in sorted(texts.items()):
                lines.setdefault(category_of({"id": identity}), {}).setdefault(identity, text)
    files = {category: folder / f"{VERSION}_{category}_result.json" for category in lines}
    folder.mkdir(parents=True, exist_ok=True)
    for category, file in files.items():
        write_jsonl(file, ({"id": identity, "result": text} for identity, text in lines[category].items()))
    return list(files.values())


def result_text(reply: str | None, tools: Sequence[Any]) -> str:
    """Returns a reply as the text of Python calls; a reply without calls, or a malformed one, stays unchanged."""
    if reply is None:
        return ""
    parsed = as_tool_list(tools).parse(reply)
    if parsed.issue is not None:
        return reply
    calls = (
        f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"
        for call in parsed.calls
    )
    return f"[{', '.join(calls)}]"
