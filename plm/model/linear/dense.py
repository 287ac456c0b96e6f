"""A projection without bias, by torch."""

from torch import nn


def dense(in_features: int, out_features: int, role: str) -> nn.Module:
    """One projection of a model.

    Args:
        in_features, out_features: sizes of the last axis before and after.
        role: q, k, v, kv_a, kv_b, o, up, down, gate or head.
    """
    return nn.Linear(in_features, out_features, bias=False)
