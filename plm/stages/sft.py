"""Supervised fine-tuning: next-token prediction where the assistant speaks.

Conversations come rendered, packed whole and isolated; what is no target has no label. So the loss
is that of pretraining, a mean over the targets of the whole global batch, however they are packed.
"""

from plm.stages.pretrain import Pretrain


class SFT(Pretrain):
    """Every target is predicted from what stands before it in its conversation."""
