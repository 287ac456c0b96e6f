"""A tiny model that converses, and a template that is told apart from its places."""

from functools import lru_cache
from typing import Any

import torch

from plm.data import tokenizer as bpe
from plm.evaluation.subject import Subject
from plm.formats.chat import Chat
from plm.rounds.template import Template
from tests.model.common import tiny

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = Template("{question}?{answer}!")
QUESTIONS = ["one and one", "two", "a town of three and more", "four"]
SEEDS = [11, 12, 13, 14]


@lru_cache
def tokenizer() -> Any:
    return bpe.train(["some text of a town\n"] * 3, vocab_size=290, special_tokens=SPECIAL)


def subject(max_len: int = 256, **settings: Any) -> Subject:
    """fp64, so that batches of other shapes round alike."""
    # With tied tables the likeliest token of a drawn model is the one before, again and again.
    head = "model/embedding=untied"
    sizes = ("scale.vocab_size=300", "scale.max_position_embeddings=256", head)
    model = tiny(*sizes, dtype=torch.float64).eval()
    chat = Chat(tokenizer())
    return Subject(model, tokenizer(), 0, chat=chat, rows=3, max_len=max_len, **settings)
