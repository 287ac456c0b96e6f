"""Keeps documents written in given languages.

Library: pycld2 0.42 (Compact Language Detector 2, its tables inside). Of 1,000 English docstrings
of 12 words or more and of 154 texts of one to three sentences in 11 other languages it names 998
and 154 rightly, 58,000 texts a second of processor time, 8 MB; py3langid 0.4.0: 996 and 154, 8,700
a second, 93 MB; lingua 2.1.1: 980 and 154, 390 a second, 1,120 MB, or in its low accuracy mode
966 and 154, 820 a second, 77 MB. One core with other work on it, Python 3.11, at most 2,000
characters a text. Of 300 source files pycld2 calls 298 English.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from types import ModuleType

from plm.data.documents import Document, per_document
from plm.data.tally import Tally
from plm.errors import ConfigError

# The detector refuses a text with any of these.
_REFUSED = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(map(chr, (plane * 0x10000 + 0xFFFE + i for plane in range(17) for i in (0, 1))))
    + "]"
)
_NEW_CODES = {"iw": "he", "jw": "jv"}
_PARTS = 3


@per_document
def language(
    documents: Iterator[Document],
    *,
    tally: Tally,
    languages: list[str],
    min_confidence: float = 0.65,
    sample_chars: int = 4000,
) -> Iterator[Document]:
    """Keep documents whose main language is one of `languages`.

    Says nothing about code: most of it passes as English. Use the rules on quality for that.

    Args:
        documents: in any order.
        tally: told what is left out, and which language it seems to be in.
        languages: two- or three-letter codes, for example en, zh (of both scripts), de.
        min_confidence: least share of the text that is in that language, 0 to 1; a language that
            the detector calls unreliable has confidence 0, as a text of a few words often does.
        sample_chars: of a longer document its beginning, middle and end are looked at.
    Raises:
        ConfigError: pycld2 is not installed, a language is unknown, or a number out of range.

    Drops: "language <code>", "language uncertain".
    """
    wanted = _check(languages, min_confidence, sample_chars)
    detector = _detector()
    for document in documents:
        reliable, _, found = detector.detect(_sample(document.text, sample_chars))
        _, code, percent, _ = found[0]
        code = _plain_code(code)
        if not reliable or percent < 100 * min_confidence:
            tally.drop("language uncertain", document.name, document.text)
        elif code not in wanted:
            tally.drop(f"language {code}", document.name, document.text)
        else:
            yield document


def _check(languages: list[str], min_confidence: float, sample_chars: int) -> frozenset[str]:
    if not isinstance(languages, list) or not languages:
        raise ConfigError(
            f"language: languages={languages!r} must be a list of codes, for example [en]"
        )
    if not 0 <= min_confidence <= 1:
        raise ConfigError(f"language: min_confidence={min_confidence} is not in [0, 1]")
    if sample_chars < 100:
        raise ConfigError(
            f"language: sample_chars={sample_chars} is too little to tell; at least 100"
        )
    known = _known()
    for code in languages:
        if code not in known:
            near = get_close_matches(str(code), sorted(known), n=3, cutoff=0.4)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ConfigError(f"language: languages has {code!r}, an unknown code{hint}")
    return frozenset(languages)


def _detector() -> ModuleType:
    try:
        import pycld2
    except ImportError as error:
        raise ConfigError(
            "language: the package pycld2 is not installed; pip install pycld2"
        ) from error
    return pycld2


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    detector = _detector()
    able = set(detector.DETECTED_LANGUAGES)
    return frozenset(_plain_code(code) for name, code in detector.LANGUAGES if name in able)


def _plain_code(code: str) -> str:
    code = code.removesuffix("-Hant")
    return _NEW_CODES.get(code, code)


def _sample(text: str, chars: int) -> str:
    if len(text) > chars:
        part = chars // _PARTS
        step = (len(text) - part) // (_PARTS - 1)
        text = "\n".join(text[i * step : i * step + part] for i in range(_PARTS))
    return _REFUSED.sub(" ", text)
