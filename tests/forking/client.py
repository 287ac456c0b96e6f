"""`python -I -S client.py <address> <script | -c code | -m module> …`: run it in a fork."""

import contextlib
import json
import os
import signal
import socket
import sys

FLAGS = ("-u", "-S", "-E")
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Ask for the fork and wait for its end."""
    # Until there is somebody to pass them on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(sys.argv[1])
        socket.send_fds(asked, [b"*"], [0, 1, 2])
        wanted = {"argv": sys.argv[2:], "cwd": os.getcwd(), "env": dict(os.environ)}
        # Without -u and the like, which say how an interpreter starts.
        wanted["argv"] = wanted["argv"][sum(word in FLAGS for word in wanted["argv"][:2]) :]
        wanted["python"] = os.path.join(os.path.dirname(sys.argv[1]), "python")
        with asked.makefile("rw", encoding="utf-8") as lines:
            print(json.dumps(wanted), file=lines, flush=True)
            pid = int(lines.readline())
            for number in PASSED_ON:
                signal.signal(number, lambda number, _: _pass_on(pid, number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
            status = int(lines.readline())
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) in PASSED_ON:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def _pass_on(pid: int, number: int) -> None:
    # It may be ending just now.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    main()
