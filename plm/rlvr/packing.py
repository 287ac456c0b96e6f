"""Rollouts into windows, and which process and micro-batch has which."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from plm.batch import IGNORE_INDEX, Batch
from plm.data.loader import cumulative_lengths
from plm.rlvr.rollouts import Rollout

KNOWN = "sampled", "old", "reference", "values", "advantages", "returns"
"""What may be known of each token of a rollout."""


def dealt(
    lengths: Sequence[int], world_size: int, parts: int, useful: Sequence[bool] | None = None
) -> list[list[list[int]]]:
    """Which rollouts each process has in each of its micro-batches.

    The longest go first, dealt forwards and backwards in turn, so that processes have like work and
    a micro-batch has rollouts of like length.

    Args:
        lengths: of an optimizer step's rollouts, world_size * parts of them at least.
        world_size: processes.
        parts: micro-batches of each process.
        useful: rollouts without gradient, whose place this is False at, are left out, but for as
            many as it takes that no micro-batch is empty; None: all are useful.
    Returns:
        by process, by micro-batch, indices into `lengths`.
    """
    told = [True] * len(lengths) if useful is None else useful
    order = sorted(range(len(lengths)), key=lambda i: (not told[i], -lengths[i], i))
    order = order[: max(sum(told), world_size * parts)]
    hands: list[list[int]] = [[] for _ in range(world_size)]
    for place, index in enumerate(order):
        turn, seat = divmod(place, world_size)
        hands[seat if turn % 2 == 0 else world_size - 1 - seat].append(index)
    bounds = [[len(hand) * part // parts for part in range(parts + 1)] for hand in hands]
    return [
        [hand[low:high] for low, high in pairwise(cuts)]
        for hand, cuts in zip(hands, bounds, strict=True)
    ]


def bins(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which rollouts lie in which window: each in the first that has room, the longest first.

    Args:
        lengths: at most `size` each.
        size: of a window.
    """
    found: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        for place, left in enumerate(room):
            if lengths[index] <= left:
                found[place].append(index)
                room[place] -= lengths[index]
                break
        else:
            found.append([index])
            room.append(size - lengths[index])
    return found


def packed(
    rollouts: Sequence[Rollout], size: int, batch: Batch
) -> tuple[Batch, dict[str, Tensor], Tensor]:
    """The windows of some rollouts, each isolated from the others.

    Args:
        rollouts: M of them.
        size: longest window; the windows are as long as the fullest of them.
        batch: whose step's numbers the windows take over.
    Returns:
        the batch, whose labels are the tokens that the policy chose; of its N labels, in the order
        of the flattened batch: each of KNOWN that there is, [N] fp32; and [N] int64 which of the
        rollouts each belongs to.
    """
    places = bins([one.length for one in rollouts], size)
    width = max(sum(rollouts[i].length for i in row) for row in places)
    shape = len(places), width
    tokens, positions, doc_ids = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    labels, owner = (torch.full(shape, IGNORE_INDEX) for _ in range(2))
    known = {
        name: torch.zeros(shape) for name in KNOWN if any(getattr(one, name) for one in rollouts)
    }
    for row, inside in enumerate(places):
        at = 0
        for document, index in enumerate(inside):
            one = rollouts[index]
            end, first = at + one.length, at + len(one.prompt)
            ids = torch.tensor([*one.prompt, *one.tokens])
            tokens[row, at:end] = ids
            positions[row, at:end] = torch.arange(one.length)
            doc_ids[row, at:end] = document
            # What the token before predicts.
            where = slice(first - 1, end - 1)
            learn = torch.tensor(one.learn, dtype=torch.bool)
            labels[row, where] = torch.where(learn, ids[len(one.prompt) :], IGNORE_INDEX)
            owner[row, where] = torch.where(learn, index, IGNORE_INDEX)
            for name, values in known.items():
                values[row, where] = torch.tensor(getattr(one, name))
            at = end
        if at < width:
            positions[row, at:] = torch.arange(width - at)
            doc_ids[row, at:] = len(inside)
    kept = owner != IGNORE_INDEX
    windows = Batch(
        tokens=tokens,
        labels=labels,
        positions=positions,
        doc_ids=doc_ids,
        cu_seqlens=cumulative_lengths(positions),
        step=batch.step,
        tokens_seen=batch.tokens_seen,
        rows_in_step=batch.rows_in_step,
        kept_in_step=batch.kept_in_step,
        first=batch.first,
        last=batch.last,
        first_row=batch.first_row,
        phase=batch.phase,
    )
    return windows, {name: values[kept] for name, values in known.items()}, owner[kept]
