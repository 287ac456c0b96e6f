"""Batches of tokens from warm memory: ours, litdata's token loader, torch's plain DataLoader.

A batch is touched by reading one element. What it holds differs, and favours the peers: ours has
tokens, labels, positions and document numbers as int64, over a mixture of three sources; the others
have the tokens of one source alone, litdata's as they are stored, torch's as int64 with one more a
row, so that labels are a view of it.
"""

import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from plm.data.indexed import IndexedDataset, IndexedWriter
from plm.data.loader import Batches
from plm.data.order import Order
from plm.phases import Plan
from scripts.bench_common import Took, alternate, seconds, spread
from scripts.bench_data_tree import timed_tree

BATCH_TOKENS = 2**16
SEQ_LENS = (128, 1024, 4096)
VOCAB = 50_000
MIXTURE = {"prose": 0.6, "code": 0.25, "math": 0.15}
MEDIAN_DOCUMENT = 500
WORKERS = (0, 2)


def write_data(folder: Path, tokens: int) -> dict[str, Path]:
    """Shards of random tokens in documents of log-normal length: one a source, and one of all.

    Returns:
        Prefixes by source; "all" is what the peers read.
    """
    rng = np.random.default_rng(0)
    found = {}
    for name, share in {"all": 1.0, **MIXTURE}.items():
        left = int(tokens * share)
        found[name] = folder / name
        with IndexedWriter(found[name], np.dtype(np.uint16)) as writer:
            while left:
                lengths = rng.lognormal(np.log(MEDIAN_DOCUMENT), 1.2, 1000).astype(int) + 1
                ends = np.minimum(np.cumsum(lengths), left)
                kept = np.diff(np.unique(ends), prepend=0)
                writer.add(rng.integers(0, VOCAB, int(ends[-1])), kept.tolist())
                left -= int(ends[-1])
    return found


def warm(prefix: Path) -> IndexedDataset:
    """Opened, with all of its tokens in the page cache."""
    dataset = IndexedDataset(prefix)
    dataset.tokens(0, dataset.n_tokens).max()
    return dataset


