"""Lines that go, pages that go, and what is told of them."""

import pytest

from plm.data.documents import Document
from plm.data.steps.c4 import c4
from plm.data.tally import Tally
from plm.errors import ConfigError

GOOD = 'This line has five words.\nDoes this one have them?\nAnd so it said "yes!"\n'


def test_lines():
    text = (
        "Home | About | Contact us today\n\n"
        + GOOD
        + "Only four words here.\n"
        + "Please turn on JavaScript in your browser.\n"
        + "This site uses cookies, as all do.\n"
        + "Our Privacy Policy is found below.\n"
        + "To be read on in the next part...\n"
        + "The fox [1], said Smith [2][citation needed], is brown [23].\n"
    )
    tally = Tally()
    (document,) = c4(iter([Document(text, "n", "g")]), tally=tally)
    assert document == Document(GOOD + "The fox, said Smith, is brown.\n", "n", "g")
    assert tally.changed == {
        "line without an end": 2,
        "short line": 1,
        "line on javascript": 1,
        "line on policy": 2,
        "citation mark": 4,
    }
    assert tally.examples["line on policy"] == [("n", "This site uses cookies, as all do.")]


def test_pages(run):
    texts = [
        GOOD,
        GOOD + "x = {1: 2}\n",
        GOOD + "Lorem Ipsum dolor sit amet, consectetur.\n",
        "One line has one sentence. And another one here.\n",
        "A title without an end\n" * 5,
        "",
    ]
    drops = {"curly bracket": 1, "lorem ipsum": 1, "few sentences": 3}
    assert run(c4, texts) == ([GOOD], drops)
    assert run(c4, texts[1:2], curly_brackets=True)[0] == [GOOD]
    assert run(c4, texts[3:4], min_sentences=2)[0] == texts[3:4]
    assert run(c4, [GOOD], min_sentences=4)[1] == {"few sentences": 1}


def test_a_number_ends_no_sentence(run):
    assert run(c4, ["Version 1.2.3 is 2.5 times as fast.\n"], min_sentences=2)[0] == []


def test_other_settings(run):
    chinese = "街角的老面包师每天早上五点开门。\n"
    settings = {"terminal": ["。"], "min_words": 1, "min_sentences": 0}
    assert run(c4, [chinese + GOOD], **settings)[0] == [chinese]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"terminal": []}, r"c4: terminal=\[\] must be a list of marks, for example \['\.'\]"),
        ({"terminal": ".!"}, r"c4: terminal='\.!' must be a list"),
        ({"min_words": -1}, "c4: min_words=-1 and min_sentences=3 must not be negative"),
    ],
)
def test_settings_that_cannot_work(run, settings, text):
    with pytest.raises(ConfigError, match=text):
        run(c4, [GOOD], **settings)
