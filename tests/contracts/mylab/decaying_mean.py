"""A recurrent mixer: each channel keeps a mean of the past that it forgets at its own pace."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plm.model.attention.common import Stateful
from plm.model.common import flops
from plm.model.context import Context


class DecayingMean(Stateful, nn.Module):
    """h[t] = g[t]·h[t-1] + (1 - g[t])·v[t], with h = 0 before a document."""

    state_kind = "recurrent"
    isolates_documents = True
    causal = True

    def __init__(self, hidden_size: int, *, linear: Callable[..., nn.Module], **_: object) -> None:
        super().__init__()
        self.size = hidden_size
        self.v_proj = linear(hidden_size, hidden_size, "v")
        self.gate_proj = linear(hidden_size, hidden_size, "gate")
        self.o_proj = linear(hidden_size, hidden_size, "o")

    def _run(self, hidden: Tensor, past: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        value, gate = self.v_proj(hidden), self.gate_proj(hidden).sigmoid()
        kept = gate * (context.positions != 0)[..., None]
        found = []
        for place in range(hidden.shape[1]):
            past = kept[:, place] * past + (1 - gate[:, place]) * value[:, place]
            found.append(past)
        return self.o_proj(torch.stack(found, dim=1)), past

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        return self._run(hidden, torch.zeros_like(hidden[:, 0]), context)[0]

    def init_state(
        self, batch: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> list[Tensor]:
        return [torch.zeros(batch, self.size, device=device, dtype=dtype)]

    def step(self, hidden: Tensor, state: list[Tensor], context: Context) -> Tensor:
        out, past = self._run(hidden, state[0], context)
        state[0].copy_(past)
        return out

    def flops_per_token(self, seq_len: int) -> float:
        parts = (self.v_proj, self.gate_proj, self.o_proj)
        return sum(flops(part, seq_len) for part in parts)

    def state_bytes(self, seq_len: int, element_bytes: int = 2, expanded: bool = False) -> int:
        return self.size * element_bytes


class ForgetfulMean(DecayingMean):
    """The same without the reset, so that it cannot keep documents apart."""

    isolates_documents = False

    def _run(self, hidden: Tensor, past: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        endless = Context(positions=torch.ones_like(context.positions))
        return super()._run(hidden, past, endless)
