"""Equality of mathematical answers by math-verify, in processes held to processor time.

Source: huggingface/Math-Verify, whose parser and comparison are used. Its own limit is an alarm on
    the clock, which works in a main thread only and which load can set off; it is left out.
Departs: decimals are exact, where math-verify rounds to six places.
"""

import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from plm.errors import ConfigError
from plm.evaluation.kinds import check_kinds

LONGEST = 1000
"""Characters of a text that is still read: a parser's stack and time grow with it."""
DEEPEST = 20
"""Brackets in one another that are still read: the parser's time doubles with some of them."""
_WORKER = Path(__file__).with_name("equivalence_worker.py")
_KEPT = 100_000


def missing() -> ConfigError:
    """The error for a machine without math-verify."""
    return ConfigError(
        "math-verify is not installed, and equality of mathematical answers needs it; "
        "pip install 'plm[maths]', or take reward=verifier with a task that grades by itself"
    )


class Equivalence:
    """Judges pairs of texts in LaTeX or plain notation; for any thread.

    A verdict is one of equal, unequal, unread (the answer), gold_unread, memory, cpu_time (the
    limits), failed, long (more than `LONGEST`, or than `DEEPEST` brackets), lost (the worker died).
    It depends on the pair alone, but for lost and a pair within a few per cent of a limit.

    Args:
        cpu_s: processor time of one pair, in seconds.
        memory_mib: address space of one pair's process.
        workers: pairs at the same time; None: one for each processor that this process may use.
    Raises:
        ConfigError: a value that cannot be.

    Attributes:
        verdicts: number of pairs by verdict, each pair counted each time it is asked for.
    """

    def __init__(
        self, *, cpu_s: float = 5.0, memory_mib: int = 1024, workers: int | None = None
    ) -> None:
        told = {"cpu_s": cpu_s, "memory_mib": memory_mib, "workers": workers}
        check_kinds(told, {"cpu_s": float, "memory_mib": int, "workers": (int, None)})
        if not 0 < cpu_s < 3600 or memory_mib < 256 or (workers is not None and workers < 1):
            raise ConfigError(
                f"cpu_s={cpu_s}, memory_mib={memory_mib}, workers={workers}: take 0 < cpu_s < 3600,"
                " memory_mib >= 256 and workers >= 1 or null"
            )
        self.cpu_s, self.memory_mib = float(cpu_s), memory_mib
        usable = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
        self.workers = workers or usable or 1
        self.verdicts: Counter[str] = Counter()
        self._known: dict[tuple[str, str], str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Refuse a machine without math-verify.

        Raises:
            ConfigError: it is not there.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise missing()

    def many(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The verdict on each `(gold, answer)`.

        Raises:
            ConfigError: math-verify is not there.
        """
        with self._lock:
            if len(self._known) > _KEPT:
                self._known.clear()
            asked = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
            told = {pair: "long" for pair in asked if any(map(_long, pair))}
            short = [pair for pair in asked if pair not in told]
            told |= dict(zip(short, self._ask(short), strict=True))
            # What was lost says nothing of the pair.
            self._known |= {pair: said for pair, said in told.items() if said != "lost"}
            found = [told.get(pair) or self._known[pair] for pair in pairs]
            self.verdicts.update(found)
            return found

    def close(self) -> None:
        """End the worker; the next question starts another."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()

    def _ask(self, pairs: list[tuple[str, str]]) -> list[str]:
        if not pairs:
            return []
        process = self._started()
        request = {"pairs": pairs, "cpu_s": self.cpu_s, "memory_mib": self.memory_mib}
        # For a worker that waits for ever, which no processor time ends; no load reaches it.
        patience_s = 600 + 20 * self.cpu_s * len(pairs)
        try:
            process.stdin.write(json.dumps(request | {"workers": self.workers}) + "\n")
            process.stdin.flush()
            answered, _, _ = select.select([process.stdout], [], [], patience_s)
            line = process.stdout.readline() if answered else ""
        except OSError:
            line = ""
        if not line.endswith("\n"):
            self.close()
            return ["lost"] * len(pairs)
        return json.loads(line)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is not None and self._owner != os.getpid():
            # In a fork: the worker belongs to the parent. It would complain of a running child.
            self._process.returncode, self._process = 0, None
        if self._process is None:
            self.check()
            # The hash seed: the order of sets, and with it the time of some comparisons, is one.
            environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
                start_new_session=True,
            )
            self._owner = os.getpid()
        return self._process


def _long(text: str) -> bool:
    """Whether a text is not read at all."""
    if len(text) > LONGEST:
        return True
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    return deepest > DEEPEST
