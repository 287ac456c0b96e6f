"""Squared ReLU that keeps relu(x) only for its backward.

Paper: So et al., Primer (arXiv:2109.08668)
Cost: one tensor of x's size saved, and half the passes of relu then square in the backward.
"""

import torch
from torch import Tensor


@torch.library.custom_op("plm::relu2", mutates_args=())
def _relu2(x: Tensor) -> tuple[Tensor, Tensor]:
    positive = x.relu()
    return positive * positive, positive


@_relu2.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op("plm::relu2_backward", mutates_args=())
def _relu2_backward(grad: Tensor, positive: Tensor) -> Tensor:
    return (grad * positive).mul_(2)


@_relu2_backward.register_fake
def _(grad: Tensor, positive: Tensor) -> Tensor:
    return torch.empty_like(positive)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills a tensor of zeros for the second output, which nobody uses.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _backward(ctx, grad: Tensor | None, _: Tensor | None) -> Tensor | None:
    return None if grad is None else _relu2_backward(grad, *ctx.saved_tensors)


_relu2.register_autograd(_backward, setup_context=_keep)


def relu2(x: Tensor) -> Tensor:
    """relu(x)^2, any shape; dtype of x.

    Differentiable once: a second derivative raises, and needs `plm.kernels.reference.relu2`.
    """
    return _relu2(x)[0]
