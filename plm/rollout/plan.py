"""One decoding step of a whole model by its parts' fast steps, where they have some."""

from typing import Any

import torch
from torch import Tensor, nn

from plm.model.common import own, unwatched
from plm.model.context import Context
from plm.model.decoding import Frame, Workshop, fast_norm
from plm.model.transformer import Transformer
from plm.rollout.slots import Slots

# A shape serves so many steps; what is looked at in vain costs less than making it anew.
_TILE = 16
# Weights of a model that may be kept a second time, packed: 1 GiB in fp32.
_PACK_UP_TO = 2**28


class Plan:
    """Made for a model as it is: its weights, hooks and switches. It does not see that they change.

    Args:
        model: for which `possible` holds.
        rope_theta: rotary base, where it is not the model's own.
    """

    def __init__(self, model: nn.Module, rope_theta: float | None) -> None:
        self.model, self.rope_theta = model, rope_theta
        size = sum(parameter.numel() for parameter in model.parameters())
        workshop = Workshop(pack=size <= _PACK_UP_TO)
        self.layers = [own(layer, "fast")(layer, workshop) for layer in model.layers]
        self.head = workshop.product(model.embed_tokens.head_weight)
        self.shape: tuple[Any, int] = (None, 0)

    def step(self, tokens: Tensor, positions: Tensor, slots: Slots) -> Tensor:
        """Logits, [B, V].

        Args:
            tokens, positions: [B] int64, of all rows that are there.
            slots: where they grow.
        """
        states, length = slots.first(), slots.length
        tile = min(length, -(-slots.reach() // _TILE) * _TILE)
        # The states are other objects when rows have come or gone, and kept here while they count.
        if states is not self.shape[0] or tile != self.shape[1]:
            self._shape(states, tile, slots)
        self.frame.at(positions)
        hidden = self.hidden.copy_(self.model.embed_tokens(tokens))
        for run in self.runs:
            hidden = run(hidden)
        return self.head(self.norm(hidden))

    def _shape(self, states: list[Any], tile: int, slots: Slots) -> None:
        rows, like = len(slots.rows), self.model.embed_tokens.head_weight
        frame = Frame(rows, tile, slots.length, like, self.rope_theta, *slots.shared())
        self.frame, self.shape = frame, (states, tile)
        self.hidden = frame.empty(rows, self.model.hidden_size)
        self.norm = fast_norm(self.model.norm, frame)
        both = zip(self.layers, states, strict=True)
        self.runs = [make(frame, state) for make, state in both]


def possible(model: nn.Module) -> bool:
    """Whether the model's step may be replaced: nobody looks, and a CPU computes in full floats."""
    head = model.embed_tokens.head_weight
    context = Context(positions=torch.zeros(1, 1, dtype=torch.int64))
    return (
        type(model) is Transformer
        and "step" not in vars(model)
        and model.kernels == "auto"
        and head.device.type == "cpu"
        and head.dtype in (torch.float32, torch.float64)
        and all(parameter.dtype == head.dtype for parameter in model.parameters())
        and not torch.is_autocast_enabled("cpu")
        and all(own(layer, "fast") for layer in model.layers)
        and unwatched(context, *model.modules())
    )
