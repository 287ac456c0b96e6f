"""Where the library of kernels comes from: built once for a machine and kept."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from plm.errors import ConfigError
from plm.kernels.devices import user_cache

_HERE = Path(__file__).parent
_FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared",
)  # fmt: skip
_TIMEOUT_S = 600


def folder() -> Path:
    """Where libraries are kept: PLM_CPU_KERNELS, or below the user's cache folder."""
    return Path(os.environ.get("PLM_CPU_KERNELS") or user_cache() / "plm" / "cpu_kernels")


def compiler() -> list[str] | None:
    """The command of a C++ compiler: what CXX names, else the first that is found; or None."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        return named if shutil.which(named[0]) else None
    return next(([name] for name in ("g++", "c++", "clang++") if shutil.which(name)), None)


def problem() -> str | None:
    """Why nothing can be built here, or None."""
    if compiler() is None:
        named = os.environ.get("CXX")
        what = f"CXX={named}, which is not there" if named else "g++, c++ and clang++ are missing"
        return f"there is no C++ compiler here ({what})"
    return None


def _run(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"compiled=true: {what} failed ({error}); use compiled=false") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = next((line for line in lines if "error" in line), lines[-1] if lines else "no output")
        raise ConfigError(
            f"compiled=true: {what} failed: {why} (command: {shlex.join(command)}); use "
            "compiled=false"
        )
    return done.stdout


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The kernels, built if this machine's are not kept yet.

    The name holds a hash of the sources, the flags, and all that the compiler knows of itself and
    of this CPU, so that a folder shared by several machines serves each its own.

    Raises:
        ConfigError: there is no compiler, it fails, or there is no place for what it makes.
    """
    found = compiler()
    if found is None:
        raise ConfigError(
            f"compiled=true: {problem()}; install g++, name a compiler in CXX, or use "
            "compiled=false"
        )
    sources = sorted([*_HERE.glob("*.cpp"), *_HERE.glob("*.h")])
    knows = _run([*found, "-march=native", "-dM", "-E", "-x", "c++", os.devnull], "the compiler")
    parts = [*(path.read_text(encoding="utf-8") for path in sources), *_FLAGS, *found, knows]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = folder() / f"plm_cpu_{name}.so"
    try:
        if not path.is_file():
            _build(found, [str(source) for source in sources if source.suffix == ".cpp"], path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ConfigError(
            f"compiled=true: {path} cannot be made or loaded ({error}); name another folder in "
            "PLM_CPU_KERNELS, or use compiled=false"
        ) from error


def _build(found: list[str], sources: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.is_file():
            return
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            made = Path(work) / path.name
            _run([*found, *_FLAGS, *sources, "-o", str(made)], "building the CPU kernels")
            made.replace(path)


def wanted(compiled: bool | str) -> bool:
    """Whether a setting `compiled` asks for the kernels, which are built then.

    Args:
        compiled: true; false; "auto", if there is a compiler. The first two also as words.
    Raises:
        ConfigError: it is something else; they cannot be built.
    """
    compiled = {"true": True, "false": False}.get(str(compiled).lower(), compiled)
    if compiled not in (True, False, "auto"):
        raise ConfigError(f"compiled={compiled} is not true, false or auto")
    if compiled == "auto":
        compiled = problem() is None
    if compiled:
        library()
    return bool(compiled)
