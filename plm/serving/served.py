"""The model that is talked to: its engine, its conversations, its words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from plm.data import tokenizer as bpe
from plm.errors import ConfigError
from plm.formats.common import About, end_of_text_id
from plm.rollout.engine import Engine

if TYPE_CHECKING:
    import torch

    from plm.formats.chat import Chat
    from plm.pretrained import Pretrained


def engine_of(
    found: Pretrained,
    *,
    rows: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    compiled: bool | str = False,
) -> tuple[Engine, Chat | None]:
    """An engine on a model, and how the model's conversations are written.

    Args:
        found: as `plm.pretrained.load` gave it.
        rows: that grow at once.
        device, dtype: where and in what the model computes; None: as it is.
        compiled: as for the engine.
    Returns:
        The engine, which ends rows at the end of a text, the first of its stop_ids, and of a turn;
        None for the second where the model knows no conversations.
    Raises:
        ConfigError: there is no tokenizer, the chat template cannot be used, or compiled kernels
            cannot be built.
    """
    from plm.formats.chat import Chat

    if found.tokenizer is None:
        raise ConfigError(f"{found.path} has no tokenizer.json; nothing can be said without one")
    tokenizer = bpe.load(found.tokenizer)
    chat = None if found.chat_template is None else Chat.of(found)
    end = end_of_text_id(tokenizer, About(end_of_text=found.end_of_text))
    stop_ids = list(dict.fromkeys((end, *(chat.stop_ids if chat else ()))))
    model = found.model.to(device=device, dtype=dtype)
    theta = found.rope_theta
    settings = {"stop_ids": stop_ids, "rope_theta": theta, "rows": rows, "compiled": compiled}
    return Engine(model, tokenizer=tokenizer, **settings), chat


class Served:
    """What is known of a model while others use its engine; every thread may ask.

    Args:
        engine: with a tokenizer, and the end of a text as the first of its stop_ids; it is looked
            at, never driven.
        chat: None: the model knows no conversations.
        name: that requests call it by.

    Attributes:
        context: positions of a row, prompt and answer together.
        created: in seconds since 1970.
    """

    def __init__(self, engine: Engine, chat: Chat | None, name: str) -> None:
        if engine.tokenizer is None:
            raise ConfigError("the engine has no tokenizer; nothing can be said without one")
        self.chat, self.name, self.context = chat, name, engine.longest
        self.vocab_size, self.rows = engine.model.vocab_size, engine.rows
        self.stop_ids, self.created = engine.stop_ids, int(time.time())
        # A copy: whether special tokens are read is a switch of the whole tokenizer.
        self._plain = Tokenizer.from_str(engine.tokenizer.to_str())
        self._plain.no_truncation()
        self._plain.no_padding()
        self._plain.encode_special_tokens = True
        self._vocabulary = engine.vocabulary

    def encode(self, text: str) -> list[int]:
        """Ids of a text, in which what reads like a special token is text.

        An empty one is what a document begins behind: the end of the one before.
        """
        ids = self._plain.encode(text, add_special_tokens=False).ids
        return ids or list(self.stop_ids[:1])

    def bytes_of(self, token: int) -> bytes:
        """What an id stands for; special ones by name."""
        known: Any = self._vocabulary
        if known.byte_level and known.bytes.get(token):
            return known.bytes[token]
        return self._plain.decode([token], skip_special_tokens=False).encode()
