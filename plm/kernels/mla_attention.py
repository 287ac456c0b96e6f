"""Attention of MLA in training: keys in two parts, the rotary one shared by all heads.

Paper: DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434), section 2.1; the tiling of Dao,
    FlashAttention-2 (arXiv:2307.08691)
Departs: nothing; the scores are a sum of two products, so that the shared key is neither copied for
    every head nor padded, the queries are turned in registers, and the output is laid out for the
    projection that follows.
Cost: 2·H·(N + R + U)·T FLOPs a token forward and about 3.6 times that backward, which makes the
    pattern anew for the queries' gradient and for the keys'; causal half of it. Beside inputs and
    output it keeps one fp32 number a head and token; the backward passes through H·R numbers a
    token for the turned queries and Hk·R in fp32 for the shared key's gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from plm.errors import ConfigError
from plm.kernels.dispatch import use_triton
from plm.kernels.reference.mla_attention import visible
from plm.kernels.reference.rope import rope as turned

# Unequal head sizes take SDPA's math path on a CPU, whose pattern is kept for the backward and
# grows with the square of the length. In time, padding the values pays later: causal from between
# 512 and 1024, under a mask hardly ever (docs/performance.md).
PAD_VALUES_FROM = 512
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_SIZES = (16, 32, 64, 128, 256)
# Of a token's query or key and value in one head; more does not fit the tiles of the smallest GPUs.
_MOST_BYTES = 768


def _in_rows(x: Tensor) -> Tensor:
    """x, [B, T, R], with its rows at one distance in memory: as it is where it is a slice."""
    batch, length, _ = x.shape
    # The stride of a dimension of size 1 says nothing.
    step = x.stride(1 if length > 1 else 0)
    even = batch == 1 or length == 1 or x.stride(0) == length * step
    return x if even and x.stride(2) == 1 and step % 8 == 0 else x.contiguous()


def _laid_out(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """q, kv, k_rope, cos, sin, starts and ends as the kernels read them.

    Already so when called below; a compiler may have laid them out anew on the way.
    """
    q, kv, k_rope, *rest = tensors
    return q.contiguous(), kv.contiguous(), _in_rows(k_rope), *(x.contiguous() for x in rest)


@torch.library.custom_op("plm::mla_attention", mutates_args=())
def _attention(
    q: Tensor,
    kv: Tensor,
    k_rope: Tensor,
    cos: Tensor,
    sin: Tensor,
    starts: Tensor,
    ends: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    from plm.kernels.mla_attention_forward import forward

    return forward(*_laid_out((q, kv, k_rope, cos, sin, starts, ends)), scale, causal)


@_attention.register_fake
def _(q, kv, k_rope, cos, sin, starts, ends, scale, causal):
    batch, length, heads, key = q.shape
    value = kv.shape[-1] - (key - k_rope.shape[-1])
    logsumexp = q.new_empty((batch, heads, length), dtype=torch.float32)
    return q.new_empty((batch, length, heads, value)), logsumexp


# An op without a derivative: asking for the second one raises instead of giving a wrong number.
@torch.library.custom_op("plm::mla_attention_backward", mutates_args=())
def _attention_backward(
    grad: Tensor,
    q: Tensor,
    kv: Tensor,
    k_rope: Tensor,
    cos: Tensor,
    sin: Tensor,
    starts: Tensor,
    ends: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from plm.kernels.mla_attention_backward import backward

    inputs = _laid_out((q, kv, k_rope, cos, sin, starts, ends))
    return backward(grad.contiguous(), *inputs, out, logsumexp, scale, causal)


@_attention_backward.register_fake
def _(grad, q, kv, k_rope, cos, sin, starts, ends, out, logsumexp, scale, causal):
    return q.new_empty(q.shape), kv.new_empty(kv.shape), k_rope.new_empty(k_rope.shape)


def _keep(ctx, inputs, output) -> None:
    # Otherwise autograd fills a tensor of zeros for the log-sum-exp, which nobody uses.
    ctx.set_materialize_grads(False)
    *tensors, ctx.scale, ctx.causal = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, grad: Tensor | None, _: Tensor | None) -> tuple:
    if grad is None:
        return (None,) * 9
    grads = _attention_backward(grad, *ctx.saved_tensors, ctx.scale, ctx.causal)
    return *grads, *(None,) * 6


_attention.register_autograd(_backward, setup_context=_keep)


def document_bounds(doc_ids: Tensor) -> tuple[Tensor, Tensor]:
    """First position, and the one behind the last, of each token's document in its row.

    Args:
        doc_ids: [B, T], integers; a document is a run of equal ones.
    Returns:
        Both [B, T] int32. Nothing waits for the device.
    """
    length = doc_ids.shape[1]
    position = torch.arange(length, device=doc_ids.device, dtype=torch.int32).expand_as(doc_ids)
    new = F.pad(doc_ids[:, 1:] != doc_ids[:, :-1], (1, 0), value=True)[:, :length]
    starts = torch.where(new, position, 0).cummax(1).values
    # Where a document ends the next one begins, or the row ends.
    following = F.pad(torch.where(new, position, length)[:, 1:], (0, 1), value=length)[:, :length]
    ends = following.flip(1).cummin(1).values.flip(1)
    return starts, ends


def _size_problem(nope: int, rope: int, value: int, element_bytes: int) -> str | None:
    allowed = f"{_SIZES[0]} to {_SIZES[-1]}"
    for name, part, size in (
        ("q", "part without position", nope),
        ("k_rope", "size", rope),
        ("kv", "values", value),
    ):
        if size not in _SIZES:
            return f"{name}'s {part}, {size}, is not a power of 2 from {allowed}"
    width = element_bytes * (nope + rope + value)
    if width > _MOST_BYTES:
        return f"q's and kv's columns take {width} bytes a head and token, above {_MOST_BYTES}"
    return None


def _problem(q: Tensor, kv: Tensor, k_rope: Tensor, tables: dict[str, Tensor]) -> str | None:
    """Why the Triton kernels do not take these tensors, or None."""
    batch, length, heads, key = q.shape
    rope = k_rope.shape[-1]
    if k_rope.device != q.device:
        return f"k_rope is on {k_rope.device}, q on {q.device}"
    if q.dtype not in _DTYPES:
        return f"q is {q.dtype}; bfloat16, float16 or float32 is needed"
    for name, tensor in (("kv", kv), ("k_rope", k_rope)):
        if tensor.dtype != q.dtype:
            return f"{name} is {tensor.dtype}, q {q.dtype}"
    if heads % kv.shape[2]:
        return f"q's {heads} heads are no multiple of kv's {kv.shape[2]}"
    shapes = {"kv": (kv, kv.shape[2:]), "k_rope": (k_rope, (rope,))}
    for name, table in tables.items():
        angle = name in ("cos", "sin")
        shapes[name] = (table, (rope // 2,) if angle else ())
        needed = torch.float32 if angle else torch.int32
        if table.dtype != needed:
            return f"{name} is {table.dtype}, not {needed}"
    for name, (tensor, rest) in shapes.items():
        if tuple(tensor.shape) != (batch, length, *rest):
            return f"{name} is {tuple(tensor.shape)}, not {(batch, length, *rest)}"
    # Positions within a row are counted in 32 bits.
    if length * max(heads * key, kv.shape[2] * kv.shape[3]) >= 2**31:
        return f"q's rows of {length} positions are too long"
    nope = key - rope
    return _size_problem(nope, rope, kv.shape[-1] - nope, q.element_size())


def _torch(
    q: Tensor,
    kv: Tensor,
    k_rope: Tensor,
    angles: tuple[Tensor, Tensor],
    mask: Tensor | None,
    scale: float,
    causal: bool,
) -> Tensor:
    """The same by torch's own attention; mask: [B, 1, T, T] bool, or None for whole rows."""
    rope, length, heads = k_rope.shape[-1], q.shape[1], kv.shape[2]
    nope = q.shape[-1] - rope
    q_nope, q_rope = q.split([nope, rope], dim=-1)
    k, v = kv.split([nope, kv.shape[-1] - nope], dim=-1)
    k_rope = turned(k_rope, *angles)[:, :, None].expand(-1, -1, heads, -1)
    q = torch.cat((q_nope, turned(q_rope, *angles)), dim=-1).transpose(1, 2)
    k = torch.cat((k, k_rope), dim=-1).transpose(1, 2)
    v = v.transpose(1, 2)
    size = v.shape[-1]
    pad = q.shape[-1] - size if q.device.type == "cpu" and length >= PAD_VALUES_FROM else 0
    if pad > 0:
        v = F.pad(v, (0, pad))
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=causal and mask is None and length > 1,
        scale=scale,
        enable_gqa=q.shape[1] != heads,
    )
    return out[..., :size].transpose(1, 2)


