"""Adam with decoupled weight decay.

Paper: Loshchilov and Hutter (arXiv:1711.05101)
Cost: two tensors a parameter.
"""

from collections.abc import Iterable

import torch

from plm.optimizer.common import NamedParameter, can_fuse, check_settings, decays, group


def adamw(
    named_parameters: Iterable[NamedParameter],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    decay_embeddings: bool = False,
) -> torch.optim.AdamW:
    """torch's AdamW, fused where it can be, with the decay kept off norms and vectors.

    Args:
        named_parameters: frozen ones are left out.
        lr: peak rate.
        betas: decay of the first and second moment, a step.
        eps: added to the root of the second moment.
        weight_decay: taken off a step, times the rate.
        decay_embeddings: whether that holds for embeddings too.
    Raises:
        ConfigError: a negative setting, a beta of 1 or more, nothing to train.
    """
    beta1, beta2 = betas
    check_settings("adamw", lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
    items = list(named_parameters)
    groups = group(
        items,
        lr,
        lambda item: {"weight_decay": weight_decay if decays(item, decay_embeddings) else 0.0},
    )
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, fused=can_fuse(items))
