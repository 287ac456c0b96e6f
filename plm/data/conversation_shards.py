"""Conversations as shards: the tokens of each, and beside them which ones the assistant says.

`<prefix>.{bin,idx}` hold the tokens, `<prefix>.mask.{bin,idx}` a byte for each, whose lowest bit is
set for a target. What the other bits say is up to what is rendered: of conversations nothing.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plm.data import tokenizer as bpe
from plm.data.conversations import BadConversation, Conversation, check
from plm.data.documents import disk_errors, place
from plm.data.indexed import IndexedDataset, IndexedWriter, token_dtype
from plm.data.journal import Journal
from plm.data.pool import ordered, portions
from plm.data.tally import Tally
from plm.data.textstore import Entry, TextStore, read_texts
from plm.errors import DataError

MASK = ".mask"
TARGET = 1
"""The bit of a target."""

_PORTION = 1_000_000


class ChatCoding(NamedTuple):
    """How a conversation becomes tokens, in any process.

    Attributes:
        path: of tokenizer.json.
        template: Jinja.
        end_of_text: the token that ends a document.
        vocab_size: no id reaches it; decides the integer type.
        block_tokens: no conversation is longer.
        too_long: what becomes of one that is: one of recipe.TOO_LONG.
        bad_rows: what becomes of one that cannot be trained on: skip or error.
        template_from: what an error calls the template.
        root: what the conversations' names are relative to, see Origin.
    """

    path: str
    template: str
    end_of_text: str
    vocab_size: int
    block_tokens: int
    too_long: str
    bad_rows: str
    template_from: str
    root: str


class Rendered(NamedTuple):
    """What one document of the shard holds.

    Attributes:
        name: of it.
        ids: [n] int32.
        mask: [n] uint8, see above.
    """

    name: str
    ids: np.ndarray
    mask: np.ndarray


Render = Callable[[str, str, ChatCoding, Tally], list[Rendered]]
"""`(name, text, coding, tally) -> documents`, picklable; none of what the tally counts instead."""


class _Coded(NamedTuple):
    """A portion's documents, those that are left out counted in `tally`."""

    tokens: bytes
    mask: bytes
    lengths: list[int]
    names: list[str]
    entries: int
    tally: dict[str, Any]
    text_bytes: int
    read_bytes: int


def write_conversations(
    store: TextStore,
    entries: list[Entry],
    prefix: Path,
    coding: ChatCoding,
    executor: Executor,
    ahead: int,
    told: Callable[[int], None],
) -> tuple[dict[str, int], Tally]:
    """Render conversations and write them as one dataset, with targets and names beside it.

    Args:
        store, entries, prefix, coding, executor, ahead, told: as for `write_rendered`.
    Returns:
        documents, tokens, targets, and bytes of text; and what was left out or cut.
    Raises:
        DataError, ConfigError: as `write_rendered`.
    """
    where = store, entries, prefix, coding, executor, ahead, told
    counts, tally = write_rendered(*where, _conversation)
    return {key: count for key, count in counts.items() if key != "entries"}, tally


def write_rendered(
    store: TextStore,
    entries: list[Entry],
    prefix: Path,
    coding: ChatCoding,
    executor: Executor,
    ahead: int,
    told: Callable[[int], None],
    render: Render,
) -> tuple[dict[str, int], Tally]:
    """Render entries and write them as one dataset, with the mask and names beside it.

    What an earlier try has written is gone on with, or left as it is where it is whole.

    Args:
        store: of the source.
        entries: in the shard's order.
        prefix: of the dataset; names go to `<prefix>.names`.
        coding: of them.
        executor, ahead: of `pool`.
        told: called with the bytes of JSON done since the last call.
        render: what an entry becomes.
    Returns:
        documents, entries that became some, tokens, targets, and bytes of text; and what was left
        out or cut.
    Raises:
        DataError: an entry that cannot be used, where the settings say so.
        ConfigError: the template shows no targets.
    """
    dtype = token_dtype(coding.vocab_size)
    journal = Journal(prefix.with_name(prefix.name + ".rows.journal"))
    if _is_whole(prefix, journal):
        told(sum(entry.length for entry in entries))
    else:
        form = coding, dtype, render
        _write(store, entries, prefix, form, (executor, ahead), told, journal)
    journal.close()
    tally = Tally()
    counts = {"documents": 0, "entries": 0, "tokens": 0, "targets": 0, "bytes": 0}
    for record in journal.records:
        tally.add(Tally.of(record["tally"]))
        for key in ("entries", "tokens", "targets", "bytes"):
            counts[key] += record[key]
        counts["documents"] += len(record["names"])
    return counts, tally


def _is_whole(prefix: Path, journal: Journal) -> bool:
    """Whether an earlier try wrote everything, and what it noted is all there."""
    if not prefix.with_name(prefix.name + ".idx").exists():
        return False
    noted = sum(record["tokens"] for record in journal.records)
    return noted == IndexedDataset(prefix).n_tokens


