"""Which kernels each op starts: ours (`ours`), and plain eager torch (`eager`).

A function gets a `Shape` and returns a list of `Work`, forward and backward apart. Tensors are
bf16 unless a line says otherwise. What ours does is read off plm/kernels/*_triton.py; a test holds
the chunk size and the like to the code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from plm.kernels.roofline_work import Work, gemm, passes

# Rows of a tile of attention: half of one is work behind the diagonal that the mask throws away.
_ATTENTION_TILE = 128
# An H100's multiprocessors, where how a kernel is cut depends on them: a norm's backward has one
# program each, which writes a partial sum of the weight's gradient.
UNITS = 132


@dataclass(frozen=True)
class Shape:
    """One micro-batch of one model; letters as in plm/batch.py.

    Attributes:
        kept: share of the labels that is not masked.
        document: mean length of a document where attention stays within one; 0: whole windows.
        chunk: rows of logits at a time; 0: as the op chooses on a GPU.
    """

    batch: int
    length: int
    hidden: int
    feed: int
    heads: int
    nope: int
    rope: int
    value: int
    rank: int
    vocab: int
    layers: int
    kept: float = 1.0
    document: int = 0
    chunk: int = 0

    @classmethod
    def of(cls, scale: Mapping[str, int], **changes: float) -> "Shape":
        """From the settings of configs/scale/<name>.yaml."""
        found = {
            "batch": scale["micro_batch_size"],
            "length": scale["seq_len"],
            "hidden": scale["hidden_size"],
            "feed": scale["intermediate_size"],
            "heads": scale["num_attention_heads"],
            "nope": scale["qk_nope_head_dim"],
            "rope": scale["qk_rope_head_dim"],
            "value": scale["v_head_dim"],
            "rank": scale["kv_lora_rank"],
            "vocab": scale["vocab_size"],
            "layers": scale["num_hidden_layers"],
        }
        return cls(**{**found, **changes})

    @property
    def tokens(self) -> int:
        """N, of the micro-batch."""
        return self.batch * self.length

    @property
    def key(self) -> int:
        """K, a head's query and key size."""
        return self.nope + self.rope

    @property
    def rows(self) -> int:
        """Tokens whose labels are kept."""
        return round(self.tokens * self.kept)

    @property
    def seen(self) -> float:
        """Mean number of keys that a query's tile works through, of its document only."""
        return min(self.document or self.length, self.length) / 2 + _ATTENTION_TILE / 2

    def parameters(self) -> int:
        """Of the model, embedding tied."""
        d, h = self.hidden, self.heads
        attention = d * h * self.key + d * (self.rank + self.rope) + self.rank
        attention += self.rank * h * (self.nope + self.value) + h * self.value * d
        return self.layers * (attention + 2 * d * self.feed + 2 * d) + self.vocab * d + d


