"""Feed-forward of two matrices: up, activation, down. PLM's has a squared ReLU.

Paper: So et al., Primer (arXiv:2109.08668), for the squared ReLU
Cost: 4·D·F FLOPs a token, forward.
"""

from collections.abc import Callable

from torch import Tensor, nn

from plm.kernels import pick
from plm.model.common import Tap, flops, own, plain_linear, unwatched
from plm.model.context import Context
from plm.model.decoding import Frame, Run, Workshop


class Ungated(nn.Module):
    """Feed-forward without a gate.

    Args:
        hidden_size: D.
        intermediate_size: F.
        activation: `() -> module`, elementwise or over F.
        linear: `(in, out, role) -> module`.
    """

    exports = ("plm",)

    def __init__(
        self,
        hidden_size: int,
        *,
        intermediate_size: int,
        activation: Callable[[], nn.Module],
        linear: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        self.up_proj = linear(hidden_size, intermediate_size, "up")
        self.pre_activation = Tap()
        self.activation = activation()
        self.down_proj = linear(intermediate_size, hidden_size, "down")

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        op = own(self.activation, "fused_mlp")
        if op and context.kernels != "reference" and self._whole(context):
            call = getattr(pick(context.kernels), op)
            weights = self.up_proj.weight, self.down_proj.weight
            return call(hidden, *weights, observe=getattr(self.activation, "observe", None))
        wide = self.pre_activation(self.up_proj(hidden))
        return self.down_proj(self.activation(wide, context))

    def _whole(self, context: Context) -> bool:
        """Whether nothing but the two weights and the activation is at work, and nobody looks."""
        taps = (self.pre_activation, self.activation)
        projections = self.up_proj, self.down_proj
        return unwatched(context, *taps) and plain_linear(context, *projections)

    def fast(self, workshop: Workshop) -> Callable[[Frame], Run] | None:
        """What makes its fast step (plm.model.decoding)."""
        overwrite = own(self.activation, "overwrite")
        if overwrite is None or not workshop.plain(self.up_proj, self.down_proj):
            return None
        up = workshop.product(self.up_proj.weight)
        down = workshop.product(self.down_proj.weight)
        return lambda frame: lambda x: down(overwrite(self.activation, up(x)))

    def write(self, workshop: Workshop) -> Callable[[Frame], Run] | None:
        """The same by compiled kernels."""
        finish = own(self.activation, "finish")
        seen = getattr(self.activation, "observe", None) is not None
        if finish is None or seen or not workshop.plain(self.up_proj, self.down_proj):
            return None
        up = workshop.product(self.up_proj.weight, finish)
        down = workshop.product(self.down_proj.weight)
        return lambda frame: lambda x: down(up(x))

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs a token."""
        parts = (self.up_proj, self.activation, self.down_proj)
        return sum(flops(part, seq_len) for part in parts)
