"""Curves and cells land where their values say."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from plm.report.charts import Chart, Curve, Size, drawing, figure, half, legend
from plm.report.heatmap import heatmap
from plm.report.run_folder import Band

BANDS = [Band("stable", 0, 90), Band("decay", 90, 100)]


def _chart(points, **look):
    return Chart("Loss", [Curve("train", points)], BANDS, (0, 100), **look)


def _places(svg):
    text = re.search(r'<polyline[^>]* points="([^"]*)"', svg).group(1)
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def test_a_line_runs_from_corner_to_corner():
    svg = drawing(_chart([(0, 10), (50, 0), (100, 10)]), Size("wide", 1072, 300))
    assert _places(svg) == [(52, 26), (555, 274), (1058, 26)]
    assert "circle" not in svg


def test_a_log_axis_puts_the_geometric_mean_in_the_middle():
    svg = drawing(_chart([(0, 1), (50, 10), (100, 100)], log=True), Size("wide", 1072, 300))
    assert _places(svg)[1] == (555, 150)


def test_a_single_point_is_a_dot():
    assert '<circle class="dot c0"' in drawing(_chart([(50, 3)]), Size("phone", 352, 240))


def test_a_curve_is_thinned():
    svg = drawing(_chart([(x / 100, x % 7) for x in range(10_000)]), Size("wide", 1072, 300))
    assert 300 < len(_places(svg)) <= 600


def test_names_of_phases_only_where_they_fit():
    labels = re.findall(r'band-name"[^>]*>([^<]*)', drawing(_chart([(0, 1)]), half()[0]))
    assert labels == ["1 stable", "2"]


def test_labels_stay_inside_and_apart():
    for size in (Size("wide", 1072, 300), Size("half", 512, 250), Size("phone", 352, 240)):
        chart = Chart("t", [Curve("c", [(0, 1), (2.8e6, 2)])], [Band("a", 0, 2.8e6)], (0, 2.8e6))
        found = re.findall(r'<text class="x" x="([\d.]+)"[^>]*>([^<]*)', drawing(chart, size))
        ends = [(float(x) - 3.2 * len(t), float(x) + 3.2 * len(t)) for x, t in found]
        assert all(left >= 0 and right <= size.width for left, right in ends)
        assert all(a[1] + 8 < b[0] for a, b in itertools.pairwise(ends))


def test_titles_and_names_are_escaped():
    chart = Chart(
        "<t>", [Curve("<a>", [(0, 1)]), Curve("b", [(0, 1)])], [Band("<p>", 0, 100)], (0, 100)
    )
    text = figure(chart, half())
    assert "<t>" not in text and "<a>" not in text and "<p>" not in text
    ElementTree.fromstring(text)


def test_a_legend_tells_dashed_curves_once():
    curves = [Curve("a", []), Curve("a, asked", [], "asked"), Curve("b, asked", [], "asked", 1)]
    assert re.findall(r"</svg>([^<]*)", legend(curves)) == ["a", "asked"]
    assert legend(curves[:1]) == ""


def test_a_ninth_curve_is_told_apart_from_the_first():
    curves = [Curve(str(k), [(0, 1), (100, 2)], "line", k) for k in range(9)]
    svg = drawing(Chart("t", curves, BANDS, (0, 100)), half()[0])
    assert svg.count('class="s line c0"') == 1 and svg.count('class="s line c0 again"') == 1


def test_heatmap_orders_layers_by_number_and_shades_by_share():
    layers = {"10": [(100, 0.9)], "2": [(50, 0.2), (100, 0.2)]}
    text = heatmap("Zeros", layers, BANDS, (0, 100), half())
    ElementTree.fromstring(text)
    half_width = text.split("<svg")[1]
    assert re.findall(r'class="y"[^>]*>(\d+)<', half_width) == ["2", "10"]
    assert re.findall(r'class="end"[^>]*>(\d+)<', half_width) == ["20", "90"]
    shades = re.findall(r'class="heat" fill-opacity="([\d.]+)" d="M[\d.]+ (\d+)', half_width)
    assert shades == [("0.06", "26"), ("1.00", "52")]
    assert "20 % <span>" in text and "90 % ·" in text


@pytest.mark.parametrize("count", [1, 40])
def test_heatmap_of_few_and_many_layers(count):
    layers = {str(k): [(x, 0.5) for x in range(1, 101)] for k in range(count)}
    ElementTree.fromstring(heatmap("Zeros", layers, BANDS, (0, 100), half()))
