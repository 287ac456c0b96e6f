"""What a run shows while it goes: a bar on a terminal, plain lines in a log."""

import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, TextIO

from tqdm import tqdm

from plm.report.format import human_time, human_tokens

_REDRAW_S = 0.1
_LINE_S = 10.0
_LINE_SHARE = 0.05
_LINE_LEAST_S = 2.0
_SETTLED_S = 5.0
_BAR_COLUMNS = 6


class State(NamedTuple):
    """What one line tells.

    Attributes:
        share: done, in [0, 1]; None where the end is not known.
        forms: (name, fields) from the fullest to the shortest; the first that fits is taken.
    """

    share: float | None
    forms: list[tuple[str, list[str]]]


def plain_line(state: State) -> str:
    """The state as a line of a log: the fullest form, without a bar."""
    name, fields = state.forms[0]
    percent = [] if state.share is None else [f"{100 * state.share:3.0f}%"]
    return "  ".join([name, *percent, *fields])


def bar_format(state: State, columns: int) -> str:
    """The state as a `bar_format` of tqdm, in the fullest form that leaves room for a bar.

    Args:
        columns: of the terminal that may be written to.
    """
    for name, fields in state.forms:
        tail = "  ".join(fields).replace("{", "{{").replace("}", "}}")
        head = name.replace("{", "{{").replace("}", "}}")
        if state.share is None:
            line, length = f"{head}  {tail}", len(name) + 2 + len("  ".join(fields))
        else:
            line = f"{head} {100 * state.share:3.0f}%|{{bar}}| {tail}"
            length = len(name) + 8 + _BAR_COLUMNS + len("  ".join(fields))
        if length <= columns:
            break
    return line


