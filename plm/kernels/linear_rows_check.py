"""What the ops over a head product refuse."""

import torch
from torch import Tensor

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError


def check(op: str, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int | None) -> None:
    """Refuse what cannot be multiplied.

    Raises:
        ConfigError: a shape, the labels' dtype or a device does not fit, or chunk is not positive.
    """
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk={chunk} of {op} must be at least 1 row")
    for name, tensor, axes in (("hidden", hidden, "[N, D]"), ("weight", weight, "[V, D]")):
        if tensor.dim() != 2:
            raise ConfigError(f"{op}: {name} has the shape {tuple(tensor.shape)}, not {axes}")
    if hidden.shape[1] != weight.shape[1]:
        raise ConfigError(
            f"{op}: weight has the shape {tuple(weight.shape)}, not [V, {hidden.shape[1]}] as "
            f"hidden {tuple(hidden.shape)} asks for"
        )
    check_rows(op, hidden, labels=labels)
    if labels.dtype != torch.int64:
        raise ConfigError(f"{op}: labels are {labels.dtype}, not torch.int64")
    if weight.device != hidden.device:
        raise ConfigError(f"{op}: weight is on {weight.device}, hidden on {hidden.device}")


def check_rows(op: str, hidden: Tensor, **tensors: Tensor | None) -> None:
    """Refuse what has not one value a row of hidden, or is elsewhere.

    Raises:
        ConfigError: so it is.
    """
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.shape != hidden.shape[:1]:
            raise ConfigError(
                f"{op}: {name} has the shape {tuple(tensor.shape)}, not [{hidden.shape[0]}] as "
                f"hidden {tuple(hidden.shape)} asks for"
            )
        if tensor.device != hidden.device:
            raise ConfigError(f"{op}: {name} is on {tensor.device}, hidden on {hidden.device}")


def check_temperature(op: str, temperature: float) -> None:
    """Refuse what logits cannot be divided by.

    Raises:
        ConfigError: so it is.
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"{op}: temperature={temperature} is not a positive number")


def kept_rows(op: str, labels: Tensor, vocab_size: int) -> Tensor | None:
    """Indices of the rows whose label is not IGNORE_INDEX; None for all.

    Raises:
        ConfigError: another label is no token.
    """
    masked = labels == IGNORE_INDEX
    wrong = ((labels < 0) | (labels >= vocab_size)) & ~masked
    kept = (~masked).nonzero()[:, 0]
    # A GPU's queue is empty after nonzero, which waits for it: this number is there at once.
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        raise ConfigError(
            f"{op}: labels[{row}]={int(labels[row])} is neither a token of V={vocab_size} nor "
            f"IGNORE_INDEX={IGNORE_INDEX}"
        )
    return None if kept.numel() == labels.numel() else kept
