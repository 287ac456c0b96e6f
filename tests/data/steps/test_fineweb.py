"""One text for each rule, at its limit and beyond."""

import pytest

from plm.data.steps.fineweb import fineweb
from plm.errors import ConfigError


def lines(ended=10, bare=0, short=0, copies=0):
    """Ten words in 40 characters, with and without an end; 29 characters; copies of the first."""
    made = [f"{i:03}" + " abc" * 9 + "." for i in range(ended)]
    made += [f"{i:03}" + " abc" * 9 + "a" for i in range(bare)]
    made += [f"{i:03}" + " abc" * 6 + "a." for i in range(short)]
    made += made[:1] * copies
    return "\n".join(made) + "\n"


def test_limits_of_the_paper(run):
    texts = {
        "lines without an end": (lines(12, 88), lines(11, 89)),
        "short lines": (lines(33, short=67), lines(32, short=68)),
        "repeated lines": (lines(18, copies=2), lines(17, copies=2)),
        "many newlines": (
            lines().replace("\n", "\n" * 22, 1),
            lines().replace("\n", "\n" * 23, 1),
        ),
    }
    for reason, (within, beyond) in texts.items():
        assert run(fineweb, [within]) == ([within], {}), reason
        assert run(fineweb, [beyond]) == ([], {reason: 1})


def test_settings(run):
    text = lines(10, copies=1)
    assert run(fineweb, [text])[0] == [text]
    assert run(fineweb, [text], max_repeated_chars=0.01)[1] == {"repeated lines": 1}
    assert run(fineweb, [text], short_line=41)[1] == {"short lines": 1}
    assert run(fineweb, ["", "\n"])[1] == {"lines without an end": 2}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"min_ended_lines": 12}, r"fineweb: min_ended_lines=12 is not in \[0, 1\]"),
        ({"max_repeated_chars": -1}, r"max_repeated_chars=-1 is not in \[0, 1\]"),
        ({"short_line": 0}, "fineweb: short_line=0 is not positive"),
        ({"max_newlines": -0.3}, "fineweb: max_newlines=-0.3 is not positive"),
    ],
)
def test_settings_that_cannot_work(run, settings, text):
    with pytest.raises(ConfigError, match=text):
        run(fineweb, [lines()], **settings)
