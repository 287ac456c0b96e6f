"""Later in the chain is better: a rule that needs neither a verifier nor a reward model.

Paper: Zeng et al., ARIES (arXiv:2502.05605), which selects pairs by a reward model or by a rule
Departs: the rule is a reconstruction: the paper's own is not known to us.
"""

from plm.errors import ConfigError
from plm.reward.common import Example, worthless


def rule(completion: str, example: Example) -> float:
    """k / (k + 1) for the k-th refinement: 0, 1/2, 2/3 …, whatever the chain's length.

    Nothing is said about the text, except that an empty one, one that was cut and a copy of the
    question have 0.

    Raises:
        ConfigError: the completion is of no chain.
    """
    if example.answer is None:
        raise ConfigError(
            "reward=rule scores an answer by its turn, and these are of no chain; set "
            "reward=verifier or reward=reward_model"
        )
    if worthless(completion, example):
        return 0.0
    return example.answer.turn / (example.answer.turn + 1)
