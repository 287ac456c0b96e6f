"""Slow, plain generation that the tests compare with, and a tokenizer of a few hundred ids."""

from functools import lru_cache

import torch
from tokenizers import Tokenizer
from torch import nn

from plm.data.tokenizer import END_OF_TEXT, train
from tests.model.common import logits_of

TEXT = "the cat sat on the mat, the dog ran; über naïve 日本 🙂 said 42 times. " * 3


def naive(model: nn.Module, prompt: list[int], number: int) -> tuple[list[int], list[float]]:
    """Greedy tokens by a full forward each, and their log-probabilities."""
    tokens, logps = torch.tensor([prompt]), []
    with torch.no_grad():
        for _ in range(number):
            last = logits_of(model, tokens)[:, -1]
            new = last.argmax(-1, keepdim=True)
            logps.append(last.log_softmax(-1)[0, new.item()].item())
            tokens = torch.cat((tokens, new), dim=1)
    return tokens[0, len(prompt) :].tolist(), logps


def full_logps(model: nn.Module, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of given tokens by one full forward, [N]."""
    whole = torch.tensor([prompt + tokens])
    with torch.no_grad():
        logps = logits_of(model, whole)[0].log_softmax(-1)
    return logps[len(prompt) - 1 : -1].gather(1, whole[0, len(prompt) :, None])[:, 0]


@lru_cache
def tokenizer() -> Tokenizer:
    """Byte-level, with an end of text."""
    return train([TEXT], vocab_size=300, special_tokens=[END_OF_TEXT])
