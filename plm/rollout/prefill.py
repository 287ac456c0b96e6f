"""Prompts through the model: each once, several at a time, padded on the right if mixers may."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plm import products
from plm.model.context import Context
from plm.rollout.slots import Request, Row, state_dtype

# Tokens of prompts, padding included, that go through the model at once.
_TOKENS = 8192


@contextmanager
def _fast_products(model: nn.Module) -> Iterator[None]:
    """Within it large products are made as in a training run, where that has not been chosen."""
    if model.kernels != "auto" or products.in_use() != "torch":
        yield
        return
    products.choose(model.kernels)
    try:
        yield
    finally:
        products.use_torch()


@dataclass
class Prefilled:
    """Prompts that have been taken in.

    Attributes:
        states: of `init_state`, a row each.
        logits: [B, V], after each prompt.
    """

    states: list[Any]
    logits: Tensor


@dataclass
class Ready:
    """A row that needs nothing but a place: the row `index` of `source` holds its prompt."""

    row: Row
    source: Prefilled
    index: int


def take(waiting: deque[Request], free: int, ragged: bool) -> list[Request]:
    """Take the requests off the queue that go through the model together, at least one.

    Args:
        waiting: in the order in which they came.
        free: rows that could begin now.
        ragged: prompts of several lengths may go together; otherwise those of the first's length.
    """
    taken: list[Request] = []
    passed: list[Request] = []
    rows = width = 0
    while waiting and rows < free:
        request = waiting.popleft()
        length = len(request.prompt)
        if taken and not ragged and length != width:
            passed.append(request)
            continue
        if taken and max(width, length) * (len(taken) + 1) > _TOKENS:
            waiting.appendleft(request)
            break
        taken.append(request)
        rows, width = rows + request.group, max(width, length)
    waiting.extendleft(reversed(passed))
    return taken


def prefill(model: nn.Module, requests: Sequence[Request], rope_theta: float | None) -> list[Ready]:
    """Take in prompts; the rows of all their groups."""
    device = model.embed_tokens.head_weight.device
    lengths = [len(request.prompt) for request in requests]
    width = max(lengths)
    tokens = torch.zeros(len(requests), width, dtype=torch.int64)
    for index, request in enumerate(requests):
        tokens[index, : lengths[index]] = torch.tensor(request.prompt)
    states = model.init_state(len(requests), width, device, state_dtype(model))
    positions = torch.arange(width, device=device).expand(len(requests), -1)
    context = Context(positions=positions, rope_theta=rope_theta, reach=width)
    last = torch.tensor(lengths, device=device) - 1
    with _fast_products(model):
        source = Prefilled(states, model.step(tokens.to(device), states, context, last))
    return [
        Ready(Row(request, sample), source, index)
        for index, request in enumerate(requests)
        for sample in range(request.group)
    ]