def _write(
    store: TextStore,
    entries: list[Entry],
    prefix: Path,
    form: tuple[ChatCoding, np.dtype, Render],
    shared: tuple[Executor, int],
    told: Callable[[int], None],
    journal: Journal,
) -> None:
    coding, dtype, render = form
    parts = portions(entries, lambda entry: entry.length, _PORTION)
    mask_prefix = prefix.with_name(prefix.name + MASK)
    with (
        IndexedWriter(prefix, dtype, keep=True) as tokens,
        IndexedWriter(mask_prefix, np.dtype(np.uint8), keep=True) as mask,
    ):
        # A kill may have come between the three: a portion that one lacks is made again, and gives
        # what the others have of it.
        done = min(tokens.parts, mask.parts, len(journal.records))
        for portion in islice(parts, done):
            told(sum(entry.length for entry in portion))
        tasks = ((store.path, portion, coding, dtype.str, render) for portion in parts)
        for number, coded in enumerate(ordered(*shared, _encode, tasks), start=done):
            marks = np.frombuffer(coded.mask, np.uint8)
            if number >= len(journal.records):
                journal.add(
                    {
                        "names": coded.names,
                        "entries": coded.entries,
                        "tokens": len(marks),
                        "targets": int((marks & TARGET).sum()),
                        "bytes": coded.text_bytes,
                        "tally": coded.tally,
                    }
                )
            if number >= mask.parts:
                mask.add(marks, coded.lengths)
            if number >= tokens.parts:
                tokens.add(np.frombuffer(coded.tokens, dtype), coded.lengths)
            told(coded.read_bytes)
        names = prefix.with_name(prefix.name + ".names")
        # Before the index, which says that all is there.
        with disk_errors(names), open(names, "wb") as file:
            for record in journal.records:
                file.writelines(f"{name}\n".encode() for name in record["names"])


def _encode(task: tuple) -> _Coded:
    path, entries, coding, dtype, render = task
    tally = Tally()
    found = [
        render(entry.name, text, coding, tally)
        for entry, text in zip(entries, read_texts(path, entries), strict=True)
    ]
    kept = [document for of_entry in found for document in of_entry]
    ids = np.concatenate([np.empty(0, np.int32), *(document.ids for document in kept)])
    mask = np.concatenate([np.empty(0, np.uint8), *(document.mask for document in kept)])
    return _Coded(
        ids.astype(dtype).tobytes(),
        mask.astype(np.uint8).tobytes(),
        [len(document.ids) for document in kept],
        [document.name for document in kept],
        sum(bool(of_entry) for of_entry in found),
        tally.plain(),
        int(_chat(coding, os.stat(coding.path).st_mtime_ns)[1][ids].sum()),
        sum(entry.length for entry in entries),
    )


def encode(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    given: int,
    coding: ChatCoding,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and targets of a conversation.

    Args:
        messages, tools: of it.
        given: so many messages at the beginning hold no target.
        coding: of it.
        name: of the document, for an error.
    Returns:
        ids [n] int32, mask [n] bool.
    Raises:
        BadConversation: it cannot be rendered, or reads like what the template itself writes.
        DataError: an id is past vocab_size.
    """
    chat, _ = _chat(coding, os.stat(coding.path).st_mtime_ns)
    ids, mask = chat.encode(messages, tools=tools)
    if given:
        mask[: len(chat.prompt(messages[:given], tools=tools))] = False
    _check_ids(ids, coding, name)
    return ids, mask


def left_out(
    error: BadConversation, name: str, text: str, coding: ChatCoding, tally: Tally
) -> list[Rendered]:
    """No document, and the reason counted.

    Raises:
        DataError: the settings say that bad rows are errors.
    """
    if coding.bad_rows == "error":
        raise DataError(f"{place(name, coding.root)}: {error}") from error
    tally.drop(error.reason, name, text, why=str(error))
    return []


def too_long(
    length: int, name: str, text: str, coding: ChatCoding, tally: Tally, ways_out: str
) -> list[Rendered]:
    """No document, and its length counted.

    Raises:
        DataError: the settings say that this is an error.
    """
    said = f"{length} tokens, block_tokens={coding.block_tokens}"
    if coding.too_long == "error":
        raise DataError(
            f"{place(name, coding.root)}: too long: {said}; use a larger data.block_tokens, or "
            f"data.too_long={ways_out}"
        )
    tally.drop("longer than block_tokens", name, text, why=said)
    return []


def _conversation(name: str, text: str, coding: ChatCoding, tally: Tally) -> list[Rendered]:
    try:
        talk = Conversation.from_text(text)
        check(talk.messages)
        ids, mask = encode(talk.messages, talk.tools, talk.given, coding, name)
    except BadConversation as error:
        return left_out(error, name, text, coding, tally)
    if len(ids) > coding.block_tokens:
        if coding.too_long != "cut":
            return too_long(len(ids), name, text, coding, tally, "skip (or cut)")
        said = f"{len(ids)} tokens, block_tokens={coding.block_tokens}"
        ids, mask = ids[: coding.block_tokens], mask[: coding.block_tokens]
        if mask[1:].any():
            tally.change("cut to block_tokens", name, f"{said}; {text}")
    # A first token is predicted from nothing, so that it is no target.
    if not mask[1:].any():
        tally.drop("no target", name, text)
        return []
    return [Rendered(name, ids, mask.astype(np.uint8))]


def _check_ids(ids: np.ndarray, coding: ChatCoding, name: str) -> None:
    if len(ids) and int(ids.max()) >= coding.vocab_size:
        raise DataError(
            f"{place(name, coding.root)}: the text has token {int(ids.max())}, but vocab_size="
            f"{coding.vocab_size}; set vocab_size to the tokenizer's size or more"
        )


@lru_cache(maxsize=2)
def _chat(coding: ChatCoding, modified: int) -> tuple[Any, np.ndarray]:
    """The Chat, and the bytes of text that each id stands for."""
    # It takes transformers in, which only conversations need.
    from plm.formats.chat import Chat

    tokenizer = bpe.load(coding.path)
    chat = Chat(
        tokenizer,
        coding.template,
        end_of_text=coding.end_of_text,
        where=coding.template_from,
    )
    return chat, bpe.token_bytes(tokenizer, coding.vocab_size)


def check_template(coding: ChatCoding) -> None:
    """Raise ConfigError where the template cannot be trained with; looked at once, beforehand."""
    _chat(coding, os.stat(coding.path).st_mtime_ns)[0].check_masks()
