"""What pairings share: which answers may be in a pair, and an account of those that are not.

A pairing is `(answers, **settings) -> Paired`, for the answers of one prompt, scored. It draws
nothing at random and changes no answer. An empty list checks the settings.

Of every prompt: its answers are those in its pairs, and `unused.total()`; it has pairs, or
`dropped` holds the one reason why it has none.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from plm.errors import ConfigError
from plm.rounds.common import Answer

# Why an answer may not be in a pair, the first that holds.
EMPTY = "empty answer"
CUT = "cut at max_new_tokens"
UNSCORED = "no score"
EQUAL = "equal to another answer"
# Why one is in none although it may be, where its prompt has pairs.
NOT_CHOSEN = "not chosen"
# Why a prompt has no pairs.
NO_ANSWER = "no answer"
NONE_USABLE = "no usable answer"
ONE = "one answer only"
ALL_RIGHT, ALL_WRONG, ALL_EQUAL = "all right", "all wrong", "all scores equal"
MARGIN = "difference below min_margin"
ENDS = "first or last answer left out"
SAME_ENDS = "last answer equal to the first"
SAME_PAIR = "equal to another pair"


@dataclass(frozen=True)
class Paired:
    """The pairs of one prompt.

    Attributes:
        pairs: indices of the better and of the worse answer.
        unused: of the answers in no pair, how many for which reason: one of the four that keep an
            answer out; else NOT_CHOSEN where the prompt has pairs, and the prompt's own reason
            where it has none.
        dropped: the prompt's reason, once, where there are no pairs; else nothing. Summed over
            prompts, with those that have pairs, it gives all prompts.
    """

    pairs: list[tuple[int, int]]
    unused: Counter[str]
    dropped: Counter[str]

    @property
    def used(self) -> set[int]:
        """Indices of the answers in a pair."""
        return {index for pair in self.pairs for index in pair}


def check(*, min_margin: float = 0.0, max_pairs: int | None = None, turns: int = 1) -> None:
    """Refuse settings that cannot be.

    Raises:
        ConfigError: the key, what came, and the rule.
    """
    number = isinstance(min_margin, int | float) and not isinstance(min_margin, bool)
    if not number or not 0 <= min_margin < math.inf:
        raise ConfigError(f"pairing.min_margin={min_margin} must be a number from 0 on")
    for name, value in (("max_pairs", max_pairs), ("turns", turns)):
        if value is None and name == "max_pairs":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"pairing.{name}={value} must be a whole number from 1 on")


def usable(
    answers: Sequence[Answer],
    *,
    drop_cut: bool = True,
    scored: bool = True,
    distinct: bool = True,
) -> tuple[list[int], Counter[str]]:
    """The answers that may be in a pair.

    Args:
        answers: of one prompt.
        drop_cut: leave out those that ended because they were too long.
        scored: leave out those without a score, or whose score is not finite.
        distinct: of answers with one text, white space around it aside, keep the first.
    Returns:
        Indices in order, and of the others how many for which reason.
    """
    found: list[int] = []
    left_out: Counter[str] = Counter()
    texts: set[str] = set()
    for index, answer in enumerate(answers):
        text = answer.text.strip()
        if not text:
            left_out[EMPTY] += 1
        elif drop_cut and answer.cut:
            left_out[CUT] += 1
        elif scored and (answer.score is None or not math.isfinite(answer.score)):
            left_out[UNSCORED] += 1
        elif distinct and text in texts:
            left_out[EQUAL] += 1
        else:
            found.append(index)
            texts.add(text)
    return found, left_out


def account(
    found: Iterable[int], left_out: Counter[str], pairs: list[tuple[int, int]], reason: str
) -> Paired:
    """The pairs with the reasons for what is in none.

    Args:
        found, left_out: as `usable` gave them.
        pairs: of answers found.
        reason: why there are none; only used then.
    """
    inside = {index for pair in pairs for index in pair}
    spare = sum(index not in inside for index in found)
    unused = left_out + Counter({NOT_CHOSEN if pairs else reason: spare})
    return Paired(pairs, unused, Counter() if pairs else Counter({reason: 1}))


def apart(better: Answer, worse: Answer, min_margin: float) -> bool:
    """Whether one scores higher than the other, by `min_margin` at least."""
    return better.score > worse.score and better.score - worse.score >= min_margin


def why_none(answers: Sequence[Answer], found: Sequence[int]) -> str:
    """Why no two of the usable answers are `apart`.

    Args:
        answers: of one prompt.
        found: indices of the usable ones, with scores.
    """
    if not answers:
        return NO_ANSWER
    if not found:
        return NONE_USABLE
    if len(found) == 1:
        return ONE
    scores = {answers[index].score for index in found}
    if len(scores) > 1:
        return MARGIN
    return {1.0: ALL_RIGHT, 0.0: ALL_WRONG}.get(scores.pop(), ALL_EQUAL)


def by_ends(
    answers: Sequence[Answer],
    against: Callable[[list[Answer]], str | None],
    *,
    drop_cut: bool,
    scored: bool,
) -> Paired:
    """One pair of each chain at most: its last answer is the better one, its first the worse.

    A chain whose first or last answer is not usable gives none, even if others are; of chains with
    the same two texts the first gives a pair.

    Args:
        answers: of one prompt.
        against: why a chain, its answers by turn, gives no pair; None: it does. The two ends are
            usable and differ.
        drop_cut, scored: as for `usable`.
    Returns:
        Where no chain gives a pair the prompt's reason is that of most chains.
    """
    found, left_out = usable(answers, drop_cut=drop_cut, scored=scored, distinct=False)
    pairs: dict[tuple[str, str], tuple[int, int]] = {}
    reasons: Counter[str] = Counter()
    for chain in _chains(answers):
        first, last = chain[0], chain[-1]
        worse, better = (answers[index].text.strip() for index in (first, last))
        reason: str | None = None
        if len(chain) == 1:
            reason = ONE
        elif first not in found or last not in found:
            reason = ENDS
        elif worse == better:
            reason = SAME_ENDS
        else:
            reason = against([answers[index] for index in chain])
        if reason is None and (better, worse) in pairs:
            reason = SAME_PAIR
        if reason is None:
            pairs[better, worse] = last, first
        else:
            reasons[reason] += 1
    why = reasons.most_common(1)[0][0] if found and reasons else why_none(answers, found)
    return account(found, left_out, list(pairs.values()), why)


def _chains(answers: Sequence[Answer]) -> list[list[int]]:
    """Indices of each chain's answers, by turn."""
    found: dict[int, list[int]] = {}
    for index in sorted(range(len(answers)), key=lambda index: answers[index].turn):
        found.setdefault(answers[index].chain, []).append(index)
    return [found[number] for number in sorted(found)]
