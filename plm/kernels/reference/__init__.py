"""Each op in plain torch: slow, hookable and twice differentiable; the truth for the fast form."""

from plm.kernels.reference.linear_cross_entropy import linear_cross_entropy
from plm.kernels.reference.relu2 import relu2
from plm.kernels.reference.rms_norm import rms_norm

__all__ = ["linear_cross_entropy", "relu2", "rms_norm"]
