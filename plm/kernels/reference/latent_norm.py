"""Norm of the latent and rotation of the shared key, both of one projection, in plain torch.

Paper: DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434), section 2.1
"""

from torch import Tensor

from plm.kernels.reference.rms_norm import rms_norm
from plm.kernels.reference.rope import rope


def latent_norm(
    kv_a: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    *,
    rank: int,
    rotate: bool = True,
) -> tuple[Tensor, Tensor]:
    """Split the projection into the normed latent and the shared key.

    Args:
        kv_a: [B, T, C + R].
        weight: [C], of the norm.
        cos, sin: [B, T, R / 2].
        eps: added to the mean square.
        rank: C.
        rotate: whether the key is turned by its position.
    Returns:
        Latent [B, T, C] and key [B, T, R].
    """
    latent, k_rope = kv_a[..., :rank], kv_a[..., rank:]
    turned = rope(k_rope, cos, sin) if rotate else k_rope.contiguous()
    return rms_norm(latent, weight, eps), turned
