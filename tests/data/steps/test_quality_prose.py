"""One text for each rule, and texts that stay."""

from plm.data.steps.quality_prose import quality_prose

GOOD = (
    "The quick brown fox jumps over the lazy dog, and the dog, who had been asleep since early in "
    "the morning, opens one eye, sighs, and goes back to sleep without so much as a growl.\n"
)


def test_good_text_stays(run):
    listed = GOOD + "Parameters\n----------\n\n- one (1)\n- two, é\n" + "Returns\n----------\n"
    assert run(quality_prose, [GOOD, listed]) == ([GOOD, listed], {})


def test_each_rule(run):
    texts = [
        "Too short to be of use.",
        "a b c d e " * 10,
        "supercalifragilistic " * 40,
        "12345 67890 word " * 20,
        GOOD + "# | ... " * 2,
        GOOD * 3,
    ]
    kept, drops = run(quality_prose, texts)
    assert kept == []
    assert drops == {
        "too short": 1,
        "word length": 2,
        "few words with letters": 1,
        "symbols": 1,
        "repeated lines": 1,
    }


def test_words_with_letters_are_counted_by_word(run):
    # Half of these words hold a letter, after digits and signs too: just below the limit.
    half = "12345 (9x) " * 30
    assert run(quality_prose, [half], min_alphabetic_words=0.51)[1] == {"few words with letters": 1}
    assert run(quality_prose, [half], min_alphabetic_words=0.5) == ([half], {})
