"""Text for benchmarks: what is installed, and as much more as wanted made from it."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from plm.config import build
from plm.data.recipe import load_recipe

_WORD = re.compile(r"([A-Za-z]{3,})")
_BAND = 64
_FILE_BYTES = 50_000_000


def installed(limit: int) -> list[str]:
    """Documents of the embedded recipe's prose and code, uncleaned, until `limit` characters."""
    recipe = load_recipe("embedded")
    sources = [iter(build(recipe.sources[name].origin)) for name in ("prose", "code")]
    texts: list[str] = []
    total = 0
    # In turn, so that a small limit has both.
    while sources:
        for source in list(sources):
            document = next(source, None)
            if document is None:
                sources.remove(source)
            elif document.text:
                texts.append(document.text)
                total += len(document.text)
            if total >= limit:
                return texts
    return texts


def pieces(texts: list[str], size: int) -> Iterator[str]:
    """Texts cut at line ends into pieces of at least `size` characters, the last ones shorter."""
    for text in texts:
        start = 0
        while start < len(text):
            cut = text.find("\n", start + size)
            stop = len(text) if cut < 0 else cut + 1
            yield text[start:stop]
            start = stop


class Perturbed:
    """Copies of documents whose words are exchanged for others of a like frequency.

    Another permutation of the words for each copy: n-grams and lines are new, while the lengths,
    the punctuation, and how often the most frequent word comes stay like those of real text. No
    new words arise: a vocabulary grows slower than with as much real text.

    Args:
        documents: what is copied.
        seed: of the exchanges.
    """

    def __init__(self, documents: list[str], seed: int) -> None:
        counted: Counter[str] = Counter()
        split = [_WORD.split(text) for text in documents]
        for parts in split:
            counted.update(parts[1::2])
        self.words = [word for word, _ in counted.most_common()]
        index = {word: i for i, word in enumerate(self.words)}
        # Between words a text's own signs; at odd places a word's number.
        self.between = [parts[::2] for parts in split]
        self.numbers = [[index[word] for word in parts[1::2]] for parts in split]
        self.seed = seed

    def copy(self, number: int) -> Iterator[str]:
        """All documents once; copy 0 is the text itself."""
        words = list(self.words)
        if number:
            rng = np.random.default_rng([self.seed, number])
            for low in range(0, len(words), _BAND):
                band = self.words[low : low + _BAND]
                words[low : low + _BAND] = [band[i] for i in rng.permutation(len(band))]
        for between, numbers in zip(self.between, self.numbers, strict=True):
            text = list(between)
            text[:-1] = [sign + words[n] for sign, n in zip(between[:-1], numbers, strict=True)]
            yield "".join(text)


def write_jsonl(folder: Path, n_bytes: int, document_chars: int, seed: int) -> dict[str, int]:
    """Write `.jsonl` files of many documents until their text has `n_bytes` of UTF-8.

    Returns:
        documents, bytes, files and copies.
    """
    folder.mkdir(parents=True)
    made = Perturbed(list(pieces(installed(n_bytes), document_chars)), seed)
    found = {"documents": 0, "bytes": 0, "files": 0, "copies": 0}
    file, room = None, 0
    while found["bytes"] < n_bytes:
        for text in made.copy(found["copies"]):
            size = len(text.encode())
            if file is None or room < size:
                if file is not None:
                    file.close()
                path = folder / f"part-{found['files']:03}.jsonl"
                file, room = open(path, "w", encoding="utf-8"), _FILE_BYTES  # noqa: SIM115
                found["files"] += 1
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            room -= size
            found["documents"] += 1
            found["bytes"] += size
            if found["bytes"] >= n_bytes:
                break
        found["copies"] += 1
    if file is not None:
        file.close()
    return found
