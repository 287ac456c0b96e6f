"""Shares by hand, for lines, paragraphs and runs of words; the runs against a slow twin."""

import random
from collections import Counter

import pytest

from plm.data.steps.gopher_repetition import gopher_repetition
from plm.errors import ConfigError

NONE = {"max_top": {}, "max_duplicate": {}}
PARTS = {"max_lines": 1, "max_paragraphs": 1, "max_line_chars": 1, "max_paragraph_chars": 1}


def lines(*sizes):
    """Lines of so many letters; the same size gives the same line."""
    return "\n".join(chr(97 + size % 26) * size for size in sizes)


def test_lines(run):
    texts = [
        lines(1, 2, 3, 4, 5, 6, 7, 1, 2, 3),
        lines(1, 2, 3, 4, 5, 6, 1, 2, 3, 4),
        lines(1, 2, 3, 8, 8, 18),
        lines(1, 2, 3, 9, 9, 18),
    ]
    kept, drops = run(gopher_repetition, texts, **NONE)
    assert kept == [texts[0], texts[2]]
    assert drops == {"repeated lines": 1, "characters in repeated lines": 1}


def test_paragraphs(run):
    whole = {**NONE, "max_lines": 1, "max_line_chars": 1}
    texts = [lines(1, 2, 3, 4, 5, 6, 7, 1, 2, 3), lines(1, 2, 3, 4, 5, 6, 1, 2, 3, 4)]
    texts += [lines(1, 2, 3, 8, 8, 18), lines(1, 2, 3, 9, 9, 18)]
    apart = [text.replace("\n", "\n \n") for text in texts]
    assert run(gopher_repetition, texts, **whole) == (texts, {})
    kept, drops = run(gopher_repetition, apart, **whole)
    assert kept == [apart[0], apart[2]]
    assert drops == {"repeated paragraphs": 1, "characters in repeated paragraphs": 1}


def test_runs_by_hand(run):
    # 100 characters: "ab cd" stands twice, 8 of them; then three times, 12.
    two = "ab cd x1 ab cd x2 " + " ".join(f"y{i:02}" for i in range(29)) + " z"
    assert len("".join(two.split())) == 100
    only = {**PARTS, "max_duplicate": {}}
    assert run(gopher_repetition, [two], **only, max_top={2: 0.08})[0] == [two]
    assert run(gopher_repetition, [two], **only, max_top={2: 0.079})[1] == {"one run of 2 words": 1}
    # Runs that came before: the second "ab cd" only.
    only = {**PARTS, "max_top": {}}
    assert run(gopher_repetition, [two], **only, max_duplicate={2: 0.04})[0] == [two]
    assert run(gopher_repetition, [two], **only, max_duplicate={2: 0.039})[1] == {
        "repeated runs of 2 words": 1
    }
    # A run that occurs once is no top run; characters where runs overlap count once.
    assert run(gopher_repetition, ["a b"], **PARTS)[0] == ["a b"]
    same = "a " * 10
    assert run(gopher_repetition, [same], **PARTS, max_top={2: 1.0}, max_duplicate={3: 0.9})[0]
    assert run(gopher_repetition, [same], **PARTS, max_top={2: 0.99})[1] == {
        "one run of 2 words": 1
    }


def plain_share(words, n, top):
    """The slow twin: characters covered by the top run, or by runs that came before."""
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = Counter(runs)
    most = max(counts.values())
    # Of several, the run with the characters: the step may take another, so the test avoids it.
    best = [run for run, count in counts.items() if count == most]
    covered = set()
    for i, run in enumerate(runs):
        if (top and most > 1 and run == best[0]) or (not top and run in runs[:i]):
            covered.update(range(i, i + n))
    return sum(len(words[i]) for i in covered) / sum(map(len, words)), len(best)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_runs_against_the_slow_twin(run, seed, n):
    rng = random.Random(seed)
    words = [rng.choice(["a", "bb", "ccc", "dddd"]) for _ in range(60)]
    words += words[10:30]
    text = " ".join(words)
    share, _ = plain_share(words, n, top=False)
    only = {**PARTS, "max_top": {}}
    assert run(gopher_repetition, [text], **only, max_duplicate={n: min(1, share + 1e-9)})[0]
    assert not run(gopher_repetition, [text], **only, max_duplicate={n: share - 1e-9})[0]
    share, ties = plain_share(words, n, top=True)
    if ties == 1:
        only = {**PARTS, "max_duplicate": {}}
        assert run(gopher_repetition, [text], **only, max_top={n: share + 1e-9})[0]
        assert not run(gopher_repetition, [text], **only, max_top={n: share - 1e-9})[0]


def test_the_limits_of_the_paper(run):
    rng = random.Random(0)
    prose = " ".join(f"w{rng.randrange(5000)}" for _ in range(600))
    assert run(gopher_repetition, [prose, "", "word"]) == ([prose, "", "word"], {})
    # A phrase of ten words once more in every hundred: 9 per cent, then 11.
    parts = prose.split()
    phrase = [f"q{i}qq" for i in range(10)]

    def spread(times):
        text = list(parts)
        for i in range(times):
            text[i * 30 : i * 30 + 10] = phrase
        return " ".join(text)

    assert run(gopher_repetition, [spread(7)])[0] == [spread(7)]
    assert run(gopher_repetition, [spread(8)])[1] == {"repeated runs of 10 words": 1}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_lines": 30}, r"gopher_repetition: max_lines=30 is not in \[0, 1\]"),
        ({"max_top": {2: -0.1}}, r"max_top.2=-0.1 is not in \[0, 1\]"),
        ({"max_duplicate": {0: 0.1}}, "max_duplicate has 0: not a number of words"),
    ],
)
def test_settings_that_cannot_work(run, settings, text):
    with pytest.raises(ConfigError, match=text):
        run(gopher_repetition, ["a"], **settings)
