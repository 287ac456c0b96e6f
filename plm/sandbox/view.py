"""The file system that a program sees: Python and the system's libraries, and one small folder."""

import os
import sys

from plm.sandbox.kernel import call, mount, read_only, unmount

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# Where a program starts and may write, in its own view.
FOLDER = "/tmp"
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_READ_ONLY, _NO_SETUID, _NO_DEVICES = 1, 2, 4


def readable() -> list[str]:
    """What Python needs to run: its own folder, the system's libraries, the time zone.

    Site packages of a virtual environment are not among them, nor /etc beyond two files.
    """
    wanted = [sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.path.realpath(os.__file__))]
    wanted += ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/nix/store"]
    wanted += ["/etc/ld.so.cache", "/etc/localtime"]
    found: list[str] = []
    for path in wanted:
        covered = any(path == f or path.startswith(f + "/") for f in found)
        if os.path.exists(path) and path != "/" and not covered:
            found.append(path)
    return found


def _place(root: str, path: str) -> None:
    """Show `path` beneath `root`, read-only; a symbolic link stays one."""
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    # Recursive: a user namespace may not take a mount apart that it was given.
    mount(path, target, "", _BIND | _RECURSIVE)
    read_only(target, devices=path in DEVICES)


def build(root: str, size_mib: int, owner: int | None) -> None:
    """Make `root` the file system of this process, which has a mount namespace of its own.

    There is no /proc and no /sys in it. Of what is shown nothing can be written but `FOLDER`
    (and /dev/shm, the same tmpfs, for multiprocessing's locks).

    Args:
        root: an empty folder.
        size_mib: of all files together.
        owner: user and group of the folder; None: this process's.
    Raises:
        OSError: the kernel refuses a step; the process is of no more use.
    """
    mount("", "/", "", _RECURSIVE | _PRIVATE)
    flags = _NO_SETUID | _NO_DEVICES
    mount("tmpfs", root, "tmpfs", flags, "size=1m,nr_inodes=1k,mode=755")
    for path in (*readable(), *DEVICES):
        _place(root, path)
    # One tmpfs behind both folders, so that there is one limit, and out of sight itself.
    store = root + "/store"
    os.mkdir(store)
    mount("tmpfs", store, "tmpfs", flags, f"size={size_mib}m,nr_inodes=4k,mode=755")
    for name in (FOLDER, "/dev/shm"):
        kept = store + "/" + os.path.basename(name)
        os.mkdir(kept, 0o700)
        if owner is not None:
            os.chown(kept, owner, owner)
        os.mkdir(root + name)
        mount(kept, root + name, "", _BIND)
    unmount(store)
    os.rmdir(store)
    os.chdir(root)
    call("pivot_root", b".", b".")
    unmount(".")
    mount("", "/", "", 32 | _BIND | _READ_ONLY | flags)
    os.chdir(FOLDER)
