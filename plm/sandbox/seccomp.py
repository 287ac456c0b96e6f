"""A seccomp filter: system calls that a program has no need of are refused with EPERM.

A list of what is refused, not of what is allowed: Python and its standard library keep working
across versions, and the list is the second wall behind namespaces and Landlock, except for sockets,
which it refuses by itself.
"""

import ctypes
import errno
import struct

from plm.sandbox.kernel import PR_SET_SECCOMP, machine, prctl

# Name, number on x86_64, number on aarch64 (-1: not there), from the kernel's own headers.
_ALWAYS = """
socket 41 198, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242,
io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427, ptrace 101 117,
process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, pidfd_getfd 438 438,
process_madvise 440 440, process_mrelease 448 448, mount 165 40, umount2 166 39,
pivot_root 155 41, chroot 161 51, fsopen 430 430, fsconfig 431 431, fsmount 432 432,
fspick 433 433, move_mount 429 429, open_tree 428 428, mount_setattr 442 442, unshare 272 97,
setns 308 268, name_to_handle_at 303 264, open_by_handle_at 304 265, fanotify_init 300 262,
add_key 248 217, request_key 249 218, keyctl 250 219, bpf 321 280, perf_event_open 298 241,
userfaultfd 323 282, init_module 175 105, finit_module 313 273, delete_module 176 106,
kexec_load 246 104, kexec_file_load 320 294, reboot 169 142, swapon 167 224, swapoff 168 225,
acct 163 89, quotactl 179 60, quotactl_fd 443 443, syslog 103 116, vhangup 153 58,
sethostname 170 161, setdomainname 171 162, settimeofday 164 170, clock_settime 227 112,
clock_adjtime 305 266, adjtimex 159 171, personality 135 92, memfd_create 319 279,
memfd_secret 447 447, shmget 29 194, msgget 68 186, semget 64 190, mq_open 240 180,
iopl 172 -1, ioperm 173 -1, uselib 134 -1, modify_ldt 154 -1
"""
# Ways to leave the process group, and to reach a process outside it, where no PID namespace is.
_PROCESSES = """
setsid 112 157, setpgid 109 154, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240,
pidfd_send_signal 424 424, setpriority 141 140, ioprio_set 251 30, sched_setparam 142 118,
sched_setscheduler 144 119, sched_setaffinity 203 122, sched_setattr 314 274,
migrate_pages 256 238, move_pages 279 239, tkill 200 130
"""
# What Landlock does not cover, where no mount namespace hides other files.
_METADATA = """
chmod 90 -1, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -1, fchown 93 55,
lchown 94 -1, fchownat 260 54, utime 132 -1, utimes 235 -1, futimesat 261 -1, utimensat 280 88,
setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15,
fremovexattr 199 16, setxattrat 463 463, removexattrat 466 466, file_setattr 469 469
"""
_CLONE, _SOCKETPAIR, _PRLIMIT = (56, 220), (53, 199), (302, 261)
_KILL, _TGKILL, _FCNTL, _IOCTL = (62, 129), (234, 131), (72, 25), (16, 29)
_CLONE3 = 435

_ARCHITECTURE = (0xC000003E, 0xC00000B7)
_NEW_NAMESPACES = 0x7E020000
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value & 0xFFFFFFFF)


def _refuse(number: int = errno.EPERM) -> bytes:
    return _step(_RETURN, 0x00050000 | number)


def _on(number: int, *body: bytes) -> bytes:
    """`body` for one system call; it must return, as the accumulator is used up."""
    return _step(_EQUAL, number, 0, len(body)) + b"".join(body)


def _argument(index: int) -> bytes:
    # The low half: what is looked at here are ints, of which the kernel reads no more.
    return _step(_LOAD, _FIRST_ARGUMENT + 8 * index)


def _only(number: int, index: int, *values: int) -> bytes:
    """Allow the call only with one of `values` as its argument."""
    tests = [_step(_EQUAL, value, len(values) - at, 0) for at, value in enumerate(values)]
    return _on(number, _argument(index), *tests, _refuse(), _step(_RETURN, _ALLOW))


def _never(number: int, index: int, *values: int) -> bytes:
    """Refuse the call with one of `values` as its argument."""
    tests = [_step(_EQUAL, value, len(values) - at, 0) for at, value in enumerate(values)]
    return _on(number, _argument(index), *tests, _step(_RETURN, _ALLOW), _refuse())


def _numbers(table: str) -> list[int]:
    rows = [row.split() for row in table.replace("\n", " ").split(",")]
    return [n for row in rows if (n := int(row[1 + machine])) >= 0]


def program(pid: int, *, own_pids: bool, own_files: bool) -> bytes:
    """The filter as BPF instructions.

    Args:
        pid: the process that may be signalled where PIDs are not its own.
        own_pids: it lives in a PID namespace.
        own_files: it lives in a mount namespace.
    """
    parts = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, _ARCHITECTURE[machine], 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
    ]
    if machine == 0:
        # Numbers of the x32 way of calling, which would go past the list.
        parts += [_step(_AT_LEAST, 0x40000000, 0, 1), _refuse(errno.ENOSYS)]
    tables = [_ALWAYS] + [_PROCESSES] * (not own_pids) + [_METADATA] * (not own_files)
    parts += [_on(number, _refuse()) for table in tables for number in _numbers(table)]
    # A filter cannot follow clone3's pointer; ENOSYS makes the C library fall back to clone.
    parts += [_on(_CLONE3, _refuse(errno.ENOSYS))]
    flags = _step(_AND, _NEW_NAMESPACES)
    clone = [_argument(0), flags, _step(_EQUAL, 0, 1, 0), _refuse(), _step(_RETURN, _ALLOW)]
    parts += [_on(_CLONE[machine], *clone)]
    # Streams only: a datagram socket of a pair can still be sent to any address.
    kind = [_argument(1), _step(_AND, 0xF), _step(_EQUAL, 1, 1, 0)]
    parts += [_on(_SOCKETPAIR[machine], *kind, _refuse(), _step(_RETURN, _ALLOW))]
    parts += [_only(_PRLIMIT[machine], 0, 0, pid)]
    if not own_pids:
        parts += [_only(_KILL[machine], 0, 0, pid), _only(_TGKILL[machine], 0, pid)]
        # F_SETOWN and its relatives make the kernel send a signal to any process.
        parts += [_never(_FCNTL[machine], 1, 8, 15), _never(_IOCTL[machine], 1, 0x8901, 0x8902)]
    return b"".join([*parts, _step(_RETURN, _ALLOW)])


def install(pid: int, *, own_pids: bool, own_files: bool) -> None:
    """Put the filter on this process (no_new_privs set), for good.

    Raises:
        OSError: this kernel or processor has none.
    """
    if machine < 0:
        raise OSError("seccomp: this processor's system calls are not known")
    code = program(pid, own_pids=own_pids, own_files=own_files)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    wanted = Filter(len(code) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(wanted))
