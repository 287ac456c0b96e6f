"""The report as a whole: every section shows the run's own figures, and nothing leaves the page."""

import csv
import json
import os
import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from plm.errors import DataError
from plm.report import loss_picture, write_report

VOID = {"meta", "br", "path", "rect", "polyline", "circle"}


class _Balance(HTMLParser):
    """Raises at a tag that is closed by another one."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def _section(page, title):
    found = re.search(rf"<section><h2>{title}</h2>(.*?)</section>", page, re.S)
    assert found, title
    return found.group(1)


def _page(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text()


def _edit_summary(folder, **changes):
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _drop_columns(folder, *starts):
    path = folder / "metrics.csv"
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    kept = [index for index, name in enumerate(rows[0]) if not name.startswith(starts)]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([[row[index] for index in kept] for row in rows])


def test_the_page_stands_alone_and_is_whole(run_folder):
    page = _page(run_folder)
    assert len(page.encode()) < 1_000_000
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<link|src=|@import|url\(", page)
    assert "prefers-color-scheme:dark" in page and 'name="viewport"' in page
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert sorted(os.listdir(run_folder)) == [
        "config.yaml",
        "manifest.json",
        "metrics.csv",
        "report.html",
        "summary.json",
    ]


@pytest.mark.parametrize(
    ("section", "texts"),
    [
        (
            "In short",
            ["2.80M", "1,500 steps", "1.83M", "1.31M without", "3:46", "0.81 GiB", "3 of 3"],
        ),
        ("Loss and learning rate", ["train, mean of 7", "2 decay", "one_minus_sqrt to 0.0167"]),
        ("Validation by source", ["math", "bits a byte", "4.222 ✗", "1.511 ✓", "4.370", "0.700"]),
        ("Mixture: asked and read", ["57.7 %", "468k", 'data-name="prose, asked"', "0.19"]),
        ("Gradients", ["Gradient norm before clipping, logarithmic", "Auxiliary: z_loss"]),
        ("Speed", ["Tokens a second", "Model FLOPs utilisation", "3:46 in all", "0.5 % of it"]),
        ("Activation sparsity", [">layer<", 'class="heat"', ">86<"]),
        (
            "Samples",
            ["<b>Return the number of</b> the model.\u0020", "\n\n    Args:", "top_p: 0.95"],
        ),
        (
            "Data",
            [
                "9f2c41d07be8a1c355aa",
                "torch is 2.12.0",
                "2.4 %",
                "BSD-3-Clause (2)",
                "CC0-1.0",
                '"documents">train 41.2k, val 2.06k<',
                '"tokens">train 5.30M, val 265k<',
                "<p>Left out of code: 600 of 10,000 (longer &lt;than&gt; block 600), first a",
                '<p class="warning">Left out of math: 20,000 of 90,000 (',
            ],
        ),
        ("Conditions", ["2.13.0", "8-core test machine", "python train.py +experiment"]),
        ("Configuration", ["<details>", "note: &lt;kept &amp; escaped&gt;"]),
    ],
)
def test_each_section_shows_its_data(run_folder, section, texts):
    text = _section(_page(run_folder), section)
    for wanted in texts:
        assert wanted in text


def test_what_compares_needs_no_why(run_folder):
    _edit_summary(run_folder, data={"fingerprint": "9f2c", "comparable": True, "why": ""})
    text = _section(_page(run_folder), "Data")
    assert ">comparable<" in text and ">why<" not in text


def test_samples_are_escaped_and_unprintable_letters_replaced(run_folder):
    text = _section(_page(run_folder), "Samples")
    assert (
        "<b>def area(r):</b>\n    return 3.14 * r ** 2 if r &gt; 0 else &lt;b&gt;0&lt;/b&gt;"
        in text
    )
    assert "\x00" not in text and "\ufffd\tprint(1)" in text


def test_a_script_in_any_text_stays_text(run_folder):
    bad = "<script>alert(1)</script>"
    sample = {"source": bad, "prompt": bad, "text": bad + "\ud800", "settings": {bad: bad}}
    _edit_summary(
        run_folder,
        name=bad,
        status=bad,
        samples=[sample],
        command=bad,
        versions={bad: bad},
        sources={bad: {"tokens_read": 1}},
        phases=[{"name": bad, "mixture": {bad: 1.0}, "rate": {"shape": bad}}],
        data={"fingerprint": bad, "comparable": False, "why": bad, "leak": {bad: 0.1}},
    )
    page = _page(run_folder)
    assert bad not in page and page.count("<script>") == 1
    assert page.count("&lt;script&gt;alert(1)") > 8


def test_the_prompt_is_told_once_where_the_text_repeats_it(run_folder):
    _edit_summary(run_folder, samples=[{"source": "a", "prompt": "One", "text": "One two"}])
    assert "<b>One</b> two</pre>" in _page(run_folder)


def test_a_long_sample_is_cut_and_says_so(run_folder):
    _edit_summary(run_folder, samples=[{"source": "a", "prompt": "", "text": "x" * 5000}])
    assert "1,000 letters more" in _page(run_folder)


def test_phases_line_up_in_loss_and_learning_rate(run_folder):
    text = _section(_page(run_folder), "Loss and learning rate")
    wide = re.findall(r'<svg class="wide".*?</svg>', text, re.S)
    assert len(wide) == 2
    edges = [
        re.findall(r'class="band b\d" x="([\d.]+)" y="6" width="([\d.]+)"', svg) for svg in wide
    ]
    assert edges[0] == edges[1] and len(edges[0]) == 3
    assert re.findall(r'data-x="([^"]*)"', wide[0]) == re.findall(r'data-x="([^"]*)"', wide[1])


def test_the_mean_is_calmer_than_the_raw_loss(run_folder):
    text = _section(_page(run_folder), "Loss and learning rate").split("</svg>")[3]
    paths = {}
    for name, points in re.findall(r'data-name="train, ([^"]*)" points="([^"]*)"', text):
        heights = [float(pair.split(",")[1]) for pair in points.split()]
        paths[name] = sum(abs(b - a) for a, b in pairwise(heights))
    assert paths["mean of 7"] < 0.5 * paths["each logged step"]


def test_the_mixture_is_drawn_as_shares(run_folder):
    text = _section(_page(run_folder), "Mixture: asked and read")
    assert ">80 %<" in text and ">100 %<" not in text
    x0, x1, left, right = map(float, re.search(r'data-x="([^"]*)"', text).group(1).split(","))
    low, high, base, top, log = map(float, re.search(r'data-y="([^"]*)"', text).group(1).split(","))
    assert (x0, x1, low, log) == (0, 2_800_000, 0, 0) and right > left
    ends = {}
    for name, points in re.findall(
        r'data-name="([^"]*)" points="([^"]*)"', text.split("</svg>")[4]
    ):
        y = float(points.split(",")[-1])
        ends[name] = low + (base - y) / (base - top) * (high - low)
    # 0.6 in the first two phases and 0.4 in the last one, which is 11.3 % of the run.
    assert ends["prose, asked"] == pytest.approx(0.5774, abs=1e-3)
    assert ends["math"] == pytest.approx(0.1669, abs=5e-3)


def test_an_unfinished_run(run_folder):
    (run_folder / "summary.json").unlink()
    (run_folder / "manifest.json").unlink()
    page = _page(run_folder)
    assert '<span class="pill warn">unfinished</span>' in page
    assert "1 stable" in page and "3 constant" in page
    assert "samples (they are made when the run ends)" in page
    assert "3.453" in _section(page, "In short")


@pytest.mark.parametrize(
    ("columns", "section", "message"),
    [
        (("lr",), "Loss and learning rate", "Not measured in this run: lr"),
        (("grad_norm",), "Gradients", "Not measured in this run: grad_norm"),
        (("mfu", "tokens_per_s"), "Speed", "Not measured in this run: mfu"),
        (("sparsity/",), "Activation sparsity", "Not measured in this run: sparsity/&lt;layer&gt;"),
        (("val/",), "Validation by source", "Not measured in this run: validation per source"),
        (("mix/",), "Mixture: asked and read", "Not measured in this run: mix/"),
        (("loss", "val/"), "Loss and learning rate", "Not measured in this run: loss"),
    ],
)
def test_a_missing_column_is_said_and_the_rest_stays(run_folder, columns, section, message):
    assert message not in _page(run_folder)
    _drop_columns(run_folder, *columns)
    page = _page(run_folder)
    assert message in _section(page, section)
    assert "plm_pretrain" in _section(page, "Conditions")


def test_only_tokens_and_loss(tmp_path):
    (tmp_path / "metrics.csv").write_text("tokens,loss\n10,8\n20,inf\n30,7.5\n")
    page = _page(tmp_path)
    assert "Not a finite number in some rows: loss (1)." in page and "7.500" in page


def test_nothing_is_written_where_the_metrics_are_empty(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,tokens,loss\n")
    with pytest.raises(DataError, match="the run has not logged a step yet"):
        write_report(tmp_path)
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_a_failed_write_leaves_the_old_page(run_folder, monkeypatch):
    (run_folder / "report.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"report\.html cannot be written: No space left"):
        write_report(run_folder)
    assert (run_folder / "report.html").read_text() == "old"
    assert not [name for name in os.listdir(run_folder) if name.startswith(".")]


def test_the_picture_is_an_svg_of_its_own(run_folder, tmp_path):
    path = loss_picture(run_folder, tmp_path / "loss.svg")
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = path.read_text()
    assert "1 stable" in text and "3 constant" in text and "validation" in text
    assert "prefers-color-scheme:dark" in text and len(text) < 100_000


def test_no_picture_without_a_loss(tmp_path):
    (tmp_path / "metrics.csv").write_text("tokens,lr\n10,0.1\n")
    with pytest.raises(DataError, match="has no loss to draw"):
        loss_picture(tmp_path, tmp_path / "loss.svg")
