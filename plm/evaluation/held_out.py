"""Loss, perplexity and bits a byte on the held-out text of a run's sources."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from plm.batch import IGNORE_INDEX
from plm.data import tokenizer as bpe
from plm.data.loader import assemble, cumulative_lengths
from plm.data.order import Windows
from plm.data.packing import PackedStream
from plm.data.prepared import MANIFEST, Prepared
from plm.errors import ConfigError, DataError
from plm.evaluation.common import (
    Part,
    Record,
    Result,
    Share,
    by_group,
    digest_of,
    notes_of,
    records_of,
)
from plm.evaluation.kinds import check_kinds
from plm.evaluation.scoring import token_logps
from plm.evaluation.statistics import Figure, ratio_of
from plm.model.context import Context
from plm.stages.evaluate import spread


class HeldOut:
    """Nats a token, perplexity and bits a byte of each source, over windows of its held-out split.

    Windows are those of a run's own validation, so that its figures come out again.

    Args:
        data: folder of a prepared recipe; null: what the evaluated run was trained on.
        sources: names; null: all.
        windows: at most so many a source, evenly spread.
        seq_len, isolate_documents: of a window; null: as the run was trained. Conversations are
            read in the windows that they were packed into, of the data's block_tokens.
        limit: as windows, the smaller of the two; so it counts for each source.
    Raises:
        ConfigError: a value of the wrong kind, or below 1.
    """

    def __init__(
        self,
        data: str | None = None,
        *,
        sources: list[str] | None = None,
        windows: int = 64,
        seq_len: int | None = None,
        isolate_documents: bool | None = None,
        limit: int | None = None,
    ) -> None:
        told = {"data": data, "sources": sources, "windows": windows, "seq_len": seq_len}
        told |= {"isolate_documents": isolate_documents, "limit": limit}
        check_kinds(told, _KINDS)
        for name in ("windows", "seq_len", "limit"):
            if told[name] is not None and told[name] < 1:
                raise ConfigError(f"{name}={told[name]} must be at least 1")
        self.data, self.sources = data, sources
        self.windows = windows if limit is None else min(windows, limit)
        self.seq_len, self.isolate = seq_len, isolate_documents
        self._prepared: Prepared | None = None

    def check(self, subject: Any) -> None:
        """Open the data, so that what is missing is said before anything runs.

        Raises:
            ConfigError: no such source, or windows of another length than conversations have.
        """
        prepared = self._open(subject)
        size, _ = self._window(subject)
        for name in self._names(prepared):
            if isinstance(prepared.held_out[name], PackedStream) and size != prepared.block_tokens:
                raise ConfigError(
                    f"held_out: seq_len={size}: the conversations of {name} in {prepared.folder} "
                    f"are packed into windows of block_tokens={prepared.block_tokens} and are read "
                    f"whole; seq_len must be {prepared.block_tokens}, which the model's context of "
                    f"{subject.max_len} must hold"
                )

    def run(self, subject: Any, share: Share = Share()) -> Part:  # noqa: B008
        """Nats, tokens and bytes of this process's windows."""
        prepared = self._open(subject)
        size, isolate = self._window(subject)
        plan = [
            (name, int(offset))
            for name in self._names(prepared)
            for offset in spread(prepared.held_out[name].n_tokens, size, self.windows)
        ]
        if not plan:
            raise DataError(f"{prepared.folder}: no held-out source has {size + 1} tokens")
        mine = share.of(plan)
        records: list[Record] = []
        # Rows of one source at a time: they are read by one call.
        for name in dict.fromkeys(name for _, (name, _) in mine):
            rows = [(index, offset) for index, (source, offset) in mine if source == name]
            for low in range(0, len(rows), subject.rows):
                part = rows[low : low + subject.rows]
                records += _score(subject, prepared, name, part, size, isolate)
        told = {"fingerprint": prepared.fingerprint, "seq_len": size, "isolate": isolate}
        notes = [] if prepared.comparable else ["the text is not comparable with other machines'"]
        return Part(records, {**told, "notes": notes})

    def _open(self, subject: Any) -> Prepared:
        if self._prepared is None:
            self._prepared = open_held_out(self.data, subject)
        return self._prepared

    def _names(self, prepared: Prepared) -> list[str]:
        names = list(prepared.sources) if self.sources is None else list(self.sources)
        for name in names:
            if name not in prepared.sources:
                known = ", ".join(prepared.sources)
                raise ConfigError(f"sources: no {name!r} in {prepared.folder}; there are {known}")
        return names

    def _window(self, subject: Any) -> tuple[int, bool]:
        size, isolate = subject.window or (subject.max_len, True)
        size = min(self.seq_len or size, subject.max_len)
        return size, isolate if self.isolate is None else self.isolate

    def result(self, subject: Any, parts: list[Part]) -> Result:
        """Each source's figures; `loss` and `bpb` alone are the plain means over the sources."""
        records, told = records_of(parts), parts[0].told
        return Result(
            figures=figures(records),
            records=records,
            settings={"seq_len": told["seq_len"], "isolate_documents": told["isolate"]},
            digest=digest_of([told["fingerprint"], [r["id"] for r in records]]),
            prompt="none",
            notes=notes_of(parts),
        )


