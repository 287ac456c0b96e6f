"""Softmax attention over given queries, keys and values, for every mixer that needs it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm.kernels.mla_attention import PAD_VALUES_FROM
from plm.model.common import Tap
from plm.model.context import Context
from plm.model.matmul.dense import dense

Matmul = Callable[[Tensor, Tensor, str], Tensor]


class SoftmaxAttention(nn.Module):
    """The two products of attention and the softmax between them.

    Under kernels=reference, or with another product than the default, the pattern is made and
    passes the tap `pattern`; otherwise torch's SDPA runs.
    """

    def __init__(self, matmul: Matmul = dense) -> None:
        super().__init__()
        self.matmul = matmul
        # A choice arrives as a partial of its function.
        self.plain = getattr(matmul, "func", matmul) is dense
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        context: Context,
        mask: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor:
        """Attend.

        Args:
            q: [B, H, T, K].
            k: [B, Hk, S, K]; H is a multiple of Hk.
            v: [B, Hk, S, U].
            scale: factor on the scores.
            context: says which kernels to use.
            mask: bool, broadcastable to [B, H, T, S], True where seen; it replaces `causal`.
            causal: without a mask, position t sees keys up to t (T equals S).
        Returns:
            [B, H, T, U].
        """
        q, k, v = self.q(q), self.k(k), self.v(v)
        if context.kernels == "reference" or not self.plain:
            return self._explicit(q, k, v, scale, mask, causal)
        size = v.shape[-1]
        pad = q.shape[-1] - size
        padded = pad > 0 and q.device.type == "cpu" and k.shape[2] >= PAD_VALUES_FROM
        if padded:
            v = F.pad(v, (0, pad))
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal and mask is None and q.shape[2] > 1,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return out[..., :size] if padded else out

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, causal: bool
    ) -> Tensor:
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = self.matmul(q, k.transpose(-1, -2), "scores") * scale
        if mask is None and causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(
                scores.shape[-1] - scores.shape[-2]
            )
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
        pattern = self.pattern(scores.softmax(-1, dtype=wide).to(v.dtype))
        return self.matmul(pattern, v, "values")

    def flops_per_token(self, seq_len: int, heads: int, key_size: int, value_size: int) -> float:
        """Forward FLOPs of both products a token, causal: on average half of seq_len is seen."""
        return heads * (key_size + value_size) * float(seq_len)


def step_mask(start: int, new: int, total: int, device: torch.device) -> Tensor | None:
    """[new, total] bool: which of `total` cached keys each of `new` queries from `start` sees."""
    if new == 1:
        return None
    return torch.ones(new, total, dtype=torch.bool, device=device).tril(start)
