"""A worked solution cut into steps: always in the same way, and without losing a letter.

Source: ours; the steps of MR-RLVR (arXiv:2511.17473) are cut by rules that are not known to us.
"""

import re
from typing import NamedTuple

WAYS = ("auto", "numbered", "lines", "sentences")
FEWEST = 2
_CALCULATOR = re.compile(r"<<[^<>]*>>")
# The line that a solution ends with: of GSM8K, and of our own dialogues.
_FINAL = re.compile(r"(?:####|[ \t>*_]*answer[ \t*_]*:)[^\n]*\Z", re.IGNORECASE)
# Bounded, so that a block that is never closed costs no more than its bound.
_BLOCKS = re.compile(
    r"\$\$.{1,4000}?\$\$|\\\[.{1,4000}?\\\]|\\\(.{1,2000}?\\\)"
    r"|\\begin\{(?P<name>\w+\*?)\}.{0,4000}?\\end\{(?P=name)\}|```.{0,8000}?```",
    re.DOTALL,
)
# As pandoc reads it: no space inside the signs and no digit behind them, so that $5 is money.
_INLINE = re.compile(r"(?<![\\$\w])\$(?=[^\s$])([^$\n]{1,400})(?<=[^\s\\])\$(?![\d$])")
_FORMULA = re.compile(r"[\\^_{}=]|^[A-Za-z]$")
MARK = re.compile(r"^[ \t]*(?:\*\*)?(?:step[ \t]+(\d+)[.:)]?|\(?(\d+)[.)](?=\s))", re.I | re.M)
"""The number before a step; group 1 or 2 is the number itself."""
_HEAD = re.compile(MARK.pattern + r"(?:\*\*)?[:.]?\s*", re.I)
_LINE = re.compile(r"\n\s*")
_END = re.compile(
    r"(?<=[.!?])[\"')\]”’]{0,2}(\s+)(?=[\"'(\[“‘]?[A-Z0-9$\\])|(?<=[。！？])(\s*)(?=\S)"
)
_SHORT = frozenset(
    "mr mrs ms dr prof st no nos vs fig figs eq eqs sec ch cf approx e.g i.e etc al jr sr inc ltd "
    "thm prop def resp a.m p.m".split()
)
_WORD = re.compile(r"[^\s(\[]+\Z")


class Split(NamedTuple):
    """A text and where it was cut.

    Attributes:
        texts: n steps, none empty, without white space at their ends.
        gaps: n + 1 pieces of white space, before, between and behind them.
    """

    texts: tuple[str, ...]
    gaps: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text again, letter by letter."""
        between = zip(self.gaps[1:], self.texts, strict=True)
        return self.gaps[0] + "".join(text + gap for gap, text in between)


def split(text: str, by: str = "auto", fewest: int = FEWEST) -> Split:
    """Cut a text into steps; LaTeX blocks, formulas and fenced code stay whole.

    Args:
        text: a worked solution.
        by: numbered (at `1.` or `Step 1:` where a line begins, counted without a gap from 1),
            lines, sentences (within lines), or auto: the first of these that gives `fewest` steps,
            sentences where none does.
        fewest: of auto.
    """
    assert by in WAYS
    ways = (_numbered, _lines, _sentences)
    if by != "auto":
        return _cut(text, ways[WAYS.index(by) - 1](text))
    for way in ways:
        found = _cut(text, way(text))
        if len(found.texts) >= fewest:
            break
    return found


def bare(step: str) -> str:
    """A step without the number before it, which would give its place away."""
    return _HEAD.sub("", step, count=1) or step


def trajectory(solution: str) -> str:
    """What is worked with of a solution: all but the calculator's marks `<<…>>` and its last line.

    That line, `Answer: 18` or `#### 18`, says again what the step before it found: it would give
    that result away where it is masked, and its own place where steps are reordered.
    """
    text = _CALCULATOR.sub("", solution).strip()
    last = text.rfind("\n") + 1
    return text[:last].strip() if _FINAL.match(text, last) else text


def formulas(text: str) -> list[tuple[int, int]]:
    """Where LaTeX stands in a text, signs included, in order: (start, end) in letters.

    Code between fences counts, too. `$5 and $6` is money.
    """
    found = [match.span() for match in _BLOCKS.finditer(text)]
    for match in _INLINE.finditer(text):
        start, end = match.span()
        apart = all(end <= low or high <= start for low, high in found)
        if apart and _FORMULA.search(match[1]):
            found.append((start, end))
    return sorted(found)


def _cut(text: str, gaps: list[tuple[int, int]]) -> Split:
    """The pieces between the gaps; those without a letter are part of the gap."""
    blocks = formulas(text)
    kept = [(low, high) for low, high in gaps if not _inside(low, high, blocks)]
    texts, spaces, begin = [], [""], 0
    for low, high in [*kept, (len(text), len(text))]:
        piece = text[begin:low]
        own = piece.strip()
        if own:
            before, behind = piece.split(own, 1) if piece != own else ("", "")
            texts.append(own)
            spaces[-1] += before
            spaces.append(behind)
        else:
            spaces[-1] += piece
        spaces[-1] += text[low:high]
        begin = high
    return Split(tuple(texts), tuple(spaces))


def _inside(low: int, high: int, blocks: list[tuple[int, int]]) -> bool:
    return any(start < high and low < end for start, end in blocks)


def _lines(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _LINE.finditer(text)]


def _numbered(text: str) -> list[tuple[int, int]]:
    marks = list(MARK.finditer(text))
    if [int(mark[1] or mark[2]) for mark in marks] != list(range(1, len(marks) + 1)):
        return []
    return [(mark.start(), mark.start()) for mark in marks]


def _sentences(text: str) -> list[tuple[int, int]]:
    found = _lines(text)
    for match in _END.finditer(text):
        gap = match.span(1) if match[1] is not None else match.span(2)
        if "\n" not in match[0] and not _abbreviated(text, match.start()):
            found.append(gap)
    return sorted(found)


def _abbreviated(text: str, end: int) -> bool:
    """Whether the full stop before `end` belongs to its word: Mr., e.g., J., or `1.` of a list."""
    if text[end - 1] != ".":
        return False
    # No abbreviation is longer; without a bound a long word would be searched again and again.
    word = _WORD.search(text, max(0, end - 12), end - 1)
    if word is None:
        return False
    said = word[0]
    first = text.rfind("\n", 0, word.start()) + 1
    listed = said.isdigit() and not text[first : word.start()].strip()
    return said.lower() in _SHORT or (len(said) == 1 and said.isupper()) or listed
