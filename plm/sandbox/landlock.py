"""Landlock: which files a process may reach, taken from it for good.

It needs no privileges. It does not cover metadata (stat, chmod, utime), for which seccomp stands
in where there is no mount namespace.
"""

import ctypes
import os
from collections.abc import Iterable

from plm.sandbox.kernel import call

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
# Rights that came after the first version: moving between folders, truncation, device ioctls.
_NEWER = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_FIRST = (1 << 13) - 1


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """Landlock's version on this kernel; 0 where there is none."""
    try:
        return call("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        # The kernel refuses rights that only a folder has.
        rights &= EXECUTE | WRITE_FILE | READ_FILE | _NEWER[3] | _NEWER[5]
    rule = _Beneath(rights, parent)
    try:
        call("landlock_add_rule", ruleset, 1, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def restrict(readable: Iterable[str], devices: Iterable[str], writable: Iterable[str]) -> int:
    """Leave this process (no_new_privs set) the named paths and nothing else.

    Args:
        readable: read and execute beneath them.
        devices: read and write, such as /dev/null.
        writable: everything beneath them.
    Returns:
        The version that holds: from 3 truncation is covered, from 4 TCP, from 6 signals and
        abstract sockets.
    Raises:
        OSError: the kernel has none of it.
    """
    found = version()
    if not found:
        raise OSError("landlock: not in this kernel")
    files = _FIRST
    for since, bit in _NEWER.items():
        files |= bit if found >= since else 0
    rules = _Ruleset(files, 3 if found >= 4 else 0, 3 if found >= 6 else 0)
    size = 24 if found >= 6 else 16 if found >= 4 else 8
    ruleset = call("landlock_create_ruleset", ctypes.byref(rules), size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, EXECUTE | READ_FILE | READ_DIR)
        for path in devices:
            _allow(ruleset, path, (READ_FILE | WRITE_FILE | _NEWER[3]) & files)
        for path in writable:
            _allow(ruleset, path, files)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return found
