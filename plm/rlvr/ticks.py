"""The micro-batches of a stage that makes its data itself: their numbers, and no tokens."""

from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset

from plm.batch import Batch
from plm.errors import ConfigError
from plm.phases import Plan


class Ticks(IterableDataset):
    """All micro-batches of one rank from a step on; each row stands for one rollout.

    Args:
        plan: the phases.
        micro_batch_size: rollouts of one forward.
        rank, world_size: which share of each step.
        start_step: the first.
    Raises:
        ConfigError: a step's rollouts do not divide over the ranks.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        micro_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
    ) -> None:
        super().__init__()
        if micro_batch_size < 1:
            raise ConfigError(f"micro_batch_size={micro_batch_size} must be at least 1")
        for planned in plan.phases:
            if planned.rows % world_size:
                raise ConfigError(
                    f"phases.{planned.phase.name}.global_batch_tokens gives {planned.rows} "
                    f"rollouts a step, which {world_size} processes cannot share evenly; use a "
                    f"multiple of {world_size * planned.phase.seq_len}"
                )
        self.plan, self.micro, self.start_step = plan, micro_batch_size, start_step
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.start_step, self.plan.total_steps):
            planned = self.plan.at(step)
            share = planned.rows // self.world_size
            for low in range(0, share, self.micro):
                empty = torch.zeros(min(self.micro, share - low), 0, dtype=torch.int64)
                yield Batch(
                    tokens=empty,
                    labels=empty,
                    positions=empty,
                    step=step,
                    tokens_seen=self.plan.tokens_before(step),
                    rows_in_step=planned.rows,
                    first=low == 0,
                    first_row=self.rank * share + low,
                    last=low + self.micro >= share,
                    phase=planned.phase.name,
                )
