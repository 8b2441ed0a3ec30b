"""The command: a config -> trajectories, and a model if it names one -> tables, plots and CSV files in a folder."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from tljax.analysis import plots
from tljax.analysis.corrections import (
    ComparedReply,
    ReplyCounts,
    StepReplies,
    compare_reply,
    corrected_prompt,
    first_wrong_position,
)
from tljax.analysis.feedback_errors import FeedbackCounts, find_step_errors
from tljax.analysis.golden_steps import (
    NO_ROOM,
    TOO_LONG,
    GoldenStep,
    StepIndex,
    add_steps,
    candidates,
    choose_steps,
    golden_steps,
)
from tljax.analysis.report import CsvFile, new_report_folder, write_report
from tljax.analysis.tables import Table
from tljax.analysis.token_losses import TokenCounts
from tljax.analysis.token_scores import TokenScores, score_tokens
from tljax.core.config import check_choices, check_range, get_field
from tljax.core.errors import InputError, explain_out_of_memory
from tljax.data.check import check_data
from tljax.data.dialect import TEMPLATE
from tljax.data.mae import check_rule, load_rule
from tljax.data.reader import TrajectoryDataset, format_first_errors, open_trajectories
from tljax.data.tokenizer import Tokenizer
from tljax.distributed import processes
from tljax.distributed.log import has_terminal, log
from tljax.distributed.mesh import check_initialized, check_rows, make_mesh, mesh_platform
from tljax.generate.load import open_model_and_tokenizer
from tljax.generate.progress import Progress
from tljax.generate.sampler import Sampler
from tljax.generate.sampling import SampleOptions
from tljax.model import llama
from tljax.model.attention import IMPLEMENTATIONS, choose_implementation
from tljax.toolbox.embedded import resolve_source_file
from tljax.training import model_source

WINDOW = 8  # batches that are tokenized and sorted by length together

STEPS = ("trajectory", "step", "tool", "answered", "default", "release", "call_errors")
TOKENS = ("trajectory", "step", "position", "token", "class", "weight", "nll", "rank", "best")
REPLIES = (
    "trajectory",
    "step",
    "kind",
    "detail",
    "wrong_tokens",
    "first_wrong",
    "class",
    "golden_token",
    "model_token",
    "kind_corrected",
    "named",
    "named_corrected",
    "golden",
    "reply",
    "reply_corrected",
)


def run(config: Any) -> None:
    """Prints the tables of the analyses in `config` (configs/analyse.py) and writes the report.

    Raises InputError for an error that the user can correct; nothing is left behind then.
    """
    processes.check_single_process("launch/analyse.py")
    check(config)
    rule = load_rule(config.data.mae)
    model = tokenizer = None
    if config.model.path:
        model_source.check_trained(config.model.path)
        model, tokenizer = open_model_and_tokenizer(config.model.path, config.data.tokenizer)
    with jax.set_mesh(make_mesh(**config.mesh)), new_report_folder(config.out, config.data.source) as (out, folder):
        check_initialized()
        if model is not None:
            check_devices(config, model.config)
        rows = open_trajectories(
            resolve_source_file(config.data.source, config.toolbox, config.data.cache),
            config.data.on_bad_row,
            config.data.cache or None,
            config.data.format,
        )
        note = check_rule(rule, rows)
        counts, index, blocked = read_feedback(config, rows, rule, folder)
        facts = [*_facts(config, rows, counts), *filter(None, [note])]
        tables, names = counts.tables(), plots.draw_feedback(counts, folder) if config.plots else []
        _print(facts, [table for table in tables if table.name != "differences"])
        if model is not None and tokenizer is not None:
            tokens, replies, model_facts = analyse_model(config, model, tokenizer, rows, index, folder)
            model_facts.insert(0, f"blocked by data.mae, so not scored: {blocked:,} of {counts.steps:,} steps")
            model_tables = [*tokens.tables(), *replies.tables()]
            names += plots.draw_model(tokens, replies, folder) if config.plots else []
            _print(model_facts, model_tables)
            facts, tables = [*facts, *model_facts], [*tables, *model_tables]
        write_report(folder, config, facts, tables, names)
    log(f"written: {out} with report.md, its plots, its tables as JSON and its rows as CSV")


def check(config: Any) -> None:
    """Raises InputError if a field's value is not allowed, or if it needs a package that is not installed."""
    check_data(config.data)
    if config.data.dialect == TEMPLATE:
        raise InputError(
            "config.data.dialect is 'template', but the analyses label the characters of calls like f(a=1); choose "
            "full, mae or readme"
        )
    choices = {"model.compute_dtype": llama.COMPUTE_DTYPES, "model.attention": IMPLEMENTATIONS}
    check_choices(config, choices)
    for field, minimum in {"limit": 0, "seed": 0, "new_tokens": 1, "rows": 1, "toolbox.trajectories": 1}.items():
        check_range(field, get_field(config, field), minimum)
    if config.plots:
        plots.check_matplotlib()


