"""Which kernels other libraries start for the same jobs, as their sources read.

Sources: liger_kernel 0.8.5 (ops/), quack 0.6.5 (mlp.py, linear_cross_entropy.py),
cut_cross_entropy 25.1.1 (cce_backward.py). Tensors are bf16.
"""

import math

from plm.kernels.roofline_ops import UNITS, Shape, chunks, norm_partials
from plm.kernels.roofline_work import Work, gemm, passes

_QUACK_CHUNK = 4096
# cut_cross_entropy: rows and vocabulary of a tile, and tiles of rows that run side by side.
_CCE_TILE, _CCE_GROUP = 128, 8


def liger_cross_entropy(rows: int, vocab: int, element: int) -> tuple[list[Work], list[Work]]:
    """Two reads and a write in place; the backward multiplies by the incoming gradient."""
    n, e = rows * vocab, element
    return [passes("loss and gradient", n, 2 * e, e)], [passes("· gradient", n, e, e)]


def liger_chunks(rows: int, kept: int, hidden: int, vocab: int) -> tuple[list[Work], list[Work]]:
    """Its fused linear cross-entropy: about V / D chunks, weight's gradient added up in bf16."""
    shares = math.ceil(vocab / hidden)
    chunk = min(rows, 2 ** math.ceil(math.log2(math.ceil(rows / shares))))
    d, v, part = hidden, vocab, kept / rows
    forward = [passes("gradients = 0", rows * d + v * d, 0, 2)]
    for count, each in chunks(rows, chunk):
        forward += [
            gemm("logits", each, v, d, launches=count),
            # Masked rows are multiplied like the others, and overwritten with zeros.
            passes("loss and gradient", count * each * v, 4 * part, 2, count),
            gemm("gradient of hidden", each, d, v, launches=count),
            gemm("gradient of weight", v, d, each, again=2, launches=count),
        ]
    return forward, [passes("scale", rows * d, 2, 2), passes("scale", v * d, 2, 2)]


def liger_linear_cross_entropy(s: Shape) -> tuple[list[Work], list[Work]]:
    """Liger-Kernel's."""
    return liger_chunks(s.tokens, s.rows, s.hidden, s.vocab)


def quack_linear_cross_entropy(s: Shape) -> tuple[list[Work], list[Work]]:
    """quack's: chunks of 4,096 rows, the first one's product written, the last one's kept back."""
    n, d, v = s.tokens, s.hidden, s.vocab
    sizes = [each for count, each in chunks(n, _QUACK_CHUNK) for _ in range(count)]
    forward, backward = [], [passes("scale", n * d, 2, 2)]
    for index, each in enumerate(sizes):
        forward += [
            gemm("logits", each, v, d),
            passes("loss and gradient", each * v, 4, 2),
            gemm("gradient of hidden", each, d, v),
        ]
        last, again = index == len(sizes) - 1, 4 if index else 0
        weight = gemm("gradient of weight", v, d, each, written=2 if last else 4, again=again)
        (backward if last else forward).append(weight)
    return forward, backward


def cce_linear_cross_entropy(s: Shape) -> tuple[list[Work], list[Work]]:
    """cut_cross_entropy's, exact: logits never in memory, made twice; gradients added under locks.

    What a group of row tiles shares is counted once: the weight is read, and its gradient read and
    written, once a group; its hidden and their gradient stay in the cache.
    """
    n, d, v = s.rows, s.hidden, s.vocab
    groups = math.ceil(n / (_CCE_TILE * _CCE_GROUP))
    product, weight = 2.0 * n * v * d, 2.0 * v * d * groups
    forward = [Work("log-sum-exp", weight + 2.0 * n * d, 4.0 * n, product)]
    gradient = Work(
        "gradients",
        2 * weight + 4.0 * n * d,
        weight + 2.0 * n * d,
        3 * product,
    )
    return forward, [passes("gradients = 0", s.tokens * d + v * d, 0, 2), gradient]


def liger_relu2_mlp(s: Shape) -> tuple[list[Work], list[Work]]:
    """Products by the library, Liger-Kernel's relu squared between them; x is kept."""
    n, d, f = s.tokens, s.hidden, s.feed
    forward = [gemm("up", n, f, d), passes("relu2", n * f, 2, 2), gemm("down", n, d, f)]
    backward = [
        gemm("gradient through down", n, f, d),
        gemm("gradient of down", d, f, n),
        passes("relu2's gradient", n * f, 4, 2),
        gemm("gradient of x", n, d, f),
        gemm("gradient of up", f, d, n),
    ]
    return forward, backward


def quack_relu2_mlp(s: Shape) -> tuple[list[Work], list[Work]]:
    """quack's: x and its square are both written, and the square again in the backward."""
    n, d, f = s.tokens, s.hidden, s.feed
    forward = [gemm("up, relu2", n, f, d, written=4), gemm("down", n, d, f)]
    backward = [
        gemm("gradient through down", n, f, d, again=2, written=4),
        gemm("gradient of down", d, f, n),
        gemm("gradient of x", n, d, f),
        gemm("gradient of up", f, d, n),
    ]
    return forward, backward


def liger_rms_norm(s: Shape) -> tuple[list[Work], list[Work]]:
    """One kernel each way."""
    n, d = s.tokens * s.hidden, s.hidden
    backward = Work("gradient", 4 * n + 4 * s.tokens, 2 * n + 4 * UNITS * d)
    return [Work("norm", 2 * n + 2 * d, 2 * n + 4 * s.tokens)], [backward, *norm_partials(d)]


def liger_add_rms_norm(s: Shape) -> tuple[list[Work], list[Work]]:
    """One kernel each way."""
    n, d = s.tokens * s.hidden, s.hidden
    backward = Work("gradient", 6 * n + 4 * s.tokens, 2 * n + 4 * UNITS * d)
    return [Work("add, norm", 4 * n + 2 * d, 4 * n + 4 * s.tokens)], [backward, *norm_partials(d)]


def liger_rope(s: Shape) -> tuple[list[Work], list[Work]]:
    """In place, for queries and keys; angles a token in fp32, as packed documents need them."""
    n = s.tokens * (s.heads + 1) * s.rope * 2.0
    turn = [Work("turn", n + s.tokens * s.rope * 4.0, n)]
    return turn, turn


def liger_relu2(s: Shape) -> tuple[list[Work], list[Work]]:
    """x is kept, so that nothing else is written."""
    n = s.tokens * s.feed
    return [passes("relu2", n, 2, 2)], [passes("gradient", n, 4, 2)]
