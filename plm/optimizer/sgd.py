"""Stochastic gradient descent.

Paper: Mukherjee et al. (arXiv:2602.07729), who find that reinforcement learning needs no more
Cost: nothing a parameter without momentum, one tensor with it.
"""

from collections.abc import Iterable

import torch

from plm.optimizer.common import NamedParameter, can_fuse, check_settings, decays, group


def sgd(
    named_parameters: Iterable[NamedParameter],
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    decay_embeddings: bool = False,
) -> torch.optim.SGD:
    """torch's SGD, fused where it can be: a step goes as far as its gradient is long.

    That matters where gradients are few and noisy. Adam makes a step of the same length of every
    gradient, however little it says.

    Args:
        named_parameters: frozen ones are left out.
        lr: peak rate; far above AdamW's, since gradients are not normalised.
        momentum: decay of the sum of past gradients, a step; 0 keeps none.
        weight_decay: added to the gradient, times the weight.
        decay_embeddings: whether that holds for embeddings too.
    Raises:
        ConfigError: a negative setting, a momentum of 1 or more, nothing to train.
    """
    check_settings("sgd", lr=lr, momentum=momentum, weight_decay=weight_decay)
    items = list(named_parameters)
    groups = group(
        items,
        lr,
        lambda item: {"weight_decay": weight_decay if decays(item, decay_embeddings) else 0.0},
    )
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=can_fuse(items))
