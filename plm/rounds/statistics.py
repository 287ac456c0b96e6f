"""Figures of a round: what its answers are worth turn by turn, and what refining changed."""

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plm.evaluation.table import aligned
from plm.rounds.common import Answer, Sampled

BINS = 10
"""Of the distribution of scores, all of one width."""


def copied(answer: Answer, shown: Answer) -> bool:
    """Whether a refinement is what it was shown, white space at the ends apart."""
    return answer.text.strip() == shown.text.strip()


def finite(score: float | None) -> bool:
    """Whether a reward gave a number."""
    return score is not None and math.isfinite(score)


@dataclass
class Change:
    """Scores of refinements against those of other answers; `gained` and `lost`: above and below.

    Where all scores are 0 or 1 those are wrong to right and right to wrong.
    """

    compared: int = 0
    gained: int = 0
    lost: int = 0

    def add(self, answer: Answer, other: Answer) -> None:
        """One comparison, if both have a score."""
        if finite(answer.score) and finite(other.score):
            self.compared += 1
            self.gained += answer.score > other.score
            self.lost += answer.score < other.score


@dataclass
class _Turn:
    """What is counted of all answers of one turn; of their texts nothing is kept."""

    answers: int = 0
    tokens: int = 0
    cut: int = 0
    unscored: int = 0
    not_finite: int = 0
    # Eight bytes an answer, since the range of the bins is known at the end only.
    scores: array = field(default_factory=lambda: array("d"))
    refined: int = 0
    copies: int = 0
    refined_tokens: int = 0
    shown_tokens: int = 0
    before: Change = field(default_factory=Change)
    first: Change = field(default_factory=Change)

    def add(self, answer: Answer, shown: Answer | None, first: Answer | None) -> None:
        self.answers += 1
        self.tokens += answer.tokens
        self.cut += answer.cut
        if answer.score is None:
            self.unscored += 1
        elif not math.isfinite(answer.score):
            self.not_finite += 1
        else:
            self.scores.append(answer.score)
        if shown is None:
            return
        self.refined += 1
        self.copies += copied(answer, shown)
        self.refined_tokens += answer.tokens
        self.shown_tokens += shown.tokens
        self.before.add(answer, shown)
        if first is not None:
            self.first.add(answer, first)

    def plain(self, turn: int, low: float, high: float, binary: bool) -> dict[str, Any]:
        scored = len(self.scores)
        return {
            "turn": turn,
            "answers": self.answers,
            "tokens": self.tokens,
            "cut_share": _share(self.cut, self.answers),
            "scored": scored,
            "unscored": self.unscored,
            "not_finite": self.not_finite,
            "mean_score": _share(math.fsum(self.scores), scored),
            "right_share": _share(sum(s == 1 for s in self.scores), scored) if binary else None,
            "distribution": _histogram(self.scores, low, high),
            "refined": self.refined,
            "copy_share": _share(self.copies, self.refined),
            "length_ratio": _share(self.refined_tokens, self.shown_tokens),
            "against_before": vars(self.before),
            "against_first": vars(self.first),
        }


class _Part:
    """The turns of all prompts, or of one group."""

    def __init__(self) -> None:
        self.prompts = self.unanswered = 0
        self.turns: dict[int, _Turn] = {}

    def add(self, sampled: Sampled) -> None:
        self.prompts += 1
        self.unanswered += not sampled.answers
        firsts = {answer.chain: answer for answer in sampled.answers if answer.turn == 0}
        for answer in sampled.answers:
            shown = None if answer.shown is None else sampled.answers[answer.shown]
            turn = self.turns.setdefault(answer.turn, _Turn())
            turn.add(answer, shown, firsts.get(answer.chain))

    def plain(self, low: float, high: float, binary: bool) -> dict[str, Any]:
        turns = sorted(self.turns.items())
        return {
            "prompts": self.prompts,
            "unanswered": self.unanswered,
            "answers": sum(turn.answers for _, turn in turns),
            "tokens": sum(turn.tokens for _, turn in turns),
            "turns": [turn.plain(number, low, high, binary) for number, turn in turns],
        }


