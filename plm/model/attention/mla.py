"""Multi-head latent attention: keys and values come from one small latent a token.

Paper: DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434), section 2.1; with full-rank queries as in PLM
    (arXiv:2503.12167)
Departs: nothing; the rotary key is shared by all heads, its pairs interleaved.
Cost: 2·(D·H·K + D·(C + R) + C·H·(N + U) + H·U·D) + H·(K + U)·T FLOPs a token, forward, where
    K = N + R is a head's query and key size.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from plm.errors import ConfigError
from plm.kernels import pick
from plm.model.absorbed import AbsorbedWeights, make_fast
from plm.model.attention.common import Matmul, SoftmaxAttention, Stateful, keep
from plm.model.common import flops, fuses, own, plain_linear, unwatched
from plm.model.compiled import make_latent
from plm.model.context import Context
from plm.model.decoding import Frame, Run, Workshop
from plm.model.matmul.dense import dense
from plm.model.rotary import rotate


class MLA(Stateful, nn.Module):
    """Mixer with a latent state.

    Args:
        hidden_size: D.
        num_attention_heads: H.
        kv_lora_rank: C.
        qk_nope_head_dim: N, the part of a head's key without position.
        qk_rope_head_dim: R, even; the part with rotary position.
        v_head_dim: U.
        rope_theta: base of the rotary angles.
        linear: `(in, out, role) -> module`.
        norm: `(size) -> module`, for the latent.
        matmul: product inside attention.
    """

    state_kind = "latent"
    exports = ("plm",)
    isolates_documents = True
    causal = True
    ragged = True

    def __init__(
        self,
        hidden_size: int,
        *,
        num_attention_heads: int,
        kv_lora_rank: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int,
        rope_theta: float,
        linear: Callable[..., nn.Module],
        norm: Callable[[int], nn.Module],
        matmul: Matmul = dense,
    ) -> None:
        super().__init__()
        if qk_rope_head_dim % 2:
            raise ConfigError(
                f"model.attention.qk_rope_head_dim={qk_rope_head_dim} is odd; rotary turns pairs"
            )
        self.heads, self.rank, self.value = num_attention_heads, kv_lora_rank, v_head_dim
        self.nope, self.rope = qk_nope_head_dim, qk_rope_head_dim
        self.rope_theta = rope_theta
        key = self.nope + self.rope
        self.scale = key**-0.5
        self.q_proj = linear(hidden_size, self.heads * key, "q")
        self.kv_a_proj_with_mqa = linear(hidden_size, self.rank + self.rope, "kv_a")
        self.kv_a_layernorm = norm(self.rank)
        self.kv_b_proj = linear(self.rank, self.heads * (self.nope + self.value), "kv_b")
        self.o_proj = linear(self.heads * self.value, hidden_size, "o")
        self.attend = SoftmaxAttention(matmul)

    def prepare(self, context: Context) -> None:
        """Make the tables that all layers share, outside any compiled block."""
        context.rotary(self.rope, self.rope_theta)
        if fuses(context.kernels, context.positions):
            context.document_bounds()
        else:
            context.attention_mask()

    def _queries(self, hidden: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """[B, T, H, N] and, turned, [B, T, H, R]."""
        q = self.q_proj(hidden).unflatten(-1, (self.heads, self.nope + self.rope))
        q_nope, q_rope = q.split([self.nope, self.rope], dim=-1)
        rotary = context.rotary(self.rope, self.rope_theta)
        return q_nope, rotate(q_rope, rotary, context.kernels)

    def _latent(self, hidden: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Normed latent [B, T, C] and turned shared key [B, T, R]: what the state keeps."""
        rotary = context.rotary(self.rope, self.rope_theta)
        kv_a, norm = self.kv_a_proj_with_mqa(hidden), self.kv_a_layernorm
        if self._takes_latent(hidden, context):
            return norm.of_latent(kv_a, rotary, rotate=True)
        latent, k_rope = kv_a.split([self.rank, self.rope], dim=-1)
        return norm(latent), rotate(k_rope, rotary, context.kernels)

    def _expand(self, latent: Tensor, k_rope: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [B, H, S, K] and values [B, H, S, U] of cached latents."""
        kv = self.kv_b_proj(latent).unflatten(-1, (self.heads, self.nope + self.value))
        k_nope, v = kv.split([self.nope, self.value], dim=-1)
        k_rope = k_rope[:, :, None].expand(-1, -1, self.heads, -1)
        return torch.cat((k_nope, k_rope), dim=-1).transpose(1, 2), v.transpose(1, 2)

    def _takes_latent(self, hidden: Tensor, context: Context) -> bool:
        """Whether the latent is split, normed and its key turned in one pass."""
        norm = self.kv_a_layernorm
        return (
            fuses(context.kernels, hidden) and own(norm, "of_latent") and unwatched(context, norm)
        )

    def _whole(self, hidden: Tensor, context: Context) -> bool:
        """Whether the fused ops do what this mixer would do part by part."""
        return self.attend.unchanged(context) and self._takes_latent(hidden, context)

    def _fused(self, hidden: Tensor, context: Context) -> Tensor:
        """As forward, without expanding, padding or turning anything in memory."""
        rotary = context.rotary(self.rope, self.rope_theta)
        q = self.q_proj(hidden).unflatten(-1, (self.heads, self.nope + self.rope))
        kv_a = self.kv_a_proj_with_mqa(hidden)
        latent, k_rope = self.kv_a_layernorm.of_latent(kv_a, rotary, rotate=False)
        kv = self.kv_b_proj(latent).unflatten(-1, (self.heads, self.nope + self.value))
        starts, ends = context.document_bounds()
        return pick(context.kernels).mla_attention(
            q,
            kv,
            k_rope,
            *rotary,
            starts=starts,
            ends=ends,
            scale=self.scale,
            causal=context.causal,
        )

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        if self._whole(hidden, context):
            return self.o_proj(self._fused(hidden, context).flatten(-2))
        q = torch.cat(self._queries(hidden, context), dim=-1).transpose(1, 2)
        k, v = self._expand(*self._latent(hidden, context))
        out = self.attend(
            q,
            k,
            v,
            scale=self.scale,
            context=context,
            mask=context.attention_mask(),
            causal=context.causal,
        )
        return self.o_proj(out.transpose(1, 2).flatten(-2))

    def init_state(
        self, batch: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """An empty state for `batch` rows of at most `max_len` positions, allocated whole.

        Under "latent": [B, S, C + R], each position's latent with its turned key behind it.
        """
        shape = (batch, max_len, self.rank + self.rope)
        return {"latent": torch.zeros(shape, device=device, dtype=dtype)}

    def step(self, hidden: Tensor, state: dict[str, Tensor], context: Context) -> Tensor:
        """Take T new positions, [B, T, D] -> [B, T, D]; `state` is advanced in place."""
        latent, k_rope = self._latent(hidden, context)
        cache, mask = state["latent"], None
        if not keep(cache, torch.cat((latent, k_rope), dim=-1), context):
            seen = cache[:, : context.reached()]
            latent, k_rope = seen.split([self.rank, self.rope], dim=-1)
            mask = context.step_mask()
        q_nope, q_rope = self._queries(hidden, context)
        # Only there: it goes round kv_b's forward, the chosen matmul, and what the taps promise.
        plain = plain_linear(context, self.kv_b_proj) and self.attend.plain
        if hidden.shape[1] == 1 and plain and context.kernels != "reference":
            out = self._absorbed(q_nope, q_rope, latent, k_rope, context, mask)
        else:
            k, v = self._expand(latent, k_rope)
            q = torch.cat((q_nope, q_rope), dim=-1).transpose(1, 2)
            out = self.attend(q, k, v, scale=self.scale, context=context, mask=mask)
        return self.o_proj(out.transpose(1, 2).flatten(-2))

    def _absorbed(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        latent: Tensor,
        k_rope: Tensor,
        context: Context,
        mask: Tensor | None,
    ) -> Tensor:
        """Attention in the latent space: queries go through kv_b, the cache stays small."""
        weight = self.kv_b_proj.weight.unflatten(0, (self.heads, self.nope + self.value))
        k_weight, v_weight = weight.split([self.nope, self.value], dim=1)
        q_latent = torch.einsum("bthn,hnc->bhtc", q_nope, k_weight)
        if fuses(context.kernels, latent) and unwatched(context, self.attend):
            found = pick(context.kernels).mla_decode(
                q_latent[:, :, 0].contiguous(),
                q_rope[:, 0],
                latent,
                k_rope,
                (context.positions[:, 0] + 1).to(torch.int32),
                scale=self.scale,
            )
            return torch.einsum("bhc,huc->bhu", found, v_weight)[:, :, None]
        q = torch.cat((q_latent, q_rope.transpose(1, 2)), dim=-1)
        k = torch.cat((latent, k_rope), dim=-1)[:, None]
        settings = {"scale": self.scale, "context": context, "mask": mask}
        out = self.attend(q, k, latent[:, None], **settings)
        return torch.einsum("bhtc,huc->bhtu", out, v_weight)

    def fast(self, workshop: Workshop) -> Callable[[Frame, dict[str, Tensor]], Run] | None:
        """What makes its fast step (plm.model.decoding): absorbed, as `step` is by default."""
        return self._absorbing(make_fast, workshop)

    def write(self, workshop: Workshop) -> Callable[[Frame, dict[str, Tensor]], Run] | None:
        """The same by compiled kernels."""
        return self._absorbing(make_latent, workshop)

    def _absorbing(self, make: Callable[..., Run], workshop: Workshop) -> Callable | None:
        projections = self.q_proj, self.kv_a_proj_with_mqa, self.kv_b_proj, self.o_proj
        if not (workshop.plain(*projections) and self.attend.unchanged(workshop.context)):
            return None
        return partial(make, self, AbsorbedWeights(self, workshop))

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs a token in a window of seq_len, attention counted causal."""
        projections = (self.q_proj, self.kv_a_proj_with_mqa, self.kv_b_proj, self.o_proj)
        return sum(flops(part, seq_len) for part in projections) + self.attend.flops_per_token(
            seq_len, self.heads, self.nope + self.rope, self.value
        )

    def state_bytes(self, seq_len: int, element_bytes: int = 2, expanded: bool = False) -> int:
        """Bytes of one row's state at seq_len positions; expanded: as keys and values a head."""
        wide = self.heads * (self.nope + self.rope + self.value)
        return seq_len * element_bytes * (wide if expanded else self.rank + self.rope)
