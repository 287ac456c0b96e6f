"""What optimizers get, and how it becomes groups."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from plm.errors import ConfigError


@dataclass(frozen=True)
class NamedParameter:
    """A parameter with what an optimizer wants to know of it.

    Attributes:
        name: in the model's state dict.
        parameter: the tensor to train; a tied one comes once.
        role: q, kv_a, kv_b, o, up, down, gate, head, embedding, norm or other.
        rate_factor: on the learning rate.
        decay: False keeps weight decay off, whatever the role.
        frozen: True leaves it out.
    """

    name: str
    parameter: Tensor
    role: str
    rate_factor: float = 1.0
    decay: bool = True
    frozen: bool = False


def decays(item: NamedParameter, decay_embeddings: bool) -> bool:
    """Does weight decay apply: to matrices, not to norms, vectors and, by choice, embeddings."""
    if not item.decay or item.parameter.ndim < 2 or item.role == "norm":
        return False
    return decay_embeddings or item.role != "embedding"


def check_settings(optimizer: str, **settings: float) -> None:
    """Refuse a negative setting, and a momentum or beta of 1 or more.

    Raises:
        ConfigError: names the key.
    """
    for name, value in settings.items():
        below_one = name.startswith(("beta", "momentum"))
        if value < 0 or (below_one and value >= 1):
            rule = "in [0, 1)" if below_one else "0 or more"
            raise ConfigError(f"optimizer.{name}={value} of {optimizer} is not {rule}")


def group(
    named_parameters: Iterable[NamedParameter],
    lr: float,
    settings_of: Callable[[NamedParameter], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Parameter groups, one for each rate and set of settings, in the order first met.

    Args:
        named_parameters: frozen ones are left out.
        lr: peak rate.
        settings_of: the group's settings that a parameter asks for, hashable values.
    Returns:
        Groups with `lr` and `initial_lr`, both the peak rate times the group's rate factor; the
        stage sets `lr` to `initial_lr` times the schedule's share.
    Raises:
        ConfigError: nothing is left to train.
    """
    groups: dict[tuple, dict[str, Any]] = {}
    for item in named_parameters:
        if item.frozen:
            continue
        settings = settings_of(item)
        key = (item.rate_factor, *sorted(settings.items()))
        rate = lr * item.rate_factor
        fresh = {"params": [], "lr": rate, "initial_lr": rate, **settings}
        groups.setdefault(key, fresh)["params"].append(item.parameter)
    if not groups:
        raise ConfigError("optimizer: every parameter is frozen, so there is nothing to train")
    return list(groups.values())


def can_fuse(named_parameters: Iterable[NamedParameter]) -> bool:
    """Does torch's fused AdamW take these: floating point, all on CUDA or all on a CPU."""
    kinds = {
        (item.parameter.device.type, item.parameter.is_floating_point())
        for item in named_parameters
        if not item.frozen
    }
    return len(kinds) == 1 and kinds <= {("cuda", True), ("cpu", True)}
