"""What the parts of a model share."""

from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from plm.model.context import Context


class Tap(nn.Identity):
    """A named place where torch's own hooks read, replace or re-differentiate a tensor."""


def fuses(kernels: str, tensor: Tensor) -> bool:
    """Whether a part hands its work to an op that spans several modules."""
    return kernels == "triton" or (kernels == "auto" and tensor.device.type == "cuda")


def unwatched(context: Context, *modules: nn.Module) -> bool:
    """Whether no hook reads or changes what goes through these modules.

    Those that a regularizer reads count as watched when a layer is run again for its backward,
    without the hooks. A hook of a user's own must stay until the backward has passed, where
    activations are checkpointed. Hooks on all modules at once, as torch's FLOP counter has some, do
    not count.
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
    kinds = all(
        type(module) is nn.Linear
        and module.bias is None
        and "forward" not in vars(module)
        # A quantised or distributed weight has a class of its own.
        and type(module.weight) in (nn.Parameter, Tensor, FakeTensor)
        for module in modules
    )
    return kinds and unwatched(context, *modules)


def own(module: nn.Module, name: str) -> Any:
    """What a module's class itself says under this name, or None.

    What it inherits does not count: a subclass with a forward of its own must say it again. Neither
    does it where the forward of the one module has been replaced.
    """
    return None if "forward" in vars(module) else vars(type(module)).get(name)


def fresh_weights(model: nn.Module) -> tuple[str, ...]:
    """Names of weights that a checkpoint need not have: adapters, which begin without effect."""
    return tuple(
        f"{name}.{own}"
        for name, module in model.named_modules()
        for own in getattr(module, "starts_fresh", ())
    )


def flops(module: nn.Module, seq_len: int) -> float:
    """Forward FLOPs a token of a part: what it answers itself, else 2 a weight of its matrices."""
    own = getattr(module, "flops_per_token", None)
    if own is not None:
        return float(own(seq_len))
    return 2.0 * sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)
