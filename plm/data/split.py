"""Which text trains and which validates, and how much of one stands in the other.

Whole groups (packages) go to one side, and to the same side in every source: two files of one
package share licence headers, examples and helper code, so that a split by file would mostly
measure memory.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from plm.data.documents import place
from plm.data.recipe import Split
from plm.data.textstore import Entry, TextFile, TextStore, opened
from plm.errors import DataError

LONG_LINE = 40
"""Characters from which a line, stripped, counts for the leak: shorter ones repeat by chance."""

_MOST_PIECES = 20
_PIECE_BYTES = 8192
_MANY_GROUPS = 100


class Leak(NamedTuple):
    """Long lines of validation, and how many of them stand verbatim in train."""

    lines: int
    found: int

    @property
    def share(self) -> float:
        """found / lines; 0 where there is no long line."""
        return self.found / self.lines if self.lines else 0.0


def group_order(group: str, seed: int) -> bytes:
    """A group's place in the draw for validation: a hash, so that other groups do not move it."""
    return hashlib.sha256(f"{seed}/{group}".encode()).digest()


def validation_groups(
    sizes: Mapping[str, Mapping[str, int]], goals: Mapping[str, float], seed: int
) -> set[str]:
    """Groups to hold out, the same in every source.

    Groups are drawn in the order of their hash; one is taken if a source it is in is still short
    of its goal and none would pass 1.5 times its goal. Groups of at most half a goal come first,
    so that validation holds several. A source that is left without any gets its smallest group.

    Args:
        sizes: bytes by source and group, two groups or more each (see `check_groups`).
        goals: validation's share of the bytes by source.
        seed: of the draw.
    """
    totals = {source: sum(groups.values()) for source, groups in sizes.items()}
    taken = dict.fromkeys(sizes, 0)
    chosen: set[str] = set()
    homes = defaultdict(list)
    for source, groups in sizes.items():
        for group in groups:
            homes[group].append(source)

    def take(group: str) -> None:
        chosen.add(group)
        for source in homes[group]:
            taken[source] += sizes[source][group]

    def place(group: str) -> tuple[bool, bytes]:
        large = any(sizes[s][group] > goals[s] * totals[s] / 2 for s in homes[group])
        return large, group_order(group, seed)

    for group in sorted(homes, key=place):
        after = {s: (taken[s] + sizes[s][group]) / totals[s] for s in homes[group]}
        short = any(taken[s] < goals[s] * totals[s] for s in homes[group])
        if short and all(after[s] <= 1.5 * goals[s] for s in homes[group]):
            take(group)
    for source, groups in sizes.items():
        if not taken[source]:
            take(min(groups, key=lambda name: (groups[name], name)))
    return chosen


def check_groups(source: str, entries: list[Entry], root: str, kind: str) -> None:
    """Whether a source can be split by group: some of it must train, and some validate.

    Args:
        source: its name.
        entries: all of it, one at least.
        root: what the documents' names are relative to, see Origin.
        kind: what they are: document, conversation or pair; of the latter those are of one group
            that ask the same.
    Raises:
        DataError: it has one group only.
    """
    groups = {entry.group for entry in entries}
    if len(groups) > 1:
        return
    first, asks = place(entries[0].name, root), kind != "document"
    out = "" if asks else ", or let split.by=pieces cut it"
    if len(entries) == 1:
        raise DataError(
            f"source {source} has one {kind} only ({first}); to train and to validate it needs two "
            f"or more: give it more{out}"
        )
    alike = "begin with the same question" if asks else f"are of the group {groups.pop()}"
    raise DataError(
        f"source {source}: all its {len(entries)} {kind}s {alike} (the first is {first}), and a "
        f"group is never divided between train and validation: give it others{out}"
    )


def resolve(split: Split, store: TextStore) -> str:
    """`group` or `pieces`: what `auto` means for this source."""
    if split.by != "auto":
        return split.by
    sizes = group_sizes(store.entries)
    small = max(sizes.values(), default=0) <= split.val_share * store.n_bytes / 2
    return "group" if len(sizes) >= _MANY_GROUPS and small else "pieces"


def group_sizes(entries: Iterable[Entry]) -> dict[str, int]:
    """Bytes of each group."""
    sizes: dict[str, int] = defaultdict(int)
    for entry in entries:
        sizes[entry.group] += entry.length
    return dict(sizes)


def split_pieces(store: TextStore, val_share: float) -> tuple[list[Entry], list[Entry]]:
    """Hold out contiguous pieces spread evenly over the text; cut at line ends where there are any.

    Returns:
        Entries of train and of validation; a cut document's parts are named `name#0`, `name#1`, …
    """
    held = int(store.n_bytes * val_share)
    pieces = max(1, min(_MOST_PIECES, held // _PIECE_BYTES))
    spacing, width = store.n_bytes / pieces, held / pieces
    bounds: list[int] = []
    with opened(store.path) as data:
        for piece in range(pieces):
            start = int(piece * spacing + (spacing - width) / 2)
            bounds += [_line_start(data, start), _line_start(data, int(start + width))]
    train: list[Entry] = []
    val: list[Entry] = []
    cuts = [0, *bounds, store.n_bytes]
    for entry in store.entries:
        stop = entry.start + entry.length
        inside = [cut for cut in cuts if entry.start < cut < stop]
        edges = [entry.start, *inside, stop]
        for part, (left, right) in enumerate(pairwise(edges)):
            if left == right:
                continue
            name = f"{entry.name}#{part}" if inside else entry.name
            # Regions alternate: train before the first bound, validation after it, and so on.
            side = val if sum(bound <= left for bound in bounds) % 2 else train
            side.append(Entry(left, right - left, name, entry.group))
    return train, val


def _line_start(data: TextFile, position: int) -> int:
    """The next start of a line, or of a character where no line ends nearby."""
    found = data.find(b"\n", position, min(position + _PIECE_BYTES // 4, len(data)))
    if found >= 0:
        return min(found + 1, len(data))
    while position < len(data) and data.read(position, 1)[0] & 0xC0 == 0x80:
        position += 1
    return position


def long_lines(text: str) -> list[str]:
    """The text's lines of LONG_LINE characters or more, stripped, as often as they stand there."""
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if len(line) >= LONG_LINE]


def leaks(
    stores: Mapping[str, TextStore],
    train: Mapping[str, list[Entry]],
    val: Mapping[str, list[Entry]],
) -> dict[str, list[Leak]]:
    """How much of each validation document stands verbatim in the train split of any source."""
    # By their hash, which takes less room than the lines.
    wanted = {
        hash(line)
        for source, store in stores.items()
        for text in store.texts(val[source])
        for line in long_lines(text)
    }
    found: set[int] = set()
    for source, store in stores.items():
        for text in store.texts(train[source]):
            found.update(wanted.intersection(map(hash, long_lines(text))))
    result: dict[str, list[Leak]] = {}
    for source, store in stores.items():
        result[source] = []
        for text in store.texts(val[source]):
            lines = long_lines(text)
            result[source].append(Leak(len(lines), sum(hash(line) in found for line in lines)))
    return result
