"""Attention of one new token a row over cached latents, with the projections absorbed.

Paper: DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434), section 2.1
Cost: 2·H·(2·C + R) FLOPs and C + R elements read a cached position.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from plm.errors import ConfigError
from plm.kernels.dispatch import use_triton

# Unequal head sizes take SDPA's math path on CPU; from about this length wider values pay.
_WHOLE_VALUES_FROM = 256


# No derivative is registered: one that is asked for raises.
@torch.library.custom_op("plm::mla_decode", mutates_args=())
def _mla_decode(
    q_latent: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    lengths: Tensor,
    scale: float,
    triton: bool,
) -> Tensor:
    if triton:
        from plm.kernels import mla_decode_triton

        return mla_decode_triton.mla_decode(q_latent, q_rope, latent, k_rope, lengths, scale)
    return _plain(q_latent, q_rope, latent, k_rope, lengths, scale)


@_mla_decode.register_fake
def _(q_latent, q_rope, latent, k_rope, lengths, scale, triton):
    return q_latent.new_empty(q_latent.shape)


def _plain(
    q_latent: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    lengths: Tensor,
    scale: float,
) -> Tensor:
    size, rank = latent.shape[1], latent.shape[2]
    on_cpu = latent.device.type == "cpu"
    q = torch.cat((q_latent, q_rope), dim=-1)[:, :, None]
    k = torch.cat((latent, k_rope), dim=-1)
    seen = None
    # Elsewhere the look at the lengths would wait for the device.
    if not on_cpu or not size or not bool((lengths >= size).all()):
        seen = torch.arange(size, device=latent.device) < lengths[:, None]
        # What lies past a row's length may be anything, NaN too, which a weight of 0 keeps.
        k.masked_fill_(~seen[..., None], 0)
    k = k[:, None]
    # The key's columns behind the latent's do no harm and spare a copy.
    v = k if on_cpu and size >= _WHOLE_VALUES_FROM else k[..., :rank]
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if seen is None else seen[:, None, None],
        scale=scale,
        enable_gqa=q.shape[1] != 1,
    )[:, :, 0, :rank]
    if seen is not None:
        out = out.masked_fill((lengths <= 0)[:, None, None], 0)
    return out.contiguous()


def _problem(q_latent: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor) -> str | None:
    from plm.kernels.mla_decode_configs import MOST_RANK, MOST_ROPE
    from plm.kernels.rows import dtype_problem, size_problem

    for name, tensor in (("latent", latent), ("k_rope", k_rope)):
        if tensor.device != q_latent.device:
            return f"{name} is on {tensor.device}, q_latent on {q_latent.device}"
        if tensor.numel() and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            return f"the last dimension of {name} is not contiguous (strides {tensor.stride()})"
    for name, tensor in (("q_rope", q_rope), ("latent", latent), ("k_rope", k_rope)):
        if tensor.dtype != q_latent.dtype:
            return f"{name} is {tensor.dtype}, q_latent {q_latent.dtype}"
    return (
        dtype_problem(q_latent=q_latent)
        or size_problem("latent", latent.shape[-1], MOST_RANK)
        or size_problem("k_rope", k_rope.shape[-1], MOST_ROPE)
    )


def mla_decode(
    q_latent: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    form: str = "auto",
) -> Tensor:
    """Attend in the latent space, where the latent is key and value of all heads.

    For generation: it has no derivative, and a backward through it raises.

    Args:
        q_latent: [B, H, C], queries through the keys' up-projection; for Triton contiguous, bf16,
            fp16 or fp32, C at most 512.
        q_rope: [B, H, R], turned; dtype of q_latent, for Triton contiguous, R at most 128.
        latent: [B, S, C], the same dtype; a slice of a longer cache is read where it lies.
        k_rope: [B, S, R], turned; likewise.
        lengths: [B] int32; row b sees positions below lengths[b], none for 0, all for S or more.
        scale: factor on the scores.
        form: "auto", "triton" or "torch".
    Returns:
        [B, H, C] in the dtype of q_latent; 0 where nothing is seen.
    Raises:
        ConfigError: the shapes do not belong together, or lengths is not int32; form is "triton"
            and the kernel cannot run.
    """
    rows, heads, rank = q_latent.shape
    size, rope = latent.shape[1], q_rope.shape[-1]
    expected = {
        "q_rope": (q_rope, (rows, heads, rope)),
        "latent": (latent, (rows, size, rank)),
        "k_rope": (k_rope, (rows, size, rope)),
        "lengths": (lengths, (rows,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ConfigError(f"mla_decode: {name} has shape {tuple(tensor.shape)}, not {shape}")
    if lengths.dtype != torch.int32:
        raise ConfigError(f"mla_decode: lengths is {lengths.dtype}, not torch.int32")
    tensors = {"q_latent": q_latent, "q_rope": q_rope, "lengths": lengths}
    # In fp32 a tile of the cache is too large for the shared memory of some GPUs.
    if form == "auto" and q_latent.dtype == torch.float32:
        form = "torch"
    triton = use_triton(
        "mla_decode", form, tensors, lambda: _problem(q_latent, q_rope, latent, k_rope)
    )
    return _mla_decode(q_latent, q_rope, latent, k_rope, lengths, scale, triton)