def mla_attention(
    q: Tensor,
    kv: Tensor,
    k_rope: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    scale: float,
    causal: bool = True,
    form: str = "auto",
) -> Tensor:
    """Attention whose keys are a part of each head's own and a rotary part shared by all heads.

    The Triton kernels are differentiable once (a second derivative raises, and needs the
    reference) and give the same bits with the same tile (PLM_AUTOTUNE=0 fixes it); blocks of keys
    outside of the documents of a tile of queries are neither read nor calculated.

    Args:
        q: [B, T, H, N + R], bf16, fp16 or fp32 (fp64: plain torch), not turned yet.
        kv: [B, T, Hk, N + U], dtype of q: of each head its key without position, then its value; H
            is a multiple of Hk, and query head h takes head h // (H / Hk).
        k_rope: [B, T, R], dtype of q, not turned yet.
        cos, sin: [B, T, R / 2] fp32, of the angles that turn the pairs (2i, 2i + 1).
        starts, ends: [B, T] int32, as document_bounds gives them: first position of a token's
            document and the one behind its last; both or neither; None: a row is one document.
        scale: factor on the scores.
        causal: a token sees its document up to itself; False: all of its document.
        form: "auto", "triton" or "torch".
    Returns:
        [B, T, H, U] in the dtype of q.
    Raises:
        ConfigError: one of starts and ends is given alone; form is "triton" and the kernels cannot
            take the tensors.
    """
    if (starts is None) != (ends is None):
        raise ConfigError("mla_attention: starts and ends are given both or neither")
    tables = {"cos": cos, "sin": sin}
    if starts is not None:
        tables.update(starts=starts, ends=ends)
    # Tiles are for the matrix unit, which fp32 does not use: there they spill.
    if form == "auto" and q.dtype == torch.float32:
        form = "torch"
    if use_triton(
        "mla_attention",
        form,
        {"q": q, "kv": kv, **tables},
        lambda: _problem(q, kv, k_rope, tables),
    ):
        if starts is None:
            starts = torch.zeros(q.shape[:2], dtype=torch.int32, device=q.device)
            ends = torch.full_like(starts, q.shape[1])
        return _attention(q, kv, k_rope, cos, sin, starts, ends, scale, causal)[0]
    mask = None if starts is None else visible(starts, ends, causal)[:, None]
    return _torch(q, kv, k_rope, (cos, sin), mask, scale, causal)
