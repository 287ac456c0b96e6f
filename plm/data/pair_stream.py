"""Packed windows of pairs: which documents are whose answers, beside the tokens."""

import numpy as np

from plm.data.indexed import IndexedDataset
from plm.data.packing import PackedStream
from plm.data.pair_shards import OF_WORSE, shown_of


class PairStream(PackedStream):
    """Parts of pairs, packed whole; the two sequences of a part are documents of their own.

    So positions restart and labels end where the second one begins, and neither sees the other.

    Args:
        data, size: as for `PackedStream`.
        targets: the mask, see plm.data.pair_shards.

    Attributes:
        n_parts: of all windows; they are numbered as they stand there.
        most_parts: of any one window.
        of_worse: [d] int64 beside doc_starts: 1 where a worse answer's sequence begins, 0 for a
            better one's, -1 for filled places.
    """

    def __init__(self, data: IndexedDataset, size: int, targets: IndexedDataset) -> None:
        super().__init__(data, size, targets)
        self.n_parts = len(self._order)
        self.most_parts = int(np.diff(self.bins).max(initial=0))
        marks = targets.tokens(0, targets.n_tokens)
        first = data.doc_starts[:-1]
        better = np.add.reduceat(marks & OF_WORSE == 0, first, dtype=np.int64)
        self._shown = shown_of(marks[first])[self._order]
        inner = self._starts + better[self._order]
        begins = np.concatenate([self._starts, inner, self._fill])
        order = np.argsort(begins, kind="stable")
        holes = np.full(len(self._fill), -1)
        self.doc_starts = np.append(begins[order], self.n_tokens - 1)
        self.documents = np.concatenate([self._order, self._order, holes])[order]
        sides = np.repeat([0, 1], self.n_parts)
        self.of_worse = np.concatenate([sides, holes])[order]
        self.n_docs = len(self.documents)

    def extras(self, offsets: np.ndarray) -> dict[str, np.ndarray]:
        """What a row holds: part p of it is its documents 2p, the better answer, and 2p + 1.

        Args:
            offsets: [n], beginnings of windows.
        Returns:
            parts [n, P] int64: numbers of the row's parts, -1 behind the last one; P is most_parts;
            shown [n, P] int64: what their prompts show, index into SHOWN, -1 likewise.
        """
        window = offsets // self.size
        first, many = self.bins[window], np.diff(self.bins)[window]
        nth = np.arange(self.most_parts)
        there = nth < many[:, None]
        parts = np.where(there, first[:, None] + nth, -1)
        # The last one's, where there is none: taken out again.
        return {"parts": parts, "shown": np.where(there, self._shown[parts], -1)}
