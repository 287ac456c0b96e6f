"""Next-token cross-entropy, without the full logits.

Cost: 6·D·V FLOPs a kept token with gradients.
"""

from torch import Tensor

from plm.batch import LossSum
from plm.errors import ConfigError
from plm.kernels import pick


def cross_entropy(
    hidden: Tensor,
    head_weight: Tensor,
    labels: Tensor,
    *,
    z_weight: float = 0.0,
    kernels: str = "auto",
) -> LossSum:
    """Cross-entropy of the shifted labels, in nats.

    Args:
        hidden: [..., D], bf16, fp16, fp32 or fp64.
        head_weight: [V, D], dtype of hidden.
        labels: [...], int64, already shifted; IGNORE_INDEX drops a position.
        z_weight: adds `plm.loss.z_loss` of this weight from the same logits, at no cost, where
            `+loss@losses.z_loss=z_loss` would make them again. The sum is then no longer nats
            alone: measure validation without it.
        kernels: "auto" or "reference".
    Returns:
        Sum over the kept positions, fp32 (fp64 for fp64), and their number.
    Raises:
        ConfigError: z_weight is negative, or kernels has another name.
    """
    if z_weight < 0:
        raise ConfigError(
            f"losses.cross_entropy.z_weight={z_weight} is negative; 0 switches it off"
        )
    total, count, _, _ = pick(kernels).linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]), head_weight, labels.reshape(-1), z_weight=z_weight
    )
    return LossSum(total, count)
