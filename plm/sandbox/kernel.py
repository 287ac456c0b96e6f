"""System calls that Python's standard library does not have, by ctypes."""

import ctypes
import os
import platform
import sys

LINUX = sys.platform == "linux"

# x86_64, aarch64. Calls that are newer than Linux 5.0 have one number everywhere.
NUMBERS = {
    "pivot_root": (155, 41),
    "capset": (126, 91),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
MACHINES = {"x86_64": 0, "aarch64": 1}

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
machine = MACHINES.get(platform.machine(), -1) if LINUX else -1


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _word(value):
    """An argument as a full register: without it ctypes passes 32 bits of an int."""
    return ctypes.c_long(value) if isinstance(value, int) else value


def call(name: str, *arguments) -> int:
    """The system call `name`; OSError where the kernel refuses it or this machine is unknown."""
    if machine < 0:
        raise OSError(f"{name}: not known on {sys.platform} {platform.machine()}")
    number = NUMBERS[name][machine]
    return _checked(name, _libc.syscall(ctypes.c_long(number), *map(_word, arguments)))


def prctl(option: int, *arguments) -> int:
    """prctl(2), its unused arguments 0."""
    words = [*map(_word, arguments), *[ctypes.c_long(0)] * (4 - len(arguments))]
    return _checked(f"prctl({option})", _libc.prctl(option, *words))


def unshare(flags: int) -> None:
    """unshare(2); os.unshare came with Python 3.12."""
    _checked("unshare", _libc.unshare(flags))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    words = [os.fsencode(x) if x else None for x in (source, target, kind)]
    result = _libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data) if data else None)
    _checked(f"mount {target}", result)


def unmount(target: str) -> None:
    """umount2(2), lazily."""
    _checked(f"umount {target}", _libc.umount2(os.fsencode(target), 2))


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def read_only(target: str, *, devices: bool = False) -> None:
    """Make a mount and all below it read-only, without setuid programs and devices."""
    # Bits: read-only 1, nosuid 2, nodev 4. 0x8000: recursive; -100: the current folder.
    attributes = _Attributes(1 | 2 | (0 if devices else 4), 0, 0, 0)
    size = ctypes.sizeof(attributes)
    call("mount_setattr", -100, os.fsencode(target), 0x8000, ctypes.byref(attributes), size)


def drop_capabilities() -> None:
    """Give up every capability, for this process and all that it starts."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            # Not permitted (an ordinary user has none to drop), or past the kernel's last one.
            break
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