def of_round(
    sampled: Iterable[Sampled],
    drops: Mapping[str, int] | None = None,
    *,
    pairs: int | None = None,
) -> dict[str, Any]:
    """Figures of a round's prompts, as JSON holds them: None stands for what was not measured.

    Args:
        sampled: read once, one prompt at a time.
        drops: by reason, how many prompts or pairs were left out.
        pairs: kept; None: they were not made yet.
    Returns:
        `prompts`, `unanswered`, `answers`, `tokens`; `binary`: all scores are 0 or 1; `edges` of
        the bins, from 0 to 1 unless a score lies outside; `turns`, of each: `answers`, `tokens`,
        `cut_share`, `scored`, `unscored`, `not_finite`, `mean_score`, `right_share` (scores of 1,
        where `binary`), `distribution` (answers a bin), and of refinements `refined`, `copy_share`,
        `length_ratio` (tokens to those of the answers shown), `against_before` and `against_first`
        (a Change each: to the answer shown, and to the chain's first); `groups`: the same by name
        of group; `pairs`: `kept` and `dropped`.
    """
    whole, groups = _Part(), {}
    for one in sampled:
        whole.add(one)
        if one.group:
            groups.setdefault(one.group, _Part()).add(one)
    scores = [score for turn in whole.turns.values() for score in set(turn.scores)]
    binary = bool(scores) and set(scores) <= {0.0, 1.0}
    low, high = math.floor(min([0.0, *scores])), math.ceil(max([1.0, *scores]))
    return {
        **whole.plain(low, high, binary),
        "binary": binary,
        "edges": [low + (high - low) * index / BINS for index in range(BINS + 1)],
        "groups": {name: part.plain(low, high, binary) for name, part in sorted(groups.items())},
        "pairs": {"kept": pairs, "dropped": dict(drops or {})},
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _histogram(scores: Iterable[float], low: float, high: float) -> list[int]:
    """Answers a bin; the last bin holds its upper end too."""
    found = [0] * BINS
    for score in scores:
        # The end's rounding aside, a score on an edge belongs to the bin that begins there.
        found[min(BINS - 1, int((score - low) / (high - low) * BINS + 1e-9))] += 1
    return found


def lines(stats: Mapping[str, Any]) -> list[str]:
    """What was sampled in a line, then a table: a row a turn, of all prompts and of each group.

    `gained` and `lost` (w→r and r→w: wrong to right, right to wrong) are shares of the answers that
    are compared with the one before; with /0, of those compared with the chain's first.

    Args:
        stats: as `of_round` gave them.
    """
    changes = ("w→r", "r→w") if stats["binary"] else ("gained", "lost")
    score = "right" if stats["binary"] else "score"
    head = ("group", "turn", "answers", "tokens", score, *changes, *(f"{c}/0" for c in changes))
    return [headline(stats), *aligned([(*head, "copied", "length", "cut"), *rows(stats)])]


def rows(stats: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Cells of the table: group, turn, answers, tokens an answer, score, changes, and the rest."""
    found = []
    for name, part in {"all": stats, **stats["groups"]}.items():
        for turn in part["turns"]:
            score = turn["mean_score"]
            found.append(
                (
                    name,
                    str(turn["turn"]),
                    f"{turn['answers']:,}",
                    f"{turn['tokens'] / turn['answers']:.1f}",
                    _percent(score) if stats["binary"] else _number(score),
                    *_changes(turn["against_before"]),
                    *_changes(turn["against_first"]),
                    _percent(turn["copy_share"]),
                    _number(turn["length_ratio"]),
                    _percent(turn["cut_share"]),
                )
            )
    return found


def _changes(told: Mapping[str, int]) -> list[str]:
    return [_percent(_share(told[name], told["compared"])) for name in ("gained", "lost")]


def headline(stats: Mapping[str, Any]) -> str:
    """What was sampled and what became of it, in a line."""
    parts = [f"{stats[name]:,} {name}" for name in ("prompts", "answers", "tokens")]
    if stats["unanswered"]:
        parts.append(f"{stats['unanswered']:,} prompts without an answer")
    bad = sum(turn["not_finite"] for turn in stats["turns"])
    if bad:
        parts.append(f"{bad:,} scores not finite")
    text = ", ".join(parts)
    if stats["pairs"]["kept"] is not None:
        text += f"; {stats['pairs']['kept']:,} pairs kept"
    dropped = {why: number for why, number in stats["pairs"]["dropped"].items() if number}
    if dropped:
        text += "; prompts without: " + ", ".join(f"{why} {n:,}" for why, n in dropped.items())
    return text


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