_KINDS = {
    "data": (str, None),
    "sources": (list[str], None),
    "windows": int,
    "seq_len": (int, None),
    "isolate_documents": (bool, None),
    "limit": (int, None),
}


def open_held_out(folder: str | None, subject: Any) -> Prepared:
    """The prepared data of a task, checked against the model's tokenizer.

    Args:
        folder: of a prepared recipe; None: the run's.
    Raises:
        ConfigError: there is no run, or the tokens of the data are not the model's.
        DataError: they are not there any more, or an older version prepared them.
    """
    from plm.data.open import find_data

    if folder is not None:
        prepared = _opened(Path(folder))
    elif subject.data is None:
        raise ConfigError(
            "held_out: the model lies in no run folder; name held_out.data=<folder of prepared "
            "data>"
        )
    else:
        found = _by_fingerprint(subject) or find_data(subject.data)
        if found is None:
            raise DataError(
                f"the run's data are not in data.dir={subject.data['dir']} (seen from here); go "
                "where it was started, or name held_out.data=<folder of prepared data>"
            )
        prepared = _opened(found)
    theirs, ours = bpe.load(prepared.tokenizer_path), subject.tokenizer
    if theirs.get_vocab(with_added_tokens=True) != ours.get_vocab(with_added_tokens=True):
        raise ConfigError(
            f"held_out: {prepared.folder} was written with another tokenizer than the model's: "
            "its ids would name other text"
        )
    return prepared


def _opened(folder: Path) -> Prepared:
    try:
        prepared = Prepared(folder)
        # Looked up only when it is asked for, which would be after the last window.
        told = prepared.manifest["comparable"]
        assert isinstance(told, bool)
        return prepared
    except KeyError as error:
        raise DataError(
            f"{folder / MANIFEST} has no {error.args[0]}: another version prepared it; prepare the "
            "data again, or name held_out.data=<folder of prepared data>"
        ) from error


def _by_fingerprint(subject: Any) -> Path | None:
    """The folder in data.dir whose data are those of the run, under whatever name."""
    if subject.fingerprint is None:
        return None
    for file in sorted(Path(subject.data["dir"]).glob(f"*/{MANIFEST}")):
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if told.get("fingerprint") == subject.fingerprint:
            return file.parent
    return None


def _score(
    subject: Any,
    prepared: Prepared,
    name: str,
    rows: list[tuple[int, int]],
    size: int,
    isolate: bool,
) -> list[Record]:
    """Records of one batch of windows of one source; rows: (index, offset)."""
    offsets = np.array([offset for _, offset in rows], dtype=np.int64)
    zeros = np.zeros(len(rows), dtype=np.int64)
    stream = prepared.held_out[name]
    found = assemble([stream], Windows(zeros, offsets, zeros, size), isolate)
    device, labels = subject.device, found["labels"]
    context = Context(
        positions=found["positions"].to(device),
        doc_ids=found["doc_ids"].to(device) if "doc_ids" in found else None,
        cu_seqlens=cumulative_lengths(found["positions"]).to(device),
        rope_theta=subject.rope_theta,
    )
    with subject.device_context():
        logps, _ = token_logps(
            subject.model, found["tokens"].to(device), labels.to(device), context
        )
    kept = labels != IGNORE_INDEX
    sizes = prepared.token_bytes[labels.where(kept, 0).numpy()] * kept.numpy()
    return [
        {
            "index": index,
            "id": f"{name}/{offset}",
            "group": name,
            "nats": float(-logps[row].sum()),
            "tokens": int(kept[row].sum()),
            "bytes": int(sizes[row].sum()),
        }
        for row, (index, offset) in enumerate(rows)
    ]


def figures(records: list[Record]) -> dict[str, Figure]:
    """`loss/<source>`, `bpb/<source>`, `perplexity/<source>`; `loss` and `bpb` over the sources."""
    found: dict[str, Figure] = {}
    for name, some in by_group(records).items():
        nats = [r["nats"] for r in some]
        loss = ratio_of(nats, [r["tokens"] for r in some])
        found[f"loss/{name}"] = loss
        found[f"bpb/{name}"] = ratio_of([x / math.log(2) for x in nats], [r["bytes"] for r in some])
        found[f"perplexity/{name}"] = _exp(loss)
    for kind in ("loss", "bpb"):
        some = [f for key, f in found.items() if key.startswith(f"{kind}/")]
        if some:
            found[kind] = _mean(some)
    return found


def _exp(loss: Figure) -> Figure:
    """Perplexity: the exponential of the ends, the error to first order."""
    value, low, high = (math.exp(min(x, 700.0)) for x in (loss.value, loss.low, loss.high))
    return Figure(value, value * loss.error, low, high, loss.n, loss.interval)


def _mean(some: list[Figure]) -> Figure:
    """Plain mean of independent figures."""
    from plm.evaluation.statistics import Z95

    value = math.fsum(f.value for f in some) / len(some)
    error = math.sqrt(math.fsum(f.error**2 for f in some)) / len(some)
    count = sum(f.n for f in some)
    return Figure(value, error, value - Z95 * error, value + Z95 * error, count, "normal")
