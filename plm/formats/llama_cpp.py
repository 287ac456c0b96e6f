"""llama.cpp called from Python: logits, losses, tokens, speed and quantised files of a GGUF.

It needs a libllama of llama.cpp v0.5.0, which `make llama-cpp` fetches, and nothing to compile.
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from types import TracebackType

import numpy as np

from plm.data.pool import cores
from plm.errors import CheckpointError, ConfigError, DataError
from plm.formats.common import whole
from plm.formats.llama_cpp_types import (
    F16,
    F32,
    KINDS,
    NO_VOCABULARY,
    Batch,
    check_widths,
    errors,
    find_library,
    load,
    why,
)

# Tokens in one call of llama.cpp, logits of which are in memory at a time.
CHUNK = 512
KV_TYPES = {"f32": F32, "f16": F16}


class LlamaCpp:
    """A GGUF file as llama.cpp runs it, on the CPU; close it, or use it in a `with`.

    Args:
        path: the GGUF file.
        library: libllama or a folder that holds it; None: as `find_library` looks.
        n_ctx: most positions of one sequence.
        threads: of llama.cpp; None: one a processor that this process may use.
        kv_type: "f32", which keeps what torch would keep, or "f16", llama.cpp's own default.
        flash_attention: llama.cpp's fused attention. Architecture `plm` cannot have it: it hands
            its values over as a matrix, on which v0.5.0 aborts the whole process.
    Raises:
        ConfigError: a setting that cannot work, or no usable library.
        CheckpointError: the file is missing, or llama.cpp refuses it.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        library: str | Path | None = None,
        threads: int | None = 1,
        kv_type: str = "f32",
        flash_attention: bool = False,
    ) -> None:
        self._model = self._context = None
        self.path = Path(path)
        if kv_type not in KV_TYPES:
            raise ConfigError(f"kv_type={kv_type} is not one of {', '.join(KV_TYPES)}")
        for name, value in (("n_ctx", n_ctx), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        if not self.path.is_file():
            raise CheckpointError(f"{path} does not exist")
        self._llama = load(find_library(library))
        self.n_ctx, self.threads = n_ctx, threads or cores()
        self._open_model()
        if flash_attention and self.metadata("general.architecture") == "plm":
            self.close()
            raise ConfigError(
                "flash_attention=True aborts llama.cpp for architecture plm; leave it off"
            )
        self._open_context(KV_TYPES[kv_type], flash_attention)
        self._vocabulary = self._llama.llama_model_get_vocab(self._model)
        self.n_vocab = int(self._llama.llama_vocab_n_tokens(self._vocabulary))

    def _open_model(self) -> None:
        settings = self._llama.llama_model_default_params()
        # None of the devices beside the CPU, whatever the library was built for.
        self._devices = (ctypes.c_void_p * 1)(None)
        settings.devices = ctypes.addressof(self._devices)
        settings.n_gpu_layers = 0
        errors.clear()
        file = os.fsencode(self.path)
        self._model = self._llama.llama_model_load_from_file(file, settings)
        if not self._model:
            raise CheckpointError(f"{self.path}: llama.cpp cannot load it: {why()}")

    def _open_context(self, kv_type: int, flash_attention: bool) -> None:
        settings = self._llama.llama_context_default_params()
        settings.n_ctx = self.n_ctx
        settings.n_batch = settings.n_ubatch = min(CHUNK, self.n_ctx)
        settings.n_threads = settings.n_threads_batch = self.threads
        settings.type_k = settings.type_v = kv_type
        settings.flash_attn_type = int(flash_attention)
        settings.offload_kqv = settings.op_offload = False
        errors.clear()
        self._context = self._llama.llama_init_from_model(self._model, settings)
        if not self._context:
            self.close()
            raise CheckpointError(f"{self.path}: llama.cpp cannot run it: {why()}")

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back; once closed it cannot be used."""
        if self._context:
            self._llama.llama_free(self._context)
        if self._model:
            self._llama.llama_model_free(self._model)
        # Without the library too: its functions would follow the null pointers.
        self._model = self._context = self._llama = None

    def describe(self) -> str:
        """Architecture, size and type of file in llama.cpp's words."""
        buffer = ctypes.create_string_buffer(256)
        self._llama.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode()

    def metadata(self, key: str) -> str | None:
        """The value of a key as text; None where there is no such key, or it holds a list."""
        read = self._llama.llama_model_meta_val_str
        length = read(self._model, key.encode(), None, 0)
        if length < 0:
            return None
        buffer = ctypes.create_string_buffer(length + 1)
        read(self._model, key.encode(), buffer, len(buffer))
        return buffer.raw[:length].decode(errors="replace")

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that begins a text."""
        return self._special(self._llama.llama_vocab_bos)

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text."""
        return self._special(self._llama.llama_vocab_eos)

    @property
    def pad_token_id(self) -> int | None:
        """Id of the token that fills a row."""
        return self._special(self._llama.llama_vocab_pad)

    def _special(self, read: Callable[[int], int]) -> int | None:
        token = read(self._vocabulary)
        return None if token < 0 else int(token)

    def _needs_tokenizer(self) -> None:
        # llama.cpp ends the process where it is asked without one.
        if self._llama.llama_vocab_type(self._vocabulary) == NO_VOCABULARY:
            raise CheckpointError(f"{self.path} has no tokenizer (tokenizer.ggml.model=no_vocab)")

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text, nothing added before or after it.

        Args:
            text: any text.
            special: read the spelling of control tokens as those tokens, not as plain text.
        """
        self._needs_tokenizer()
        raw = text.encode()
        # No token is shorter than a byte.
        found = (ctypes.c_int32 * (len(raw) + 1))()
        count = self._llama.llama_tokenize(
            self._vocabulary, raw, len(raw), found, len(found), False, special
        )
        if count < 0:
            raise DataError(f"{self.path}: llama.cpp cannot tokenise a text of {len(raw)} bytes")
        return list(found[:count])

    def detokenize(self, tokens: Sequence[int], special: bool = True) -> str:
        """The text of ids; special: with the spelling of control tokens. Broken UTF-8 becomes �."""
        self._needs_tokenizer()
        self._check(tokens)
        return b"".join(self._piece(token, special) for token in tokens).decode(errors="replace")

    def _piece(self, token: int, special: bool) -> bytes:
        length = 64
        while True:
            buffer = ctypes.create_string_buffer(length)
            # By token: llama.cpp's own joining drops spaces before full stops for some files.
            count = self._llama.llama_token_to_piece(
                self._vocabulary, int(token), buffer, length, 0, special
            )
            if count >= 0:
                return buffer.raw[:count]
            length = -count

    def _check(self, tokens: Sequence[int], positions: int = 0) -> None:
        if positions > self.n_ctx:
            raise ConfigError(f"n_ctx={self.n_ctx} is too small for {positions} positions")
        for token in tokens:
            # llama.cpp would look past the end of its table.
            if not 0 <= token < self.n_vocab:
                raise DataError(f"token {token} is outside {self.path}'s {self.n_vocab} ids")

    def _forget(self) -> None:
        memory = self._llama.llama_get_memory(self._context)
        self._llama.llama_memory_clear(memory, True)

    def _decode(self, tokens: np.ndarray, start: int, every: bool) -> np.ndarray:
        """Logits of a chunk, [T or 1, V] in llama.cpp's memory: valid until the next call."""
        tokens = np.ascontiguousarray(tokens, dtype=np.int32)
        places = np.arange(start, start + len(tokens), dtype=np.int32)
        wanted = np.full(len(tokens), every, dtype=np.int8)
        wanted[-1] = 1
        batch = Batch(
            len(tokens), tokens.ctypes.data, None, places.ctypes.data, None, None,
            wanted.ctypes.data,
        )  # fmt: skip
        errors.clear()
        if code := self._llama.llama_decode(self._context, batch):
            raise CheckpointError(f"{self.path}: llama.cpp cannot run it (code {code}): {why()}")
        rows = len(tokens) if every else 1
        logits = self._llama.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (rows, self.n_vocab))

    def _chunks(self, tokens: Sequence[int], every: bool = True) -> Iterator[np.ndarray]:
        """A sequence from its beginning; of each chunk the logits of all or the last position."""
        self._check(tokens, len(tokens))
        self._forget()
        whole = np.asarray(tokens, dtype=np.int32)
        for start in range(0, len(whole), CHUNK):
            yield self._decode(whole[start : start + CHUNK], start, every)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """[T, V] float32 of a sequence of T tokens, of every position.

        Raises:
            ConfigError: it is longer than n_ctx.
            DataError: a token outside the vocabulary.
        """
        found = [chunk.copy() for chunk in self._chunks(tokens)]
        return np.concatenate(found) if found else np.empty((0, self.n_vocab), np.float32)

    def losses(self, rows: np.ndarray) -> tuple[float, int]:
        """Cross-entropy of each row's tokens after its first.

        Args:
            rows: [N, T + 1] int, each a sequence of its own.
        Returns:
            Sum in nats, and the number of tokens it is over.
        """
        rows = np.asarray(rows)
        total = 0.0
        for row in rows:
            self._check(row.tolist())
            labels = iter(row[1:].tolist())
            for chunk in self._chunks(row[:-1].tolist()):
                # One position at a time: a wide vocabulary in float64 is large.
                total += sum(_loss(logits, next(labels)) for logits in chunk)
        return total, rows.shape[0] * (rows.shape[1] - 1)

    def _greedy(self, prompt: Sequence[int], n: int) -> Iterator[int]:
        """The likeliest next token n times, by steps with the cache."""
        if not prompt:
            raise ConfigError("the prompt is empty; give at least one token")
        self._check(prompt, len(prompt) + n - 1)
        for logits in self._chunks(prompt, every=False):
            last = logits
        for place in range(len(prompt), len(prompt) + n):
            token = int(last[-1].argmax())
            yield token
            if place + 1 < len(prompt) + n:
                last = self._decode(np.array([token]), place, every=False)

    def greedy(self, prompt: Sequence[int], n: int) -> list[int]:
        """n likeliest tokens after the prompt, one at a time with the cache, no end looked for."""
        return list(self._greedy(prompt, n))

    def speed(self, prompt: Sequence[int], n: int, repeats: int = 3) -> dict[str, float]:
        """Tokens a second by the wall clock, medians after one unmeasured round.

        Args:
            prompt: taken in at once.
            n: tokens made after it one at a time, at least 1.
            repeats: measured rounds.
        Returns:
            prefill_tokens_s and decode_tokens_s, with prompt, n, repeats and threads.
        """
        if n < 1 or repeats < 1:
            raise ConfigError(f"n={n} and repeats={repeats} must be at least 1")
        prefill, decode = [], []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            tokens = self._greedy(prompt, n + 1)
            next(tokens)
            first = time.perf_counter()
            for _ in tokens:
                pass
            prefill.append(len(prompt) / (first - began))
            decode.append(n / (time.perf_counter() - first))
        return {
            "prefill_tokens_s": median(prefill[1:]),
            "decode_tokens_s": median(decode[1:]),
            "prompt": len(prompt),
            "n": n,
            "repeats": repeats,
            "threads": self.threads,
        }