def chunk_rows(s: Shape) -> int:
    """Rows of a chunk of logits on a GPU, as linear_rows.default_chunk chooses."""
    low, high, least_logits, most_bytes, element = 128, 8192, 2**26, 2**30, 2
    least, most = min(high, least_logits // s.vocab), most_bytes // element // s.vocab
    return s.chunk or max(low, min(most, max(least, 4 * s.hidden)) // low * low)


def chunks(rows: int, chunk: int) -> list[tuple[int, int]]:
    """(launches, rows): the whole chunks, and the rest."""
    whole, rest = divmod(rows, chunk)
    return [(count, size) for count, size in ((whole, chunk), (1, rest)) if count * size]


def _dropped(s: Shape) -> list[Work]:
    """Gathering the kept rows, and putting their gradients back."""
    if s.rows == s.tokens:
        return []
    back = passes("fill", s.tokens * s.hidden, 0, 2)
    return [passes("gather", s.rows * s.hidden, 2, 2), back, passes("put", s.rows * s.hidden, 2, 2)]


def head_gradients(count: int, rows: int, d: int, v: int) -> list[Work]:
    """Of hidden and, added up in fp32 by the product itself, of weight, for some chunks."""
    return [
        gemm("gradient of hidden", rows, d, v, launches=count),
        gemm("gradient of weight", v, d, rows, written=4, again=4, launches=count),
    ]


def linear_cross_entropy(s: Shape) -> tuple[list[Work], list[Work]]:
    """Chunks of logits in bf16, turned into their gradient in place; gradients in the forward."""
    d, v = s.hidden, s.vocab
    forward = [*_dropped(s), passes("weight's gradient = 0", v * d, 0, 4)]
    for count, rows in chunks(s.rows, chunk_rows(s)):
        forward += [
            gemm("logits", rows, v, d, launches=count),
            passes("statistics, row by row", count * rows * v, 2, 0, count),
            passes("gradient, in place", count * rows * v, 2, 2, count),
            *head_gradients(count, rows, d, v),
        ]
    forward.append(passes("weight's gradient to bf16", v * d, 4, 2))
    scale = [passes("scale", s.tokens * d, 2, 2), passes("scale", v * d, 2, 2)]
    return forward, scale


def eager_cross_entropy(rows: int, vocab: int, element: int) -> tuple[list[Work], list[Work]]:
    """torch's cross_entropy of given logits: three reads and a write; then two fills and reads."""
    n = rows * vocab
    forward = [passes("log_softmax", n, 3 * element, element), passes("nll", rows, 16, 4)]
    backward = [
        passes("nll's gradient", n, 0, element),
        passes("log_softmax's gradient", n, 3 * element, element),
    ]
    return forward, backward


def eager_linear_cross_entropy(s: Shape) -> tuple[list[Work], list[Work]]:
    """All logits at once, in fp32 for the loss."""
    n, d, v = s.tokens, s.hidden, s.vocab
    forward, backward = eager_cross_entropy(n, v, 4)
    return (
        [gemm("logits", n, v, d), passes("to fp32", n * v, 2, 4), *forward],
        [
            *backward,
            passes("to bf16", n * v, 4, 2),
            gemm("gradient of hidden", n, d, v),
            gemm("gradient of weight", v, d, n),
        ],
    )


def linear_logprob(s: Shape) -> tuple[list[Work], list[Work]]:
    """Log-probability and entropy a token; the gradient's weights come later, so logits twice."""
    d, v = s.hidden, s.vocab
    forward, backward = [], [passes("weight's gradient = 0", v * d, 0, 4)]
    for count, rows in chunks(s.rows, chunk_rows(s)):
        logits, n = gemm("logits", rows, v, d, launches=count), count * rows * v
        forward += [logits, passes("log-probability, entropy, best token", n, 2, 0, count)]
        gradient = passes("gradient, in place", n, 2, 2, count)
        backward += [logits, gradient, *head_gradients(count, rows, d, v)]
    backward.append(passes("weight's gradient to bf16", v * d, 4, 2))
    if s.rows != s.tokens:
        gather, *back = _dropped(s)
        return [gather, *forward], [gather, *backward, *back]
    return forward, backward


def eager_linear_logprob(s: Shape) -> tuple[list[Work], list[Work]]:
    """log_softmax of all logits in fp32; entropy as -sum(p · log p)."""
    n, v = s.tokens, s.vocab
    forward, backward = eager_linear_cross_entropy(s)
    entropy = [
        passes("exp", n * v, 4, 4),
        passes("p · log p", n * v, 8, 4),
        passes("sum", n * v, 4, 0),
    ]
    gradient = [
        passes("product's gradient, both", n * v, 16, 8, 2),
        passes("exp's gradient", n * v, 8, 4),
        passes("sum of gradients", n * v, 16, 8, 2),
    ]
    return forward + entropy, gradient + backward


def relu2_mlp(s: Shape) -> tuple[list[Work], list[Work]]:
    """r = relu(up(x)) is all that is written; whoever needs its square squares it while reading."""
    n, d, f = s.tokens, s.hidden, s.feed
    forward = [gemm("up, relu", n, f, d, own=True), gemm("down of r²", n, d, f, own=True)]
    backward = [
        gemm("gradient through down, · 2r", n, f, d, again=2, own=True),
        gemm("gradient of down", f, d, n, own=True),
        gemm("gradient of x", n, d, f),
        gemm("gradient of up", f, d, n),
    ]
    return forward, backward


def eager_relu2(elements: int, element: int = 2) -> tuple[list[Work], list[Work]]:
    """relu, then square; backward x^1, · 2, · gradient, threshold."""
    e = element
    forward = [passes("relu", elements, e, e), passes("square", elements, e, e)]
    backward = [
        passes("power 1", elements, e, e),
        passes("· 2", elements, e, e),
        passes("· gradient", elements, 2 * e, e),
        passes("threshold", elements, 2 * e, e),
    ]
    return forward, backward


def relu2(s: Shape) -> tuple[list[Work], list[Work]]:
    """One kernel each way on the feed-forward's width; the output is what is kept."""
    n = s.tokens * s.feed
    return [passes("relu2", n, 2, 2)], [passes("relu2's gradient", n, 4, 2)]


def eager_relu2_mlp(s: Shape) -> tuple[list[Work], list[Work]]:
    """Products and elementwise kernels apart."""
    n, d, f = s.tokens, s.hidden, s.feed
    forward, backward = eager_relu2(n * f)
    return (
        [gemm("up", n, f, d), *forward, gemm("down", n, d, f)],
        [
            gemm("gradient through down", n, f, d),
            gemm("gradient of down", d, f, n),
            *backward,
            gemm("gradient of x", n, d, f),
            gemm("gradient of up", f, d, n),
        ],
    )


def norm_partials(size: int) -> list[Work]:
    """Partial sums of a norm's weight gradient, added up in a fixed order."""
    return [passes("sum of partials", UNITS * size, 4, 0)]


def rms_norm(s: Shape) -> tuple[list[Work], list[Work]]:
    """One kernel each way, fp32 inside."""
    n, d = s.tokens * s.hidden, s.hidden
    backward = Work("norm's gradient", 4 * n + 4 * s.tokens, 2 * n + 4 * UNITS * d)
    return [Work("norm", 2 * n + 2 * d, 2 * n + 4 * s.tokens)], [backward, *norm_partials(d)]


def eager_rms_norm(s: Shape) -> tuple[list[Work], list[Work]]:
    """To fp32, torch's norm, and back."""
    n = s.tokens * s.hidden
    cast, uncast = passes("to fp32", n, 2, 4), passes("to bf16", n, 4, 2)
    forward = [cast, passes("rms_norm", n, 4, 4), uncast]
    return forward, [cast, passes("rms_norm's gradient", n, 8, 4), uncast]


def add_rms_norm(s: Shape) -> tuple[list[Work], list[Work]]:
    """Sum and norm of it in one kernel, both gradients in one."""
    n, d = s.tokens * s.hidden, s.hidden
    forward = Work("add, norm", 4 * n + 2 * d, 4 * n + 4 * s.tokens)
    backward = Work("their gradient", 6 * n + 4 * s.tokens, 2 * n + 4 * UNITS * d)
    return [forward], [backward, *norm_partials(d)]


def eager_add_rms_norm(s: Shape) -> tuple[list[Work], list[Work]]:
    """The sum is a kernel of its own, and so is that of the gradients."""
    n = s.tokens * s.hidden
    forward, backward = eager_rms_norm(s)
    add = passes("add", n, 4, 2)
    return [add, *forward], [*backward, add]


def adamw(s: Shape) -> tuple[list[Work], list[Work]]:
    """torch's fused AdamW in fp32: parameter, gradient, two moments read; three written."""
    return [passes("adamw", s.parameters(), 16, 12)], []


def eager_adamw(s: Shape) -> tuple[list[Work], list[Work]]:
    """The same with a kernel for every operation."""
    p = s.parameters()
    steps = [(4, 4), (8, 4), (4, 4), (8, 4), (4, 4), (4, 4), (4, 4), (12, 4)]
    return [passes("adamw, a step of its formula", p, r, w) for r, w in steps], []
