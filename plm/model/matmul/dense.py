"""The products inside attention, by torch."""

from torch import Tensor


def dense(left: Tensor, right: Tensor, role: str) -> Tensor:
    """Batched matrix product.

    Args:
        left: [..., T, K].
        right: [..., K, S].
        role: "scores" (queries by keys) or "values" (pattern by values).
    Returns:
        [..., T, S].
    """
    return left @ right
