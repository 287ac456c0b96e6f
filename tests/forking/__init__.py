"""Command lines run in forks of a process that has imported the packages.

Torch and Lightning take 10 CPU-seconds to import, and the suite starts hundreds of commands.
`python()` gives what stands in for `sys.executable`: a small program that asks the server of this
test process for a fork, hands it its terminal, directory and environment, passes signals on, and
ends as the fork does. Only other people's packages are imported before the fork; a test of what a
command imports, or of a terminal's Ctrl-C, starts a process of its own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# Linux alone has the calls that end a fork with its client.
AVAILABLE = sys.platform == "linux"


class Server:
    """The process that forks; it ends with the one that made it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="plm-forks-")
        self.address = str(Path(self.folder.name) / "s")
        # For those who start others by sys.executable: ranks, a pipeline's stages, torchrun.
        python = Path(self.folder.name) / "python"
        asking = f"{sys.executable} -I -S {HERE / 'client.py'} {self.address}"
        python.write_text(f'#!/bin/sh\nexec {asking} "$@"\n')
        python.chmod(0o755)
        command = [sys.executable, str(HERE / "server.py"), self.address]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self.process.communicate()
        self.folder.cleanup()


_server: list[Server] = []


def python() -> list[str]:
    """What to put before a script, or before `-c` or `-m`: a command's first words."""
    if not AVAILABLE:
        return [sys.executable]
    if not _server:
        _server.append(Server())
    # In the command and not in the environment: some tests give an environment of their own.
    return [sys.executable, "-I", "-S", str(HERE / "client.py"), _server[0].address]


def stop() -> None:
    """End the server, if one was started."""
    while _server:
        _server.pop().close()
