"""The best answer against the worst, by score.

Paper: Zeng et al., ARIES (arXiv:2502.05605), whose pairs come from the scores of a reward model
Departs: how many pairs a prompt gives, and the least difference, are settings of ours.
"""

from collections.abc import Sequence

from plm.pairing.common import Paired, account, apart, check, usable, why_none
from plm.rounds.common import Answer


def best_worst(
    answers: Sequence[Answer],
    *,
    max_pairs: int | None = 1,
    min_margin: float = 0.0,
    drop_cut: bool = True,
) -> Paired:
    """The highest score against the lowest, the second highest against the second lowest, and on.

    Of answers with one score the first is taken first. No answer is in two pairs.

    Args:
        answers: of one prompt, scored.
        max_pairs: of the prompt; fewer where scores no longer differ; null: as many as there are.
        min_margin: least difference of a pair's scores; equal ones never make a pair.
        drop_cut: leave out answers that ended because they were too long.
    Raises:
        ConfigError: a setting that cannot be.
    """
    check(min_margin=min_margin, max_pairs=max_pairs)
    found, left_out = usable(answers, drop_cut=drop_cut)
    best = sorted(found, key=lambda index: -answers[index].score)
    worst = sorted(found, key=lambda index: answers[index].score)
    pairs = [
        (better, worse)
        for better, worse in zip(best[:max_pairs], worst[:max_pairs], strict=True)
        if apart(answers[better], answers[worse], min_margin)
    ]
    return account(found, left_out, pairs, why_none(answers, found))
