"""The page of chains: whole, escaped, and with what changed marked."""

import re
from html.parser import HTMLParser

import pytest

from plm.errors import DataError
from plm.rounds.page import difference, write_page
from plm.rounds.statistics import of_round
from plm.rounds.template import Template
from tests.rounds.made import prompt

BAD = "<script>alert(1)</script>"
TEMPLATE = Template("{question} & <b>\n{answer}")
ROUND = [
    prompt(0, [("one two", 0.0), ("one three", 1.0)], group="sums"),
    prompt(1, [("right", 1.0), ("wrong", 0.0), ("wrong", 0.0)]),
    prompt(2, [("nan", float("nan"))]),
]
VOID = {"meta", "path", "rect", "input"}


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


def _page(tmp_path, sampled=ROUND, **more) -> str:
    path = write_page(
        tmp_path / "chains.html", iter(sampled), template=TEMPLATE, title="a round", **more
    )
    return path.read_text()


def test_the_page_stands_alone_and_is_whole(tmp_path):
    page = _page(tmp_path)
    assert not re.search(r"https?://|<link|src=|@import|url\(", page)
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert [path.name for path in tmp_path.iterdir()] == ["chains.html"]


def test_a_row_a_chain_with_badges_and_kinds(tmp_path):
    page = _page(tmp_path)
    rows = re.findall(r'<article class="row" data-kinds="([^"]*)">(.*?)</article>', page, re.S)
    assert [kinds for kinds, _ in rows] == ["gained", "lost copied", "unrefined unscored"]
    gained, lost, alone = (
        re.findall(r'<div class="(answer[^"]*)"><h4>(.*?)</h4><pre>(.*?)</pre>', row, re.S)
        for _, row in rows
    )
    assert [css for css, _, _ in gained] == ["answer", "answer gained"]
    assert ">wrong<" in gained[0][1] and "turn 0 · 7 tokens" in gained[0][1]
    assert ">right<" in gained[1][1] and ">wrong → right<" in gained[1][1]
    assert gained[1][2] == "one <del>two</del><ins>three</ins>"
    assert [css for css, _, _ in lost] == ["answer", "answer lost", "answer copied"]
    assert lost[2][2] == "wrong" and ">copied<" in lost[2][1]
    assert "score nan" in alone[0][1] and "item-0 · sums</h3>" in rows[0][1]
    for button in ("all 3", "wrong → right 1 of 1", "right → wrong 1 of 1", "copied 1 of 1"):
        assert f">{button}</button>" in page


def test_graded_scores_are_figures(tmp_path):
    page = _page(tmp_path, [prompt(0, [("a", 0.25), ("b", 0.75)], [("c", 0.5)])])
    assert '<span class="pill ">0.25</span>' in page and ">gained</span>" in page
    assert "wrong → right" not in page and "chain 2</h3>" in page


def test_answers_that_refine_nothing_stand_in_one_row(tmp_path):
    page = _page(tmp_path, [prompt(0, [("a", 1.0)], [("b", 0.0)], [("c", 0.0)])])
    assert page.count('class="row"') == 1
    assert re.findall(r"(answer \d) ·", page) == ["answer 1", "answer 2", "answer 3"]


def test_figures_and_template_are_told(tmp_path):
    stats = of_round(ROUND, {"equal scores": 7}, pairs=5)
    page = _page(tmp_path, statistics=stats)
    assert "5 pairs kept; prompts without: equal scores 7" in page
    assert "prompts without: equal scores<" in page
    assert TEMPLATE.sha256 in page and "{question} &amp; &lt;b&gt;\n{answer}</pre>" in page
    assert "3 of 3 chains" in page
    assert "pairs kept" not in _page(tmp_path)


def test_answers_in_pairs_are_marked(tmp_path):
    pairs = [
        {"prompt": "question 0?", "chosen": "one three", "rejected": "one two"},
        {
            "prompt": [{"role": "user", "content": "question 1?"}],
            "chosen": "right",
            "rejected": "wrong",
        },
        {"prompt": "question 9?", "chosen": "one two", "rejected": "x"},
    ]
    page = _page(tmp_path, pairs=pairs)
    assert re.findall(r"(\w+) of a pair", page) == ["worse", "better", "better", "worse", "worse"]


def test_a_script_in_any_text_stays_text(tmp_path):
    one = prompt(0, [(BAD, 0.0), (BAD + " more" + "\x00\ud800", 1.0)], group=BAD)
    one.question = one.name = BAD
    page = write_page(
        tmp_path / "p.html",
        [one],
        template=Template(BAD + "{question}{answer}"),
        title=BAD,
        statistics=of_round([one], {BAD: 1}, pairs=1),
    ).read_text()
    assert BAD not in page and page.count("<script>") == 1
    assert page.count("&lt;script&gt;alert(1)") > 8
    assert "\x00" not in page and "<ins>more\ufffd\ufffd</ins>" in page


def test_only_so_many_chains_of_every_kind(tmp_path):
    many = [prompt(i, [("a", 0.0), ("b", float(i == 70))]) for i in range(100)]
    page = _page(tmp_path, many, chains=10)
    assert page.count('<article class="row"') == 10
    assert "10 of 100 chains" in page and "item-70<" in page
    assert "wrong → right 1 of 1<" in page and "no change of score 9 of 99<" in page


def test_no_prompts_and_no_answers(tmp_path):
    assert "0 of 0 chains" in _page(tmp_path, [])
    assert "item-0 · no room for an answer" in _page(tmp_path, [prompt(0)])


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ("a b", "a b", "a b"),
        ("a b", "a  b", "a  b"),
        ("", "new", "<ins>new</ins>"),
        ("old", "", "<del>old</del>"),
        ("a <b> c", "a c", "a<del>&lt;b&gt;</del> c"),
        ("1 2 3", "1 x y 3", "1 <del>2</del><ins>x y</ins> 3"),
        ("a", "a\n", "a\n"),
    ],
)
def test_differences(before, after, marked):
    assert difference(before, after) == marked


def test_the_words_of_the_new_text_stay_in_their_order():
    before, after = "the cat sat on the mat\n\tthen", " then the  cat\nsat off the mat "
    text = re.sub(r"<del>.*?</del>|</?ins>", "", difference(before, after))
    assert text == after


def test_a_long_text_is_cut_and_says_so():
    long = "x" * 5000
    assert difference("x", long).endswith("1,000 letters more</span>")


def test_one_word_over_and_over_is_not_compared():
    # Comparing them would take a minute.
    assert difference("a " * 1100, "a b " * 550) == "a b " * 550
    assert "<ins>" in difference("a " * 100, "a b " * 50)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        write_page(tmp_path / "no" / "p.html", [], template=TEMPLATE, title="t")
