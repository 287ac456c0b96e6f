"""A trained model, and where it computes, as the command lines that use one say it."""

from typing import Any

from plm.errors import CheckpointError, ConfigError


def loaded(chosen: dict[str, Any]) -> Any:
    """The model, by `plm.pretrained.load`.

    Raises:
        ConfigError: no run was named, or weights is another word.
        CheckpointError: nothing usable is there.
    """
    if chosen["run"] is None:
        raise ConfigError("run=<run folder, checkpoint or Hugging Face folder> is missing")
    if chosen["weights"] not in ("last", "average"):
        raise ConfigError(f"weights={chosen['weights']} is not last or average")
    from plm.pretrained import load

    try:
        return load(chosen["run"], average=chosen["weights"] == "average")
    except CheckpointError as error:
        # There the setting has the name that training gives it.
        raise CheckpointError(str(error).replace("init_from=", "run=")) from error


def computing(chosen: dict[str, Any]) -> tuple[Any, Any]:
    """Device and dtype.

    Raises:
        ConfigError: another word, or a device that is not there.
    """
    import torch

    device = chosen["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device={device}: it is auto, cpu, or cuda where there is one")
    dtypes = {n: getattr(torch, n) for n in ("float32", "bfloat16", "float16")}
    dtypes["auto"] = torch.bfloat16 if device == "cuda" else torch.float32
    if chosen["dtype"] not in dtypes:
        raise ConfigError(f"dtype={chosen['dtype']} is not one of {', '.join(dtypes)}")
    return torch.device(device), dtypes[chosen["dtype"]]
