"""Peak rate with the square root of the batch; linear for plain gradient descent.

Source: standard theory (Malladi et al., arXiv:2205.10287, for Adam; Goyal et al., arXiv:1706.02677,
for SGD). Where the gradient's noise dominates, the largest stable rate of SGD grows as the batch;
Adam divides by about the root of the second moment, which leaves its square root.
Departs: no saturation at batches past the noise scale.
"""

from collections.abc import Sequence

from plm.errors import ConfigError


def sqrt_batch(
    base_batch: float,
    batch: float,
    optimizer: str,
    width: int,
    *,
    linear_for: Sequence[str] = ("sgd",),
) -> float:
    """Factor on the peak rate.

    Args:
        base_batch: tokens of the batch that the peak rate was chosen at.
        batch: tokens of the batch in use.
        optimizer: name of the optimizer's choice.
        width: hidden_size of the model; not used by this rule.
        linear_for: optimizers that do not normalise their update.
    Raises:
        ConfigError: a batch is not positive.
    """
    if base_batch <= 0 or batch <= 0:
        raise ConfigError(
            f"scaling=sqrt_batch: base batch {base_batch} and batch {batch} must be positive tokens"
        )
    ratio = batch / base_batch
    return ratio if optimizer in linear_for else ratio**0.5
