"""A prepared recipe on disk: shards, tokenizer, manifest."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from plm.data.conversation_shards import MASK
from plm.data.indexed import IndexedDataset
from plm.data.packing import PackedStream
from plm.data.pair_stream import PairStream
from plm.errors import DataError

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
TOKEN_BYTES = "token_bytes.npy"
SPLITS = ("train", "val")


class Prepared:
    """Opens a folder that `prepare` made.

    Attributes:
        folder: where everything lies.
        manifest: see manifest.json.
        fingerprint: sha256, hex, over the shards and the tokenizer.
        vocab_size: rows that a model needs: what was asked for, the tokenizer's own size at least.
        block_tokens: length of the blocks that the order of data permutes.
        tokenizer_path: tokenizer.json.
        end_of_text: the token that ends a document.
        sources: by name, "train" and "val".
        streams: by name, what training reads: the train split, or its packed windows.
        held_out: by name, what evaluation reads: the val split, or its packed windows.
        packed: names of the sources with packed windows.
        conversations: names of the sources with conversations or pairs, whose streams mark as
            filled, too, what the assistant does not say.
        pairs: names of those with pairs.
        refinement: text of the template that shows an answer; None: none is shown.
        shown: what pairs' prompts show, of plm.data.pairs.SHOWN; None: there are none.
        chat_template: Jinja that these were rendered with; None: there are none.
        token_bytes: [vocab_size] int32, bytes of text an id stands for; 0 for special and unused.

    Raises:
        DataError: a file is missing, or is not what the manifest says. Content is looked at where a
            file is younger than the manifest; sizes always.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        file = self.folder / MANIFEST
        if not file.is_file():
            raise DataError(f"{self.folder}: no {MANIFEST}; this is not a prepared recipe")
        try:
            self.manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(
                f"{file}: damaged ({error}); delete the folder and run again"
            ) from error
        self._check_files()
        self.fingerprint: str = self.manifest["fingerprint"]
        self.vocab_size: int = self.manifest["vocab_size"]
        self.block_tokens: int = self.manifest["block_tokens"]
        self.tokenizer_path = self.folder / TOKENIZER
        self.end_of_text: str = self.manifest["end_of_text"]
        self.sources = {
            source: {
                split: IndexedDataset(self.prefix(source, split), about[split].get("range"))
                for split in SPLITS
            }
            for source, about in self.manifest["sources"].items()
        }
        self.packed = [n for n, s in self.manifest["sources"].items() if s.get("packing")]
        self.chat_template: str | None = self.manifest.get("chat_template")
        self.conversations = [
            n for n, s in self.manifest["sources"].items() if s.get("val_packing")
        ]
        self.pairs = [n for n, s in self.manifest["sources"].items() if s.get("pairs")]
        self.refinement: str | None = self.manifest.get("refinement")
        self.shown: list[str] | None = self.manifest.get("shown")
        self.streams = {name: self._stream(name, "train") for name in self.sources}
        self.held_out = {name: self._stream(name, "val") for name in self.sources}
        self.token_bytes = np.load(self.folder / TOKEN_BYTES)

    def _stream(self, name: str, split: str) -> IndexedDataset | PackedStream:
        data, talks = self.sources[name][split], name in self.conversations
        if not talks and (split == "val" or name not in self.packed):
            return data
        targets = None
        if talks:
            prefix = self.prefix(name, split)
            targets = IndexedDataset(prefix.with_name(prefix.name + MASK))
            if name in self.pairs:
                return PairStream(data, self.block_tokens, targets)
        return PackedStream(data, self.block_tokens, targets)

    def _check_files(self) -> None:
        written = (self.folder / MANIFEST).stat().st_mtime
        for name, file in self.manifest["files"].items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != file["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes"
                raise DataError(
                    f"{path}: {found}, the manifest says {file['bytes']}; delete the folder "
                    f"{self.folder} and run again"
                )
            if path.stat().st_mtime > written and digest_of(path) != file["sha256"]:
                raise DataError(
                    f"{path}: changed after it was prepared; delete the folder {self.folder} and "
                    "run again"
                )

    def prefix(self, source: str, split: str) -> Path:
        """Path of a dataset without its suffix."""
        return self.folder / f"{source}-{split}"

    def document_name(self, source: str, split: str, index: int) -> str:
        """Name of document `index` of a shard; a number where the shard came without names."""
        names = _names(self.prefix(source, split))
        return (
            names[index] if names else f"document {self.sources[source][split].first_doc + index}"
        )

    @property
    def comparable(self) -> bool:
        """Whether figures on this text compare with those on the recipe's own versions."""
        return self.manifest["comparable"]


def digest_of(path: Path) -> str:
    """sha256 of a file, hex."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            total.update(data)
    return total.hexdigest()


@lru_cache(maxsize=8)
def _names(prefix: Path) -> list[str]:
    path = prefix.with_name(prefix.name + ".names")
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
