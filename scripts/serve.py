"""Serve a trained model on this machine: OpenAI's API, and a page to chat.

    python scripts/serve.py run=runs/plm_sft
    curl -s localhost:8000/v1/chat/completions -H "Content-Type: application/json"
        -d '{"messages": [{"role": "user", "content": "What is 12 + 30?"}]}'

Settings, as key=value:
    run      run folder (its newest checkpoint), a checkpoint, or a Hugging Face folder
    host     127.0.0.1: this machine alone; 0.0.0.0: whoever reaches it, without a password
    port     0 takes one that is free (8000)
    name     that requests call the model by (the run's folder)
    rows     answers that grow at once (32)
    waiting  answers that may wait beside these; more are refused with status 503 (64)
    weights  last, or average: those that callbacks.average kept (last)
    device   auto, cpu or cuda (auto)
    dtype    float32, bfloat16 or float16; auto: float32 on a CPU, bfloat16 on a GPU (auto)
    compiled true: decode by kernels that a C++ compiler builds here on first use, in fp32 on a CPU;
             auto: if there is one; false (false)
    trust    [mylab]: packages of your own that the model's parts come from

The page is at /, the API below /v1. Ctrl-C ends the server. Needs `pip install 'plm[serve]'`.
Exit code 0; 2: a mistake in the command or its files.
"""

import socket
import sys
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from scripts.arguments import read

DEFAULTS: dict[str, Any] = {
    "run": None,
    "host": "127.0.0.1",
    "port": 8000,
    "name": None,
    "rows": 32,
    "waiting": 64,
    "weights": "last",
    "device": "auto",
    "dtype": "auto",
    "compiled": "false",
    "trust": [],
}
# Answers under way when the server is told to end have so long.
_GRACE_S = 2


def settings(arguments: list[str]) -> dict[str, Any]:
    """What the command line chooses.

    Raises:
        ConfigError: an unknown key, or a value that cannot be.
    """
    chosen = read(arguments, DEFAULTS, numbers=("port", "rows", "waiting"), lists=("trust",))
    if not 0 <= chosen["port"] < 2**16:
        raise ConfigError(f"port={chosen['port']} must lie from 0 to {2**16 - 1}")
    if chosen["waiting"] < 0:
        raise ConfigError(f"waiting={chosen['waiting']} must be at least 0")
    return chosen


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens, taken before the model is loaded.

    Raises:
        ConfigError: the address is in use, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"host={host} port={port}: {said}; choose others, or port=0") from error


def app_of(chosen: dict[str, Any], loopback: bool) -> tuple[Any, str]:
    """The application, and a line about it.

    Raises:
        ConfigError: the server's packages are missing, or a setting cannot be.
    """
    try:
        import uvicorn  # noqa: F401

        from plm.serving.app import LOOPBACK, create_app
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(
            f"the server needs the package {error.name}: pip install 'plm[serve]'"
        ) from error
    from plm.config import trust
    from plm.serving.served import engine_of
    from scripts.loading import computing, loaded

    trust(chosen["trust"])
    found = loaded(chosen)
    device, dtype = computing(chosen)
    given = {key: chosen[key] for key in ("rows", "compiled")}
    engine, chat = engine_of(found, **given, device=device, dtype=dtype)
    name = chosen["name"] or (found.run or found.path).resolve().name
    hosts = LOOPBACK if loopback else None
    app = create_app(engine, chat, name, waiting=chosen["waiting"], hosts=hosts)
    kind = "chats" if chat is not None else "has no chat template: continues text"
    return app, f"{name} {kind}; context {engine.longest}, {chosen['rows']} rows, {device}"


def run(chosen: dict[str, Any]) -> None:
    """Serve until told to end."""
    with listening(chosen["host"], chosen["port"]) as taken:
        host, port = taken.getsockname()[:2]
        loopback = host == "::1" or host.startswith("127.")
        app, about = app_of(chosen, loopback)
        import uvicorn

        if not loopback:
            print(
                f"warning: host={chosen['host']}: whoever reaches this machine may use the model; "
                "there is no password",
                file=sys.stderr,
            )
        shown = f"[{host}]" if ":" in host else host
        print(f"{about}\nhttp://{shown}:{port}/ (API: http://{shown}:{port}/v1)", flush=True)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=_GRACE_S, server_header=False
        )
        uvicorn.Server(config).run(sockets=[taken])


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 for what the user can put right."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        run(settings(arguments))
    except KeyboardInterrupt:
        # How a server is ended.
        return 0
    except PlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
