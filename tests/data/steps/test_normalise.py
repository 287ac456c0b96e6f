"""Newlines and blanks; characters stay."""

from plm.data.steps.normalise import normalise


def test_by_hand(run):
    texts = ["\ufeffa \t\r\nb\rc\n\n\n\n\nd\n\n", " \n\t\n", "e\u0301  x"]
    assert run(normalise, texts) == (["a\nb\nc\n\n\nd\n", "e\u0301  x\n"], {"empty": 1})
