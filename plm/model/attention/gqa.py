"""Grouped-query attention: several query heads share one key and value head.

Paper: Ainslie et al., GQA (arXiv:2305.13245); its switches as in Qwen2 (arXiv:2407.10671, biases)
    and Qwen3 (arXiv:2505.09388, norms on queries and keys)
Cost: 2·D·(H + 2·Hk + H)·K + 2·H·K·T FLOPs a token, forward, for heads of one size K.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from plm.errors import ConfigError
from plm.model.attention.common import Matmul, SoftmaxAttention, Stateful, keep
from plm.model.common import Tap, flops
from plm.model.compiled import make_grouped
from plm.model.context import Context
from plm.model.decoding import Frame, Run, Workshop
from plm.model.grouped import GroupedWeights, make_fast
from plm.model.matmul.dense import dense
from plm.model.rotary import rotate


class Bias(nn.Module):
    """Adds a vector to the last axis.

    Args:
        size: length of the last axis.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., size], same out."""
        return x + self.bias.to(x.dtype)

    def init_weights(self, generator: torch.Generator, std: float) -> None:
        """Zeros, also for a model that was made without memory."""
        nn.init.zeros_(self.bias)


class GQA(Stateful, nn.Module):
    """Mixer with a key-value state.

    Args:
        hidden_size: D.
        num_attention_heads: H.
        num_key_value_heads: Hk, a divisor of H.
        head_dim: K of queries and keys; None: D / H.
        v_head_dim: U of values; None: K.
        rope_theta: base of the rotary angles.
        linear: `(in, out, role) -> module`.
        norm: `(size) -> module`, for queries and keys where qk_norm is set.
        matmul: product inside attention.
        qkv_bias: add a vector to queries, keys and values; zero at first.
        qk_norm: norm every query and key head before it is turned.
    """

    state_kind = "key_value"
    isolates_documents = True
    causal = True
    ragged = True

    def __init__(
        self,
        hidden_size: int,
        *,
        num_attention_heads: int,
        num_key_value_heads: int,
        rope_theta: float,
        linear: Callable[..., nn.Module],
        norm: Callable[[int], nn.Module] | None = None,
        matmul: Matmul = dense,
        head_dim: int | None = None,
        v_head_dim: int | None = None,
        qkv_bias: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        if num_attention_heads % num_key_value_heads:
            raise ConfigError(
                f"model.attention.num_attention_heads={num_attention_heads} is not a multiple of "
                f"num_key_value_heads={num_key_value_heads}"
            )
        if head_dim is None and hidden_size % num_attention_heads:
            low = hidden_size // num_attention_heads * num_attention_heads
            raise ConfigError(
                f"model.hidden_size={hidden_size} is not a multiple of num_attention_heads="
                f"{num_attention_heads}; nearest: {low}, {low + num_attention_heads}"
            )
        self.heads, self.kv_heads = num_attention_heads, num_key_value_heads
        self.key = head_dim or hidden_size // num_attention_heads
        if self.key % 2:
            raise ConfigError(f"model.attention.head_dim={self.key} is odd; rotary turns pairs")
        self.value = v_head_dim or self.key
        self.rope_theta, self.scale = rope_theta, self.key**-0.5
        self.q_proj = linear(hidden_size, self.heads * self.key, "q")
        self.k_proj = linear(hidden_size, self.kv_heads * self.key, "k")
        self.v_proj = linear(hidden_size, self.kv_heads * self.value, "v")
        self.o_proj = linear(self.heads * self.value, hidden_size, "o")
        if qk_norm and norm is None:
            raise ConfigError("model.attention.qk_norm=true needs a norm; choose model/norm")
        sizes = {"q": self.heads * self.key, "k": self.kv_heads * self.key}
        sizes["v"] = self.kv_heads * self.value
        biases = {role: Bias(size) if qkv_bias else Tap() for role, size in sizes.items()}
        self.q_bias, self.k_bias, self.v_bias = biases["q"], biases["k"], biases["v"]
        self.q_norm = norm(self.key) if qk_norm else Tap()
        self.k_norm = norm(self.key) if qk_norm else Tap()
        self.attend = SoftmaxAttention(matmul)

    def exports(self) -> tuple[str, ...]:
        """The architectures that have its switches."""
        bias, norm = isinstance(self.q_bias, Bias), not isinstance(self.q_norm, Tap)
        if bias and norm:
            return ()
        return ("qwen2",) if bias else ("qwen3",) if norm else ("llama",)

    def prepare(self, context: Context) -> None:
        """Make the tables that all layers share, outside any compiled block."""
        context.rotary(self.key, self.rope_theta)
        context.attention_mask()

    def _qkv(self, hidden: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """[B, H, T, K], [B, Hk, T, K], [B, Hk, T, U]."""
        rotary = context.rotary(self.key, self.rope_theta)
        q = self.q_bias(self.q_proj(hidden)).unflatten(-1, (self.heads, self.key))
        k = self.k_bias(self.k_proj(hidden)).unflatten(-1, (self.kv_heads, self.key))
        q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, rotary, context.kernels), rotate(k, rotary, context.kernels)
        v = self.v_bias(self.v_proj(hidden)).unflatten(-1, (self.kv_heads, self.value))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        out = self.attend(
            *self._qkv(hidden, context),
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

        Under "kv": [B, Hk, S, K + U], each position's key with its value behind it.
        """
        shape = (batch, self.kv_heads, max_len, self.key + self.value)
        return {"kv": torch.zeros(shape, device=device, dtype=dtype)}

    def step(self, hidden: Tensor, state: dict[str, Tensor], context: Context) -> Tensor:
        """Take T new positions, [B, T, D] -> [B, T, D]; `state` is advanced in place."""
        q, k, v = self._qkv(hidden, context)
        cache, mask = state["kv"], None
        new = torch.cat((k, v), dim=-1).transpose(1, 2)
        if not keep(cache.transpose(1, 2), new, context):
            seen = cache[:, :, : context.reached()]
            k, v = seen.split([self.key, self.value], dim=-1)
            mask = context.step_mask()
        out = self.attend(q, k, v, scale=self.scale, context=context, mask=mask)
        return self.o_proj(out.transpose(1, 2).flatten(-2))

    def fast(self, workshop: Workshop) -> Callable[[Frame, dict[str, Tensor]], Run] | None:
        """What makes its fast step (plm.model.decoding); norms on heads have none."""
        return self._joined(make_fast, workshop)

    def write(self, workshop: Workshop) -> Callable[[Frame, dict[str, Tensor]], Run] | None:
        """The same by compiled kernels."""
        return self._joined(make_grouped, workshop)

    def _joined(self, make: Callable[..., Run], workshop: Workshop) -> Callable | None:
        projections = self.q_proj, self.k_proj, self.v_proj, self.o_proj
        fixed = type(self.q_norm) is Tap and type(self.q_bias) in (Tap, Bias)
        if not (fixed and workshop.plain(*projections) and self.attend.unchanged(workshop.context)):
            return None
        return partial(make, self, GroupedWeights(self, workshop))

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs a token in a window of seq_len, attention counted causal."""
        projections = (self.q_proj, self.k_proj, self.v_proj, self.o_proj)
        return sum(flops(part, seq_len) for part in projections) + self.attend.flops_per_token(
            seq_len, self.heads, self.key, self.value
        )

    def state_bytes(self, seq_len: int, element_bytes: int = 2, expanded: bool = True) -> int:
        """Bytes of one row's state at seq_len positions; it has one form only."""
        return seq_len * element_bytes * self.kv_heads * (self.key + self.value)
