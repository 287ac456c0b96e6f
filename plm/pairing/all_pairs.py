"""Every better answer against every worse one, or an even part of these pairs.

Paper: Ouyang et al., Training language models to follow instructions (arXiv:2203.02155), which
    trains its reward model on all pairs of a prompt's ranked answers
Departs: `max_pairs` bounds a prompt's part in the whole.
"""

from collections import Counter
from collections.abc import Sequence

from plm.pairing.common import Paired, account, apart, check, usable, why_none
from plm.rounds.common import Answer


def all_pairs(
    answers: Sequence[Answer],
    *,
    max_pairs: int | None = 8,
    min_margin: float = 0.0,
    drop_cut: bool = True,
) -> Paired:
    """The pairs of answers whose scores differ.

    Where there are more than `max_pairs`, each next pair is one whose answers are in the fewest
    pairs so far, the first such in the answers' order: nothing is drawn.

    Args:
        answers: of one prompt, scored.
        max_pairs: of the prompt; null: all.
        min_margin: least difference of a pair's scores; equal ones never make a pair.
        drop_cut: leave out answers that ended because they were too long.
    Raises:
        ConfigError: a setting that cannot be.
    """
    check(min_margin=min_margin, max_pairs=max_pairs)
    found, left_out = usable(answers, drop_cut=drop_cut)
    pairs = [
        (better, worse)
        for better in found
        for worse in found
        if apart(answers[better], answers[worse], min_margin)
    ]
    return account(found, left_out, _spread(pairs, max_pairs), why_none(answers, found))


def _spread(pairs: list[tuple[int, int]], number: int | None) -> list[tuple[int, int]]:
    if number is None or len(pairs) <= number:
        return pairs
    left, chosen, uses = list(pairs), [], Counter()
    while len(chosen) < number:
        pair = min(left, key=lambda pair: uses[pair[0]] + uses[pair[1]])
        left.remove(pair)
        chosen.append(pair)
        uses.update(pair)
    return chosen
