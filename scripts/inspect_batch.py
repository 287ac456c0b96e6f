"""Show the batch that a step of a run reads, from its frozen configuration and its prepared data.

    python scripts/inspect_batch.py run=runs/plm_pretrain step=12
    python scripts/inspect_batch.py run=runs/plm_pretrain step=12 rows=0-3,9 source=code

run=<folder>     a run folder, finished or not; nothing in it is changed
step=<number>    from 0; row number + 1 of metrics.csv tells of it
rows=<list>      of the global batch, like 0-3,9, or all; the first 8 by default
source=<name>    rows of this source only
color=<when>     auto (a terminal, unless NO_COLOR is set), always or never; auto by default

Lines marked with > are what the assistant says in a conversation: those are trained on. Of pairs
it is an answer, and a document's name says which one, and what its prompt shows.
"""

import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from scripts.arguments import given

if TYPE_CHECKING:
    from plm.data.order import Windows
    from plm.data.trace import RunData

_KEYS = ("run", "step", "rows", "source", "color")
_NEEDED = ("data", "phases", "schedule", "scaling", "scale", "optimizer", "stage", "model")
_FIRST_ROWS = 8
# Codes of "select graphic rendition": a document's foreground, and what is not text.
_COLORS = ("36", "33", "32", "35", "34", "31")
_BOLD, _DIM = "1", "2"

Paint = Callable[[str, str], str]


class _Escapes(dict):
    """What a terminal may be shown: control, format and unknown characters become their escapes."""

    def __missing__(self, code: int) -> int | str:
        kind, char = unicodedata.category(chr(code)), chr(code)
        plain = char in "\n\t" or (kind[0] != "C" and kind not in ("Zl", "Zp"))
        self[code] = code if plain else char.encode("unicode_escape").decode()
        return self[code]


_ESCAPES = _Escapes()


def harmless(text: str) -> str:
    """The text with everything that could steer a terminal written out, such as \\x1b."""
    return text.translate(_ESCAPES)


def _line(text: str) -> str:
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def read_run(run: str) -> "RunData":
    """What a run folder's frozen configuration and checkpoints say of its data.

    Raises:
        ConfigError: no run folder, or a configuration that is not one of ours.
        DataError: its data are gone, or are not those that it was trained on.
    """
    import yaml

    from plm.app import load_frozen
    from plm.config import trust
    from plm.data.trace import RunData

    try:
        settings, folder = load_frozen(run)
    except yaml.YAMLError as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"run={run}: config.yaml is not YAML: {text}") from error
    missing = [key for key in _NEEDED if not isinstance(settings, dict) or not settings.get(key)]
    if missing:
        raise ConfigError(f"run={run}: its config.yaml has no {missing[0]}; is it a run of ours?")
    trust(settings.get("trust") or [])
    return RunData(settings, folder, warn=lambda text: print(_line(text), file=sys.stderr))


def choose_rows(text: str, count: int) -> list[int]:
    """Numbers that `rows` names, in order.

    Args:
        text: like 0-3,9, or all; empty: all as well.
        count: rows of the global batch.
    Raises:
        ConfigError: it is not of that form, or the batch has no such row.
    """
    if text in ("", "all"):
        return list(range(count))
    found: set[int] = set()
    for entry in text.split(","):
        low, sign, high = entry.partition("-")
        if not low.isdecimal() or (sign and not high.isdecimal()):
            raise ConfigError(f"rows={text}: {entry!r} is not like 3 or 0-3; all shows every row")
        first, last = int(low), int(high or low)
        if first > last or last >= count:
            raise ConfigError(f"rows={text}: this step has the rows 0 to {count - 1}")
        found.update(range(first, last + 1))
    return sorted(found)


