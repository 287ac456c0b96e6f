"""How well a tokenizer fits its text: compression, tokens a word, tokens that are never used."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from plm.data import tokenizer as bpe
from plm.data.indexed import IndexedDataset
from plm.data.prepared import Prepared
from plm.report.format import human_share, human_tokens
from plm.report.tables import definitions, table

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE_BYTES = 2_000_000
"""Text of a source that is measured: documents spread over its shard, this much at most."""

_WORD = re.compile(r"[^\W\d_]+")
_CHUNK = 1_000_000
_CHUNKS = 200
_LONGEST = 24
_RARE = 10
_RUN = re.compile(r"(.)\1{5,}")
_VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"})


class Measure(NamedTuple):
    """What a tokenizer makes of a text.

    Attributes:
        documents, n_bytes, tokens: of the text; the tokens that end documents are not counted.
        words: runs of letters.
        word_tokens: tokens of the words, each encoded after a space.
        whole_words: words that are one token.
    """

    documents: int
    n_bytes: int
    tokens: int
    words: int
    word_tokens: int
    whole_words: int

    @property
    def compression(self) -> float:
        """Bytes a token."""
        return self.n_bytes / max(1, self.tokens)

    @property
    def fertility(self) -> float:
        """Tokens a word."""
        return self.word_tokens / max(1, self.words)

    @property
    def whole(self) -> float:
        """Share of the words that are one token."""
        return self.whole_words / max(1, self.words)


def measure(encoder: bpe.Encoder, texts: Iterable[str]) -> Measure:
    """Encode texts, and their words by themselves.

    Fertility as in Rust et al., How good is your tokenizer? (arXiv:2012.15613), but a word is a run
    of letters here, in any language; each is encoded after a space, as most stand in a text.
    """
    documents = n_bytes = tokens = 0
    words: Counter[str] = Counter()
    with _one_thread():
        for text in texts:
            documents += 1
            n_bytes += len(text.encode())
            tokens += len(encoder.encode_batch([text])[0])
            words.update(_WORD.findall(text))
        lengths = [len(ids) for ids in encoder.encode_batch([f" {word}" for word in words])]
    counts = list(words.values())
    return Measure(
        documents,
        n_bytes,
        tokens,
        sum(counts),
        sum(n * length for n, length in zip(counts, lengths, strict=True)),
        sum(n for n, length in zip(counts, lengths, strict=True) if length == 1),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    # The library's threads would stay, and a later fork of this process could hang.
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def texts_of(
    tokenizer: "Tokenizer", dataset: IndexedDataset, token_bytes: np.ndarray, most_bytes: int
) -> Iterator[str]:
    """Whole documents, spread evenly over a shard, of about `most_bytes` in all.

    Args:
        tokenizer: that the shard was written with.
        token_bytes: of the shard's `Prepared`.
        most_bytes: the last document may pass it; one document comes in any case.
    """
    taken, seen = 0, dataset.n_docs
    if seen > 1 and dataset.n_tokens:
        # Bytes a token of one chunk give the stride; only the documents' number depends on it.
        some = dataset.tokens(0, min(dataset.n_tokens, _CHUNK))
        total = dataset.n_tokens * float(token_bytes[some].mean())
        seen = max(1, min(seen, int(seen * most_bytes / max(1.0, total))))
    for index in np.linspace(0, dataset.n_docs - 1, seen, dtype=np.int64) if seen else ():
        if taken >= most_bytes:
            return
        text = tokenizer.decode(dataset.document(int(index))[:-1].tolist())
        taken += len(text.encode())
        yield text


def section(prepared: Prepared) -> str:
    """Size, fit by source, longest tokens and unused ones."""
    tokenizer = bpe.load(prepared.tokenizer_path)
    encoder = bpe.Encoder(tokenizer)
    rows = []
    for name, parts in prepared.sources.items():
        texts = texts_of(tokenizer, parts["val"], prepared.token_bytes, SAMPLE_BYTES)
        m = measure(encoder, texts)
        rows.append(
            [
                name,
                f"{m.documents:,}",
                f"{m.n_bytes / 1e6:.2f}",
                f"{m.compression:.2f}",
                f"{m.fertility:.2f}",
                human_share(m.whole),
            ]
        )
    head = ["source", "documents", "MB", "bytes/token", "tokens/word", "words that are one token"]
    note = (
        "<p>On validation documents, which it was not trained on. A word is a run of letters, "
        "encoded after a space.</p>"
    )
    return _about(tokenizer, prepared) + note + table(head, rows) + _longest(tokenizer, prepared)


def _about(tokenizer: "Tokenizer", prepared: Prepared) -> str:
    counts, read, total = used(prepared)
    real = np.flatnonzero(prepared.token_bytes)
    never = int((counts[real] == 0).sum())
    rare = int((counts[real] < _RARE).sum())
    whole = "all train text" if read == total else f"{human_tokens(read)} of the train tokens"
    pairs = {
        "tokens": f"{bpe.size(tokenizer):,}",
        "rows of the model": f"{prepared.vocab_size:,}",
        "splits as": bpe.pre_tokenizer_name(tokenizer) or "a way of its own",
        "special tokens": ", ".join(bpe.special_tokens(tokenizer)) or "none",
        f"never used in {whole}": f"{never:,} ({human_share(never / max(1, len(real)))})",
        f"used less than {_RARE} times": f"{rare:,} ({human_share(rare / max(1, len(real)))})",
    }
    return definitions(pairs)


def used(prepared: Prepared) -> tuple[np.ndarray, int, int]:
    """How often each id stands in train: counts [V] int64, tokens counted, tokens there are.

    A shard of more than `_CHUNKS` chunks is counted in so many, spread evenly over it.
    """
    counts = np.zeros(len(prepared.token_bytes), dtype=np.int64)
    read = total = 0
    for parts in prepared.sources.values():
        train = parts["train"]
        total += train.n_tokens
        starts = np.arange(0, train.n_tokens, _CHUNK)
        if len(starts) > _CHUNKS:
            starts = starts[np.linspace(0, len(starts) - 1, _CHUNKS, dtype=np.int64)]
        for start in starts.tolist():
            tokens = train.tokens(start, min(_CHUNK, train.n_tokens - start))
            counts += np.bincount(tokens, minlength=len(counts))
            read += len(tokens)
    return counts, read, total


def _longest(tokenizer: "Tokenizer", prepared: Prepared) -> str:
    order = np.argsort(-prepared.token_bytes, kind="stable")[:_LONGEST]
    items = []
    for index in order.tolist():
        if not prepared.token_bytes[index]:
            break
        text = tokenizer.decode([index], skip_special_tokens=False)
        items.append(
            f'<li title="id {index}"><code>{escape(_short(text))}</code>'
            f"<small>{prepared.token_bytes[index]} bytes</small></li>"
        )
    return f'<h3>Longest tokens</h3><ul class="tokens">{"".join(items)}</ul>' if items else ""


def _short(text: str) -> str:
    """A token with its white space to be seen, and runs of one character counted."""
    seen = visible(text.translate(_VISIBLE))
    return _RUN.sub(lambda run: f"{run[1]}×{len(run[0])}", seen)


def visible(text: str) -> str:
    """A text without what a page cannot show."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "\ufffd", text)
