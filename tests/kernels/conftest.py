"""Where a test of a kernel runs: in Triton's interpreter, or on a GPU with `pytest -m gpu`."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """Device of a test's tensors; on "cpu" Triton's interpreter runs, watched.

    Skips, saying why, where the device or Triton is not there.
    """
    if importlib.util.find_spec("triton") is None:
        pytest.skip("there is no Triton here")
    # Here, since of a folder named on the command line this file is read before the interpreter is
    # switched on, and what is imported here brings Triton.
    from plm.kernels.tiles import interpreting

    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        if interpreting():
            pytest.skip("Triton's interpreter is on; `pytest -m gpu` runs on the GPU")
        yield "cuda"
        return
    if not interpreting():
        pytest.skip("TRITON_INTERPRET=0: the interpreter is off")
    from tests.kernels.interpreter import watched

    with watched():
        yield "cpu"
