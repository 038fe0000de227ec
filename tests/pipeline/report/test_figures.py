"""How figures look."""

from matplotlib import rc_context

from pipeline.report.figures import SIZE, STYLE, blank, legend_above, look


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
