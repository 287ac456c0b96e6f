"""A block whose attention sees what follows too."""

from dataclasses import replace

from torch import Tensor

from plm.model.block.pre_norm import PreNorm
from plm.model.common import flops
from plm.model.context import Context


class BothWays(PreNorm):
    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        return super().forward(hidden, replace(context, causal=False))

    def flops_per_token(self, seq_len: int) -> float:
        # The whole of the scores, which is the causal half of a window twice as long.
        return flops(self.self_attn, 2 * seq_len) + flops(self.mlp, seq_len)
