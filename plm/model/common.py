"""What the parts of a model share."""

from torch import nn


class Tap(nn.Identity):
    """A named place where torch's own hooks read, replace or re-differentiate a tensor."""


def flops(module: nn.Module, seq_len: int) -> float:
    """Forward FLOPs a token of a part: what it answers itself, else 2 a weight of its matrices."""
    own = getattr(module, "flops_per_token", None)
    if own is not None:
        return float(own(seq_len))
    return 2.0 * sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)
