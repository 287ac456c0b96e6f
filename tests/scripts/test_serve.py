"""scripts/serve.py: from its start to its end, and its mistakes."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from plm.errors import ConfigError
from plm.export.hf import hf
from plm.formats.common import About
from scripts import serve as script
from tests import forking
from tests.serving.common import ASKED, ask, chat, model, streamed, tokenizer

ROOT = Path(script.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serve") / "town"
    return hf(model(torch.float32), tokenizer(), place, about=About(chat_template=chat().template))


def line(process: subprocess.Popen, seconds: float = 90) -> str:
    """The next line of its output."""
    end, said = time.monotonic() + seconds, b""
    while not said.endswith(b"\n"):
        assert time.monotonic() < end and process.poll() is None, process.stderr.read()
        if select.select([process.stdout], [], [], 0.2)[0]:
            said += os.read(process.stdout.fileno(), 1)
    return said.decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_from_start_to_end(folder: Path, host: str):
    pytest.importorskip("starlette", reason="the server's packages are not installed")
    pytest.importorskip("uvicorn", reason="the server's packages are not installed")
    command = [*forking.python(), "scripts/serve.py", f"run={folder}", "port=0", f"host={host}"]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, cwd=ROOT)
    try:
        assert line(process) == "town chats; context 256, 32 rows, cpu\n"
        address = line(process).split()[0]
        assert address.startswith(f"http://{host}:")
        port = int(address.rstrip("/").rpartition(":")[2])
        body = {"model": "town", "messages": ASKED, "max_tokens": 5, "temperature": 0}
        status, found = ask(port, "/v1/chat/completions", body)
        chunks = streamed(port, "/v1/chat/completions", body)
        said = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
        assert status == 200 and said == found["choices"][0]["message"]["content"]
        elsewhere = ask(port, "/v1/models", headers={"Host": "elsewhere.example"})[0]
        assert elsewhere == (403 if host == "127.0.0.1" else 200)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0
        warned = f"warning: host={host}: whoever reaches this machine may use the model"
        assert told.decode().splitlines() == (
            [] if host == "127.0.0.1" else [f"{warned}; there is no password"]
        )
    finally:
        process.kill()


def test_missing_packages_are_named(folder: Path, monkeypatch, capsys):
    for name in ("uvicorn", "starlette"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "uvicorn", sys)
            patched.delitem(sys.modules, "plm.serving.app", raising=False)
            for module in [one for one in sys.modules if one.partition(".")[0] == "starlette"]:
                patched.delitem(sys.modules, module)
            # As if it were not installed.
            patched.setattr(sys, "meta_path", [_Without(name), *sys.meta_path])
            if name == "uvicorn":
                patched.delitem(sys.modules, "uvicorn")
            assert script.main([f"run={folder}", "port=0"]) == 2
        said = capsys.readouterr()
        line = f"error: the server needs the package {name}: pip install 'plm[serve]'\n"
        assert said.err == line and not said.out


class _Without:
    """An import system without one package."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *rest: object) -> None:
        if name.partition(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {self.name!r}", name=self.name)


def test_mistakes_are_one_line(folder: Path, capsys):
    pytest.importorskip("starlette", reason="the server's packages are not installed")
    pytest.importorskip("uvicorn", reason="the server's packages are not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [
            ([], "run=<run folder"),
            (["run=nowhere"], "run=nowhere does not exist"),
            ([f"run={folder}", f"port={port}"], f"port={port}: Address already in use"),
            ([f"run={folder}", "port=70000"], "port=70000 must lie from 0 to 65535"),
            ([f"run={folder}", "port=http"], "port=http is not a whole number"),
            ([f"run={folder}", "host=nowhere.invalid"], "host=nowhere.invalid port=0: "),
            ([f"run={folder}", "rows=0"], "rows=0 must be at least 1"),
            ([f"run={folder}", "waiting=-1"], "waiting=-1 must be at least 0"),
            ([f"run={folder}", "hots=x"], "did you mean host=…?"),
        ]
        for arguments, message in cases:
            if not any(one.startswith("port=") for one in arguments):
                arguments = [*arguments, "port=0"]
            assert script.main(arguments) == 2, arguments
            said = capsys.readouterr()
            assert message in said.err and len(said.err.splitlines()) == 1, said.err
            assert not said.out


def test_help_comes_at_once(capsys):
    assert script.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"    {key} " in said for key in script.DEFAULTS)


def test_settings():
    assert script.settings(["run=x", "port=9000"])["port"] == 9000
    with pytest.raises(ConfigError, match="did you mean rows"):
        script.settings(["row=1"])
