"""A micro-batch of training as the roofline sees it, and what each fusion is worth."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from plm.kernels import roofline_attention as attention
from plm.kernels import roofline_ops as ops
from plm.kernels.roofline_ops import Shape
from plm.kernels.roofline_peers import liger_relu2_mlp
from plm.kernels.roofline_work import Gpu, Work, gemm, passes, seconds

# Micro-batches a GPU reads between two steps of the optimizer; what a step does once is divided
# by it.
MICRO_BATCHES = 4
# A fusion pays where it saves this share of a step.
PAYS = 0.02
# Mean length of a document, and share of labels that is kept, where a fusion is about them.
_DOCUMENT, _KEPT = 1024, 0.5


def _whole(pair: tuple[list[Work], list[Work]], times: int = 1) -> list[Work]:
    return [*pair[0], *pair[1]] * times


def _share(works: list[Work], part: float) -> list[Work]:
    """Works of which a micro-batch bears a part: less of everything, launches aside."""
    return [
        replace(w, read=w.read * part, written=w.written * part, flops=w.flops * part)
        for w in works
    ]


def _product(name: str, rows: int, inner: int, columns: int) -> list[Work]:
    """A projection, and its two gradients."""
    return [
        gemm(name, rows, columns, inner),
        gemm(f"{name}: gradient of input", rows, inner, columns),
        gemm(f"{name}: gradient of weight", columns, inner, rows),
    ]


def projections(s: Shape) -> list[Work]:
    """Of attention, by the library in both cases."""
    n, d, h = s.tokens, s.hidden, s.heads
    layer = [
        *_product("q", n, d, h * s.key),
        *_product("kv_a", n, d, s.rank + s.rope),
        *_product("kv_b", n, s.rank, h * (s.nope + s.value)),
        *_product("o", n, h * s.value, d),
    ]
    return layer * s.layers


def upkeep(s: Shape) -> list[Work]:
    """Embedding, weights cast to bf16, gradients added up in fp32: the same in both cases."""
    p, n, d, v = s.parameters(), s.tokens, s.hidden, s.vocab
    return [
        passes("embed", n * d, 2, 2),
        passes("embedding's gradient = 0", v * d, 0, 2),
        passes("embedding's gradient", n * d, 4, 2),
        passes("add head's gradient", v * d, 4, 2),
        passes("weights to bf16", p, 4, 2, 8 * s.layers),
        passes("gradients to fp32", p, 2, 4, 8 * s.layers),
        passes("add up gradients", p, 8, 4, 8 * s.layers),
    ]


def parts(s: Shape) -> dict[str, tuple[list[Work], list[Work]]]:
    """Kernels of a micro-batch, fused and eager, by part."""
    layers = s.layers
    return {
        "feed-forward": (
            _whole(ops.relu2_mlp(s), layers),
            _whole(ops.eager_relu2_mlp(s), layers),
        ),
        "attention": (
            _whole(attention.mla_attention(s), layers),
            _whole(attention.eager_mla_attention(s), layers),
        ),
        "projections": (projections(s), projections(s)),
        "norms, residual": (
            _whole(ops.add_rms_norm(s), 2 * layers) + _whole(ops.rms_norm(s)),
            _whole(ops.eager_add_rms_norm(s), 2 * layers) + _whole(ops.eager_rms_norm(s)),
        ),
        "latent norm": (
            _whole(attention.latent_norm(s, False), layers),
            _whole(attention.eager_latent_norm(s, False), layers),
        ),
        "head and loss": (
            _whole(ops.linear_cross_entropy(s)),
            _whole(ops.eager_linear_cross_entropy(s)),
        ),
        "optimizer": (
            _share(_whole(ops.adamw(s)), 1 / MICRO_BATCHES),
            _share(_whole(ops.eager_adamw(s)), 1 / MICRO_BATCHES),
        ),
        "upkeep": (upkeep(s), upkeep(s)),
    }


def micro_batch(s: Shape, gpu: Gpu) -> tuple[float, float]:
    """Predicted seconds of a micro-batch, fused and eager."""
    found = parts(s).values()
    return sum(seconds(f, gpu) for f, _ in found), sum(seconds(e, gpu) for _, e in found)


@dataclass(frozen=True)
class Fusion:
    """Something that could be one kernel instead of several, or work left out.

    Attributes:
        name: for the reader.
        ours: whether our kernels do it.
        without, fused: its kernels a micro-batch.
        shape: the micro-batch that it is held against.
    """

    name: str
    ours: bool
    without: list[Work]
    fused: list[Work]
    shape: Shape

    def saves(self, gpu: Gpu) -> float:
        """Share of a micro-batch, everything of ours as it is, that the fusion saves or would."""
        now = micro_batch(self.shape, gpu)[0]
        saved = seconds(self.without, gpu) - seconds(self.fused, gpu)
        return saved / (now + saved if self.ours else now)


def _attention_fusions(s: Shape) -> list[Fusion]:
    n, h, layers = s.tokens, s.heads, s.layers
    ours = _whole(attention.mla_attention(s), layers)
    padded = replace(s, value=s.key)
    as_padded = [
        replace(wide, read=own.read, written=own.written)
        for wide, own in zip(_whole(attention.mla_attention(padded), layers), ours, strict=True)
    ]
    turn = [passes("turn queries", n * h * s.rope, 4, 2)] * 2
    keys = [
        Work("expand and join keys", n * (h * s.nope + s.rope) * 2.0, n * h * s.key * 2.0),
        passes("join gradients of keys and values", n * h * (s.nope + s.value), 2, 2),
        Work("sum rotary keys over heads", n * h * s.rope * 2.0, n * s.rope * 2.0),
    ]
    short = replace(s, document=_DOCUMENT)
    # Every tile of queries would make the keys and values that it sees from their latents anew.
    again = 2.0 * n * h * s.seen / 128 * s.rank * (s.nope + s.value)
    kv = n * h * (s.nope + s.value) * 2.0
    kv_b = [
        gemm("kv_b", n, h * (s.nope + s.value), s.rank),
        Work("its output read by attention", 3 * kv, 0),
    ]
    inside = [Work("kv_b inside, three kernels", 3.0 * n * h * s.rank * 2, 0, 3 * again)]
    apart = [passes("norm", n * s.rank, 2, 2), passes("split", n * (s.rank + s.rope), 2, 2)] * 2
    return [
        Fusion("values not padded to the keys' size", True, as_padded, ours, s),
        Fusion("queries turned inside attention", True, turn * layers, [], s),
        Fusion("rotary key neither copied nor joined", True, keys * layers, [], s),
        Fusion(
            f"other documents skipped, mean length {_DOCUMENT:,}",
            True,
            ours,
            _whole(attention.mla_attention(short), layers),
            short,
        ),
        Fusion(
            "latent's norm with the split",
            True,
            apart * layers,
            _whole(attention.latent_norm(s, False), layers),
            s,
        ),
        Fusion("kv_b inside attention", False, kv_b * layers, inside * layers, s),
    ]


def _stream_fusions(s: Shape) -> list[Fusion]:
    n, d, layers = s.tokens, s.hidden, s.layers
    joined = _whole(ops.add_rms_norm(s), 2 * layers)
    add = passes("add", n * d, 4, 2)
    apart = [*_whole(ops.rms_norm(s)), add, add] * (2 * layers)
    return [
        Fusion("residual added in the norm", True, apart, joined, s),
        Fusion(
            "residual added at the end of a product",
            False,
            [passes("read and write of the sum", n * d, 4, 2)] * (2 * layers),
            [passes("read of the residual", n * d, 2, 2)] * (2 * layers),
            s,
        ),
        Fusion(
            "norm inside the next product",
            False,
            [passes("write of the norm", n * d, 0, 2)] * (2 * layers),
            [],
            s,
        ),
        Fusion(
            "embedding with the first norm",
            False,
            [passes("embed", n * d, 2, 2), passes("norm", n * d, 2, 2)],
            [passes("embed, norm", n * d, 2, 4)],
            s,
        ),
        Fusion(
            "squared ReLU inside the products",
            True,
            _whole(liger_relu2_mlp(s), layers),
            _whole(ops.relu2_mlp(s), layers),
            s,
        ),
    ]


def _loss_fusions(s: Shape) -> list[Fusion]:
    ours = _whole(ops.linear_cross_entropy(s))
    masked = replace(s, kept=_KEPT)
    logits = s.tokens * s.vocab
    z = [passes("log-sum-exp", logits, 2, 0), passes("its gradient, added", logits, 4, 2)]
    small = replace(s, chunk=max(128, 2**27 // s.vocab // 128 * 128))
    return [
        Fusion(
            "logits in chunks, gradient in place",
            True,
            _whole(ops.eager_linear_cross_entropy(s)),
            ours,
            s,
        ),
        Fusion(
            "chunks of 4·D rows, not of 2^27 logits",
            True,
            _whole(ops.linear_cross_entropy(small)),
            ours,
            s,
        ),
        Fusion("z-loss in the loss's passes", True, z, [], s),
        Fusion(
            f"masked rows dropped, {_KEPT:.0%} kept",
            True,
            ours,
            _whole(ops.linear_cross_entropy(masked)),
            masked,
        ),
    ]


def _parameter_fusions(s: Shape) -> list[Fusion]:
    p, part = s.parameters(), 1 / MICRO_BATCHES
    cast = passes("weights to bf16", p, 4, 2, 8 * s.layers)
    clip = passes("scale gradients", p, 4, 4, 8 * s.layers)
    sums = [passes("gradients to fp32", p, 2, 4), passes("add up", p, 8, 4)]
    return [
        Fusion(
            "AdamW in one kernel (torch's)",
            True,
            _share(_whole(ops.eager_adamw(s)), part),
            _share(_whole(ops.adamw(s)), part),
            s,
        ),
        Fusion("clipping inside the optimizer", False, _share([clip], part), [], s),
        Fusion(
            "bf16 weights written by the optimizer",
            False,
            [cast],
            _share([passes("written", p, 0, 2)], part),
            s,
        ),
        Fusion(
            "weight gradients added up in their product",
            False,
            [replace(w, launches=8 * s.layers) for w in sums],
            [passes("sum read and written in fp32, not written in bf16", p, 4, 2)],
            s,
        ),
    ]


def fusions(s: Shape) -> list[Fusion]:
    """All that were considered, ours first."""
    makers: tuple[Callable[[Shape], list[Fusion]], ...] = (
        _loss_fusions,
        _stream_fusions,
        _attention_fusions,
        _parameter_fusions,
    )
    found = [fusion for make in makers for fusion in make(s)]
    return sorted(found, key=lambda fusion: not fusion.ours)
