"""One preparation, from start to end, into an empty folder."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from plm.config import build
from plm.data import adopt, encode, split
from plm.data import tokenizer as bpe
from plm.data.clean import clean
from plm.data.conversation_shards import ChatCoding, check_template, write_conversations
from plm.data.documents import Origin
from plm.data.indexed import IndexedDataset
from plm.data.manifest import (
    PASSING,
    differences,
    dropped,
    nothing_left,
    told_of_source,
    told_of_templates,
    write_manifest,
)
from plm.data.packing import write_packing
from plm.data.pair_shards import write_pairs
from plm.data.pool import pool
from plm.data.prepared import MANIFEST, SPLITS, TOKEN_BYTES, TOKENIZER
from plm.data.recipe import PATH_MARK, Recipe
from plm.data.shards import take_shards
from plm.data.tally import Tallies, Tally
from plm.data.textstore import Entry, TextStore
from plm.errors import ConfigError, DataError

Progress = Callable[[str, int, int | None], None]
"""`(what, done, total or None)`."""


class Job:
    """One preparation: its settings, and the time that each part took."""

    def __init__(
        self,
        recipe: Recipe,
        key: dict[str, Any],
        folder: Path,
        vocab_size: int,
        block_tokens: int,
        seed: int,
        path: str | None,
    ) -> None:
        self.recipe, self.key, self.folder = recipe, key, folder
        self.vocab_size, self.block_tokens, self.seed = vocab_size, block_tokens, seed
        self.origins: dict[str, Origin] = {
            name: build(_fill(source.origin, path))
            for name, source in recipe.sources.items()
            if source.origin
        }
        self.seconds: dict[str, float] = {}
        self._check_early()

    def _check_early(self) -> None:
        """What would otherwise be found after hours of reading."""
        for name, source in self.recipe.sources.items():
            for prefix in source.shards.values():
                IndexedDataset(prefix)
            self._check_rendered(name)
        told_of_templates(self.recipe, self.origins)
        if not self.recipe.tokenizer.adopted:
            bpe.check_size(self.vocab_size, self.recipe.tokenizer.special_tokens)
            weights = {n: s.tokenizer_weight for n, s in self.recipe.sources.items() if s.origin}
            bpe.sample(dict.fromkeys(weights, 1), weights, 1)

    def _check_rendered(self, name: str) -> None:
        source = self.recipe.sources[name]
        facts = self.origins[name].facts if name in self.origins else {}
        read_as_text = any(str(s["_target_"]).endswith(".chat") for s in source.steps)
        if facts.get("conversations") and not (source.conversations or read_as_text):
            raise ConfigError(
                f"sources.{name}: its origin gives conversations; say `conversations: true` to "
                "train on the assistant's words, or add the step chat to read them as text"
            )
        if facts.get("pairs") and not source.pairs:
            raise ConfigError(
                f"sources.{name}: its origin gives pairs; say `pairs: true`, or take "
                "plm.data.sources.pairs.refinements to train on the better answers alone"
            )

    @contextmanager
    def part(self, name: str, told: Progress) -> Iterator[None]:
        """Time a part."""
        told(name, 0, None)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)

    def run(self, workers: int, told: Progress) -> None:
        """Everything, into the folder; what an earlier try has left there is gone on with."""
        if not (self.folder / MANIFEST).is_file():
            self._make(workers, told)
        for file in self.folder.iterdir():
            if file.suffix in PASSING:
                file.unlink()

    def _make(self, workers: int, told: Progress) -> None:
        steps = {
            name: [build({**step, "_partial_": True}) for step in self.recipe.sources[name].steps]
            for name in self.origins
        }
        with pool(workers) as (executor, ahead):
            if self.recipe.tokenizer.adopted and not (self.folder / TOKENIZER).is_file():
                # First: what is wrong with it is to be said before hours of reading.
                arguments = self.recipe.tokenizer, self.folder / TOKENIZER, self.vocab_size
                executor.submit(adopt.adopt, *arguments).result()
            self._check_template(executor)
            with self.part("reading and cleaning", told):
                stores = clean(self.origins, steps, self.folder, executor, ahead, told)
            tallies = {name: store.tallies for name, store in stores.items()}
            for name, store in stores.items():
                if not store.entries:
                    raise DataError(nothing_left(name, self.origins[name], tallies[name]))
            with self.part("splitting", told):
                entries, leak = self._split(stores, tallies)
            # There already: adopted, or trained by an earlier try.
            if not (self.folder / TOKENIZER).is_file():
                with self.part("training the tokenizer", told):
                    self._tokenizer(stores, entries, executor)
            with self.part("encoding", told):
                self._check_template(executor)
                counts = self._encode(stores, entries, tallies, executor, ahead, told)
        about = {
            name: {
                **told_of_source(
                    entries[name]["val"], leak[name], tallies[name], len(stores[name].entries)
                ),
                **self.origins[name].facts,
            }
            for name in stores
        }
        with self.part("hashing", told):
            self._finish(counts, about)

    def _finish(
        self, counts: dict[str, dict[str, dict[str, int]]], about: dict[str, dict[str, Any]]
    ) -> None:
        """Shards of others, packed windows, and last the manifest."""
        tokenizer = bpe.load(self.folder / TOKENIZER)
        token_bytes = bpe.token_bytes(tokenizer, self.vocab_size)
        np.save(self.folder / TOKEN_BYTES, token_bytes)
        sources = {}
        for name, source in self.recipe.sources.items():
            if source.shards:
                share = source.split.val_share
                counts[name] = take_shards(source.shards, self.folder / name, share, token_bytes)
                for part in SPLITS:
                    self._check_size(name, part, counts[name][part]["tokens"])
                about[name] = {"shards": source.shards, **told_of_source([], split.Leak(0, 0), {})}
            sources[name] = {
                **counts[name],
                "licence": source.licence,
                "revision": source.revision,
                **about[name],
            }
            if source.pairs:
                sources[name]["pairs"] = True
            if source.pack or source.rendered:
                documents = counts[name]["train"].get("range")
                prefix = self.folder / f"{name}-train"
                sources[name]["packing"] = write_packing(prefix, self.block_tokens, documents)
            if source.rendered:
                prefix = self.folder / f"{name}-val"
                sources[name]["val_packing"] = write_packing(prefix, self.block_tokens)
                self._check_windows(name, sources[name])
        write_manifest(
            self.folder,
            {
                "recipe": self.recipe.name,
                "not_comparable_because": differences(self.recipe, self.key, self.origins),
                "vocab_size": max(self.vocab_size, bpe.size(tokenizer)),
                "tokenizer_size": bpe.size(tokenizer),
                "end_of_text": bpe.end_of_text(self.recipe.tokenizer, tokenizer),
                "block_tokens": self.block_tokens,
                "seed": self.seed,
                **told_of_templates(self.recipe, self.origins),
                "sources": sources,
                "seconds": self.seconds,
                "key": self.key,
            },
        )

    def _check_windows(self, name: str, about: dict[str, Any]) -> None:
        what = "parts of pairs" if self.recipe.sources[name].pairs else "conversations"
        for part, key, least in (("train", "packing", 2), ("val", "val_packing", 1)):
            if (windows := about[key]["windows"]) < least:
                self._check_length(name, what, about)
                raise DataError(
                    f"source {name} is too small: {about[part]['documents']} {what} in {part} fill"
                    f" {windows} windows of block_tokens={self.block_tokens}, it needs "
                    f"{least}; give it more, a larger split.val_share, or another block_tokens "
                    "(a smaller one makes more windows, a larger one leaves fewer out)"
                    + dropped(about["steps"], self._root(name))
                )

    def _check_length(self, name: str, what: str, about: dict[str, Any]) -> None:
        """Say where there is nothing because all of it is too long."""
        tallies = about["steps"].values()
        long = sum(tally["dropped"].get("longer than block_tokens", 0) for tally in tallies)
        if long and not about["train"]["documents"] and not about["val"]["documents"]:
            raise DataError(
                f"source {name}: all {long:,} {what} that there are left are longer than a window "
                f"of {self.block_tokens} tokens; take longer ones (data.block_tokens, which "
                "scale.sft.seq_len and its like set)" + dropped(about["steps"], self._root(name))
            )

    def _check_size(self, name: str, part: str, tokens: int) -> None:
        # A window ends with the label of its last token.
        least = self.block_tokens * (2 if part == "train" else 1) + 1
        if tokens < least:
            raise DataError(
                f"source {name} is too small: {tokens} tokens in {part}, block_tokens="
                f"{self.block_tokens} needs {least}; give it more text or use a smaller "
                "block_tokens (the sequence length)"
            )

    def _split(
        self, stores: dict[str, TextStore], tallies: dict[str, Tallies]
    ) -> tuple[dict[str, dict[str, list[Entry]]], dict[str, split.Leak]]:
        settings = {name: source.split for name, source in self.recipe.sources.items()}
        by_group = {
            name: store
            for name, store in stores.items()
            # A conversation or pair is never cut in two.
            if self.recipe.sources[name].rendered or split.resolve(settings[name], store) == "group"
        }
        held: set[str] = set()
        if by_group:
            for name, store in by_group.items():
                split.check_groups(name, store.entries, self._root(name), self._kind(name))
            sizes = {name: split.group_sizes(store.entries) for name, store in by_group.items()}
            goals = {name: settings[name].val_share for name in by_group}
            held = split.validation_groups(sizes, goals, self.seed)
        train: dict[str, list[Entry]] = {}
        val: dict[str, list[Entry]] = {}
        for name, store in stores.items():
            if name in by_group:
                train[name] = [entry for entry in store.entries if entry.group not in held]
                val[name] = [entry for entry in store.entries if entry.group in held]
            else:
                train[name], val[name] = split.split_pieces(store, settings[name].val_share)
        leak = {}
        for name, of_documents in split.leaks(stores, train, val).items():
            most = settings[name].max_leak
            kept = [i for i, found in enumerate(of_documents) if found.share <= most]
            if len(kept) < len(of_documents):
                tallies[name]["split"] = tally = Tally()
                for i in sorted(set(range(len(of_documents))) - set(kept)):
                    (text,) = stores[name].texts([val[name][i]])
                    tally.drop("validation stands in train", val[name][i].name, text)
            val[name] = [val[name][i] for i in kept]
            leak[name] = split.Leak(
                sum(of_documents[i].lines for i in kept), sum(of_documents[i].found for i in kept)
            )
        parts = {"train": train, "val": val}
        entries = {
            name: {
                part: encode.shuffled(parts[part][name], self.seed, f"{name}/{part}")
                for part in SPLITS
            }
            for name in stores
        }
        return entries, leak

    def _tokenizer(
        self,
        stores: dict[str, TextStore],
        entries: dict[str, dict[str, list[Entry]]],
        executor: Executor,
    ) -> None:
        executor.submit(
            encode.train_tokenizer,
            self._samples(stores, entries),
            self.vocab_size,
            self.recipe.tokenizer.special_tokens,
            self.recipe.tokenizer.pre_tokenizer,
            self.folder / TOKENIZER,
        ).result()

    def _samples(
        self, stores: dict[str, TextStore], entries: dict[str, dict[str, list[Entry]]]
    ) -> list[tuple[Path, list[Entry], int, str]]:
        sizes = {n: sum(e.length for e in parts["train"]) for n, parts in entries.items()}
        weights = {n: source.tokenizer_weight for n, source in self.recipe.sources.items()}
        budgets = bpe.sample(sizes, weights, self.recipe.tokenizer.sample_bytes)
        samples = []
        for name, store in stores.items():
            chosen, left = [], budgets[name]
            for entry in entries[name]["train"]:
                if left <= 0:
                    break
                chosen.append(entry)
                left -= entry.length
            samples.append((store.path, chosen, budgets[name], self._kind(name)))
        return samples

    def _encode(
        self,
        stores: dict[str, TextStore],
        entries: dict[str, dict[str, list[Entry]]],
        tallies: dict[str, Tallies],
        executor: Executor,
        ahead: int,
        told: Progress,
    ) -> dict[str, dict[str, dict[str, int]]]:
        path = self.folder / TOKENIZER
        end_of_text = bpe.end_of_text(self.recipe.tokenizer, bpe.load(path))
        coding = encode.Coding.of(path, end_of_text, self.vocab_size)
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for name, store in stores.items():
            total = sum(e.length for part in entries[name].values() for e in part)
            add = _Adder(told, f"encoding {name}", total)
            counts[name] = {}
            for part in SPLITS:
                where = entries[name][part], self.folder / f"{name}-{part}"
                if self.recipe.sources[name].rendered:
                    chat = self._chat_coding(name, end_of_text)
                    write = self._write_rendered(name)
                    counts[name][part], tally = write(store, *where, chat, executor, ahead, add)
                    tallies[name].setdefault("encoding", Tally()).add(tally)
                    continue
                counts[name][part] = encode.write_shard(store, *where, coding, executor, ahead, add)
                self._check_size(name, part, counts[name][part]["tokens"])
        return counts

    def _write_rendered(self, name: str) -> Callable[..., tuple[dict[str, int], Tally]]:
        if not self.recipe.sources[name].pairs:
            return write_conversations
        text = self.recipe.refinement_text
        return partial(write_pairs, shown=self.recipe.shown, template=text)

    def _kind(self, name: str) -> str:
        """What the documents of a source are."""
        source = self.recipe.sources[name]
        return "pair" if source.pairs else "conversation" if source.conversations else "document"

    def _chat_coding(self, name: str, end_of_text: str) -> ChatCoding:
        source = self.recipe.sources[name]
        return ChatCoding(
            str(self.folder / TOKENIZER),
            str(self.recipe.template),
            end_of_text,
            self.vocab_size,
            self.block_tokens,
            source.too_long,
            source.bad_rows,
            self.recipe.template_from,
            self._root(name),
        )

    def _root(self, name: str) -> str:
        return self.origins[name].root if name in self.origins else ""

    def _check_template(self, executor: Executor) -> None:
        """Before hours of reading, where the tokenizer is there already."""
        path = self.folder / TOKENIZER
        names = [name for name, source in self.recipe.sources.items() if source.rendered]
        if names and path.is_file():
            end = bpe.end_of_text(self.recipe.tokenizer, bpe.load(path))
            executor.submit(check_template, self._chat_coding(names[0], end)).result()


class _Adder:
    """Adds up what was done and tells it."""

    def __init__(self, told: Progress, what: str, total: int) -> None:
        self.told, self.what, self.total, self.done = told, what, total, 0

    def __call__(self, more: int) -> None:
        self.done += more
        self.told(self.what, self.done, self.total)


def _fill(node: Any, path: str | None) -> Any:
    """The node with the path that the user gave in the place of its mark."""
    if isinstance(node, dict):
        return {name: _fill(value, path) for name, value in node.items()}
    return path if node == PATH_MARK else node
