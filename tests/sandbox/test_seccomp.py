"""The filter as a program: a small interpreter of BPF says what it answers, for both processors."""

import errno
import struct

import pytest

from plm.sandbox import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
ARCH = (0xC000003E, 0xC00000B7)
PID = 4321


def answer(code: bytes, number: int, *arguments: int, arch: int) -> int:
    """What the filter returns for a system call."""
    words = [a & 0xFFFFFFFFFFFFFFFF for a in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("=IIQ6Q", number, arch, 0, *words)
    steps, at, value = list(struct.iter_unpack("=HBBI", code)), 0, 0
    while True:
        kind, yes, no, k = steps[at]
        at += 1
        if kind == 0x20:
            value = struct.unpack_from("=I", data, k)[0]
        elif kind == 0x54:
            value &= k
        elif kind == 0x15:
            at += yes if value == k else no
        elif kind == 0x35:
            at += yes if value >= k else no
        elif kind == 0x06:
            return k
        else:
            raise AssertionError(f"instruction {kind:#x}")


@pytest.fixture(params=[0, 1], ids=["x86_64", "aarch64"])
def ask(request, monkeypatch):
    monkeypatch.setattr(seccomp, "machine", request.param)

    def ask(numbers, *arguments, own_pids=True, own_files=True):
        code = seccomp.program(PID, own_pids=own_pids, own_files=own_files)
        return answer(code, numbers[request.param], *arguments, arch=ARCH[request.param])

    return ask


READ, SOCKET, PTRACE, SETSID, CHMOD = (0, 63), (41, 198), (101, 117), (112, 157), (268, 53)
SOCKETPAIR, CLONE, PRLIMIT = (53, 199), (56, 220), (302, 261)
KILL_CALL, TGKILL, FCNTL = (62, 129), (234, 131), (72, 25)


def test_what_is_always_refused(ask):
    assert ask(READ) == ALLOW
    assert ask(SOCKET, 2, 1) == ask(PTRACE) == ask((425, 425)) == EPERM
    assert ask((435, 435)) == ENOSYS


def test_only_streams_are_paired(ask):
    stream, datagram, close_on_exec = 1, 2, 0o2000000
    assert ask(SOCKETPAIR, 1, stream | close_on_exec) == ALLOW
    assert ask(SOCKETPAIR, 1, datagram) == ask(SOCKETPAIR, 1, 5) == EPERM


def test_forks_and_threads_are_allowed_and_namespaces_are_not(ask):
    assert ask(CLONE, 17) == ask(CLONE, 0x3D0F00) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask(CLONE, flag | 17) == EPERM


def test_limits_of_others_are_not_touched(ask):
    assert ask(PRLIMIT, 0) == ask(PRLIMIT, PID) == ALLOW
    assert ask(PRLIMIT, 1) == ask(PRLIMIT, PID + 1) == EPERM


def test_others_are_refused_only_where_they_can_be_seen(ask):
    for call in (SETSID, (109, 154)):
        assert ask(call) == ALLOW
        assert ask(call, own_pids=False) == EPERM
    assert ask(KILL_CALL, 1, 9) == ALLOW
    for pid, expected in ((PID, ALLOW), (0, ALLOW), (1, EPERM), (-1, EPERM), (-PID, EPERM)):
        assert ask(KILL_CALL, pid, 9, own_pids=False) == expected
    assert ask(TGKILL, PID, 5, own_pids=False) == ALLOW
    assert ask(TGKILL, 1, 5, own_pids=False) == EPERM
    assert ask(FCNTL, 0, 3, own_pids=False) == ALLOW
    assert ask(FCNTL, 0, 8, own_pids=False) == ask(FCNTL, 0, 15, own_pids=False) == EPERM


def test_modes_are_refused_only_where_files_can_be_seen(ask):
    assert ask(CHMOD) == ALLOW
    assert ask(CHMOD, own_files=False) == EPERM


def test_other_ways_of_calling_are_no_way_around(monkeypatch):
    monkeypatch.setattr(seccomp, "machine", 0)
    code = seccomp.program(PID, own_pids=True, own_files=True)
    assert answer(code, 0x40000000 | 41, arch=ARCH[0]) == ENOSYS
    assert answer(code, 102, arch=0x40000003) == KILL


def test_no_jump_is_too_far(monkeypatch):
    for machine in (0, 1):
        monkeypatch.setattr(seccomp, "machine", machine)
        code = seccomp.program(PID, own_pids=False, own_files=False)
        steps = list(struct.iter_unpack("=HBBI", code))
        assert len(steps) < 4096 and steps[-1][0] == 0x06
        for at, (kind, yes, no, _) in enumerate(steps):
            assert kind == 0x06 or at + 1 + max(yes, no) < len(steps)
