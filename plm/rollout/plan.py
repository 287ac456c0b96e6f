"""One decoding step of a whole model by its parts' fast steps, where they have some."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from plm.kernels.cpu import Kernels
from plm.model.common import own, unwatched
from plm.model.context import Context
from plm.model.decoding import Frame, Run, Workshop, fast_norm, write_norm
from plm.model.transformer import Transformer
from plm.rollout.slots import Slots

# A shape serves so many steps; what is looked at in vain costs less than making it anew. Compiled
# kernels look at no more than there is.
_TILE, _COMPILED_TILE = 16, 128
# Weights of a model that may be kept a second time, packed: 1 GiB in fp32.
_PACK_UP_TO = 2**28


class Plan:
    """Made for a model as it is: its weights, hooks and switches. It does not see that they change.

    Args:
        model: for which `possible` holds.
        rope_theta: rotary base, where it is not the model's own.
        compiled: by compiled kernels, where the weights are fp32 and the layers offer it.

    Attributes:
        kernels: those; None: torch's operators are used.
    """

    def __init__(self, model: nn.Module, rope_theta: float | None, compiled: bool = False) -> None:
        self.model, self.rope_theta = model, rope_theta
        size = sum(parameter.numel() for parameter in model.parameters())
        offered = all(own(layer, "write") for layer in model.layers)
        full = model.embed_tokens.head_weight.dtype == torch.float32
        self.kernels = Kernels() if compiled and full and offered else None
        workshop = Workshop(size <= _PACK_UP_TO, self.kernels)
        name = "fast" if self.kernels is None else "write"
        self.layers = [own(layer, name)(layer, workshop) for layer in model.layers]
        self.head = workshop.product(model.embed_tokens.head_weight)
        self.shape: tuple[Any, int] = (None, 0)

    def step(self, tokens: Tensor, positions: Tensor, slots: Slots) -> Tensor:
        """Logits, [B, V], until the next step.

        Args:
            tokens, positions: [B] int64, of all rows that are there.
            slots: where they grow.
        """
        states, length = slots.first(), slots.length
        step = _TILE if self.kernels is None else _COMPILED_TILE
        tile = min(length, -(-slots.reach() // step) * step)
        # The states are other objects when rows have come or gone, and kept here while they count.
        if states is not self.shape[0] or tile != self.shape[1]:
            self._shape(states, tile, slots)
        self.frame.at(positions)
        self.hidden.copy_(self.model.embed_tokens(tokens))
        return self.run()

    def _shape(self, states: list[Any], tile: int, slots: Slots) -> None:
        rows, like = len(slots.rows), self.model.embed_tokens.head_weight
        settings = (self.rope_theta, *slots.shared(), self.kernels)
        self.frame = frame = Frame(rows, tile, slots.length, like, *settings)
        self.shape = (states, tile)
        self.hidden = frame.empty(rows, self.model.hidden_size)
        both = zip(self.layers, states, strict=True)
        runs = [make(frame, state) for make, state in both]
        if self.kernels is None:
            runs += [fast_norm(self.model.norm, frame), self.head]
            self.run = lambda: self._through(runs)
        else:
            self.run = self._written(self.kernels, runs)

    def _through(self, runs: list[Run]) -> Tensor:
        hidden = self.hidden
        for run in runs:
            hidden = run(hidden)
        return hidden

    def _written(self, kernels: Kernels, runs: list[Run]) -> Callable[[], Tensor]:
        """A step as a program of compiled kernels."""
        program = kernels.begin()
        logits = self.head(write_norm(self.model.norm, kernels, self._through(runs)))
        take = program.ready()

        def step() -> Tensor:
            take()
            return logits

        return step


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
