"""Texts in several languages, mixed ones, and what the detector itself cannot take."""

import builtins

import pytest

from plm.data.steps import language as module
from plm.data.steps.language import language
from plm.errors import ConfigError

ENGLISH = "The old baker at the corner opens his shop at five, although nobody buys bread so early."
GERMAN = "Der alte Bäcker an der Ecke öffnet um fünf, obwohl kaum jemand so früh Brot kauft."
CHINESE = "街角的老面包师每天早上五点开门，虽然几乎没有人这么早买面包。"
TRADITIONAL = "這座房子到底要不要賣掉，我們談了很久，沒有結論，也沒有人說話。"
HEBREW = "האופה הזקן בפינה פותח את החנות בחמש בבוקר, אף שכמעט איש אינו קונה לחם מוקדם כל כך."


def test_no_package_is_named(run, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pycld2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    module._known.cache_clear()
    with pytest.raises(
        ConfigError, match="language: the package pycld2 is not installed; pip install"
    ):
        run(language, [ENGLISH], languages=["en"])


def test_by_hand(run):
    pytest.importorskip("pycld2", reason="pycld2 is not installed")
    texts = [ENGLISH, GERMAN, CHINESE, TRADITIONAL, HEBREW, "12 34 56", ""]
    kept, drops = run(language, texts, languages=["en"])
    assert kept == [ENGLISH]
    assert drops == {
        "language de": 1,
        "language zh": 2,
        "language he": 1,
        "language uncertain": 2,
    }
    assert run(language, texts, languages=["zh", "he"])[0] == [CHINESE, TRADITIONAL, HEBREW]


def test_a_mixed_text_by_its_share(run):
    pytest.importorskip("pycld2", reason="pycld2 is not installed")
    mixed = f"{ENGLISH} {ENGLISH} {GERMAN}"
    assert run(language, [mixed], languages=["en"], min_confidence=0.9)[1] == {
        "language uncertain": 1
    }
    assert run(language, [mixed], languages=["en"], min_confidence=0.5)[0] == [mixed]


def test_a_long_text_is_sampled_in_three_places(run):
    pytest.importorskip("pycld2", reason="pycld2 is not installed")
    assert module._sample("a" * 50 + "b" * 50 + "c" * 50, 30) == "\n".join(
        (10 * "a", 10 * "b", 10 * "c")
    )
    long = f"{ENGLISH}\n" * 20 + f"{GERMAN}\n" * 300
    assert run(language, [long], languages=["en"])[1] == {"language de": 1}


def test_characters_that_the_detector_refuses(run):
    pycld2 = pytest.importorskip("pycld2", reason="pycld2 is not installed")
    # All of Unicode that can be written: what the detector takes must not be lost either.
    for start in range(0, 0x110000, 0x1000):
        block = "".join(map(chr, range(start, start + 0x1000)))
        pycld2.detect(module._sample(block, 10_000))
    torn = ENGLISH.replace(" ", " \x00\ufffe\U0001ffff\x85")
    assert run(language, [torn], languages=["en"])[0] == [torn]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"languages": []},
            r"language: languages=\[\] must be a list of codes, for example \[en\]",
        ),
        ({"languages": "en"}, "language: languages='en' must be a list"),
        ({"languages": ["en"], "min_confidence": 65}, r"min_confidence=65 is not in \[0, 1\]"),
        ({"languages": ["en"], "sample_chars": 10}, "sample_chars=10 is too little to tell; at"),
        ({"languages": ["xx"]}, "languages has 'xx', an unknown code"),
        ({"languages": ["eng"]}, "languages has 'eng', an unknown code; did you mean en"),
    ],
)
def test_settings_that_cannot_work(run, settings, text):
    pytest.importorskip("pycld2", reason="pycld2 is not installed")
    with pytest.raises(ConfigError, match=text):
        run(language, [ENGLISH], **settings)
