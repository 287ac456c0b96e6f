"""Answering and refining at once: DPO on the question, a square loss where an answer is shown.

Paper: Zeng et al., ARIES (arXiv:2502.05605), known here by its abstract and by papers that use it
Paper: Ding and Zhang, Sherlock (arXiv:2505.22651), which restates the objective and its square form
Departs: both contexts and α = 0.8 follow Sherlock's code; ARIES' own β and rate are not known.
Cost: six scored answers a pair, by the policy and once by the reference; two at α = 0, four at 1.

The aim of a refinement is p(y₂ better than y₁ | x) − β·KL(π ‖ reference). At its optimum, since
p(y₁ better than y₁) = ½, p(y_w better than y_l) − ½ = β·D, fitted by a square with p = 1.
"""

import torch
import torch.nn.functional as F

from plm.batch import LossSum
from plm.preference.common import (
    ABOVE_0,
    NOTHING,
    SHOWN,
    Numbers,
    PairLogps,
    margins,
    number,
)

_SHARE = Numbers(
    "from 0, which is DPO on the question, to 1, refinement alone", lambda value: 0 <= value <= 1
)


def aries(
    policy: PairLogps,
    reference: PairLogps,
    *,
    alpha: float = 0.8,
    beta: float = 0.1,
    refine_beta: float | None = None,
) -> LossSum:
    """(1 − α)·(−log σ(β·D)) + α·((½ − β′·D_l)² + (½ − β′·D_w)²).

    D, D_l and D_w are the margins behind the question alone, the worse answer shown, and the better
    one shown. A square is smallest at D = 1 / (2β′) and pulls back beyond it.

    Args:
        policy: N parts, with gradients; their `shown` says which term each is of.
        reference: the same parts, without.
        alpha: α, the share of the refinement.
        beta: how closely the direct answer is held to the reference.
        refine_beta: β′, the same of a refinement; None: beta.
    Returns:
        Sum over the parts, dtype of the log-probabilities, and N. Each part's term is multiplied by
        how many kinds of part `shows` names, so that total / count is the sum above where there
        are equally many of each. A part of another kind counts and adds nothing.
    Raises:
        ConfigError: alpha lies outside [0, 1], or a beta is not above 0.
    """
    kinds = len(shows(alpha=alpha))
    beside = beta if refine_beta is None else refine_beta
    ABOVE_0.check(beta=beta, refine_beta=beside)
    distance = margins(policy, reference)
    direct = -F.logsigmoid(beta * distance) * (kinds * (1 - alpha))
    refined = (0.5 - beside * distance).square() * (kinds * alpha)
    losses = torch.where(policy.shown == NOTHING, direct, refined)
    return LossSum(losses.sum(), number(policy))


def shows(*, alpha: float = 0.8, **others: object) -> tuple[str, ...]:
    """Which kinds of part have a weight.

    Args:
        alpha: as for the loss.
        others: its other settings, which do not matter here.
    Raises:
        ConfigError: alpha lies outside [0, 1].
    """
    _SHARE.check(alpha=alpha)
    return (SHOWN[:1] if alpha < 1 else ()) + (SHOWN[1:] if alpha > 0 else ())


aries.shows = shows