class Progress:
    """Progress of a training run in tokens.

    Args:
        total_tokens: of the whole run, `start_tokens` included.
        start_tokens: seen before this process began.
        stream: where it is written, standard error by default; a bar if it is a terminal.
        name: of the run or stage, told where there is room.
        width: columns, instead of the terminal's own.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_tokens: int,
        start_tokens: int = 0,
        stream: TextIO | None = None,
        name: str = "",
        width: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._name, self._clock = max(1, total_tokens), name, clock
        self._display = _Display(stream, width, clock)
        self._first = (clock(), start_tokens)
        self._begun = False
        self._phase = ""

    def update(
        self,
        tokens_seen: int,
        loss: float | None,
        lr: float,
        phase: str,
        tokens_per_s: float,
    ) -> None:
        """Show the state after a step; drawn only as often as an eye can follow.

        Args:
            tokens_seen: of the run, `start_tokens` included.
            loss: nats a token, None where it is not known yet.
            lr: learning rate now.
            tokens_per_s: as measured over the last steps.
        """
        if not self._begun:
            # What comes before the first step (compiling, a first evaluation) is not its rate.
            self._first, self._begun = (self._clock(), tokens_seen), True
        short = f"{human_tokens(tokens_seen)}/{human_tokens(self._total)}"
        speed = [f"{human_tokens(tokens_per_s)} tok/s"] if tokens_per_s > 0 else []
        rate = [f"lr {lr:.1e}"]
        told = [f"loss {loss:.3f}"] if loss is not None else []
        seconds = self._time_left(tokens_seen, tokens_per_s)
        left = [f"{human_time(seconds)} left"] if seconds is not None else []
        full = [f"{short} tokens", *speed, *told, *rate, *left]
        label = phase or self._name
        named = f"{self._name} {phase}" if phase and self._name else label
        forms = [
            (named, full),
            (label, full),
            (label, [f"{short} tokens", *speed, *told, *left]),
            (label, [f"{short} tokens", *told, *left]),
            (label, [short, *told, *left]),
            (label, [short, *told]),
            (label, [short]),
        ]
        changed, self._phase = phase != self._phase, phase
        share = min(1.0, tokens_seen / self._total)
        self._display.show(State(share, forms), now=changed or share == 1.0)

    def note(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        self._display.note(text)

    def close(self) -> None:
        """Leave the last state on the screen and go on to a new line."""
        self._display.close()

    def _time_left(self, tokens_seen: int, tokens_per_s: float) -> float | None:
        """Seconds; by the rate since the first step, which evaluation and saving slow down too."""
        passed, done = self._clock() - self._first[0], tokens_seen - self._first[1]
        rate = done / passed if passed >= _SETTLED_S and done > 0 else tokens_per_s
        return max(0, self._total - tokens_seen) / rate if rate > 0 else None


class DataProgress:
    """Progress of data preparation, one bar or a few lines a stage: `(stage, done, total)`.

    Args:
        stream, width, clock: as for `Progress`.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        width: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._width, self._clock = stream, width, clock
        self._display: _Display | None = None
        self._stage, self._began = "", 0.0

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Show how far a stage is; another stage's name closes the one before.

        Args:
            done, total: in the stage's own unit; None where the end is not known.
        """
        if self._display is None or stage != self._stage:
            self.close()
            self._stage, self._began = stage, self._clock()
            self._display = _Display(self._stream, self._width, self._clock)
        passed = self._clock() - self._began
        count = human_tokens(done) + (f"/{human_tokens(total)}" if total else "")
        took = [f"{human_time(passed)} passed"]
        if total and 0 < done < total and passed >= 1:
            took = [f"{human_time(passed * (total - done) / done)} left"]
        share = min(1.0, done / total) if total else None
        forms = [(stage, [count, *took]), (stage, [count])]
        self._display.show(State(share, forms), now=share == 1.0)

    def close(self) -> None:
        """End the stage in hand, its last state kept on the screen."""
        if self._display is not None:
            self._display.close()
        self._display = None


class _Bar(tqdm):
    # No watching thread: every redraw is asked for here.
    monitor_interval = 0


class _Display:
    """One bar, or the plain lines that take its place where nobody watches."""

    def __init__(
        self, stream: TextIO | None, width: int | None, clock: Callable[[], float]
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._width, self._clock = width, clock
        self._bar: _Bar | None = None
        self._live = self._stream.isatty()
        self._shown: tuple[float, float | None] | None = None
        self._last: State | None = None
        self._waiting: State | None = None

    def show(self, state: State, now: bool) -> None:
        """Show a state if it is due, or `now`; one that is not due waits for the end."""
        if state == self._last:
            return
        if not (now or self._due(state.share)):
            self._waiting = state
            return
        self._shown, self._last, self._waiting = (self._clock(), state.share), state, None
        if self._live:
            self._draw(state)
        else:
            self._write(plain_line(state))

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        self._write(text)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        if self._waiting is not None:
            self.show(self._waiting, now=True)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _due(self, share: float | None) -> bool:
        if self._shown is None:
            return True
        passed = self._clock() - self._shown[0]
        if self._live:
            return passed >= _REDRAW_S
        # A short run is told by its shares, a long one by the clock.
        moved = (share or 0.0) - (self._shown[1] or 0.0)
        return passed >= _LINE_S or (passed >= _LINE_LEAST_S and moved >= _LINE_SHARE)

    def _draw(self, state: State) -> None:
        columns = self._columns()
        if self._bar is None:
            self._bar = _Bar(
                total=1.0,
                file=self._stream,
                ncols=columns,
                bar_format=bar_format(state, columns),
            )
        self._bar.ncols, self._bar.n = columns, state.share or 0.0
        self._bar.bar_format = bar_format(state, columns)
        self._bar.refresh()

    def _columns(self) -> int:
        """Columns to write in: one is kept free, where some terminals would begin a new line."""
        if self._width is not None:
            return self._width - 1
        try:
            return max(20, os.get_terminal_size(self._stream.fileno()).columns - 1)
        except (OSError, ValueError):
            return 79

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
