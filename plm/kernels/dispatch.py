"""Which form of an op runs: its Triton kernels or plain torch."""

import logging
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from plm.errors import ConfigError
from plm.kernels import devices
from plm.kernels.tiles import architecture, interpreting, table_of

FORMS = ("auto", "triton", "torch")
OLDEST_TRITON = (3, 6)
_log = logging.getLogger(__name__)
_said: set[str] = set()
_assumed = False
# Set by what mends Triton's interpreter (tests/kernels/interpreter.py).
interpreter_knows_bf16 = False


@contextmanager
def assumed() -> Iterator[None]:
    """Within it Triton counts as usable: for planning on tensors that hold nothing."""
    global _assumed
    before, _assumed = _assumed, True
    try:
        yield
    finally:
        _assumed = before


@lru_cache(maxsize=1)
def _triton() -> str | None:
    """Why Triton cannot be used at all, or None."""
    try:
        import triton

        version = triton.__version__
    # Whatever a broken installation raises: it is not to end a run that can do without.
    except Exception as error:
        if sys.platform != "linux":
            return "there is no Triton for this system"
        return f"triton cannot be imported ({error}); pip install triton"
    found = tuple(int(part) for part in version.split(".")[:2])
    if found < OLDEST_TRITON:
        least = ".".join(map(str, OLDEST_TRITON))
        return f"triton {version} is older than {least}; pip install -U triton"
    return None


@lru_cache(maxsize=16)
def _gpu(index: int) -> str | None:
    """Why no kernel of ours runs on this GPU, or None."""
    arch = architecture(index)
    if arch.startswith("sm_") and int(arch[3:]) < 80:
        return f"this GPU is {arch}, and sm_80 or later is needed (bf16)"
    if table_of(arch) is None:
        return f"there are no tiles for {arch}"
    return _no_compiler()


def _no_compiler() -> str | None:
    """Triton builds the launcher of each kernel in C, against Python's headers."""
    if not any(map(shutil.which, (os.environ.get("CC") or "gcc", "clang"))):
        return "triton needs a C compiler to start kernels; install gcc"
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").is_file():
        return f"triton needs Python's headers to start kernels; {include} has no Python.h"
    return None


# Constants to torch.compile, which would look through the caches and warn.
@torch.compiler.assume_constant_result
def _machine(kind: str, index: int) -> str | None:
    """Why no kernel runs on this machine's device, or None."""
    problem = _triton()
    return _gpu(index) if problem is None and kind == "cuda" and not interpreting() else problem


@torch.compiler.assume_constant_result
def _off(op: str, index: int) -> bool:
    return devices.switched_off(op, index)


def _tensors(tensors: Mapping[str, Tensor]) -> str | None:
    """Why no kernel takes these tensors, or None; the first is what the others are held to."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.device != first.device:
            return f"{name} is on {tensor.device}, {first_name} on {first.device}"
        if tensor.numel() and not tensor.is_contiguous():
            return f"{name} is not contiguous (strides {tuple(tensor.stride())})"
        if interpreting() and tensor.dtype == torch.bfloat16 and not interpreter_knows_bf16:
            return f"{name} is bf16, which Triton's interpreter calculates with wrongly"
    if interpreting():
        return None if first.device.type == "cpu" else "TRITON_INTERPRET is set: it is for tests"
    if first.device.type != "cuda":
        return f"{first_name} is on {first.device}; the Triton kernel takes GPU tensors"
    return None


def which(kernels: str, device: str) -> str:
    """What runs in a whole model, in words.

    Args:
        kernels: a choice of `plm.kernels.pick`.
        device: type of the tensors' device, "cuda" or "cpu".
    Raises:
        ConfigError: kernels=triton cannot be had here.
    """
    if kernels == "reference":
        return "plain torch (reference)"
    problem = _machine(device, 0)
    if problem is None and device != "cuda" and not interpreting():
        problem = "the Triton kernels need a GPU, and this run is on the CPU"
    if kernels == "triton" and problem is not None:
        raise ConfigError(f"kernels=triton: {problem}; kernels=auto takes plain torch there")
    if kernels == "triton" and interpreting():
        return "Triton in its interpreter (TRITON_INTERPRET): for tests"
    if device != "cuda":
        return "torch's, chosen for a CPU; chunked loss"
    return "Triton" if problem is None else f"plain torch, chunked loss: {problem}"


def _nothing() -> str | None:
    return None


def use_triton(
    op: str,
    form: str,
    tensors: Mapping[str, Tensor],
    problem: Callable[[], str | None] = _nothing,
) -> bool:
    """Whether an op's Triton kernels run on these tensors.

    Args:
        op: name of the op.
        form: "auto" takes Triton on a GPU where it can be taken and is not switched off there, and
            says once why not; "triton" insists; "torch" never takes it.
        tensors: by argument's name, those that must be contiguous and on one device.
        problem: what else stands against it, naming the argument, or None.
    Raises:
        ConfigError: "triton" was insisted on and cannot be; form has another name.
    """
    if form == "torch":
        return False
    if form not in FORMS:
        raise ConfigError(f"form={form!r} of {op} is not one of: {', '.join(FORMS)}")
    first = next(iter(tensors.values()))
    if form == "auto" and first.device.type != "cuda":
        return False
    if _assumed:
        return problem() is None
    index = first.device.index or 0
    why = _machine(first.device.type, index) or _tensors(tensors) or problem()
    if why is None:
        return form == "triton" or not _off(op, index)
    if form == "triton":
        raise ConfigError(f"{op}: {why}")
    _say_once(f"{op}: {why}; plain torch runs instead")
    return False


@torch.compiler.disable
def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        _log.warning(line)
