"""What the parts of a model share."""

from torch import Tensor, nn

from plm.model.context import Context


class Tap(nn.Identity):
    """A named place where torch's own hooks read, replace or re-differentiate a tensor."""


def fuses(kernels: str, tensor: Tensor) -> bool:
    """Whether a part hands its work to an op that spans several modules."""
    return kernels == "triton" or (kernels == "auto" and tensor.device.type == "cuda")


def unwatched(context: Context, *modules: nn.Module) -> bool:
    """Whether no hook reads or changes what goes through these modules.

    Those that a regularizer reads count as watched when a layer is run again for its backward,
    without the hooks.
    """
    return not any(
        module in context.read
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )


def plain_linear(context: Context, *modules: nn.Module) -> bool:
    """Whether these are torch's projections without bias, unwatched: their weight says it all."""
    kinds = all(type(module) is nn.Linear and module.bias is None for module in modules)
    return kinds and unwatched(context, *modules)


def flops(module: nn.Module, seq_len: int) -> float:
    """Forward FLOPs a token of a part: what it answers itself, else 2 a weight of its matrices."""
    own = getattr(module, "flops_per_token", None)
    if own is not None:
        return float(own(seq_len))
    return 2.0 * sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)
