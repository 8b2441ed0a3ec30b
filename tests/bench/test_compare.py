"""Ratios are of medians, and only of the same work; the table says so."""

from types import SimpleNamespace

import pytest

from tljax.bench.compare import compare
from tljax.bench.generate import decode_step_bytes
from tljax.bench.measurement import Measurement, rate, ratio
from tljax.bench.report import Benchmark, format_report, to_json
from tljax.generate.sampling import SampleOptions
from tljax.toolbox.embedded import BASE_FOLDER
from tljax.training import model_source


def result(tokens, seconds, **facts):
    measurements = {"tokens per second": Measurement("tokens/s", tokens, True), "wait": Measurement("s", seconds)}
    return {"measurements": measurements, "device": "1 x cpu", "shapes": {"rows": 4}, "versions": {"jax": "1"}} | facts


def test_a_ratio_is_that_of_medians_and_above_1_where_tljax_is_better():
    ours, theirs = result([1.0, 9.0, 8.0], [2.0]), result([4.0, 4.0], [6.0])
    assert ratio(ours["measurements"]["tokens per second"], theirs["measurements"]["tokens per second"]) == 2.0
    assert ratio(ours["measurements"]["wait"], theirs["measurements"]["wait"]) == 3.0
    assert rate("tokens/s", [6.0, 8.0], [2.0, 4.0]).values == [3.0, 2.0]


@pytest.mark.parametrize(
    ("theirs", "void"),
    [
        ([2.0, 1.0], ""),
        ([2.019, 1.0], ""),
        ([2.0, 1.011], "the losses differ by more than 1 %: at update 2 tljax has 1 and the peer 1.011"),
        ([2.0, float("nan")], "the losses differ by more than 1 %: at update 2 tljax has 1 and the peer nan"),
        ([2.0], "tljax made 2 updates and the peer 1"),
    ],
)
def test_loss_curves_that_differ_by_more_than_1_percent_void_the_comparison(theirs, void):
    comparison = compare(result([1.0], [1.0], losses=[2.0, 1.0]), "torch", result([2.0], [1.0], losses=theirs))
    assert comparison.void == void
    assert comparison.ratios == ({} if void else {"tokens per second": 0.5, "wait": 1.0})


def test_replies_are_compared_up_to_the_first_token_that_differs():
    ours = result([1.0], [1.0], replies={"1": [[1, 2, 3, 4]], "2": [[5] * 8, [6] * 8]})
    same = {"1": [[1, 2, 3, 9]], "2": [[5] * 8, [6] * 8]}
    other = {"1": [[1, 2, 3, 4]], "2": [[5] * 8, [7, *[6] * 7]]}
    assert compare(ours, "transformers", result([1.0], [1.0], replies=same)).agreement.startswith("95.0 %")
    assert compare(ours, "transformers", result([1.0], [1.0], replies=other)).void.startswith("only 60.0 %")


def test_a_step_of_decoding_reads_each_weight_of_a_product_and_the_cached_tokens():
    """The base by hand: 1,115,264 weights without the 1,024 x 128 of its embedding; a token caches 2 x 4 x 4 x 32."""
    base = model_source.open_model(BASE_FOLDER, "").config
    sample = SampleOptions.greedy(SimpleNamespace(compute_dtype="bfloat16", attention="auto"), 4, 2)
    cached = (10 + 2) + (30 + 2)  # half of the reply on average
    expected = 2 * (1_115_264 - 131_072 + cached * 1_024)
    assert decode_step_bytes(base, [[5] * 10, [5] * 30], sample) == expected


def test_another_number_of_weights_voids_the_comparison():
    comparison = compare(result([1.0], [1.0], weights=10), "torch", result([1.0], [1.0], weights=12))
    assert comparison.void == "tljax has 10 weights and torch 12" and not comparison.ratios


@pytest.fixture
def benchmark():
    ours = result([10.0, 30.0, 20.0], [2.0], losses=[1.0])
    same, other = result([40.0], [3.0], losses=[1.001]), result([40.0], [3.0], losses=[2.0])
    comparisons = [compare(ours, "torch a", same), compare(ours, "torch b", other)]
    return Benchmark("sft", "base", {"tljax": ours, "torch a": same, "torch b": other}, comparisons, 1.5, ["a note"])


def test_the_table_quotes_median_spread_and_ratio_and_says_what_is_void(benchmark):
    text = format_report(benchmark)
    rows = [line.split("  ") for line in text.splitlines() if "tokens/s" in line]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[0] == ["tokens per second", "tljax", "20.00 tokens/s", "10.00 tokens/s", "30.00 tokens/s", "3"]
    assert [row[-1] for row in cells[1:]] == ["0.50", "void"]
    assert "void: the comparison with torch b says nothing: the losses differ by more than 1 %" in text
    assert "other work kept 1.50 of" in text and "quote the ratios, not the figures" in text and "note: a note" in text


def test_the_json_holds_all_values_and_the_ratios(benchmark):
    report = to_json(benchmark)
    values = report["sides"]["tljax"]["measurements"]["tokens per second"]
    assert values == {
        "unit": "tokens/s",
        "median": 20.0,
        "min": 10.0,
        "max": 30.0,
        "values": [10.0, 30.0, 20.0],
        "higher_is_better": True,
    }
    same, other = report["comparisons"]
    assert same["ratios"] == {"tokens per second": 0.5, "wait": 1.5} and not same["void"]
    assert other["ratios"] == {} and other["void"]
    assert report["other_load"] == 1.5 and report["versions"] == {"jax": "1"}
