"""What every test stands on: one thread, no network, a fixed seed, and the real data's place."""

import atexit
import os
import platform
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forking

# Before torch is imported anywhere; child processes inherit it too. Workers share the cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
# Where transformers copies a folder's own code: one place a process, and not the user's.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="plm-tests-code-")
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Triton's kernels run on CPU tensors, but under `pytest -m gpu` on the GPU."""
    # Before triton is imported anywhere.
    os.environ.setdefault("TRITON_INTERPRET", "0" if config.getoption("-m") == "gpu" else "1")


def pytest_sessionfinish() -> None:
    """End what the tests' commands were forked from."""
    forking.stop()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with the real data sets, or a skip that says why."""
    place = os.environ.get("PLM_TEST_DATA")
    if not place:
        pytest.skip("PLM_TEST_DATA does not name a folder with the real data sets")
    folder = Path(place)
    if not folder.is_dir():
        pytest.fail(f"PLM_TEST_DATA={place} is not a folder")
    return folder


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    """Each test starts from seed 0 and leaves the generators as it found them."""
    python_state = random.getstate()
    random.seed(0)
    # Only what is loaded already: a test that needs neither should not pay for the import.
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    numpy_state = numpy.random.get_state() if numpy else None
    torch_state = torch.get_rng_state() if torch else None
    if numpy:
        numpy.random.seed(0)
    if torch:
        torch.manual_seed(0)
    yield
    random.setstate(python_state)
    if numpy:
        numpy.random.set_state(numpy_state)
    if torch:
        torch.set_rng_state(torch_state)


@pytest.fixture(scope="session")
def llama_cpp() -> None:
    """llama.cpp's libraries; where there are none but could be, the line that says so fails."""
    from plm.errors import ConfigError
    from plm.formats.llama_cpp_types import VARIABLE, find_library

    here = sys.platform, platform.machine()
    if here != ("linux", "x86_64") and VARIABLE not in os.environ:
        pytest.skip(f"ready-made libraries are for Linux on x86-64 only; set {VARIABLE}")
    line = ""
    try:
        find_library()
    except ConfigError as error:
        line = str(error)
    if line:
        pytest.fail(line, pytrace=False)
