"""What the parts of a model share."""

from torch import Tensor, nn


class Tap(nn.Identity):
    """A named place where torch's own hooks read, replace or re-differentiate a tensor."""


def flops(module: nn.Module, seq_len: int) -> float:
    """Forward FLOPs a token of a part: what it answers itself, else 2 a weight of a projection."""
    own = getattr(module, "flops_per_token", None)
    if own is not None:
        return float(own(seq_len))
    weight = getattr(module, "weight", None)
    return 2.0 * weight.numel() if isinstance(weight, Tensor) and weight.dim() == 2 else 0.0
