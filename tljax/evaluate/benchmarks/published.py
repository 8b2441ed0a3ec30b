"""TS, PI and CF in percent that the paper (arXiv 2412.15495) reports, from the tables in its repository.

The ablation has no figures for BFCL. The paper does not say how replies were generated and compared: its figures for
RoTBench are those of RoTBench's own script, and the others agree best with policy `any`.
"""

from __future__ import annotations

from typing import NamedTuple

from tljax.evaluate.benchmarks.sets import EvalSet


class PublishedFigures(NamedTuple):
    """The TS, PI and CF of a model in percent."""

    model: str
    figures: tuple[float, float, float]


_MODELS = (
    "TL-CodeLLaMA-2 7B",
    "GPT-4-turbo",
    "GPT-4o",
    "GPT-3.5-turbo",
    "Qwen-2.5-Instruct 7B",
    "LLaMA-3.1-Instruct 8B",
    "Qwen-2-Instruct 7B",
    "ChatGLM-4-chat 9B",
    "NexusRaven-2 13B",
    "ToolLLaMA-2 7B",
)
_ABLATION = ("standard SFT", "MAE", "PKT", "IRM", "MAE+PKT", "MAE+IRM", "PKT+IRM")
_FIGURES = {
    "toolalpaca": (
        (87.72, 78.07, 57.89),
        (74.56, 73.68, 42.11),
        (76.32, 70.18, 42.11),
        (72.81, 54.39, 39.47),
        (92.11, 68.42, 44.74),
        (84.21, 59.65, 42.98),
        (86.84, 68.42, 43.86),
        (73.68, 68.42, 38.60),
        (82.46, 48.25, 37.72),
        (75.56, 61.40, 37.72),
    ),
    "rotbench": (
        (83.81, 54.29, 42.86),
        (82.86, 69.52, 53.33),
        (74.29, 62.86, 50.48),
        (74.29, 61.90, 48.57),
        (80.00, 32.38, 15.24),
        (62.86, 17.14, 8.57),
        (74.29, 47.62, 35.24),
        (67.62, 53.33, 37.14),
        (70.48, 56.19, 37.14),
        (70.48, 43.81, 25.71),
    ),
    "bfcl": (
        (96.25, 93.75, 88.33),
        (97.50, 93.75, 76.25),
        (96.67, 93.75, 74.58),
        (99.17, 95.83, 75.83),
        (100.00, 95.42, 87.92),
        (63.75, 59.58, 34.58),
        (98.33, 95.42, 85.00),
        (95.42, 93.33, 86.67),
        (97.08, 94.17, 75.83),
        (87.08, 83.75, 56.67),
    ),
}
_ABLATION_FIGURES = {
    "toolalpaca": (
        (74.56, 70.18, 42.98),
        (73.68, 64.91, 43.68),
        (77.78, 71.72, 43.86),
        (88.60, 84.21, 57.02),
        (73.68, 64.91, 43.86),
        (87.72, 78.95, 57.89),
        (86.84, 79.82, 57.02),
    ),
    "rotbench": (
        (76.19, 55.24, 38.10),
        (78.10, 57.14, 40.95),
        (82.86, 63.81, 48.57),
        (79.05, 59.05, 44.76),
        (80.95, 56.19, 40.00),
        (82.86, 56.19, 45.71),
        (82.86, 63.81, 48.57),
    ),
}
# The file and number of rows behind the figures: RoTBench's first turn without noise, ToolAlpaca's real APIs, BFCL's
# executable rows.
_ROWS = {"rotbench": ("clean", 105), "toolalpaca": ("eval_real", 114), "bfcl": ("bfcl_exec", 240)}


def published_figures(eval_set: EvalSet) -> tuple[int, list[PublishedFigures]]:
    """Returns the number of rows behind the paper's figures for a set, and the figures; (0, []) if it has none."""
    stem, rows = _ROWS.get(eval_set.benchmark, ("", 0))
    if eval_set.name.rpartition("/")[2] != stem or eval_set.rows != rows:
        return 0, []
    models = list(zip(_MODELS, _FIGURES[eval_set.benchmark], strict=True))
    ablation = list(zip(_ABLATION, _ABLATION_FIGURES.get(eval_set.benchmark, ()), strict=False))
    return rows, [PublishedFigures(model, figures) for model, figures in [models[0], *ablation, *models[1:]]]
