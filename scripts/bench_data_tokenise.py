"""Text to shards of tokens: our preparation's encoding, datasets.map, datatrove's tokeniser.

All read the same file of documents with the same tokenizer.json, end each document with the same
token, and write what they make: we a Megatron dataset, datasets an Arrow file of uint16 lists,
datatrove its own tokens and index.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from plm.data import tokenizer as bpe
from plm.data.documents import Document
from plm.data.encode import Coding, write_shard
from plm.data.indexed import IndexedDataset
from plm.data.pool import pool
from plm.data.textstore import Entry, TextStore, read_texts
from scripts.bench_common import alternate, ratio, seconds, spread
from scripts.bench_data_text import installed
from scripts.bench_data_tree import timed_tree

SPECIAL = [bpe.END_OF_TEXT, "<|im_start|>", "<|im_end|>"]
SAMPLE_CHARS = 4_000_000
MAP_BATCH = 1000
PEERS = ("datasets", "datatrove")


class Contest:
    """The documents, the tokenizer, and a new folder for each run.

    Args:
        folder: for everything.
        n_chars: of text, about.
        vocab_size: of the tokenizer that is trained on its beginning.
    """

    def __init__(self, folder: Path, n_chars: int, vocab_size: int) -> None:
        self.folder, self.vocab_size = folder, vocab_size
        texts = installed(n_chars)
        self.store = TextStore(folder / "text")
        self.store.fill((Document(t, str(i), str(i)) for i, t in enumerate(texts)), lambda: {})
        sample = bpe.cut(texts, SAMPLE_CHARS)
        trained = bpe.train(sample, vocab_size=vocab_size, special_tokens=SPECIAL)
        self.trained = folder / "trained.json"
        bpe.save(trained, self.trained)
        self.arrow = folder / "arrow"
        write_arrow(texts, self.arrow)
        self.facts = {
            "documents": len(texts),
            "bytes": self.store.n_bytes,
            "ascii_documents": sum(text.isascii() for text in texts),
            "with_special_tokens_text": sum(any(s in text for s in SPECIAL) for text in texts),
            "vocab_size": trained.get_vocab_size(with_added_tokens=True),
        }
        self._numbers = count()

    def fresh(self) -> tuple[Path, Path]:
        """An empty folder, and in it a tokenizer.json that no cache knows."""
        folder = self.folder / f"run{next(self._numbers)}"
        folder.mkdir()
        return folder, Path(shutil.copy(self.trained, folder / "tokenizer.json"))


def write_arrow(texts: list[str], target: Path) -> None:
    """The documents as `datasets` keeps them on disk."""
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(target))


def ours(contest: Contest, workers: int) -> Callable[[], list[np.ndarray]]:
    """`write_shard`, as the preparation calls it; a call that gives the documents' ids."""
    folder, tokenizer = contest.fresh()
    with pool(workers) as (executor, ahead):
        write_shard(
            contest.store,
            contest.store.entries,
            folder / "shard",
            Coding.of(tokenizer, bpe.END_OF_TEXT, contest.vocab_size),
            executor,
            ahead,
            lambda n_bytes: None,
        )

    def ids() -> list[np.ndarray]:
        data = IndexedDataset(folder / "shard")
        return [data.document(i) for i in range(data.n_docs)]

    return ids


