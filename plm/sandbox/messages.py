"""Messages between a client and its supervisor: JSON behind its length."""

import json
import socket
import struct
from typing import Any


def receive(channel: socket.socket) -> Any:
    """One message; None where the other side has gone."""
    wanted, data = 8, b""
    while len(data) < wanted:
        part = channel.recv(min(wanted - len(data), 1 << 20))
        if not part:
            return None
        data += part
        if wanted == 8 and len(data) == 8:
            wanted, data = struct.unpack("=Q", data)[0] or 1, b""
    return json.loads(data)


def send(channel: socket.socket, message: Any) -> None:
    """One message, JSON behind its length."""
    data = json.dumps(message).encode()
    channel.sendall(struct.pack("=Q", len(data)) + data)
