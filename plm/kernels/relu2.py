"""Squared ReLU that keeps one tensor for its backward.

Paper: So et al., Primer (arXiv:2109.08668)
Cost: in torch relu(x) is kept; in Triton the output, which the next projection keeps anyway (x for
    fp16), so that one pass goes each way.
"""

import torch
from torch import Tensor

from plm.kernels.dispatch import use_triton
from plm.kernels.reference.relu2 import relu2 as plain


@torch.library.custom_op("plm::relu2", mutates_args=())
def _relu2(x: Tensor, triton: bool = False) -> tuple[Tensor, Tensor]:
    """relu(x)^2, and relu(x), empty where Triton runs."""
    if triton:
        from plm.kernels import relu2_triton

        return relu2_triton.relu2(x), x.new_empty(0)
    positive = x.relu()
    return positive * positive, positive


@_relu2.register_fake
def _(x: Tensor, triton: bool = False) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0) if triton else torch.empty_like(x)


@torch.library.custom_op("plm::relu2_backward", mutates_args=())
def _relu2_backward(grad: Tensor, kept: Tensor, kind: str) -> Tensor:
    """kind says what is kept: "relu" for torch, "square" or "x" for Triton."""
    if kind == "relu":
        return (grad * kept).mul_(2)
    from plm.kernels import relu2_triton

    return relu2_triton.relu2_backward(grad, kept, kind == "square")


@_relu2_backward.register_fake
def _(grad: Tensor, kept: Tensor, kind: str) -> Tensor:
    return torch.empty_like(kept)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills a tensor of zeros for the second output, which nobody uses.
    ctx.set_materialize_grads(False)
    x, triton = inputs
    ctx.kind = "relu" if not triton else "x" if x.dtype == torch.float16 else "square"
    ctx.save_for_backward({"relu": output[1], "x": x, "square": output[0]}[ctx.kind])


def _backward(ctx, grad: Tensor | None, _: Tensor | None) -> tuple:
    if grad is None:
        return None, None
    return _relu2_backward(grad, *ctx.saved_tensors, ctx.kind), None


_relu2.register_autograd(_backward, setup_context=_keep)


def relu2(x: Tensor, *, form: str = "auto") -> Tensor:
    """relu(x)^2, any shape; dtype of x.

    Differentiable once: a second derivative raises, and needs `plm.kernels.reference.relu2`.

    Args:
        x: for Triton contiguous, bf16, fp16 or fp32.
        form: "auto", "triton" or "torch". Triton's gradient, but in fp16, comes from the output:
            below 1e-19, where the square vanishes, it is 0.
    Raises:
        ConfigError: form is "triton" and the kernel cannot run.
    """
    triton = use_triton("relu2", form, {"x": x}, lambda: _problem(x))
    # torch.compile joins the plain form with what is around it; the op would be a wall in there.
    if torch.compiler.is_compiling() and not triton:
        return plain(x)
    return _relu2(x, triton)[0]


def _problem(x: Tensor) -> str | None:
    from plm.kernels.rows import dtype_problem

    return dtype_problem(x=x)
