"""How this process gets memory from the system."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks of up to 32 MiB for the next allocation of that size.

    By default it hands large blocks back to the system, and every step of training gets them anew:
    page by page, each filled with zeros first. Elsewhere than on Linux with glibc this does
    nothing.

    Returns:
        Whether the settings were taken.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    taken = libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(taken and libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))
