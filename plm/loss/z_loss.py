"""Penalty on the log-partition, which keeps logits from drifting upward.

Paper: Chowdhery et al., PaLM (arXiv:2204.02311); Zoph et al., ST-MoE (arXiv:2202.08906)
Cost: 6·D·V FLOPs a kept token with gradients; none as `z_weight` of cross_entropy.
"""

from torch import Tensor

from plm.batch import LossSum
from plm.errors import ConfigError
from plm.kernels import pick


def z_loss(
    hidden: Tensor,
    head_weight: Tensor,
    labels: Tensor,
    *,
    weight: float = 1e-4,
    kernels: str = "auto",
) -> LossSum:
    """`weight` times the square of log(sum(exp(logits))).

    Args:
        hidden: [..., D], bf16, fp16, fp32 or fp64.
        head_weight: [V, D], dtype of hidden.
        labels: [...], int64; IGNORE_INDEX drops a position.
        weight: factor on the squared log-partition; 0 switches it off.
        kernels: "auto" or "reference".
    Returns:
        Sum over the kept positions, fp32 (fp64 for fp64), in nats squared, and their number.
    Raises:
        ConfigError: weight is negative, or kernels has another name.
    """
    if weight < 0:
        raise ConfigError(f"losses.z_loss.weight={weight} is negative; 0 switches it off")
    total, count, _, _ = pick(kernels).linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        head_weight,
        labels.reshape(-1),
        ce_weight=0.0,
        z_weight=weight,
    )
    return LossSum(total, count)
