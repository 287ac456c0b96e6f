"""Softmax attention over given queries, keys and values, for every mixer that needs it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm.kernels.mla_attention import PAD_VALUES_FROM
from plm.model.common import Tap, unwatched
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

    def unchanged(self, context: Context) -> bool:
        """Whether it does what its class says, with the default product, and nobody looks."""
        known = type(self) is SoftmaxAttention and "forward" not in vars(self) and self.plain
        return known and unwatched(context, self, self.q, self.k, self.v, self.pattern)

    def flops_per_token(self, seq_len: int, heads: int, key_size: int, value_size: int) -> float:
        """Forward FLOPs of both products a token, causal: on average half of seq_len is seen."""
        return heads * (key_size + value_size) * float(seq_len)


def keep(cache: Tensor, new: Tensor, context: Context) -> bool:
    """Write a step's new positions into a cache of them.

    Args:
        cache: [B, S, ...], of any strides.
        new: [B, T, ...], for `context.positions`.
        context: of this step.
    Returns:
        Whether these are all that there is: every row began with this step.
    """
    count = new.shape[1]
    new = new.to(cache.dtype)
    # A row's new positions are distinct, so that as many as all are all from the first.
    if context.reached() == count:
        cache[:, :count] = new
        return True
    rows = torch.arange(len(new), device=new.device)[:, None]
    cache[rows, context.positions] = new
    return False


Leaf = tuple[Any, Any, Tensor]


def _leaves(state: Any) -> Iterator[Leaf]:
    """Each tensor of a state with what holds it and under which key."""
    for key, value in list(state.items() if isinstance(state, dict) else enumerate(state)):
        if isinstance(value, Tensor):
            yield state, key, value
        elif isinstance(value, dict | list):
            yield from _leaves(value)


class Stateful:
    """What the engine asks of a mixer's state besides `init_state` and `step`.

    As it stands it serves every state made of dictionaries and lists of tensors with the rows
    first, which `step` writes into and never replaces. A mixer with another state brings its own
    `reorder`, `place` and `first`.

    `ragged`: whether prompts of several lengths may go through one `step`, padded on the right:
    true where the state is kept by position, so that a padded place is overwritten before it is
    seen. Otherwise the engine gives a step prompts of one length. In steps of one position each
    row stands at its own in any case.
    """

    ragged = False

    def reorder(self, state: Any, index: Tensor) -> None:
        """Make row i of the state the former row index[i]; index: int64, of any length."""
        for holder, key, tensor in _leaves(state):
            holder[key] = tensor.index_select(0, index)

    def place(self, state: Any, rows: Tensor, source: Any, index: Tensor) -> None:
        """Overwrite rows of a state, in place, with rows of another or of itself.

        Args:
            state: of `init_state`.
            rows: [N] int64, distinct rows of `state`.
            source: of `init_state` too, for as many positions or fewer.
            index: [N] int64, rows of `source`; one may come several times.
        """
        for (_, _, into), (_, _, given) in zip(_leaves(state), _leaves(source), strict=True):
            for dim, size in enumerate(given.shape[1:], start=1):
                into = into.narrow(dim, 0, size)
            into.index_copy_(0, rows, given.index_select(0, index))

    def first(self, state: Any, count: int) -> Any:
        """The first rows of a state, as a state that shares its memory."""
        if isinstance(state, Tensor):
            return state[:count]
        if isinstance(state, dict):
            return {key: self.first(value, count) for key, value in state.items()}
        return [self.first(value, count) for value in state]