def head(
    data: "RunData",
    step: int,
    kept: dict[str, int],
    dropped: int,
    paint: Paint,
    pairs: int | None = None,
) -> list:
    """Where in the run the step is, and what its batch holds.

    Args:
        data: of the run.
        step: from 0.
        kept: rows of each source.
        dropped: labels that are.
        paint: colours a text.
        pairs: parts of pairs in the batch; None: it has none.
    """
    from plm.config import build

    settings, plan = data.settings, data.order.plan
    planned = plan.at(step)
    phase, seen = planned.phase, plan.tokens_before(step)
    schedule = build(settings["schedule"])(plan.segments(), start_tokens=plan.origin_tokens)
    # As the stage has it: the rate at the step's end.
    share = schedule(seen + phase.global_batch_tokens)
    factor = build(settings["scaling"])(
        base_batch=settings["scale"]["base_batch_tokens"],
        batch=phase.global_batch_tokens,
        optimizer=settings["optimizer"]["_target_"].rsplit(".", 1)[1],
        width=settings["model"]["hidden_size"],
    )
    batch = planned.rows * phase.seq_len
    isolated = "isolated" if phase.isolate_documents else "not isolated"
    rows = ", ".join(f"{name} {count}" for name, count in kept.items() if count)
    scaled = f" times {factor:.4g} for the batch" if factor != 1 else ""
    lines = [
        ("run", f"{data.folder}"),
        ("data", f"{data.prepared.folder}, {data.prepared.fingerprint[:12]}"),
        ("step", f"{step:,} of 0 to {plan.total_steps - 1:,}; row {step + 1:,} of metrics.csv"),
        ("phase", f"{phase.name}: its step {step - planned.first_step:,} of 0 to "
                  f"{planned.steps - 1:,}; documents {isolated}"),
        ("tokens_seen", f"{seen:,} before the step, {seen + batch:,} after it, "
                        f"{plan.end_tokens:,} at the end"),
        ("rate", f"{share:.4f} of the peak{scaled}: {settings['peak_lr'] * share * factor:.4g}"),
        ("batch", f"{planned.rows} rows of {phase.seq_len} tokens: {rows}"),
        ("labels", f"{batch - dropped:,} kept, {dropped:,} dropped"),
    ]  # fmt: skip
    if pairs is not None:
        lines.append(("pairs", f"{pairs:,} parts, each with a better and a worse answer"))
    return [f"{paint(f'{name:12}', _BOLD)} {_line(text)}" for name, text in lines]


def row_lines(
    data: "RunData",
    windows: "Windows",
    row: int,
    dropped: int,
    isolated: bool,
    decode: Callable[..., str],
    paint: Paint,
) -> Iterator[str]:
    """One row: where it comes from, then each of its documents.

    Args:
        data: of the run.
        windows: of the whole step.
        row: which of them.
        dropped: labels of the row that are.
        isolated: do documents not see each other.
        decode: ids to text.
        paint: colours a text.
    """
    from plm.data.trace import FILLED, name_of, parts

    name, offset = data.order.names[windows.source[row]], int(windows.offset[row])
    stream = data.streams[windows.source[row]]
    title = f"row {row}: {name}, epoch {windows.epoch[row]}, token {offset:,} of its stream"
    yield ""
    yield paint(_line(f"{title}; labels dropped: {dropped}"), _BOLD)
    for index, part in enumerate(parts(stream, offset, windows.seq_len)):
        color = _COLORS[index % len(_COLORS)]
        if index and isolated:
            boundary = f"---- boundary at position {part.start}: attention and positions begin anew"
            yield paint(f"  {boundary}, the label before it is dropped", _DIM)
        document = name_of(data.prepared, name, part)
        if document != FILLED and hasattr(stream, "of_worse"):
            document += f", {('better', 'worse')[stream.of_worse[part.document]]} answer"
        last = part.offset + part.stop - part.start - 1
        where = f"tokens {part.offset:,} to {last:,} of 0 to {part.length - 1:,}"
        yield "  " + paint(_line(f"{document}, {where}"), f"{_BOLD};{color}")
        if document == FILLED:
            continue
        for ids, target in _runs(stream, offset + part.start, part.stop - part.start):
            text = harmless(decode(ids, skip_special_tokens=False))
            for line in text.removesuffix("\n").split("\n"):
                yield ("  > " if target else "  | ") + paint(line, _BOLD if target else color)
    behind = parts(stream, offset + windows.seq_len, 1)
    if isolated and not (behind and behind[0].offset):
        yield paint("  ---- boundary after the window: its last label is dropped", _DIM)


