"""One text for each rule, just beyond its limit and just within."""

import pytest

from plm.data.steps.gopher_quality import gopher_quality
from plm.errors import ConfigError

# Ten words: two stop words, 40 letters.
TEN = "the cats have slept under tables since early this morning\n"
GOOD = TEN * 10


def test_limits_of_the_paper(run):
    texts = {
        "number of words": (TEN * 5, TEN * 4 + "the cats have slept under tables since early this"),
        "word length": ("the of aaaa " * 20, "the of a " * 20),
        "hash signs": (TEN * 9 + "# " * 10, TEN * 9 + "# " * 10 + "#word " * 2),
        "ellipses": (GOOD + " ...a" * 11, GOOD + " ...a" * 6 + " …a" * 6),
        "bullet lines": (("- " + TEN) * 9 + TEN, ("• " + TEN) * 10 + TEN),
        "ellipsis lines": ((TEN[:-1] + "...\n") * 3 + TEN * 7, (TEN[:-1] + "…\n") * 4 + TEN * 6),
        "few words with letters": (TEN * 8 + "123 " * 20, TEN * 8 + "123 " * 21),
        "few stop words": (GOOD, GOOD.replace("the", "its")),
    }
    for reason, (within, beyond) in texts.items():
        assert run(gopher_quality, [within]) == ([within], {}), reason
        assert run(gopher_quality, [beyond]) == ([], {reason: 1})


def test_settings(run):
    german = "Die Katzen haben seit dem frühen Morgen unter dem Tisch geschlafen. " * 6
    assert run(gopher_quality, [german])[1] == {"few stop words": 1}
    assert run(gopher_quality, [german], min_stop_words=0)[0] == [german]
    assert run(gopher_quality, [german], stop_words=["die", "dem"])[0] == [german]
    assert run(gopher_quality, [GOOD], words=[101, 200])[1] == {"number of words": 1}
    assert run(gopher_quality, [""], words=[0, 9])[1] == {"word length": 1}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"words": (9, 5)}, r"gopher_quality: words=\[9, 5\]: the first is larger"),
        ({"word_length": (9, 5)}, r"word_length=\[9, 5\]: the first is larger"),
        ({"stop_words": ["a"]}, "min_stop_words=2, but stop_words has 1; lower it or add words"),
    ],
)
def test_settings_that_cannot_work(run, settings, text):
    with pytest.raises(ConfigError, match=text):
        run(gopher_quality, [GOOD], **settings)
