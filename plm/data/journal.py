"""What a file that grows is known to hold: a line of JSON for each part that was written.

A process killed at any moment leaves at most a part without its line, which the next one cuts off.
"""

import json
from pathlib import Path
from typing import Any

from plm.data.documents import disk_errors


class Journal:
    """Lines beside a file; opening it reads the whole ones and cuts off a torn last one.

    Args:
        path: of the journal; made on the first line.

    Attributes:
        records: what was added so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.records: list[Any] = []
        whole = 0
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                try:
                    record = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                self.records.append(record)
                whole += len(line)
        with disk_errors(self.path):
            self._file = open(self.path, "ab")  # noqa: SIM115
            self._file.truncate(whole)

    def add(self, record: Any) -> None:
        """Note a part; the part itself must have left this process's buffers before."""
        with disk_errors(self.path):
            self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        self.records.append(record)

    def close(self) -> None:
        """Close the file; it stays."""
        with disk_errors(self.path):
            self._file.close()

    def clear(self) -> None:
        """Forget everything."""
        with disk_errors(self.path):
            self._file.truncate(0)
        self.records.clear()

    def remove(self) -> None:
        """Close and delete: what it told of is whole now."""
        self.close()
        self.path.unlink()
