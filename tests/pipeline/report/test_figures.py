"""How figures look, and numbers in them."""

import pytest
from matplotlib import rc_context

from pipeline.report.figures import SIZE, STYLE, amount, blank, legend_above, look
from pipeline.report.run_figures import smoothed, thinned


def test_no_two_of_many_lines_look_alike_with_or_without_colour():
    looks = [look(number) for number in range(21)]
    assert len({(one.color, str(one.dash), one.marker, one.hatch) for one in looks}) == len(looks)
    for first in range(0, 21, 7):
        assert len({(str(one.dash), one.marker) for one in looks[first : first + 7]}) == 7


def test_a_long_legend_takes_no_room_from_the_axes():
    heights = []
    with rc_context(STYLE):
        for lines in (4, 14):
            figure, axes = blank()
            for number in range(lines):
                axes.plot([0, 1], [0, 1], label=f"a method with a long name, {number}")
            legend_above(figure, axes)
            figure.draw_without_rendering()
            heights.append(axes.get_window_extent().height / figure.dpi)
    # Rows of text are not of one height in all fonts.
    assert heights[1] > 0.85 * heights[0]
    # Half of a figure whose legend has the rows that it has room for.
    assert heights[0] > 0.5 * SIZE[1]


def test_a_running_mean_leaves_out_what_is_no_number():
    nan = float("nan")
    assert smoothed([1.0, nan, 3.0, 8.0], 3).tolist() == [1.0, 2.0, 5.5, 5.5]
    assert smoothed([1.0, 2.0], 1).tolist() == [1.0, 2.0]


def test_a_line_of_many_steps_has_few_points_and_its_last():
    assert thinned(7, 1) == [0, 1, 2, 3, 4, 5, 6]
    many = thinned(1_000_001, 12_500)
    assert len(many) < 400
    assert (many[0], many[-1]) == (0, 1_000_000)


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        ("flops", 24.3e12, "24.3 TFLOP"),
        ("flops", 0, "0 FLOP"),
        ("tokens", 2_539_520, "2.54 million"),
        ("steps", 12345, "12,345"),
        ("seconds", 90, "1.5 min"),
    ],
)
def test_amounts_read_well(quantity, value, text):
    assert amount(quantity, value).replace("\N{NO-BREAK SPACE}", " ") == text
