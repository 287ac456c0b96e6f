"""A tiny model with a tokenizer, and one whose answers are written down."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from plm.data import tokenizer as bpe
from plm.evaluation.subject import Subject
from plm.rollout.completion import Completion
from tests.model.common import tiny

SIZES = ("scale.vocab_size=300", "scale.max_position_embeddings=256")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return bpe.train(["some text of a town\n"] * 3, vocab_size=290, special_tokens=SPECIAL)


@pytest.fixture
def subject(tokenizer: Any) -> Subject:
    """fp64, so that batches of other shapes round alike."""
    return Subject(tiny(*SIZES, dtype=torch.float64).eval(), tokenizer, end_of_text=0, rows=3)


@dataclass
class Scripted:
    """A subject whose engine says what `answer` makes of (prompt, sample)."""

    answer: Callable[[str, int], tuple[str, str]]
    chat: Any = None
    max_len: int = 10_000
    style: str = "text"
    asked: list[dict[str, Any]] = field(default_factory=list)

    def prompt(self, question: str, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def device_context(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    @property
    def engine(self) -> Any:
        return self

    def generate(self, prompts: Any, sampling: Any, *, group: int, seeds: Any) -> list[Completion]:
        found = []
        for index, prompt in enumerate(prompts):
            text = "".join(map(chr, prompt))
            self.asked.append({"prompt": text, "seed": seeds[index], "sampling": sampling})
            for sample in range(group):
                said, finish = self.answer(text, sample)
                found.append(Completion(index, sample, [], [], [], finish, said))
        return found
