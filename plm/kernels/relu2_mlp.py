"""Feed-forward with a squared ReLU whose square never lies in memory as a whole.

Paper: So et al., Primer (arXiv:2109.08668)
Cost: 4·D·F FLOPs a token forward and twice that backward; relu(x @ up.T) is all that is kept of the
    inside, F values a token where up, activation and down by themselves keep twice as many.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from plm.kernels.dispatch import use_triton
from plm.kernels.reference.relu2_mlp import relu2_mlp as plain

# Tokens at a time on a CPU, few enough that a block stays in its cache. The weights' gradients
# are read and written once a block, so that fewer would cost more than they save.
_CPU_ROWS = 1024


def _blocks(x: Tensor) -> range:
    """Where the blocks of rows begin; narrow types are added up in fp32 only by a whole product."""
    whole = x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64)
    return range(0, len(x), max(1, len(x)) if whole else _CPU_ROWS)


def _torch_forward(x: Tensor, up: Tensor, down: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    blocks = _blocks(x)
    rows, wide = min(len(x), blocks.step), len(up)
    r = x.new_empty(len(x) if keep else rows, wide)
    y, square = x.new_empty(x.shape), x.new_empty(rows, wide) if keep else r
    for start in blocks:
        block = x[start : start + rows]
        positive = r[start : start + rows] if keep else r[: len(block)]
        squared = square[: len(block)]
        torch.mm(block, up.t(), out=positive)
        torch.mul(positive.relu_(), positive, out=squared)
        torch.mm(squared, down.t(), out=y[start : start + rows])
    return y, r if keep else x.new_empty(0)


def _torch_backward(
    grad: Tensor, x: Tensor, up: Tensor, down: Tensor, r: Tensor, needed: list[bool]
) -> list[Tensor]:
    blocks = _blocks(x)
    rows, wide = min(len(x), blocks.step), len(up)
    shapes = [t.shape if need else (0,) for t, need in zip((x, up, down), needed, strict=True)]
    # Zeros only where no block overwrites them.
    grads = [x.new_empty(shape) if len(x) else x.new_zeros(shape) for shape in shapes]
    space = x.new_empty(rows, wide)
    for start in blocks:
        span = slice(start, start + rows)
        block, positive = grad[span], r[span]
        inside = space[: len(block)]
        if needed[2]:
            torch.mul(positive, positive, out=inside)
            _add_product(grads[2], block.t(), inside, start)
        if not (needed[0] or needed[1]):
            continue
        torch.mm(block, down, out=inside)
        inside.mul_(positive).mul_(2)
        if needed[0]:
            torch.mm(inside, up, out=grads[0][span])
        if needed[1]:
            _add_product(grads[1], inside.t(), x[span], start)
    return grads


def _add_product(out: Tensor, a: Tensor, b: Tensor, start: int) -> None:
    """The first block writes, the others add."""
    if start:
        out.addmm_(a, b)
    else:
        torch.mm(a, b, out=out)


def _triton_backward(
    grad: Tensor, x: Tensor, up: Tensor, down: Tensor, r: Tensor, needed: list[bool]
) -> list[Tensor]:
    from plm.kernels import relu2_mlp_triton

    nothing = x.new_empty(0)
    s = relu2_mlp_triton.slope(grad, down, r) if needed[0] or needed[1] else nothing
    return [
        torch.mm(s, up) if needed[0] else nothing,
        torch.mm(s.t(), x) if needed[1] else up.new_empty(0),
        relu2_mlp_triton.square_weight(grad, r) if needed[2] else down.new_empty(0),
    ]


@torch.library.custom_op("plm::relu2_mlp", mutates_args=())
def _relu2_mlp(
    x: Tensor, up: Tensor, down: Tensor, keep: bool, triton: bool
) -> tuple[Tensor, Tensor]:
    """y [M, D], and relu(x @ up.T) [M, F], which is empty unless kept."""
    if not triton:
        return _torch_forward(x, up, down, keep)
    from plm.kernels import relu2_mlp_triton

    r = relu2_mlp_triton.relu_up(x, up)
    return relu2_mlp_triton.square_down(r, down), r if keep else x.new_empty(0)


@_relu2_mlp.register_fake
def _(x, up, down, keep, triton):
    return x.new_empty(x.shape), x.new_empty((x.shape[0], up.shape[0]) if keep else (0,))


# An op without a derivative: asking for the second one raises instead of giving a wrong number.
@torch.library.custom_op("plm::relu2_mlp_backward", mutates_args=())
def _relu2_mlp_backward(
    grad: Tensor, x: Tensor, up: Tensor, down: Tensor, r: Tensor, needed: list[bool], triton: bool
) -> list[Tensor]:
    """Gradients of x, up and down; empty where not needed."""
    backward = _triton_backward if triton else _torch_backward
    # The forward chose the products' dtype; autocast around a backward must not choose again.
    with torch.autocast(x.device.type, enabled=False):
        return backward(grad.contiguous() if triton else grad, x, up, down, r, needed)


@_relu2_mlp_backward.register_fake
def _(grad, x, up, down, r, needed, triton):
    both = zip((x, up, down), needed, strict=True)
    return [t.new_empty(t.shape if need else (0,)) for t, need in both]


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills a tensor of zeros for the second output, which nobody uses.
    ctx.set_materialize_grads(False)
    ctx.triton = inputs[4]
    ctx.save_for_backward(*inputs[:3], output[1])


def _backward(ctx, grad: Tensor | None, _: Tensor | None) -> tuple:
    if grad is None:
        return (None,) * 5
    needed = list(ctx.needs_input_grad[:3])
    grads = _relu2_mlp_backward(grad, *ctx.saved_tensors, needed, ctx.triton)
    return *(g if need else None for g, need in zip(grads, needed, strict=True)), None, None


_relu2_mlp.register_autograd(_backward, setup_context=_keep)


def relu2_mlp(
    x: Tensor,
    up: Tensor,
    down: Tensor,
    *,
    observe: Callable[[Tensor], None] | None = None,
    form: str = "auto",
) -> Tensor:
    """relu(x @ up.T)^2 @ down.T, the square rounded to the dtype of the products.

    Differentiable once: a second derivative raises, and needs the reference.

    Args:
        x: [..., D].
        up: [F, D].
        down: [D, F].
        observe: is given relu(x @ up.T), [rows, F], detached.
        form: "auto", "triton" or "torch". For Triton D and F are multiples of 16, and the dtype of
            the products is bf16 or fp16. Triton multiplies fp32 too, if insisted on, in full
            precision and without the matrix unit; "auto" leaves that to torch.
    Returns:
        [..., D]; under autocast the products run in its dtype, which is then that of the result.
    Raises:
        ConfigError: form is "triton" and the kernels cannot run.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        x, up, down = x.to(dtype), up.to(dtype), down.to(dtype)
    if form == "auto" and x.dtype not in (torch.bfloat16, torch.float16):
        form = "torch"
    tensors = {"x": x, "up": up, "down": down}
    triton = use_triton("relu2_mlp", form, tensors, lambda: _problem(x, up, down))
    # torch.compile joins the plain form with what is around it; the op would be a wall in there.
    if torch.compiler.is_compiling() and not triton and observe is None:
        return plain(x, up, down)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors.values())
    keep = keep or observe is not None
    y, r = _relu2_mlp(x.reshape(-1, x.shape[-1]), up, down, keep, triton)
    if observe is not None:
        observe(r.detach())
    return y.view(x.shape)


def _problem(x: Tensor, up: Tensor, down: Tensor) -> str | None:
    from plm.kernels.rows import dtype_problem

    size, wide = x.shape[-1], len(up)
    if up.shape != (wide, size) or down.shape != (size, wide):
        shapes = f"{list(up.shape)} and {list(down.shape)}"
        return f"up and down are {shapes}; x of {size} columns takes [F, {size}] and [{size}, F]"
    for name, tensor in (("up", up), ("down", down)):
        if tensor.dtype != x.dtype:
            return f"{name} is {tensor.dtype}, x {x.dtype}"
    for name, number in (("D (columns of x)", size), ("F (rows of up)", wide)):
        if number < 16 or number % 16:
            return f"{name} is {number}; the Triton kernel takes multiples of 16"
    if up.numel() >= 2**31:
        return f"up has {up.numel()} elements; the Triton kernel takes fewer than 2^31"
    return dtype_problem(x=x)
