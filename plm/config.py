"""From composed configuration to objects. Only this file, train.py and scripts/ know Hydra."""

import hashlib
import importlib
import json
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from plm.errors import ConfigError

_TRUSTED: list[str] = ["plm"]


def trust(packages: Iterable[str]) -> None:
    """Let `_target_` also name things in these packages; only the command line may ask for it."""
    for package in packages:
        if not package.replace(".", "").replace("_", "").isalnum():
            raise ConfigError(f"trust={package!r} is not the name of a package")
        if package not in _TRUSTED:
            _TRUSTED.append(package)


def _inside(name: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in _TRUSTED)


def locate(target: str, key: str = "_target_") -> Any:
    """The class or function that a `_target_` names.

    Raises:
        ConfigError: it lies outside the trusted packages, is only imported there, or is missing.
    """
    if not isinstance(target, str):
        raise ConfigError(f"{key}={target!r} must be the name of a class or function")
    if not _inside(target):
        raise ConfigError(
            f"{key}={target} lies outside {', '.join(_TRUSTED)}; to allow a package of your own "
            f"add trust=[{target.split('.')[0]}] on the command line"
        )
    module_name, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}={target} cannot be imported: {error}") from error
    # A module of ours also holds what it imports (os, subprocess): only what it defines may run.
    if not callable(found) or not _inside(getattr(found, "__module__", "") or ""):
        raise ConfigError(f"{key}={target} is not a class or function defined there")
    return found


def check_targets(node: Any, key: str = "") -> None:
    """Refuse a configuration any of whose targets could not be built, before anything runs."""
    if isinstance(node, dict):
        for name, value in node.items():
            path = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                locate(value, path)
            else:
                check_targets(value, path)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            check_targets(value, f"{key}[{index}]")


def plain(node: Any) -> Any:
    """A DictConfig or ListConfig as resolved plain Python; anything else as it is."""
    if isinstance(node, DictConfig | ListConfig):
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    return node


def build(node: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call the node's `_target_` with its settings, nested targets first.

    Args:
        node: mapping with `_target_`, and `_partial_: true` where a partial is wanted.
        args, kwargs: further arguments of the outermost call; kwargs win over the node's settings.
    Raises:
        ConfigError: a target that is not allowed, or settings that the call does not take.
    """
    node = plain(node)
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"a choice needs a _target_, got {node!r}")
    check_targets(node)
    return _instantiate(node, args, kwargs)


def _instantiate(node: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
    from functools import partial

    if isinstance(node, list):
        return [_instantiate(value) for value in node]
    if not isinstance(node, dict):
        return node
    settings = {
        name: _instantiate(value)
        for name, value in node.items()
        if name not in ("_target_", "_partial_")
    }
    if "_target_" not in node:
        return settings
    function = locate(node["_target_"])
    settings.update(kwargs or {})
    if node.get("_partial_"):
        return partial(function, *args, **settings)
    try:
        return function(*args, **settings)
    except TypeError as error:
        # Only a call that does not fit the signature is the user's; deeper ones are ours.
        if error.__traceback__ is None or error.__traceback__.tb_next is None:
            raise ConfigError(f"{node['_target_']}: {error}") from error
        raise


def digest(settings: Any, length: int = 6) -> str:
    """First hex digits of the settings' hash: the same settings give the same digits."""
    text = json.dumps(plain(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def share(total: float, fraction: float) -> int:
    """Resolver `${share:total,fraction}`: a part of a token budget, rounded to a whole token."""
    return round(float(total) * float(fraction))


def register_resolvers() -> None:
    """Make our resolvers known to OmegaConf; calling it again changes nothing."""
    OmegaConf.register_new_resolver("share", share, replace=True)
    OmegaConf.register_new_resolver("times", lambda a, b: round(a * b), replace=True)
    OmegaConf.register_new_resolver("div", lambda a, b: a / b, replace=True)
