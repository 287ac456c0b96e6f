"""Rows that pause: what their mixers know is kept, and gone on from once more has been said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plm.rollout.slots import Slots


@dataclass(frozen=True)
class Held:
    """What a row's mixers knew when it ended.

    Attributes:
        states: of `init_state`, of all rows that ended in the same step.
        row: of them.
        length: positions of each.
        tokens: that the row has taken in: all but the last that it drew.
    """

    states: list[Any]
    row: int
    length: int
    tokens: list[int]


def states_of(slots: Slots, at: Sequence[int]) -> dict[int, Held]:
    """Copies of the states of the rows in these places, by place."""
    if not at:
        return {}
    index = torch.tensor(at, device=slots.device)
    states = slots.model.init_state(len(at), slots.length, slots.device, slots.dtype)
    slots.model.place(states, slots.every[: len(at)], slots.states, index)
    ends = slots.kept["place"].index_select(0, index).tolist()
    return {
        slot: Held(states, row, slots.length, slots.kept["tokens"][slot, :end].tolist())
        for row, (slot, end) in enumerate(zip(at, ends, strict=True))
    }


def gathered(model: nn.Module, held: Sequence[Held], states: list[Any]) -> None:
    """Write the states of such rows into the first rows of others, which are as long or longer."""
    device = model.embed_tokens.head_weight.device
    sources: dict[int, list[int]] = {}
    for row, one in enumerate(held):
        sources.setdefault(id(one.states), []).append(row)
    for rows in sources.values():
        index = torch.tensor([held[row].row for row in rows], device=device)
        model.place(states, torch.tensor(rows, device=device), held[rows[0]].states, index)
