"""When callbacks that act by tokens have their turn."""

from typing import Any

from plm.batch import Batch


def due(stage: Any, batch: Batch, every_tokens: int) -> bool:
    """Did this step end a phase, or pass a multiple of every_tokens (0: phase ends only)?"""
    planned = stage.plan.at(batch.step)
    if stage.step == planned.first_step + planned.steps:
        return True
    return bool(every_tokens) and (
        stage.tokens_seen // every_tokens > batch.tokens_seen // every_tokens
    )
