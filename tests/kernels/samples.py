"""Small kernels, right and wrong, for the tests of what watches and compiles kernels."""

import triton
import triton.language as tl


@triton.jit
def double(x, out, count, BLOCK: tl.constexpr):
    """out = 2 x."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    tl.store(out + place, 2 * tl.load(x + place, mask=inside), mask=inside)


@triton.jit
def reads_past(x, out, count, BLOCK: tl.constexpr):
    """Forgets the mask of its load."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place, 2 * tl.load(x + place), mask=place < count)


@triton.jit
def writes_past(x, out, count, BLOCK: tl.constexpr):
    """Forgets the mask of its store."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place, 2 * tl.load(x + place, mask=place < count))


@triton.jit
def races(x, out, count, BLOCK: tl.constexpr):
    """All programs write the same place."""
    place = tl.arange(0, BLOCK)
    tl.store(out + place, tl.load(x + place))


@triton.jit
def reads_what_another_writes(x, out, count, BLOCK: tl.constexpr):
    """Takes the neighbour's part of the output as input."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    neighbour = (tl.program_id(0) + 1) % tl.num_programs(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place, tl.load(out + neighbour) + tl.load(x + place))


@triton.jit
def adds_up_by_atomics(x, out, count, BLOCK: tl.constexpr):
    """A sum whose order is left open."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out + tl.arange(0, BLOCK), tl.load(x + place, mask=place < count))


@triton.jit
def arithmetic(x, y, out, BLOCK: tl.constexpr):
    """(x·y + x) / y and the larger of the two, in the dtype of x."""
    place = tl.arange(0, BLOCK)
    a, b = tl.load(x + place), tl.load(y + place)
    tl.store(out + place, (a * b + a) / b)
    tl.store(out + BLOCK + place, tl.maximum(a, b))
    tl.store(out + 2 * BLOCK + place, tl.where(a < b, a, -b))


@triton.jit
def product(a, b, c, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """c = a @ b.T; a [M, K], b [N, K]."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        left = tl.load(a + m[:, None] * K + k, mask=(m < M)[:, None] & (k < K), other=0.0)
        right = tl.load(b + n[:, None] * K + k, mask=(n < N)[:, None] & (k < K), other=0.0)
        total = tl.dot(left, right.T, total, input_precision="ieee")
    inside = (m < M)[:, None] & (n < N)
    tl.store(c + m[:, None] * N + n, total.to(c.dtype.element_ty), mask=inside)
