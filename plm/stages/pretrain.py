"""Pretraining: next-token prediction over packed windows."""

from plm.batch import Batch, LossSum
from plm.model.context import Context
from plm.stages.base import Stage


class Pretrain(Stage):
    """Every kept position predicts the token after it."""

    def compute(self, batch: Batch) -> dict[str, LossSum]:
        """Losses of a micro-batch, by name."""
        phase = self.plan.at(batch.step).phase
        context = Context.of(batch, rope_theta=phase.rope_theta)
        return self.model(
            batch.tokens,
            context=context,
            labels=batch.labels,
            losses=self.losses,
            regularizers=self.regularizers.get(phase.name),
        ).losses
