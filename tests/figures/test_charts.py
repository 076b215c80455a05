"""Charts: what they draw is as large as it says, and drawn alike every time."""

import re

from figures.charts import STYLE, Chart, draw, numbers, svg


def test_bars_are_as_long_as_what_they_stand_for():
    chart = Chart("title", "seconds", {"official": [2.0, 4.0], "sam2fast": [1.0, None]}, ["a", "b"])
    (axes,) = draw(chart).axes
    lengths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert lengths == {"official": [2.0, 4.0], "sam2fast": [1.0, 0.0]}
    assert [label.get_text() for label in axes.texts] == ["2", "4", "1"]


def test_lines_go_through_the_points():
    chart = Chart("t", "s", {"a": [1.0, 2.0, 3.0], "b": [None, 5.0, 6.0]}, [1, 10, 100], x="frames", logarithmic="x")
    (axes,) = draw(chart).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {"a": [[1, 1], [10, 2], [100, 3]], "b": [[10, 5], [100, 6]]}
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylim()[0]) == ("log", "linear", 0)
    (axes,) = draw(chart._replace(logarithmic="xy")).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_drawings_are_small_bare_and_always_the_same():
    chart = Chart("a < b & c", "seconds", {"official": [2.0], "sam2fast": [1.0]}, ["tiny “fp32”"])
    drawing = svg(chart)
    assert drawing == svg(chart) and numbers(drawing) == chart._asdict()
    assert len(drawing) < 20_000 and "a &lt; b" in drawing
    assert not re.search(r"<dc:date>|matplotlib v|Matplotlib v", drawing)
    # No ground of its own, and a grey that stands out from white as from near-black.
    assert "#ffffff" not in drawing
    grey = (int(STYLE["text.color"][1:3], 16) / 255 + 0.055) / 1.055
    luminance = grey**2.4 + 0.05
    assert min(1.05 / luminance, luminance / 0.056) > 4