def check_devices(config: Any, c: llama.LlamaConfig) -> None:
    """Raises InputError if rows, model or attention do not fit the current mesh, or no reply fits the model."""
    check_rows(config.rows, "config.rows")
    llama.check_mesh(c)
    llama.check_length(c, config.new_tokens + 1, "config.new_tokens and a prompt")
    choose_implementation(config.model.attention, config.model.compute_dtype, c.head_dim, mesh_platform())


def read_feedback(
    config: Any, rows: TrajectoryDataset, rule: Any, folder: Path
) -> tuple[FeedbackCounts, StepIndex, int]:
    """Analyses the feedback of all trajectories and writes steps.csv.

    Returns the counts, the candidate steps for the model, and the number of steps that the rule blocks.
    """
    counts, index, blocked = FeedbackCounts(), candidates(), 0
    with CsvFile(folder / "steps.csv", STEPS) as file:
        bar = tqdm(rows.trajectories(), "reading", len(rows), unit="row", disable=not has_terminal())
        for number, trajectory in enumerate(bar):
            steps = find_step_errors(trajectory)
            counts.add(steps)
            if config.model.path:
                blocked += add_steps(index, number, trajectory, rule)
            for step in steps:
                errors = None if step.calls is None else "; ".join(step.calls)
                file.write([step.id, step.step, step.name, int(step.answered), step.default, step.release, errors])
    return counts, index, blocked


def analyse_model(
    config: Any,
    model: model_source.ModelSource,
    tokenizer: Tokenizer,
    rows: TrajectoryDataset,
    index: StepIndex,
    folder: Path,
) -> tuple[TokenCounts, ReplyCounts, list[str]]:
    """Scores a sample of the steps with the model (second and third analysis); writes tokens.csv and replies.csv.

    Returns the counts of both analyses, and lines for the report on the sample and on the steps left out.
    """
    tokens, replies, left_out, count = TokenCounts(), ReplyCounts(), Counter[str](), 0
    total = min(config.limit or len(index), len(index))
    log(f"asking {config.model.path} {total:,} of {len(index):,} steps that data.mae keeps and that make a call")
    options = SampleOptions.greedy(config.model, config.new_tokens, tokenizer.eos_ids)
    params = model_source.load_with_adapter(model, config.model.compute_dtype, seed=0) if total else {}
    with (
        CsvFile(folder / "tokens.csv", TOKENS) as token_file,
        CsvFile(folder / "replies.csv", REPLIES) as reply_file,
        Progress(total, 0) as progress,
        explain_out_of_memory(
            f"with config.rows = {config.rows}; lower it, or config.new_tokens, or spread the model (config.mesh.fsdp)"
        ),
    ):
        for window in _windows(config, model.config, tokenizer, rows, index, left_out):
            scores, outcomes, generated = score_window(params, model.config, tokenizer, window, options, config.rows)
            for group in _by_trajectory(window):
                tokens.add([window[i] for i in group], [scores[i] for i in group])
                replies.add([outcomes[i] for i in group])
            for step, step_scores, outcome in zip(window, scores, outcomes, strict=True):
                token_file.write_all(_token_rows(step, step_scores, tokenizer))
                reply_file.write(_reply_row(outcome, step_scores, tokenizer))
            progress.add(generated)
            count += len(window)
    omitted = _omitted(config, model.config, left_out)
    if not count:
        reasons = "; ".join(omitted) or "no step that data.mae keeps makes a call"
        raise InputError(f"{config.data.source}: there is no step to ask the model ({reasons})")
    sample = f", a sample with seed {config.seed}" if total < len(index) else ""
    facts = [f"model: {config.model.path}, asked {count:,} of {len(index):,} kept steps with a call{sample}"]
    return tokens, replies, [*facts, *(f"left out: {line}" for line in omitted)]


def _omitted(config: Any, c: llama.LlamaConfig, left_out: Counter[str]) -> list[str]:
    """Returns a line for each reason: how many steps it leaves out, and its limit."""
    limits = {
        TOO_LONG: f", over {min(config.data.max_tokens, c.max_tokens):,} tokens (the smaller of data.max_tokens and "
        "the model's)",
        NO_ROOM: f", over {c.max_tokens - config.new_tokens:,} tokens (the model's less config.new_tokens)",
    }
    return [f"{n:,}, {reason}{limits.get(reason, '')}" for reason, n in left_out.most_common()]


