"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

from plm.memory import keep_freed_memory

MAPPED = """
import ctypes, sys
from plm.memory import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost").split()]

if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
before = libc.mallinfo2().hblks
for _ in range(4):
    libc.malloc(16 * 2**20)
print(libc.mallinfo2().hblks - before)
"""


def mapped_blocks(how: str) -> int:
    """Of four blocks of 16 MiB, how many glibc maps from the system by themselves."""
    said = subprocess.run(
        [sys.executable, "-c", MAPPED, how], capture_output=True, text=True, check=True
    )
    return int(said.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or platform.libc_ver()[1] < "2.33",
    reason="needs glibc 2.33 or later, which counts its blocks",
)
def test_large_blocks_come_from_the_heap_that_is_kept():
    assert mapped_blocks("default") == 4
    assert mapped_blocks("keep") == 0


def test_nothing_happens_without_glibc(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
