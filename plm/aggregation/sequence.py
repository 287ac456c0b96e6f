"""Each rollout counts alike: the mean over rollouts of the mean over their tokens.

Paper: Shao et al., DeepSeekMath: GRPO (arXiv:2402.03300), equation 3
"""

from torch import Tensor

from plm.aggregation.common import there


def sequence(lengths: Tensor, *, longest: int) -> Tensor:
    """1 / (R · length) a token.

    Args:
        lengths: [R] int64, tokens with a loss.
        longest: most tokens that a rollout may have; not used.
    Returns:
        [R] fp64.
    """
    return 1 / (there(lengths) * lengths.double().clamp(min=1))
