"""Which numbers a run computes in."""

import torch

from plm.errors import ConfigError


def accelerator_of(choice: str) -> str:
    """Lightning's name of an accelerator choice: auto is CUDA (or ROCm) where there is one, else
    the CPU. Lightning's own auto would take Apple's MPS, which has no fp64.
    """
    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return choice


def precision_of(choice: str, accelerator: str) -> str:
    """Lightning's name of a precision choice.

    Raises:
        ConfigError: the hardware has no instructions for it.
    """
    cpu = accelerator == "cpu" or not torch.cuda.is_available()
    if choice == "auto":
        if cpu:
            return "32-true"
        return "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed"
    names = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    if choice not in names:
        raise ConfigError(f"precision={choice} is not auto, fp32, bf16 or fp16")
    if cpu and choice == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        raise ConfigError("precision=bf16: this CPU has no bf16 instructions; use precision=fp32")
    if cpu and choice == "fp16":
        raise ConfigError("precision=fp16 needs a GPU; use precision=fp32")
    return names[choice]
