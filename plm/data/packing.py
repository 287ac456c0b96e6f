"""Whole documents in windows of one length: best-fit decreasing, nothing cut, the rest filled up.

For text whose documents must be seen from their beginning to their end, such as instructions. The
windows are made at preparation and kept as an index, so that any of them is found at once.

Paper: Johnson, Near-optimal bin packing algorithms (1973); for language models: Ding et al., Fewer
    truncations improve language modeling (arXiv:2404.10830)
Departs: a document longer than a window is left out and counted; the paper cuts it.
"""

from bisect import bisect_left, insort
from pathlib import Path

import numpy as np

from plm.data.conversation_shards import TARGET
from plm.data.documents import disk_errors
from plm.data.indexed import IndexedDataset

BINS, DOCUMENTS = "pack_bins.npy", "pack_documents.npy"


def pack(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Put documents into windows: the longest first, each where it leaves the least room.

    Args:
        lengths: [n] int64, tokens of each document.
        size: of a window.
    Returns:
        bins [windows + 1] int64, where each window begins in documents; documents [m] int64, those
        of one window after another, without the ones that are longer than a window.
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[(lengths[order] <= size) & (lengths[order] > 0)]
    home = np.empty(len(order), dtype=np.int64)
    # Windows by the room that they have left, and which rooms there are.
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    n_bins = 0
    for place, length in enumerate(lengths[order].tolist()):
        at = bisect_left(rooms, length)
        if at == len(rooms):
            chosen, room = n_bins, size
            n_bins += 1
        else:
            room = rooms[at]
            chosen = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        home[place] = chosen
        left = room - length
        if left:
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(chosen)
    # Within a window the documents stand in their own order.
    by_window = np.lexsort((order, home))
    bins = np.zeros(n_bins + 1, dtype=np.int64)
    np.cumsum(np.bincount(home, minlength=n_bins), out=bins[1:])
    return bins, order[by_window]


def write_packing(
    prefix: Path, size: int, documents: tuple[int, int] | None = None
) -> dict[str, float | int]:
    """Pack a dataset's documents and keep the index beside it.

    Args:
        prefix: of the dataset.
        size: of a window.
        documents: range of the documents that are taken; None: all.
    Returns:
        windows, their size, the share of their places that hold text, documents that are too long.
    """
    lengths = np.diff(IndexedDataset(prefix, documents).doc_starts)
    bins, packed = pack(lengths, size)
    for end, array in ((BINS, bins), (DOCUMENTS, packed)):
        path = prefix.with_name(f"{prefix.name}.{end}")
        with disk_errors(path):
            np.save(path, array)
    windows = len(bins) - 1
    return {
        "windows": windows,
        "size": size,
        "utilisation": round(float(lengths[packed].sum()) / max(1, windows * size), 5),
        "too_long": int((lengths > size).sum()),
    }


class PackedStream:
    """Packed windows, one after another, as a stream for the loader.

    Args:
        data: the dataset.
        size: of a window.
        targets: as many bytes as data has tokens, the lowest bit 0 for those that nothing is to be
            learnt from; None: all are learnt.

    Attributes:
        n_tokens: places of all windows, and one behind them.
        doc_starts: [d + 1] int64, where documents and filled places begin, ending with the place
            behind the last window.
        n_docs: d.
        documents: [d] int64, which document of the dataset begins there; -1 for filled places.
        n_windows, size: number of windows, and places of each.
    """

    def __init__(
        self, data: IndexedDataset, size: int, targets: IndexedDataset | None = None
    ) -> None:
        self.data, self.size, self.targets = data, size, targets
        prefix = data.prefix
        self.bins = np.load(prefix.with_name(f"{prefix.name}.{BINS}"))
        self._order = np.load(prefix.with_name(f"{prefix.name}.{DOCUMENTS}"))
        self.n_windows = len(self.bins) - 1
        self.n_tokens = self.n_windows * size + 1
        lengths = np.diff(data.doc_starts)[self._order]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        self._lengths = lengths
        self._used = np.diff(ends[self.bins])
        window = np.repeat(np.arange(self.n_windows), np.diff(self.bins))
        # Where each document begins: in its window, behind the ones before it.
        starts = window * size + ends[:-1] - ends[self.bins[:-1]][window]
        open_ = np.flatnonzero(self._used < size)
        fill = open_ * size + self._used[open_]
        begins = np.concatenate([starts, fill])
        order = np.argsort(begins, kind="stable")
        self._starts, self._fill = starts, fill
        self._begins = np.append(begins[order], self.n_tokens - 1)
        self._held = np.concatenate([self._order, np.full(len(fill), -1)])[order]
        self.doc_starts, self.documents = self._begins, self._held
        self.n_docs = len(self.documents)
        self._end = data.tokens(data.n_tokens - 1, 1)[0]

    def windows(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """[n, size] tokens from each of the places on, which must be beginnings of windows."""
        chosen, inside = np.divmod(offsets, self.size)
        if inside.any() or size != self.size + 1:
            raise ValueError(f"packed windows of {self.size} are read whole, not {size} long")
        out = np.full((len(offsets), size), self._end, dtype=self.data.dtype)
        many = self.bins[chosen + 1] - self.bins[chosen]
        row = np.repeat(np.arange(len(offsets)), many)
        nth = np.arange(len(row)) - np.repeat(many.cumsum() - many, many)
        place = self.bins[chosen][row] + nth
        lengths = self._lengths[place]
        inner = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        source = np.repeat(self.data.doc_starts[self._order[place]], lengths) + inner
        target = row * size + self._starts[place] - chosen[row] * self.size
        out.reshape(-1)[np.repeat(target, lengths) + inner] = self.data.gather(source)
        return out

    def tokens(self, start: int, count: int) -> np.ndarray:
        """[count] tokens from place `start` on, all of one window."""
        window, inside = divmod(start, self.size)
        row = self.windows(np.array([window * self.size]), self.size + 1)[0]
        return row[inside : inside + count]

    def filled(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """[n, size] bool: which places from each of `offsets` on hold no text, or no target."""
        at = offsets[:, None] + np.arange(size)
        window, inside = np.divmod(at, self.size)
        used = np.append(self._used, 0)
        empty = inside >= used[np.minimum(window, self.n_windows)]
        if self.targets is None:
            return empty
        text = at[~empty]
        part = np.searchsorted(self._begins, text, side="right") - 1
        place = self.data.doc_starts[self._held[part]] + text - self._begins[part]
        empty[~empty] = self.targets.gather(place) & TARGET == 0
        return empty
