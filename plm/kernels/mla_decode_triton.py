"""Triton kernels of one new token's attention over cached latents, split over the positions.

The latent is key and value of all heads at once, so that a tile of the cache is read once and used
in both products. Scores are made transposed, positions by heads: the matrix units of sm_90 and
sm_100 want 64 rows at least, which a token's heads do not fill and positions do.
Bytes: the seen part of the cache once for each 16 heads; 8 a split, head and latent column between
the two kernels, nothing of that where one split is enough.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from plm.kernels.mla_decode_configs import COMBINE, HEADS, MOST_SPLITS, SPLIT
from plm.kernels.rows import padded, processors
from plm.kernels.tiles import interpreting, launch

# A split's partial result costs as much traffic as about this many positions over two.
LEAST_POSITIONS = 128
# In the interpreter, so that little data is split at all.
_INTERPRETED = 3


@triton.jit(do_not_specialize=["positions", "splits"])
def split(
    q_latent,
    q_rope,
    latent,
    k_rope,
    lengths,
    partial,
    log_sums,
    positions,
    splits,
    factor,
    latent_row,
    latent_position,
    rope_row,
    rope_position,
    H: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_R: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """One split's attention of HEADS heads of one row.

    Args:
        partial: [B, splits, H, C], the split's result; 0 where it sees nothing.
        log_sums: [B, splits, H] fp32, log2 of the split's sum of exponentials, or -inf.
        factor: scale of the scores, times log2 e.
        latent_row, …: strides of the cache over rows and positions.
    """
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head = tl.program_id(2) * HEADS + tl.arange(0, HEADS)
    column, turned = tl.arange(0, WIDTH), tl.arange(0, WIDTH_R)
    known = (head < H)[:, None]
    query = (row * H + head)[:, None]
    q = tl.load(q_latent + query * C + column, mask=known & (column < C), other=0.0)
    q_turned = tl.load(q_rope + query * R + turned, mask=known & (turned < R), other=0.0)

    length = tl.minimum(tl.load(lengths + row), positions)
    share = tl.cdiv(tl.cdiv(length, BLOCK_S), splits) * BLOCK_S
    first = piece * share
    last = tl.minimum(first + share, length)
    best = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    # Transposed, [C, heads], like the scores.
    out = tl.zeros((WIDTH, HEADS), tl.float32)
    for start in range(first, last, BLOCK_S):
        place = start + tl.arange(0, BLOCK_S)
        seen = (place < last)[:, None]
        cached = latent + row * latent_row + place[:, None] * latent_position + column
        keys = tl.load(cached, mask=seen & (column < C), other=0.0)
        cached = k_rope + row * rope_row + place[:, None] * rope_position + turned
        keys_turned = tl.load(cached, mask=seen & (turned < R), other=0.0)
        scores = tl.dot(keys, tl.trans(q), input_precision="ieee")
        scores = tl.dot(keys_turned, tl.trans(q_turned), scores, input_precision="ieee")
        scores = tl.where(seen, scores * factor, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 0))
        weights = tl.exp2(scores - higher[None, :])
        shrink = tl.exp2(best - higher)
        total = total * shrink + tl.sum(weights, 0)
        out = out * shrink[None, :]
        out = tl.dot(tl.trans(keys), weights.to(keys.dtype), out, input_precision="ieee")
        best = higher
    empty = total == 0
    out = out / tl.where(empty, 1.0, total)[None, :]
    log_sum = tl.where(empty, float("-inf"), best + tl.log2(total))
    place = (row * splits + piece) * H + head
    tl.store(log_sums + place, log_sum, mask=head < H)
    into, inside = place[None, :] * C + column[:, None], (head < H)[None, :] & (column < C)[:, None]
    tl.store(partial + into, out.to(partial.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["splits"])
def combine(
    partial,
    log_sums,
    out,
    splits,
    H: tl.constexpr,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """out [B, H, C]: the splits' results, weighted by their sums; 0 where none sees anything."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, WIDTH)
    every = tl.arange(0, MOST)
    sums = tl.load(
        log_sums + (row * splits + every) * H + head, mask=every < splits, other=float("-inf")
    )
    best = tl.max(sums, 0)
    # exp2(-inf - -inf) would be NaN.
    best = tl.where(best == float("-inf"), 0.0, best)
    total = tl.sum(tl.exp2(sums - best), 0)
    result = tl.zeros((BLOCK_P, WIDTH), tl.float32)
    for start in range(0, splits, BLOCK_P):
        piece = start + tl.arange(0, BLOCK_P)
        place = (row * splits + piece) * H + head
        found = tl.load(log_sums + place, mask=piece < splits, other=float("-inf"))
        inside = (piece < splits)[:, None] & (column < C)[None, :]
        part = tl.load(partial + place[:, None] * C + column[None, :], mask=inside, other=0.0)
        result += part * tl.exp2(found - best)[:, None]
    summed = tl.sum(result, 0) / tl.where(total == 0, 1.0, total)
    tl.store(out + (row * H + head) * C + column, summed.to(out.dtype.element_ty), column < C)


def splits_of(programs: int, positions: int, device: torch.device) -> int:
    """Into how many parts the positions go, so that every multiprocessor has work.

    Args:
        programs: that there are without a split.
        positions: of the cache.
    """
    if interpreting():
        return _INTERPRETED
    wanted = processors(device) // max(1, programs)
    return max(1, min(wanted, triton.cdiv(positions, LEAST_POSITIONS), MOST_SPLITS))


def mla_decode(
    q_latent: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    lengths: Tensor,
    scale: float,
) -> Tensor:
    """[B, H, C]; arguments as the public function has them."""
    rows, heads, rank = q_latent.shape
    positions, size = latent.shape[1], q_rope.shape[-1]
    groups = triton.cdiv(heads, HEADS)
    splits = splits_of(rows * groups, positions, q_latent.device)
    out = torch.empty_like(q_latent)
    log_sums = q_latent.new_empty((rows, splits, heads), dtype=torch.float32)
    partial = out
    if splits > 1:
        partial = q_latent.new_empty((rows, splits, heads, rank), dtype=torch.float32)
    shape = {"H": heads, "C": rank, "WIDTH": padded(rank)}
    launch(
        SPLIT,
        lambda c: (rows, splits, groups),
        {
            "q_latent": q_latent,
            "q_rope": q_rope,
            "latent": latent,
            "k_rope": k_rope,
            "lengths": lengths,
            "partial": partial,
            "log_sums": log_sums,
            "positions": positions,
            "splits": splits,
            "factor": scale * 1.4426950408889634,
            "latent_row": latent.stride(0),
            "latent_position": latent.stride(1),
            "rope_row": k_rope.stride(0),
            "rope_position": k_rope.stride(1),
        },
        {**shape, "R": size, "WIDTH_R": padded(size), "HEADS": HEADS},
    )
    if splits > 1:
        launch(
            COMBINE,
            lambda c: (rows, heads),
            {"partial": partial, "log_sums": log_sums, "out": out, "splits": splits},
            {**shape, "MOST": MOST_SPLITS},
        )
    return out
