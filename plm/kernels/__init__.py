"""The fast form of each op; the same names in plain torch are in `plm.kernels.reference`."""

from types import ModuleType

from plm.errors import ConfigError
from plm.kernels import reference
from plm.kernels.linear_cross_entropy import linear_cross_entropy
from plm.kernels.relu2 import relu2
from plm.kernels.rms_norm import rms_norm

__all__ = ["linear_cross_entropy", "pick", "reference", "relu2", "rms_norm"]


def pick(kernels: str) -> ModuleType:
    """The module whose functions to call.

    Args:
        kernels: "auto" for the fast forms, "reference" for plain torch: twice differentiable,
            open to hooks, slower and with full logits.
    Raises:
        ConfigError: another name.
    """
    if kernels == "reference":
        return reference
    if kernels == "auto":
        import plm.kernels

        return plm.kernels
    raise ConfigError(f"kernels={kernels!r} is not one of: auto, reference")