def _loss(logits: np.ndarray, label: int) -> float:
    """-log p of one id in nats, of [V] float32."""
    wide = logits.astype(np.float64)
    top = wide.max()
    return float(top + np.log(np.exp(wide - top).sum()) - wide[label])


def quantize(
    source: Path, target: Path, kind: str, library: str | Path | None = None, threads: int = 1
) -> None:
    """Write a GGUF file in a smaller type, by llama.cpp's own mixture; whole or not at all.

    Args:
        source: a file in F32, F16 or BF16.
        target: where the new one goes; nothing may be there.
        kind: Q4_K_M and the like, a key of KINDS.
        library: libllama or a folder that holds it; None: as `find_library` looks.
        threads: of llama.cpp.
    Raises:
        ConfigError: the kind does not fit a tensor's width, no usable library, or `target` exists.
        CheckpointError: the source cannot be read, or llama.cpp refuses it.
    """
    source, target = Path(source), Path(target)
    check_widths(_shapes(source), kind)
    llama = load(find_library(library))
    settings = llama.llama_model_quantize_default_params()
    settings.nthread, settings.ftype = threads, KINDS[kind][0]
    errors.clear()
    with whole(target) as partial:
        files = os.fsencode(source), os.fsencode(partial)
        if llama.llama_model_quantize(*files, ctypes.byref(settings)):
            raise CheckpointError(f"{source}: llama.cpp cannot make {kind} of it: {why()}")


def _shapes(source: Path) -> dict[str, tuple[int, ...]]:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ConfigError("quantising needs the package gguf: pip install gguf") from None
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist")
    try:
        tensors = GGUFReader(source).tensors
    except (ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{source} is not a whole GGUF file: {error}") from None
    return {t.name: tuple(int(size) for size in reversed(t.shape)) for t in tensors}
