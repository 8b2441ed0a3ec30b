"""The few shapes in which prompts of any length are computed."""

from tljax.generate.batches import batch_by_length, padded_length, pool_widths


def test_pools_halve_while_they_hold_a_prompt():
    assert pool_widths([5, 70, 300], 64, 3) == [320]
    assert pool_widths([5, 70, 300], 64, 2) == [320, 192, 128, 64]
    assert pool_widths([300, 250, 200], 64, 2) == [320]
    assert pool_widths([], 64, 2) == []


def test_batches_go_by_length_in_few_widths():
    lengths = [5, 70, 64, 1, 65, 64, 130]
    assert batch_by_length(lengths, 2, 64) == [(192, [6, 1]), (128, [4, 2]), (64, [5, 0]), (64, [3])]
    assert batch_by_length(lengths, 8, 1) == [(160, [6, 1, 4, 2, 5, 0, 3])]
    assert batch_by_length([], 2, 64) == []


def test_widths_are_four_an_octave_and_waste_a_quarter_at_most():
    widths = [64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560]
    assert sorted({padded_length(length, 64) for length in range(1, 2561)}) == widths
    for round_to in (1, 7, 64):
        for length in range(1, 40 * round_to):
            width = padded_length(length, round_to)
            assert width % round_to == 0 and length <= width
            assert width - length < round_to if length <= 8 * round_to else width <= 1.25 * length
            assert padded_length(width, round_to) == width
