"""Bars are as high as their shares, and their labels have room."""

import re
from xml.etree import ElementTree

import pytest

from plm.report.bars import Bars, bars_figure
from plm.report.charts import half, wide


def _bars(figure: str) -> list[tuple[float, float, str]]:
    """Height, left edge and read-out of each bar of the first drawing."""
    svg = figure.split("<svg class=")[1]
    found = re.findall(
        r'<rect x="([\d.]+)" y="[\d.]+" width="[\d.]+" height="([\d.]+)".*?'
        r"<title>([^<]*)</title>",
        svg,
    )
    return [(float(height), float(x), told) for x, height, told in found]


def test_heights_follow_the_shares():
    series = {"turn 0": [0.25, None], "turn 1": [0.5, 0.0]}
    found = _bars(bars_figure(Bars("Right", ["all", "sums"], series), wide(220)))
    assert [told for _, _, told in found] == [
        "turn 0, all: 25.0 %",
        "turn 1, all: 50.0 %",
        "turn 1, sums: 0.0 %",
    ]
    assert found[1][0] == pytest.approx(2 * found[0][0], abs=0.2) and found[2][0] == 0
    assert found[0][1] < found[1][1] < found[2][1]


def test_labels_between_places_stand_at_their_borders():
    edges = ["0", "0.5", "1.0"]
    figure = bars_figure(Bars("Scores", edges, {"turn 0": [0.4, 0.6]}), half())
    assert [told for _, _, told in _bars(figure)] == [
        "turn 0, 0 to 0.5: 40.0 %",
        "turn 0, 0.5 to 1.0: 60.0 %",
    ]
    places = re.findall(r'class="x" x="([\d.]+)"[^>]*>([^<]*)', figure.split("<svg class=")[1])
    # The last one stays inside the drawing.
    assert places == [("52.0", "0"), ("275.0", "0.5"), ("498.0", "1.0")]


@pytest.mark.parametrize("count", [3, 30])
def test_long_names_are_shortened_and_escaped(count):
    names = [f"<a long name of group {k}>" for k in range(count)]
    figure = bars_figure(Bars("<t>", names, {"<s>": [0.5] * count}), half())
    ElementTree.fromstring(figure)
    assert figure.count("…") == (0 if count == 1 else 2 * count)


def test_many_borders_are_thinned():
    edges = [f"-1{k}.00" for k in range(11)]
    figure = bars_figure(Bars("t", edges, {"s": [0.1] * 10}), half())
    wide_one, phone = figure.split("<svg class=")[1:]
    assert wide_one.count('class="x"') == 6 and phone.count('class="x"') == 6
    every = bars_figure(Bars("t", edges, {"s": [0.1] * 10}), wide())
    assert every.split("<svg class=")[1].count('class="x"') == 11


def test_nothing_to_draw():
    assert bars_figure(Bars("t", ["a"], {"s": [None]}), half()) == ""
    assert bars_figure(Bars("t", [], {}), half()) == ""


def test_all_shares_are_0():
    ElementTree.fromstring(bars_figure(Bars("t", ["a"], {"s": [0.0]}), half()))