def score_window(
    params: llama.Params,
    c: llama.LlamaConfig,
    tokenizer: Tokenizer,
    steps: Sequence[GoldenStep],
    options: SampleOptions,
    rows: int,
) -> tuple[list[TokenScores], list[StepReplies], dict[int, Any]]:
    """Scores the golden replies, and generates greedy and corrected replies, on the current mesh.

    Returns the scores and the compared replies, by step, and the greedy replies by index.
    """
    # The scores of the golden replies.
    by_index: dict[int, TokenScores] = {}
    pairs = [(step.prompt, step.reply) for step in steps]
    forward = llama.ForwardOptions(options.compute_dtype, attention=options.attention)
    for batch_scores in score_tokens(params, c, pairs, rows, forward):
        by_index |= batch_scores
    scores = [by_index[i] for i in range(len(steps))]
    for step, step_scores in zip(steps, scores, strict=True):
        if not np.isfinite(step_scores.nll).all():
            raise InputError(
                f"trajectory {step.id!r}, step {step.step}: the model's loss is not finite; its weights are broken, "
                "or config.model.compute_dtype=float32 is needed"
            )
    # The greedy replies, and those that continue after a corrected token.
    # Greedy decoding draws no random numbers, so that the key decides nothing.
    sampler = Sampler(params, c, options, key=jax.random.key(0), rows=rows)
    replies = sampler.generate([step.prompt for step in steps])
    firsts = [first_wrong_position(step, step_scores) for step, step_scores in zip(steps, scores, strict=True)]
    prompts = {
        i: prompt
        for i, (step, first) in enumerate(zip(steps, firsts, strict=True))
        if first is not None and (prompt := corrected_prompt(step, first)) is not None
    }
    continued = sampler.generate(list(prompts.values()))
    rest = {i: reply.tokens for i, reply in zip(prompts, continued, strict=True)}

    def compare_tokens(step: GoldenStep, ids: Sequence[int]) -> ComparedReply:
        return compare_reply(step, tokenizer.decode(ids).strip())

    outcomes = []
    for i, (step, step_scores, first) in enumerate(zip(steps, scores, firsts, strict=True)):
        corrected = None
        if first is not None:
            # The end token is not part of the text.
            corrected = compare_tokens(step, [*step.reply[:-1][: first + 1], *rest.get(i, [])])
        num_wrong = int((step_scores.rank > 1).sum())
        outcomes.append(StepReplies(step, compare_tokens(step, replies[i].tokens), num_wrong, first, corrected))
    return scores, outcomes, dict(enumerate(replies))


def _windows(
    config: Any,
    c: llama.LlamaConfig,
    tokenizer: Tokenizer,
    rows: TrajectoryDataset,
    index: StepIndex,
    left_out: Counter[str],
) -> Iterator[list[GoldenStep]]:
    """Yields the chosen steps of complete trajectories, at least WINDOW batches at a time but for the last window.

    Adds the number of steps that do not fit to `left_out`, by reason.
    """
    window: list[GoldenStep] = []
    for chosen in choose_steps(index, config.limit, config.seed):
        steps, reasons = golden_steps(config.data, rows, tokenizer, chosen, c.max_tokens, config.new_tokens)
        window += steps
        left_out.update(reason.partition(":")[0] for reason in reasons)
        if len(window) >= WINDOW * config.rows:
            yield window
            window = []
    if window:
        yield window


def _by_trajectory(window: Sequence[GoldenStep]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for i, step in enumerate(window):
        groups.setdefault(step.trajectory, []).append(i)
    return list(groups.values())


def _token_rows(step: GoldenStep, scores: TokenScores, tokenizer: Tokenizer) -> Iterator[list[Any]]:
    golden, best = tokenizer.pieces(step.reply), tokenizer.pieces(scores.best.tolist())
    for i, (piece, best_piece, kind) in enumerate(zip(golden, best, step.classes, strict=True)):
        nll, weight = f"{scores.nll[i]:.6g}", f"{step.weights[i]:.6g}"
        yield [step.id, step.step, i, piece, kind, weight, nll, int(scores.rank[i]), best_piece]


def _reply_row(reply: StepReplies, scores: TokenScores, tokenizer: Tokenizer) -> list[Any]:
    step, first, comparison = reply.step, reply.first_wrong, reply.greedy.comparison
    row: list[Any] = [step.id, step.step, comparison.kind, comparison.detail, reply.num_wrong, first]
    if first is None:
        row += [None, None, None]
    else:
        row += [step.classes[first], *tokenizer.pieces([step.reply[first], int(scores.best[first])])]
    after = reply.corrected
    row += [None if after is None else after.comparison.kind, int(reply.greedy.named)]
    row.append(None if after is None else int(after.named))
    return [*row, tokenizer.decode(step.reply).strip(), reply.greedy.text, None if after is None else after.text]


def _facts(config: Any, rows: TrajectoryDataset, counts: FeedbackCounts) -> list[str]:
    """Returns lines on the data that was read."""
    lines = [
        f"data: {config.data.source}, {counts.trajectories:,} trajectories with {counts.steps:,} assistant steps, of "
        f"which {counts.calls:,} make a call"
    ]
    lines += rows.format_lines()
    if rows.skipped:
        lines += [f"rows skipped: {len(rows.skipped):,}", *format_first_errors(rows.skipped)]
    return [*lines, *counts.missing_tables()]


def _print(facts: Sequence[str], tables: Sequence[Table]) -> None:
    log("\n".join(facts))
    for table in tables:
        log(f"\n{table.text()}")
    log("")
