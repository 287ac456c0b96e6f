"""What a regularizer reads of the parts inside a model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from typing import Any

from torch import Tensor, nn

from plm.errors import ConfigError
from plm.model.context import Context


@contextmanager
def reading(
    model: nn.Module, regularizers: Mapping[str, Callable[..., Any]], context: Context
) -> Iterator[None]:
    """Within it, parts that a regularizer's `reads` names leave their outputs in `context.taps`.

    The hooks go at the end: recomputed activations (checkpointing) and later forwards leave
    nothing.

    Args:
        model: whose module names the patterns match.
        regularizers: by name; one without `reads` reads nothing.
        context: of this forward.
    Raises:
        ConfigError: a pattern matches no part, or one that did not run; layers are compiled.
    """
    wanted = {name: _matches(model, name, choice) for name, choice in regularizers.items()}
    parts = {part for found in wanted.values() for part in found}
    if parts and any(module._compiled_call_impl is not None for module in model.modules()):
        raise ConfigError(
            f"compile=true hides {min(parts)}, which a regularizer reads; set compile=false"
        )
    context.read.update(model.get_submodule(part) for part in parts)
    hooks = [
        model.get_submodule(part).register_forward_hook(partial(_leave, context.taps, part))
        for part in sorted(parts)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for name, found in wanted.items():
        for part in found:
            if part not in context.taps:
                raise ConfigError(
                    f"regularizers.{name} reads {part}, which did not run as a module of its own; "
                    "set kernels=reference"
                )


def _matches(model: nn.Module, name: str, regularizer: Callable[..., Any]) -> list[str]:
    # A function with settings arrives as a partial, which hides the function's attributes.
    patterns = getattr(getattr(regularizer, "func", regularizer), "reads", ())
    modules = [module for module, _ in model.named_modules() if module]
    found = []
    for pattern in patterns:
        matching = [module for module in modules if fnmatch(module, pattern)]
        if not matching:
            raise ConfigError(f"regularizers.{name} reads {pattern}, which no part is named")
        found += matching
    return found


def _leave(taps: dict[str, Tensor], part: str, module: nn.Module, args: tuple, out: Tensor) -> None:
    taps[part] = out
