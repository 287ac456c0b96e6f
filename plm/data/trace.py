"""Where a token of a batch comes from: its source, its document, its place in that document."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plm import checkpoint, handoff
from plm.data.indexed import IndexedDataset
from plm.data.open import find_data
from plm.data.order import Order
from plm.data.packing import PackedStream
from plm.data.prepared import MANIFEST, Prepared
from plm.errors import ConfigError, DataError, PlmError
from plm.phases import Plan

FILLED = "(filled up)"
"""In the place of a document's name."""


class Trace(NamedTuple):
    """Where one token comes from.

    Attributes:
        source: name of the source.
        document: the document's name, as the source gave it.
        offset: tokens of that document before this one.
    """

    source: str
    document: str
    offset: int


class Part(NamedTuple):
    """What a window holds of one document.

    Attributes:
        document: its number in the dataset.
        start, stop: the window's positions [start, stop).
        offset: tokens of the document before them.
        length: tokens of the whole document.
    """

    document: int
    start: int
    stop: int
    offset: int
    length: int


def parts(dataset: IndexedDataset | PackedStream, offset: int, count: int) -> list[Part]:
    """The documents that `count` tokens from place `offset` of a dataset belong to, in order."""
    starts, end = dataset.doc_starts, offset + count
    # An empty document starts where the next one does: the last of equals holds the token.
    index, found = int(np.searchsorted(starts, offset, side="right")) - 1, []
    while index < dataset.n_docs and starts[index] < end:
        first, last = int(starts[index]), int(starts[index + 1])
        low, high = max(first, offset), min(last, end)
        if low < high:
            found.append(Part(index, low - offset, high - offset, low - first, last - first))
        index += 1
    return found


def trace(prepared: Prepared, order: Order, step: int, row: int, position: int) -> Trace:
    """Where a token of a run's batch comes from.

    Args:
        prepared: the data that the run reads.
        order: of the run.
        step: from 0.
        row: of the global batch.
        position: in the window, from 0; seq_len is the last position's label.
    Raises:
        ConfigError: the run has no such step, the batch no such row, the window no such position.
    """
    planned = order.plan.at(step)
    limits = (
        ("step", step, order.plan.total_steps - 1),
        ("row", row, planned.rows - 1),
        ("position", position, planned.phase.seq_len),
    )
    for name, value, last in limits:
        if not 0 <= value <= last:
            raise ConfigError(f"{name}={value} is not one of 0 to {last}")
    windows = order.windows(step, row, row + 1)
    source = order.names[windows.source[0]]
    found = parts(prepared.streams[source], int(windows.offset[0]) + position, 1)
    if not found:
        # The place behind the last packed window.
        return Trace(source, FILLED, 0)
    part = found[0]
    return Trace(source, name_of(prepared, source, part), part.offset)


def name_of(prepared: Prepared, source: str, part: Part) -> str:
    """The name of a part's document, or FILLED where a packed window holds none."""
    stream, number = prepared.streams[source], part.document
    if isinstance(stream, PackedStream):
        number = int(stream.documents[number])
    return FILLED if number < 0 else prepared.document_name(source, "train", number)


def find_fingerprint(data_dir: Path, fingerprint: str) -> Path | None:
    """The prepared recipe with this fingerprint in a folder of prepared recipes, if it is there.

    A run finds its data so even where the recipe or the code that prepared them has changed.
    """
    for manifest in sorted(Path(data_dir).glob(f"*/{MANIFEST}")):
        if manifest.parent.name.endswith(".partial"):
            continue
        if _fingerprint(manifest) == fingerprint:
            return manifest.parent
    return None


class RunData:
    """What a run reads, rebuilt from its folder without training anything.

    Args:
        settings: the frozen configuration, plain.
        folder: of the run; nothing in it is changed.
        warn: told of torn checkpoints.

    Attributes:
        settings, folder: as given.
        prepared: its data.
        order: which windows a step reads.
        streams: train splits in the order's numbering.

    Raises:
        CheckpointError: the run it was forked from is gone, and no checkpoint of its own is there.
        DataError: its data are gone, or are not those that it was trained on.
    """

    def __init__(
        self, settings: Mapping[str, Any], folder: Path, warn: Callable[[str], None]
    ) -> None:
        self.settings, self.folder = settings, folder
        origin, wanted, holder = self._beginning(warn)
        self.prepared = Prepared(_data_folder(settings["data"], wanted, holder))
        tokens = {name: of.n_tokens for name, of in self.prepared.streams.items()}
        self.order = Order(
            Plan.read(settings["phases"], origin["tokens_seen"]).resolved(tokens),
            tokens,
            self.prepared.block_tokens,
            settings["seed"],
            origin["cursors"],
        )
        self.streams = [self.prepared.streams[name] for name in self.order.names]

    def _beginning(self, warn: Callable[[str], None]) -> tuple[dict[str, Any], str | None, Path]:
        """Where the run began, its data's fingerprint if anything says it, and what does."""
        newest = checkpoint.newest(self.folder / "checkpoints", warn)
        if newest is not None:
            meta = checkpoint.read_meta(newest)
            return meta["origin"], meta["fingerprint"], newest
        stage = self.settings["stage"]["_target_"].rsplit(".", 1)[1].lower()
        start = handoff.find(
            self.settings.get("init_from"), self.settings.get("init", "auto"), stage
        )
        origin = {"tokens_seen": start.tokens_seen, "cursors": start.cursors}
        manifest = self.folder / MANIFEST
        if manifest.is_file():
            return origin, _fingerprint(manifest), manifest
        return origin, None, self.folder


def _fingerprint(manifest: Path) -> str | None:
    """The fingerprint that a manifest gives; None: it cannot be read."""
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _data_folder(data: Mapping[str, Any], wanted: str | None, holder: Path) -> Path:
    """The folder with the wanted fingerprint, or what the settings name where none is known."""
    place = Path(data["dir"]).absolute()
    if wanted and (found := find_fingerprint(place, wanted)):
        return found
    try:
        here = find_data(data)
    except PlmError:
        # The recipe, or the text that it read, is gone as well.
        here = None
    if here is None:
        which = f" with fingerprint {wanted[:12]}, as {holder} has it" if wanted else ""
        raise DataError(
            f"data.dir={place}: no prepared data{which}; prepare this run's data again, or start "
            "from the folder that the run was started from"
        )
    if wanted:
        now = _fingerprint(here / MANIFEST) or "none"
        raise DataError(
            f"{here} has fingerprint {now[:12]}, {holder} has {wanted[:12]}: a step would name "
            f"other text; put the run's own data back into {place}"
        )
    return here
