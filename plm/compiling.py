"""torch.compile for a model's layers, where it can work."""

import logging
import os

import torch
from torch import Tensor, nn

from plm import products
from plm.kernels.devices import user_cache

log = logging.getLogger("plm")


def compile_layers(model: nn.Module) -> bool:
    """Compile each layer by itself; where that cannot work, one line says why.

    What is compiled is kept for later runs, in $TORCHINDUCTOR_CACHE_DIR if that is set.

    Returns:
        Whether the layers are compiled now.
    """
    # torch's own place is lost when the machine starts anew.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_cache() / "plm" / "torchinductor"))
    if not torch.cuda.is_available() and (why := _complaint()):
        log.warning("compile=true: %s; the layers run uncompiled", why)
        return False
    products.tell_compiler()
    for layer in model.layers:
        layer.compile()
    return True


def _probe(x: Tensor) -> Tensor:
    return x + 1


def _complaint() -> str:
    """Why nothing can be compiled for this CPU; empty: it can.

    A compiler that is there can still lack Python's headers or OpenMP, so that one thing is tried.
    """
    try:
        torch.compile(_probe)(torch.ones(16))
    except Exception as error:
        text = str(error)
        if "InvalidCxxCompiler" in text or "No working C++ compiler" in text:
            return "there is no C++ compiler here (g++, or what CXX names)"
        line = next((line for line in text.splitlines() if "error:" in line), "")
        return f"the C++ compiler fails here ({line.strip() or type(error).__name__})"
    return ""
