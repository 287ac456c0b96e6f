"""Newlines and blanks; characters stay."""

from plm.data.documents import Document
from plm.data.steps.normalise import normalise
from plm.data.tally import Tally


def test_by_hand(run):
    texts = ["\ufeffa \t\r\nb\rc\n\n\n\n\nd\n\n", " \n\t\n", "e\u0301  x"]
    assert run(normalise, texts) == (["a\nb\nc\n\n\nd\n", "e\u0301  x\n"], {"empty": 1})


def test_blanks_within_a_line_take_no_longer_than_their_number():
    """A million of them; tried from each place, they would take half an hour."""
    text = "a" + " " * 1_000_000 + "b \n"
    (found,) = normalise(iter([Document(text, "a", "a")]), tally=Tally())
    assert found.text == text.replace(" \n", "\n")
