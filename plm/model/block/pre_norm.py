"""A layer with the norms before its parts: x + mixer(norm(x)), then x + mlp(norm(x)).

Paper: Xiong et al. (arXiv:2002.04745)
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from plm.model.common import Tap, flops, fuses, own, unwatched
from plm.model.context import Context
from plm.model.decoding import Frame, Run, Workshop, fast_norm, write_norm, write_plain


class PreNorm(nn.Module):
    """One layer.

    Args:
        hidden_size: D.
        attention, mlp: `() -> module`.
        norm: `(size) -> module`.
    """

    exports = ("plm", "llama", "qwen2", "qwen3")

    def __init__(
        self,
        hidden_size: int,
        *,
        attention: Callable[[], nn.Module],
        mlp: Callable[[], nn.Module],
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.input_layernorm = norm(hidden_size)
        self.self_attn = attention()
        self.post_attention_layernorm = norm(hidden_size)
        self.mlp = mlp()
        self.mixed, self.residual_mid, self.residual = Tap(), Tap(), Tap()

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        context.part = "self_attn"
        mixed = self.self_attn(self.input_layernorm(hidden), context)
        return self._feed_forward(hidden, mixed, context)

    def _feed_forward(self, hidden: Tensor, mixed: Tensor, context: Context) -> Tensor:
        norm = self.post_attention_layernorm
        taps = (norm, self.mixed, self.residual_mid)
        if own(norm, "after_sum") and fuses(context.kernels, hidden) and unwatched(context, *taps):
            normed, hidden = norm.after_sum(mixed, hidden)
        else:
            hidden = self.residual_mid(hidden + self.mixed(mixed))
            normed = norm(hidden)
        context.part = "mlp"
        return self.residual(hidden + self.mlp(normed, context))

    def step(self, hidden: Tensor, state: object, context: Context) -> Tensor:
        """T new positions, [B, T, D] -> [B, T, D]; `state` is the mixer's."""
        context.part = "self_attn"
        mixed = self.self_attn.step(self.input_layernorm(hidden), state, context)
        return self._feed_forward(hidden, mixed, context)

    def fast(self, workshop: Workshop) -> Callable[[Frame, object], Run]:
        """What makes its fast step (plm.model.decoding)."""
        offers = {part: own(part, "fast") for part in (self.self_attn, self.mlp)}
        mixer, mlp = (offer and offer(part, workshop) for part, offer in offers.items())

        def make(frame: Frame, state: object) -> Run:
            first = fast_norm(self.input_layernorm, frame)
            second = fast_norm(self.post_attention_layernorm, frame)
            mix = mixer(frame, state) if mixer else partial(self._plain_mix, frame, state)
            feed = mlp(frame) if mlp else partial(self._plain_feed, frame)

            def run(hidden: Tensor) -> Tensor:
                hidden.add_(mix(first(hidden)))
                return hidden.add_(feed(second(hidden)))

            return run

        return make

    def write(self, workshop: Workshop) -> Callable[[Frame, object], Run]:
        """The same by compiled kernels."""
        kernels = workshop.kernels
        offers = {part: own(part, "write") for part in (self.self_attn, self.mlp)}
        mixer, mlp = (offer and offer(part, workshop) for part, offer in offers.items())
        first, second = self.input_layernorm, self.post_attention_layernorm

        def make(frame: Frame, state: object) -> Run:
            plain_mix = partial(write_plain, kernels, partial(self._plain_mix, frame, state))
            plain_feed = partial(write_plain, kernels, partial(self._plain_feed, frame))
            mix = mixer(frame, state) if mixer else plain_mix
            feed = mlp(frame) if mlp else plain_feed

            def run(hidden: Tensor) -> Tensor:
                kernels.add(hidden, mix(write_norm(first, kernels, hidden)))
                return kernels.add(hidden, feed(write_norm(second, kernels, hidden)))

            return run

        return make

    def _plain_mix(self, frame: Frame, state: object, x: Tensor) -> Tensor:
        return self.self_attn.step(x[:, None], state, frame.context)[:, 0]

    def _plain_feed(self, frame: Frame, x: Tensor) -> Tensor:
        return self.mlp(x[:, None], frame.context)[:, 0]

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs a token in a window of seq_len."""
        return flops(self.self_attn, seq_len) + flops(self.mlp, seq_len)
