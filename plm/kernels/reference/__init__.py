"""Each op in plain torch: slow, hookable and twice differentiable; the truth for the fast form."""

from plm.kernels.reference.add_rms_norm import add_rms_norm
from plm.kernels.reference.latent_norm import latent_norm
from plm.kernels.reference.linear_cross_entropy import linear_cross_entropy
from plm.kernels.reference.linear_logprob import linear_logprob
from plm.kernels.reference.linear_loss import linear_loss
from plm.kernels.reference.linear_policy_loss import linear_policy_loss
from plm.kernels.reference.mla_attention import mla_attention
from plm.kernels.reference.mla_decode import mla_decode
from plm.kernels.reference.relu2 import relu2
from plm.kernels.reference.relu2_mlp import relu2_mlp
from plm.kernels.reference.rms_norm import rms_norm
from plm.kernels.reference.rope import rope

__all__ = [
    "add_rms_norm",
    "latent_norm",
    "linear_cross_entropy",
    "linear_logprob",
    "linear_loss",
    "linear_policy_loss",
    "mla_attention",
    "mla_decode",
    "relu2",
    "relu2_mlp",
    "rms_norm",
    "rope",
]
