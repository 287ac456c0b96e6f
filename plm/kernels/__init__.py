"""The fast form of each op; the same names in plain torch are in `plm.kernels.reference`.

Each picks by itself: its Triton kernels on a GPU, the fastest form of plain torch elsewhere.
"""

import sys
from functools import partial
from typing import Any

from plm.errors import ConfigError
from plm.kernels import reference
from plm.kernels.add_rms_norm import add_rms_norm
from plm.kernels.latent_norm import latent_norm
from plm.kernels.linear_cross_entropy import linear_cross_entropy
from plm.kernels.linear_logprob import linear_logprob
from plm.kernels.linear_loss import linear_loss
from plm.kernels.linear_policy_loss import linear_policy_loss
from plm.kernels.mla_attention import document_bounds, mla_attention
from plm.kernels.mla_decode import mla_decode
from plm.kernels.relu2 import relu2
from plm.kernels.relu2_mlp import relu2_mlp
from plm.kernels.rms_norm import rms_norm
from plm.kernels.rope import rope

# After the ops: their FLOPs.
from plm.kernels import flops  # isort: skip

__all__ = [
    "add_rms_norm",
    "document_bounds",
    "flops",
    "latent_norm",
    "linear_cross_entropy",
    "linear_logprob",
    "linear_loss",
    "linear_policy_loss",
    "mla_attention",
    "mla_decode",
    "pick",
    "reference",
    "relu2",
    "relu2_mlp",
    "rms_norm",
    "rope",
]


class _Insisting:
    """The ops, each insisting on its Triton kernels."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(name)
        found = partial(globals()[name], form="triton")
        setattr(self, name, found)
        return found


_CHOICES = {"auto": sys.modules[__name__], "triton": _Insisting(), "reference": reference}


def pick(kernels: str) -> Any:
    """What holds the functions to call, by their names.

    Args:
        kernels: "auto" for the fast forms; "triton" for the GPU's kernels or an error that says why
            not; "reference" for plain torch: twice differentiable, open to hooks, slower and with
            full logits.
    Raises:
        ConfigError: another name.
    """
    if kernels not in _CHOICES:
        raise ConfigError(f"kernels={kernels!r} is not one of: {', '.join(_CHOICES)}")
    return _CHOICES[kernels]
