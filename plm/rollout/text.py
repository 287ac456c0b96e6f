"""Text of a row while it grows: whole characters, and nothing of a stop string."""

import codecs
import json
from collections.abc import Sequence
from functools import lru_cache

from tokenizers import Tokenizer


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 stands for itself, the rest from 256 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


class Vocabulary:
    """Bytes that each id of a tokenizer stands for, none for special ones.

    Args:
        tokenizer: any; one that is not byte-level is asked again for each token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
        self.byte_level = decoder.get("type") == "ByteLevel"
        self.bytes: dict[int, bytes] = {}
        if not self.byte_level:
            return
        byte_of = _bytes_of_characters()
        for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
            self.bytes[index] = bytes(byte_of[c] for c in token if c in byte_of)
        for index, token in tokenizer.get_added_tokens_decoder().items():
            self.bytes[index] = b"" if token.special else token.content.encode()

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of whole ids, without special tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)


class _Bytes:
    """Characters of a byte-level row; a broken one becomes U+FFFD, as in a decoding at once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.bytes = vocabulary.bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self.decoder.decode(self.bytes.get(token, b""))

    def flush(self) -> str:
        return self.decoder.decode(b"", final=True)


class _Asked:
    """Characters by any tokenizer: what decoding a few ids more adds."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.decode = vocabulary.decode
        self.tokens: list[int] = []
        self.before = self.read = 0

    def push(self, token: int) -> str:
        self.tokens.append(token)
        return self._new(whole=True)

    def flush(self) -> str:
        return self._new(whole=False)

    def _new(self, whole: bool) -> str:
        # A tokenizer may treat the first id of a text otherwise: some that were read come again.
        old = self.decode(self.tokens[self.before : self.read])
        text = self.decode(self.tokens[self.before :])
        if len(text) <= len(old) or (whole and text.endswith("\ufffd")):
            return ""
        self.before, self.read = self.read, len(self.tokens)
        return text[len(old) :]


class GrowingText:
    """What of a row's text is certain, token by token.

    Args:
        vocabulary: of the tokenizer.
        stop: texts that end the row.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()) -> None:
        self.pieces = (_Bytes if vocabulary.byte_level else _Asked)(vocabulary)
        self.stop, self.held, self.said = tuple(stop), "", []
        self.stopped = False

    def push(self, token: int) -> str:
        """Take a token; what became certain. `stopped` is set where a stop string is complete."""
        return self._take(self.pieces.push(token))

    def flush(self) -> str:
        """The row has ended: all that is left."""
        certain = "" if self.stopped else self._take(self.pieces.flush())
        rest, self.held = self.held, ""
        self.said.append(rest)
        return certain + rest

    @property
    def text(self) -> str:
        """All that became certain so far."""
        return "".join(self.said)

    def _take(self, new: str) -> str:
        self.held += new
        places = [at for at in map(self.held.find, self.stop) if at >= 0]
        if places:
            certain, self.held, self.stopped = self.held[: min(places)], "", True
        else:
            keep = self._start_of_a_stop()
            certain = self.held[: len(self.held) - keep]
            self.held = self.held[len(certain) :]
        self.said.append(certain)
        return certain

    def _start_of_a_stop(self) -> int:
        """Characters at the end that may become a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        for size in range(min(longest, len(self.held)), 0, -1):
            if any(text.startswith(self.held[-size:]) for text in self.stop):
                return size
        return 0