def ours(prefixes: dict[str, Path], seq_len: int, isolate: bool) -> Iterator[Any]:
    """Our batches, for longer than anybody reads."""
    settings = {
        "tokens": 10**12,
        "seq_len": seq_len,
        "global_batch_tokens": BATCH_TOKENS,
        "mixture": MIXTURE,
        "isolate_documents": isolate,
        "rate": {"shape": "hold", "to": 1.0},
    }
    plan = Plan.read({"stable": settings})
    data = {name: warm(prefixes[name]) for name in plan.sources()}
    sizes = {name: stream.n_tokens for name, stream in data.items()}
    order = Order(plan, sizes, block_tokens=seq_len, seed=0)
    batches = Batches(order, list(data.values()), micro_batch_size=BATCH_TOKENS // seq_len)
    for batch in batches:
        yield batch.tokens


class RandomWindows(Dataset):
    """Windows of one `.bin` at the places of a seeded permutation, as it is usually written.

    Args:
        path: of uint16 tokens.
        seq_len: an item has one token more, int64.
    """

    def __init__(self, path: Path, seq_len: int) -> None:
        self.tokens = np.memmap(path, dtype=np.uint16, mode="r")
        self.seq_len = seq_len
        windows = (len(self.tokens) - 1) // seq_len
        self.order = np.random.default_rng(0).permutation(windows)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> torch.Tensor:
        start = self.order[index] * self.seq_len
        return torch.from_numpy(self.tokens[start : start + self.seq_len + 1].astype(np.int64))


def endless(loader: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


def torch_plain(prefixes: dict[str, Path], seq_len: int, workers: int) -> Iterator[Any]:
    """DataLoader with its default collation."""
    warm(prefixes["all"])
    data = RandomWindows(prefixes["all"].with_name("all.bin"), seq_len)
    return endless(
        DataLoader(
            data,
            batch_size=BATCH_TOKENS // seq_len,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
        )
    )


def stored_documents(prefix: str, part: tuple[int, int]) -> Iterator[torch.Tensor]:
    """A stretch of a shard's documents, for litdata to store."""
    data = IndexedDataset(prefix)
    for index in range(*part):
        yield torch.from_numpy(data.document(index).copy())


def optimise(prefix: Path, target: Path) -> None:
    """Write a shard's documents as litdata's chunks."""
    from litdata import TokensLoader, optimize

    # Or it leaves folders behind where temporary files lie.
    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(target.with_name("litdata-chunks"))
    os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = str(target.with_name("litdata-data"))
    n_docs = IndexedDataset(prefix).n_docs
    cuts = np.linspace(0, n_docs, 17).astype(int).tolist()
    optimize(
        fn=partial(stored_documents, str(prefix)),
        inputs=list(pairwise(cuts)),
        output_dir=str(target),
        chunk_bytes="64MB",
        num_workers=1,
        item_loader=TokensLoader(),
        verbose=False,
    )


def litdata(folder: Path, seq_len: int, workers: int) -> Iterator[Any]:
    """litdata's own loader over its own dataset, shuffled."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    for chunk in folder.glob("*.bin"):
        chunk.read_bytes()
    data = StreamingDataset(str(folder), item_loader=TokensLoader(block_size=seq_len), shuffle=True)
    return endless(
        StreamingDataLoader(
            data,
            batch_size=BATCH_TOKENS // seq_len,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
        )
    )


def gathered(prefixes: dict[str, Path], seq_len: int) -> Iterator[Any]:
    """What memory allows: the same windows as `torch_plain`, gathered by one call of numpy."""
    warm(prefixes["all"])
    windows = RandomWindows(prefixes["all"].with_name("all.bin"), seq_len)
    view = np.lib.stride_tricks.sliding_window_view(np.asarray(windows.tokens), seq_len + 1)
    rows = BATCH_TOKENS // seq_len
    while True:
        for low in range(0, len(windows) - rows, rows):
            chosen = view[windows.order[low : low + rows] * seq_len]
            yield torch.from_numpy(chosen.astype(np.int64))


def read(batches: Iterator[Any], number: int) -> None:
    """Touch so many batches."""
    for _ in range(number):
        int(next(batches)[0, 0])


def _one_length(
    makers: dict[str, Callable[[], Iterator[Any]]], rounds: int, number: int
) -> dict[str, list[Took]]:
    streams = {name: make() for name, make in makers.items()}
    for name, stream in streams.items():
        # Workers start, and queues fill.
        read(stream, 16)
        shape = tuple(next(stream).shape)
        if not BATCH_TOKENS <= shape[0] * shape[1] <= BATCH_TOKENS + shape[0]:
            raise RuntimeError(f"{name} gives batches of {shape}, not of {BATCH_TOKENS} tokens")
    took = alternate(
        {
            name: partial(timed_tree, partial(read, stream, number))
            for name, stream in streams.items()
        },
        rounds,
    )
    # Worker processes end with their iterators.
    streams.clear()
    gc.collect()
    return took


def bench_load(own: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Tokens a CPU second and a second of each, in turn, and ours over the best peer."""
    prefixes = write_data(folder, own["million_tokens"] * 1_000_000)
    optimise(prefixes["all"], folder / "litdata")
    found = {}
    for seq_len in SEQ_LENS:
        makers: dict[str, Callable[[], Iterator[Any]]] = {
            "ours": partial(ours, prefixes, seq_len, False),
            "ours_isolated": partial(ours, prefixes, seq_len, True),
            "numpy_gather": partial(gathered, prefixes, seq_len),
        }
        for workers in WORKERS:
            makers[f"torch_{workers}_workers"] = partial(torch_plain, prefixes, seq_len, workers)
            makers[f"litdata_{workers}_workers"] = partial(
                litdata, folder / "litdata", seq_len, workers
            )
        took = _one_length(makers, own["alternations"], own["batches"])
        found[f"T={seq_len}"] = _figures(took, own["batches"] * BATCH_TOKENS)
    return {
        **found,
        "batch_tokens": BATCH_TOKENS,
        "batches_a_round": own["batches"],
        "rounds": own["alternations"],
        "dataset_tokens": own["million_tokens"] * 1_000_000,
        "documents": IndexedDataset(prefixes["all"]).n_docs,
    }


def _figures(took: dict[str, list[Took]], tokens: int) -> dict[str, Any]:
    peers = [name for name in took if name.startswith(("torch", "litdata"))]
    rates = {
        kind: {name: [tokens / getattr(one, kind) for one in times] for name, times in took.items()}
        for kind in ("cpu_s", "wall_s")
    }
    over: dict[str, Any] = {}
    for kind, rate in rates.items():
        best = max(peers, key=lambda name: spread(rate[name])["median"])
        over[kind] = {"best_peer": best}
        for name in ("ours", "ours_isolated"):
            pairs = zip(rate[name], rate[best], strict=True)
            over[kind][name] = spread([a / b for a, b in pairs])
    return {
        "million_tokens_a_cpu_s": {
            name: spread([r / 1e6 for r in rate]) for name, rate in rates["cpu_s"].items()
        },
        "million_tokens_a_s": {
            name: spread([r / 1e6 for r in rate]) for name, rate in rates["wall_s"].items()
        },
        "over_best_peer": over,
        "seconds": {name: seconds(times) for name, times in took.items()},
    }