class MapFunction:
    """What is given to `datasets.map`: the tokenizer's fast call on a batch of rows.

    Args:
        path: tokenizer.json; loaded in the process that uses it, once.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.loaded = path, None

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        if self.loaded is None:
            self.loaded = bpe.load(self.path)
            self.loaded.encode_special_tokens = True
            self.end = self.loaded.token_to_id(bpe.END_OF_TEXT)
        encoded = self.loaded.encode_batch_fast(rows["text"], add_special_tokens=False)
        return {"ids": [np.array([*one.ids, self.end], dtype=np.uint16) for one in encoded]}


def datasets_map(contest: Contest, workers: int) -> Callable[[], list[np.ndarray]]:
    """`map(batched=True)` over the rows on disk, written to an Arrow file without a cache."""
    import datasets

    datasets.disable_progress_bars()
    folder, tokenizer = contest.fresh()
    made = datasets.load_from_disk(str(contest.arrow)).map(
        MapFunction(tokenizer),
        batched=True,
        batch_size=MAP_BATCH,
        num_proc=None if workers == 1 else workers,
        remove_columns=["text"],
        features=datasets.Features({"ids": datasets.List(datasets.Value("uint16"))}),
        cache_file_name=str(folder / "ids.arrow"),
        load_from_cache_file=False,
        new_fingerprint=folder.name,
    )
    return lambda: [np.asarray(row) for row in made.with_format("numpy")["ids"]]


class StoreReader:
    """First step of a datatrove pipeline: every `world_size`-th document of a text store.

    Args:
        path: of the store.
        entries: its documents.
    """

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        self.path, self.entries = path, entries

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        from datatrove.data import Document as Row

        mine = self.entries[rank::world_size]
        for entry, text in zip(mine, read_texts(self.path, mine), strict=True):
            yield Row(text=text, id=entry.name)


def datatrove(contest: Contest, workers: int) -> Callable[[], list[np.ndarray]]:
    """DocumentTokenizer without its shuffle, as many tasks as workers."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.tokens import DocumentTokenizer

    folder, tokenizer = contest.fresh()
    LocalPipelineExecutor(
        pipeline=[
            StoreReader(contest.store.path, contest.store.entries),
            DocumentTokenizer(
                output_folder=str(folder / "tokens"),
                tokenizer_name_or_path=str(tokenizer),
                eos_token=bpe.END_OF_TEXT,
                shuffle_documents=False,
            ),
        ],
        tasks=workers,
        workers=workers,
        logging_dir=str(folder / "logs"),
        start_method="spawn",
    ).run()

    def ids() -> list[np.ndarray]:
        parts = [part_of_datatrove(path) for path in sorted((folder / "tokens").glob("*.ds"))]
        found: list[np.ndarray] = []
        for i in range(len(contest.store.entries)):
            found.append(parts[i % workers][i // workers])
        return found

    return ids


def part_of_datatrove(path: Path) -> list[np.ndarray]:
    """The documents of one of datatrove's files."""
    tokens = np.fromfile(path, dtype=np.uint16)
    ends = np.fromfile(path.with_name(path.name + ".index"), dtype=np.uint64).astype(np.int64)
    return np.split(tokens, ends[:-1])


def differing(ours_: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, Any]:
    """How many documents differ, and where the first one does."""
    if len(ours_) != len(theirs):
        return {"documents_of_ours": len(ours_), "documents_of_theirs": len(theirs)}
    pairs = enumerate(zip(ours_, theirs, strict=True))
    unequal = [(i, a, b) for i, (a, b) in pairs if not np.array_equal(a, b)]
    found: dict[str, Any] = {"documents": len(unequal)}
    if unequal:
        i, a, b = unequal[0]
        size = min(len(a), len(b))
        place = next(iter(np.flatnonzero(a[:size] != b[:size]).tolist()), size)
        around = slice(max(0, place - 3), place + 5)
        found["first"] = {"document": i, "token": place}
        found["first"] |= {"ours": a[around].tolist(), "theirs": b[around].tolist()}
    return found


def bench_tokenise(own: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Bytes a CPU second of each and ours over the peers, in one process and in several."""
    # One thread a process, for all: the processes are the parallelism that is compared.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from datatrove.utils.logging import logger

    logger.remove()
    logging.getLogger("datasets").setLevel(logging.ERROR)
    contest = Contest(folder, own["text_megabytes"] * 1_000_000, own["vocab_size"])
    runs = {"ours": ours, "datasets": datasets_map, "datatrove": datatrove}
    found: dict[str, Any] = {"text": contest.facts}
    for workers in (1, own["workers"]):
        # The first run of each warms the page cache and gives the ids.
        ids = {name: run(contest, workers)() for name, run in runs.items()}
        differences = {name: differing(ids["ours"], ids[name]) for name in PEERS}
        took = alternate(
            {
                name: partial(timed_tree, partial(run, contest, workers))
                for name, run in runs.items()
            },
            own["alternations"],
        )
        size = contest.facts["bytes"]
        found[f"workers={workers}"] = {
            "tokens": sum(map(len, ids["ours"])),
            "ids_differ_from_ours": differences,
            "megabytes_a_cpu_s": {
                name: spread([size / one.cpu_s / 1e6 for one in times])
                for name, times in took.items()
            },
            "ours_over": {name: ratio(took[name], took["ours"]) for name in PEERS},
            "seconds": {name: seconds(times) for name, times in took.items()},
        }
    return found
