"""Which kernels attention with a latent, its rotation, its latent norm and decoding start."""

import math

from plm.kernels.roofline_ops import UNITS, Shape, norm_partials
from plm.kernels.roofline_work import Work, passes

# As mla_decode_triton cuts the cache: heads of a program, least positions of a part, most parts.
_DECODE_HEADS, _DECODE_POSITIONS, _DECODE_PARTS = 16, 128, 128


def decode_parts(s: Shape) -> int:
    """Parts that a row's cache is read in."""
    programs = s.batch * math.ceil(s.heads / _DECODE_HEADS)
    least = math.ceil(s.length / _DECODE_POSITIONS)
    return max(1, min(UNITS // programs, least, _DECODE_PARTS))


def _angles(s: Shape) -> float:
    """Bytes of cosines and sines, fp32, one a pair."""
    return s.tokens * s.rope * 4.0


def rotation(tokens: int, heads: int, rope: int) -> list[Work]:
    """Eager rotation of pairs: to fp32, four products, two sums, stacked, and back."""
    n = tokens * heads * rope
    return [
        passes("to fp32", n, 2, 4),
        passes("products", n, 8, 8, 4),
        passes("sums", n, 8, 4, 2),
        passes("stack", n, 4, 4),
        passes("to bf16", n, 4, 2),
    ]


def mla_attention(s: Shape) -> tuple[list[Work], list[Work]]:
    """Scores as two products, one rotary key for all heads, queries turned as they are loaded."""
    n, h = s.tokens, s.heads
    q, kv, out = n * h * s.key * 2.0, n * h * (s.nope + s.value) * 2.0, n * h * s.value * 2.0
    key_rope, query_rope, scalar = n * s.rope * 2.0, n * h * s.rope * 2.0, n * h * 4.0
    pair = 2.0 * n * h * s.seen
    turn = Work("turn key", key_rope + _angles(s), key_rope)
    forward = [
        turn,
        Work(
            "attention",
            q + kv + key_rope + _angles(s),
            out + scalar,
            pair * (s.key + s.value),
            attention=True,
            own=True,
        ),
    ]
    read = q + kv + key_rope + out + 2 * scalar
    # Each head's gradient of the shared rotary key, fp32.
    parts = n * h * s.rope * 4.0
    backward = [
        turn,
        Work("delta, turn queries", 2 * out + query_rope + _angles(s), scalar + query_rope),
        Work(
            "gradient of queries",
            read + _angles(s),
            q,
            pair * (2 * s.key + s.value),
            attention=True,
            own=True,
        ),
        Work(
            "gradient of keys and values",
            read,
            kv + parts,
            pair * (2 * s.key + 2 * s.value),
            attention=True,
            own=True,
        ),
        Work("sum parts, turn back", parts + _angles(s), key_rope),
    ]
    return forward, backward


def flash(s: Shape, size: int) -> tuple[list[Work], list[Work]]:
    """FlashAttention-2 with one size for queries, keys and values; whole windows, causal."""
    tensor, scalar = s.tokens * s.heads * size * 2.0, s.tokens * s.heads * 4.0
    window = Shape(**{**vars(s), "document": 0}).seen
    pair = 2.0 * s.tokens * s.heads * window * size
    forward = [Work("flash", 3 * tensor, tensor + scalar, 2 * pair, attention=True)]
    backward = [
        Work("delta, fill", 2 * tensor, scalar + 2 * tensor),
        Work(
            "flash's gradient",
            4 * tensor + 2 * scalar + 2 * tensor,
            2 * tensor + 2 * tensor,
            5 * pair,
            attention=True,
        ),
        Work("gradient of queries to bf16", 2 * tensor, tensor),
    ]
    return forward, backward


def eager_mla_attention(s: Shape, size: int = 0) -> tuple[list[Work], list[Work]]:
    """Rotation, expanded and concatenated keys, values padded to `size` (K: 192), then flash."""
    size = size or s.key
    n, h = s.tokens, s.heads
    inner, inner_back = flash(s, size)
    glue = [
        *rotation(n, h, s.rope),
        *rotation(n, 1, s.rope),
        passes("join queries", n * h * s.key, 2, 2),
        Work("expand and join keys", n * (h * s.nope + s.rope) * 2.0, n * h * s.key * 2.0),
        Work("pad values", n * h * s.value * 2.0, n * h * size * 2.0),
    ]
    cut = passes("cut output", n * h * s.value, 2, 2)
    back = [
        Work("pad gradient", n * h * s.value * 2.0, n * h * size * 2.0),
        *inner_back,
        passes("join gradients of keys and values", n * h * (s.nope + s.value), 2, 2),
        Work("sum rotary keys over heads", n * h * s.rope * 2.0, n * s.rope * 2.0),
        *rotation(n, h, s.rope),
        *rotation(n, 1, s.rope),
        passes("join gradients of queries", n * h * s.key, 2, 2),
    ]
    return [*glue, *inner, cut], back


def rope(s: Shape) -> tuple[list[Work], list[Work]]:
    """Queries and the shared key turned, one kernel each way."""
    n = s.tokens * (s.heads + 1) * s.rope * 2.0
    turn = [Work("turn", n + _angles(s), n)]
    return turn, turn


def eager_rope(s: Shape) -> tuple[list[Work], list[Work]]:
    """The rotation's formula, kernel by kernel."""
    turn = rotation(s.tokens, s.heads, s.rope) + rotation(s.tokens, 1, s.rope)
    return turn, turn


def latent_norm(s: Shape, turned: bool = True) -> tuple[list[Work], list[Work]]:
    """The latent's norm read out of kv_a's output, the rotary key beside it turned or copied."""
    n, c = s.tokens, s.rank
    both, angles = n * (c + s.rope) * 2.0, _angles(s) if turned else 0.0
    forward = [Work("norm, key", both + angles, both + 4.0 * n)]
    read = both + 2.0 * n * c + angles + 4.0 * n
    backward = [Work("their gradient", read, both + 4.0 * UNITS * c), *norm_partials(c)]
    return forward, backward


def eager_latent_norm(s: Shape, turned: bool = True) -> tuple[list[Work], list[Work]]:
    """Norm through fp32, rotation kernel by kernel, gradients joined."""
    n, c = s.tokens, s.rank
    cast, uncast = passes("to fp32", n * c, 2, 4), passes("to bf16", n * c, 4, 2)
    turn = rotation(n, 1, s.rope) if turned else []
    join = passes("join gradients", n * (c + s.rope), 2, 2)
    return (
        [cast, passes("rms_norm", n * c, 4, 4), uncast, *turn],
        [cast, passes("rms_norm's gradient", n * c, 8, 4), uncast, *turn, join],
    )


def mla_decode(s: Shape) -> tuple[list[Work], list[Work]]:
    """One new token a row: queries through kv_b, then attention over the cached latents."""
    b, h, c, length = s.batch, s.heads, s.rank, s.length
    weights, small = h * c * 2.0, b * h * c * 2.0
    cache = b * length * (c + s.rope) * 2.0 * math.ceil(h / _DECODE_HEADS)
    pair, product = 2.0 * b * h * length * (2 * c + s.rope), 2.0 * b * h * c
    parts = decode_parts(s) * b * h * (c + 1) * 4.0
    over_parts = [
        Work("attention, in parts", cache + small, parts, pair, attention=True, own=True),
        Work("join parts", parts, small),
    ]
    at_once = [Work("attention", cache + small, small, pair, attention=True, own=True)]
    return [
        Work("queries to latents", weights * s.nope, small, product * s.nope),
        *(over_parts if decode_parts(s) > 1 else at_once),
        Work(
            "latents to values", weights * s.value + small, b * h * s.value * 2.0, product * s.value
        ),
    ], []


def expanded_decode(s: Shape) -> tuple[list[Work], list[Work]]:
    """One new token a row over a cache of every head's keys and values."""
    b, h, length = s.batch, s.heads, s.length
    cache = b * length * h * (s.key + s.value) * 2.0
    flops = 2.0 * b * h * length * (s.key + s.value)
    return [Work("attention", cache, b * h * s.value * 2.0, flops, attention=True)], []
