"""Answers of one prompt, in few letters."""

from collections import Counter
from collections.abc import Sequence

from plm.pairing.common import Paired
from plm.rounds.common import Answer


def answers(*scores: float | None, texts: Sequence[str] | None = None) -> list[Answer]:
    """Answers to the question alone, each with a text of its own unless texts are given."""
    texts = texts or [f"answer {number}" for number in range(len(scores))]
    rows = enumerate(zip(texts, scores, strict=True))
    return [Answer(text, 0, n, 1, False, score=score) for n, (text, score) in rows]


def chain(*texts: str, scores: Sequence[float | None], number: int = 0) -> list[Answer]:
    """One chain, a turn a text."""
    rows = enumerate(zip(texts, scores, strict=True))
    return [Answer(text, turn, number, 1, False, score=score) for turn, (text, score) in rows]


def check_account(given: list[Answer], found: Paired) -> None:
    """Every answer, and the prompt, is either used or has its reason."""
    assert len(found.used) + found.unused.total() == len(given)
    assert found.dropped.total() == (not found.pairs)
    assert all(number > 0 for number in (found.unused + found.dropped).values())
    assert all(worse != better for better, worse in found.pairs)
    assert found.used <= set(range(len(given)))
    assert len(set(found.pairs)) == len(found.pairs)


def reasons(found: Paired) -> tuple[Counter, str]:
    """What is unused, and the prompt's reason."""
    ((reason, _),) = found.dropped.items()
    return found.unused, reason
