"""Attention of one new token a row over cached latents, in plain torch.

Paper: DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434), section 2.1
"""

import torch
from torch import Tensor


def mla_decode(
    q_latent: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    lengths: Tensor,
    *,
    scale: float,
) -> Tensor:
    """Attend in the latent space, where the latent is key and value of all heads.

    Args:
        q_latent: [B, H, C], queries through the keys' up-projection.
        q_rope: [B, H, R], turned.
        latent: [B, S, C].
        k_rope: [B, S, R], turned.
        lengths: [B] integers; row b sees positions below lengths[b], none for 0.
        scale: factor on the scores.
    Returns:
        [B, H, C] in the dtype of q_latent, computed in fp32 (fp64 for fp64); 0 where nothing is
        seen.
    """
    wide = torch.float64 if q_latent.dtype == torch.float64 else torch.float32
    keys = latent.to(wide)
    scores = torch.einsum("bhc,bsc->bhs", q_latent.to(wide), keys)
    scores = scores + torch.einsum("bhr,bsr->bhs", q_rope.to(wide), k_rope.to(wide))
    seen = torch.arange(latent.shape[1], device=latent.device) < lengths[:, None]
    pattern = (scores * scale).masked_fill(~seen[:, None], float("-inf")).softmax(-1)
    # A row that sees nothing has a pattern of NaN; what lies past a row's length may be anything.
    pattern = pattern.masked_fill(~seen[:, None], 0.0)
    keys = keys.masked_fill(~seen[..., None], 0.0)
    return torch.einsum("bhs,bsc->bhc", pattern, keys).to(q_latent.dtype)