def _runs(stream: Any, start: int, count: int) -> Iterator[tuple[list[int], bool]]:
    """Tokens of a document in stretches that are, or are not, what a conversation trains on."""
    ids = stream.tokens(start, count).tolist()
    if getattr(stream, "targets", None) is None:
        yield ids, False
        return
    target = ~stream.filled(np.array([start]), count)[0]
    cuts = [0, *(np.flatnonzero(np.diff(target)) + 1).tolist(), count]
    for low, high in pairwise(cuts):
        yield ids[low:high], bool(target[low])


def show(settings: dict[str, str], paint: Paint) -> Iterator[str]:
    """The lines to print.

    Args:
        settings: run and step, and what else was given.
        paint: colours a text.
    Raises:
        PlmError: something that is asked for is not there.
    """
    from tokenizers import Tokenizer

    from plm.batch import IGNORE_INDEX
    from plm.data.loader import assemble

    data = read_run(settings["run"])
    order, plan = data.order, data.order.plan
    step = _step(settings["step"], plan.total_steps)
    planned = plan.at(step)
    rows = choose_rows(settings.get("rows", ""), planned.rows)
    windows = order.windows(step)
    isolated = planned.phase.isolate_documents
    read = assemble(data.streams, windows, isolated)
    dropped = (read["labels"] == IGNORE_INDEX).sum(dim=1).tolist()
    pairs = int((read["parts"] >= 0).sum()) if "parts" in read else None
    kept = {name: int((windows.source == i).sum()) for i, name in enumerate(order.names)}
    if source := settings.get("source"):
        if source not in planned.phase.mixture:
            known = ", ".join(planned.phase.mixture)
            raise ConfigError(f"source={source} is not in phase {planned.phase.name}: {known}")
        rows = [row for row in rows if order.names[windows.source[row]] == source]
    yield from head(data, step, kept, sum(dropped), paint, pairs)
    decode = Tokenizer.from_file(str(data.prepared.tokenizer_path)).decode
    shown = rows if settings.get("rows") else rows[:_FIRST_ROWS]
    for row in shown:
        yield from row_lines(data, windows, row, dropped[row], isolated, decode, paint)
    if len(shown) < len(rows):
        yield f"\n{len(rows) - len(shown)} more rows; rows=all shows them"
    if not rows:
        yield _line(f"\nnone of these rows is of {source}")


def _step(text: str, steps: int) -> int:
    if not text.isdecimal():
        raise ConfigError(f"step={text} is not a whole number from 0 up")
    if int(text) >= steps:
        raise ConfigError(f"step={text} is past the end: this run has {steps} steps, from 0")
    return int(text)


def _settings(arguments: list[str]) -> dict[str, str]:
    settings = given(arguments, _KEYS)
    for key in ("run", "step"):
        if key not in settings:
            raise ConfigError(f"{key}=… is missing, for example run=runs/plm_pretrain step=12")
    if settings.get("color", "auto") not in ("auto", "always", "never"):
        raise ConfigError(f"color={settings['color']} is not auto, always or never")
    return settings


def _painter(when: str) -> Paint:
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    colored = when == "always" or (when == "auto" and terminal and not os.environ.get("NO_COLOR"))
    return lambda text, code: f"\x1b[{code}m{text}\x1b[0m" if colored and text else text


def main(arguments: list[str]) -> int:
    """Show what the arguments ask for; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    # Text has characters that not every terminal's encoding has.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        settings = _settings(arguments)
        for line in show(settings, _painter(settings.get("color", "auto"))):
            print(line)
        sys.stdout.flush()
    except PlmError as error:
        print(_line(str(error)), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader, such as head, has seen enough: nothing is left for Python to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
