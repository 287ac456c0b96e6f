"""The first answer of a chain against its last, where the later ones agree: no score is looked at.

Refinements that keep arriving at one final answer are more likely to be right.

Paper: Ding and Zhang, Sherlock (arXiv:2505.22651), whose self-improvement filters pairs so
Departs: the first answer itself is the worse one, where the paper makes one from it; and its final
    answer must be another one, since two answers that agree say nothing about which is better.
"""

from collections.abc import Sequence

from plm.evaluation.answers import answer_of, only_number, same_number, same_text
from plm.pairing.common import Paired, by_ends, check
from plm.rounds.common import Answer

FEWER = "fewer refinements than must agree"
UNSAID = "no final answer"
DISAGREE = "last answers disagree"
AGREES = "first answer agrees with the last"


def agreeing(answers: Sequence[Answer], *, turns: int = 3, drop_cut: bool = True) -> Paired:
    """One pair of each chain whose last answers agree on what the first does not say.

    What is compared stands behind the last `Answer:` or `####` of a line: as text, or as the one
    number in it. A first answer without any differs.

    Args:
        answers: of one prompt; scores are not needed.
        turns: how many of a chain's last answers must agree, all of them refinements.
        drop_cut: leave out answers that ended because they were too long.
    Raises:
        ConfigError: a setting that cannot be.
    """
    check(turns=turns)

    def against(chain: list[Answer]) -> str | None:
        if len(chain) <= turns:
            return FEWER
        first, *others, last = [_final(answer) for answer in (chain[0], *chain[-turns:])]
        if last is None:
            return UNSAID
        if not all(_same(other, last) for other in others):
            return DISAGREE
        return AGREES if _same(first, last) else None

    return by_ends(answers, against, drop_cut=drop_cut, scored=False)


def _final(answer: Answer) -> str | None:
    return answer_of(answer.text, question="", cut=answer.cut, hashes=True)


def _same(answer: str | None, wanted: str) -> bool:
    if same_text(answer, wanted):
        return True
    number = only_number(wanted)
    return number is not None and same_number(only_number(answer), number)
