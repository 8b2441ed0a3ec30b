"""Tables: every number stands under its heading, and a gain is that of the same queries."""

from tljax.evaluate.report import progress_table, score_table
from tljax.evaluate.score import Score

KINDS = ("tool_hallucination", "wrong_tool", "parameter", "content", "correct")


def scores(*levels):
    """Level -1 is a hallucinated tool, 0 a wrong one, 1 wrong parameters, 2 wrong content, 3 right."""
    return [Score({"any": max(level, 0)}, KINDS[level + 1], "") for level in levels]


BEFORE = scores(*[-1] * 4, *[0] * 2, *[1] * 2, *[2] * 1, *[3] * 1)
AFTER = scores(*[0] * 2, *[3] * 8)


def cells(line):
    found = line.split()
    return found[1:10], found[10:]


def test_scores_stand_under_their_headings():
    header, columns, model, random = score_table({"domain": BEFORE}, {"domain": 24.35}).splitlines()
    assert header == "domain, 10 queries"
    assert columns.split() == "TS PI CF format unknown wrong params content".split()
    shares, kinds = cells(model)
    # 8 of 10 is [49.0, 94.3] by Wilson; so 2 of 10 is [5.7, 51.0], and 1 of 10 [1.8, 40.4].
    assert shares == ["40.0", "[16.8,", "68.7]", "20.0", "[5.7,", "51.0]", "10.0", "[1.8,", "40.4]"]
    assert kinds == ["0.0", "40.0", "20.0", "20.0", "10.0"]
    assert random.split() == ["random", "24.4"] and random.index("24.4") == model.index("40.0")


def test_columns_end_below_one_another():
    _, columns, model, random = score_table({"domain": BEFORE}, {"domain": 24.35}).splitlines()
    for heading, cell in (("TS", "40.0"), ("PI", "20.0"), ("CF", "10.0")):
        assert columns.index(heading) + len(heading) == model.index(f" {cell} [") + len(cell) + 1
    assert columns.rindex("content") + len("content") == len(model)
    assert random.index("24.4") == model.index("40.0")


def test_a_gain_is_paired():
    table = progress_table({"domain": BEFORE, "x": AFTER}, {"domain": AFTER, "x": AFTER}, {"domain": 25.0, "x": 20.0})
    first, second = table.splitlines()[:6], table.splitlines()[6:]
    assert [line.split()[0] for line in first] == ["domain,", "TS", "before", "after", "gain", "random"]
    assert first[4].split()[1::3] == ["+40.0", "+60.0", "+70.0"]
    low, high = (float(end.strip("[,]")) for end in first[4].split()[2:4])
    assert 0 < low < 40 < high < 80
    assert second[4].split()[1:] == ["+0.0", "[+0.0,", "+0.0]"] * 3
