"""What the ops over a head product share: chunks of rows, whose logits become their gradient.

The products are matrix products of torch's; the middle is a pass over a chunk of logits that takes
their statistics and, where a gradient is needed, a second one in their place. Of a row with logits
l, tempered by s = 1 / temperature, and u = s·l - logsumexp(s·l), p = exp(u):
    gradient = p · (alpha + beta · u) + gamma · onehot(label)
so that an op only says what alpha, beta and gamma are, which may depend on the statistics.

How many rows a chunk has on a GPU. Bytes of one chunk of c rows, with a product in 2 bytes: the
logits are written, read for the statistics, read and written for the gradient, and read by two
products: 12·c·V. The head is read twice, 4·V·D, and its fp32 gradient read and written, 8·V·D.
So the head's share is D / c of the logits', whatever V is: c = 4·D makes it a quarter. Small
vocabularies take more rows, since launches weigh there, and large ones fewer, for the memory.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from plm.kernels.dispatch import use_triton
from plm.kernels.linear_rows_check import kept_rows

# On a CPU a block of logits must stay below 32 MiB, from where glibc gets it anew from the system
# each time, page by page.
_CPU_LOGITS = 2**22
_GPU_LEAST_LOGITS = 2**26
_GPU_MOST_BYTES = 2**30
_ROWS_OF_D = 4
_CHUNK_RANGE = (128, 8192)


class Stats(NamedTuple):
    """Of each row, [R], wide; the last two only where they were asked for.

    Attributes:
        log_sum: log of the sum of exp of the tempered logits.
        logps: log-probability of the label.
        entropy: in nats.
        top1: int64, the token of the largest logit.
    """

    log_sum: Tensor
    logps: Tensor
    entropy: Tensor | None
    top1: Tensor | None

    def rows(self, span: slice) -> "Stats":
        """Views of some rows."""
        return Stats(*(None if part is None else part[span] for part in self))


class Coefficients(NamedTuple):
    """Of each row, [R], wide: the gradient is p · (alpha + beta · log p) + gamma · onehot."""

    alpha: Tensor
    gamma: Tensor
    beta: Tensor | None = None


class Middle(Protocol):
    """The passes over one chunk of logits; `wide` for the torch form, in place for Triton's.

    Attributes:
        bytes_per_logit: memory of a chunk.
        in_place: the logits stay in the product's dtype.
    """

    bytes_per_logit: int
    in_place: bool

    def take(self, logits: Tensor, labels: Tensor, out: Stats) -> None:
        """Fill the statistics of a chunk."""

    def resume(self, logits: Tensor, log_sum: Tensor, entropy: bool) -> None:
        """In place of `take` where the statistics are known; entropy: there will be a beta."""

    def gradient(self, labels: Tensor, coefficients: Coefficients) -> Tensor:
        """[R, V] of the chunk last taken or resumed, which is destroyed."""


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """That of sums and statistics: fp32, fp64 for fp64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Of the head product: autocast's where it is on, otherwise hidden's."""
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device) and hidden.dtype != torch.float64
    return torch.get_autocast_dtype(device) if autocast else hidden.dtype


def default_chunk(vocab_size: int, hidden_size: int, device: str, bytes_per_logit: int) -> int:
    """Rows at a time where nobody chose; why so many, see above.

    Args:
        vocab_size: V.
        hidden_size: D.
        device: "cpu" or another type.
        bytes_per_logit: memory of a chunk.
    """
    low, high = _CHUNK_RANGE
    vocab_size = max(1, vocab_size)
    if device == "cpu":
        return max(low, min(high, _CPU_LOGITS // vocab_size // low * low))
    least = min(high, _GPU_LEAST_LOGITS // vocab_size)
    most = _GPU_MOST_BYTES // bytes_per_logit // vocab_size
    return max(low, min(most, max(least, _ROWS_OF_D * hidden_size)) // low * low)


class Sweep:
    """The chunks of one call, over its kept rows.

    Args:
        op: name for errors and for the choice of form.
        tensors: hidden [N, D], weight [V, D], labels [N].
        dtype: of the product.
        scale: 1 / temperature.
        chunk: rows at a time; None chooses.
        form: "auto", "triton" or "torch".
        entropy: whether the statistics hold it, or the gradient has a beta.
        top1: whether the statistics hold it.
    Raises:
        ConfigError: a label is no token, or form cannot be had.
    """

    def __init__(
        self,
        op: str,
        tensors: tuple[Tensor, Tensor, Tensor],
        dtype: torch.dtype,
        *,
        scale: float = 1.0,
        chunk: int | None = None,
        form: str = "auto",
        entropy: bool = False,
        top1: bool = False,
    ) -> None:
        hidden, weight, labels = tensors
        self.entropy, self.top1 = entropy, top1
        self.middle = _middle(op, tensors, dtype, scale, form, entropy)
        self.kept = kept_rows(op, labels, weight.shape[0])
        self.of_hidden, self.of_weight = hidden, weight
        self.rows = self.pick(hidden).to(dtype)
        self.weight = weight.to(dtype)
        self.labels = self.pick(labels)
        self.wide = wide_dtype(dtype)
        self.chunk = chunk or default_chunk(
            *weight.shape, hidden.device.type, self.middle.bytes_per_logit
        )

    def pick(self, values: Tensor) -> Tensor:
        """The kept rows of a tensor [N, …]."""
        return values if self.kept is None else values.index_select(0, self.kept)

    def spread(self, values: Tensor, fill: int = 0) -> Tensor:
        """Of the kept rows' values, [N, …] with `fill` at the others."""
        if self.kept is None:
            return values
        out = values.new_full((self.of_hidden.shape[0], *values.shape[1:]), fill)
        return out.index_copy_(0, self.kept, values)

    def run(
        self,
        coefficients: Callable[[slice, Stats], Coefficients] | None,
        need_hidden: bool,
        need_weight: bool,
        log_sum: Tensor | None = None,
    ) -> tuple[Stats, Tensor, Tensor]:
        """Statistics of the kept rows, gradient of hidden, gradient of weight.

        Args:
            coefficients: of the gradient, from the rows' place and statistics; None: no gradient.
            need_hidden, need_weight: gradients that are made; the others are empty.
            log_sum: known from before: then these are the only statistics.
        """
        need = coefficients is not None and (need_hidden or need_weight)
        grad_rows = self.rows.new_empty(self.rows.shape) if need and need_hidden else None
        grad_weight = None
        if need and need_weight:
            grad_weight = self.weight.new_zeros(self.weight.shape, dtype=self.wide)
        stats = self._stats(log_sum)
        # The products' dtype is chosen by the caller; autocast must not choose again in here.
        with torch.autocast(self.rows.device.type, enabled=False):
            self._chunks(stats, log_sum is None, need, coefficients, (grad_rows, grad_weight))
        of_hidden, of_weight = self.of_hidden.new_empty(0), self.of_weight.new_empty(0)
        if grad_rows is not None:
            of_hidden = self.spread(grad_rows.to(of_hidden.dtype))
        if grad_weight is not None:
            of_weight = grad_weight.to(of_weight.dtype)
        return stats, of_hidden, of_weight

    def _stats(self, log_sum: Tensor | None) -> Stats:
        if log_sum is not None:
            return Stats(log_sum, log_sum, None, None)
        rows = self.rows.shape[0]
        sums = [self.rows.new_empty(rows, dtype=self.wide) for _ in range(2 + self.entropy)]
        top1 = torch.empty_like(self.labels) if self.top1 else None
        return Stats(sums[0], sums[1], sums[2] if self.entropy else None, top1)

    def _chunks(self, stats, unknown, need, coefficients, grads) -> None:
        grad_rows, grad_weight = grads
        count, chunk = self.rows.shape[0], self.chunk
        buffer = None
        if self.middle.in_place:
            buffer = self.rows.new_empty(min(chunk, count), self.weight.shape[0])
        for start in range(0, count, chunk):
            span = slice(start, start + chunk)
            block, labels, found = self.rows[span], self.labels[span], stats.rows(span)
            # The chunk before goes, before there is another one.
            logits = slope = None
            self.middle.forget()
            logits = torch.mm(
                block, self.weight.t(), out=None if buffer is None else buffer[: len(block)]
            )
            if not self.middle.in_place:
                logits = logits.to(self.wide)
            if unknown:
                self.middle.take(logits, labels, found)
            else:
                self.middle.resume(logits, found.log_sum, self.entropy)
            if not need:
                continue
            slope = self.middle.gradient(labels, coefficients(span, found)).to(block.dtype)
            if grad_rows is not None:
                torch.mm(slope, self.weight, out=grad_rows[span])
            if grad_weight is not None:
                _add_product(grad_weight, slope.t(), block)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, the total being wide."""
    if a.dtype == total.dtype:
        # Not addmm_, which torch's FLOP counter does not know.
        torch.addmm(total, a, b, out=total)
    elif total.is_cuda and torch.version.hip is None:
        # Added up in the product itself: neither its rounding nor its bytes. NVIDIA's library only.
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.add_(torch.mm(a, b))


def _middle(op: str, tensors: tuple, dtype: torch.dtype, scale: float, form: str, entropy: bool):
    hidden, weight, labels = tensors

    def problem() -> str | None:
        if dtype in (torch.bfloat16, torch.float16, torch.float32):
            return None
        return f"hidden is {dtype}; the Triton kernel takes bf16, fp16 and fp32"

    taken = {"hidden": hidden, "weight": weight, "labels": labels}
    if not use_triton(op, form, taken, problem):
        from plm.kernels.linear_rows_torch import TorchMiddle

        return TorchMiddle(dtype, scale, entropy)
    from plm.kernels.linear_rows_triton import TritonMiddle

    return TritonMiddle(dtype, scale)


# Rows of a gradient that are wide at a time.
_SCALED_ROWS = 4096


def frees_graph() -> bool:
    """Whether the backward that runs frees its graph: what was saved may be overwritten then."""
    keeps = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    # A mode looks at every op (tracing, FLOP counters): it must see none that works in place.
    watched = (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
    return not (keeps is None or watched or torch.is_grad_enabled() or keeps())


def scaled_in_place(
    grad: Tensor, grad_hidden: Tensor, grad_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """As `scaled`, without a second copy of the weight's gradient."""
    return tuple(_times(made, grad) for made in (grad_hidden, grad_weight))


def scaled(grad: Tensor, *gradients: Tensor) -> tuple[Tensor, ...]:
    """Gradients made in the forward, by the factor that the backward brings."""
    return tuple(_times(gradient.clone(), grad) for gradient in gradients)


def _times(made: Tensor, grad: Tensor) -> Tensor:
    """In place, by a wide factor: one over a count, or a scaler's, is not for a narrow type."""
    if made.dtype == wide_dtype(made.dtype):
        return made.mul_(grad)
    for part in made.split(_SCALED_ROWS) if made.numel() else ():
        part.copy_(part.float().mul_(grad))
    return made
