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
from plm.rollout.held import gathered
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
        length: positions that the states have.
    """

    states: list[Any]
    logits: Tensor
    length: int


@dataclass
class Ready:
    """A row that needs nothing but a place: the row `index` of `source` holds its prompt."""

    row: Row
    source: Prefilled
    index: int


def take(waiting: deque[Request], free: int, ragged: bool) -> list[Request]:
    """Take the requests off the queue that go through the model together, at least one.

    Those that go on from a state go apart from those that begin.

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
        length = len(request.prompt) - request.known
        begun = bool(taken and taken[0].known) != bool(request.known)
        if taken and (begun or (not ragged and length != width)):
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
    """Take in prompts, or what is new in them; the rows of all their groups."""
    device = model.embed_tokens.head_weight.device
    held = [request.held for request in requests if request.known]
    starts = [request.known for request in requests]
    new = [request.prompt[start:] for request, start in zip(requests, starts, strict=True)]
    width, reach = max(map(len, new)), max(len(request.prompt) for request in requests)
    tokens = torch.zeros(len(requests), width, dtype=torch.int64)
    for index, ids in enumerate(new):
        tokens[index, : len(ids)] = torch.tensor(ids)
    # A place more than the longest takes: what pads the others may lie there, never on a token.
    length = max(reach + 1, *(one.length for one in held)) if held else width
    states = model.init_state(len(requests), length, device, state_dtype(model))
    gathered(model, held, states)
    positions = torch.arange(width, device=device).expand(len(requests), -1)
    if held:
        positions = (positions + torch.tensor(starts, device=device)[:, None]).clamp(max=length - 1)
    context = Context(positions=positions, rope_theta=rope_theta, reach=reach)
    last = torch.tensor([len(ids) for ids in new], device=device) - 1
    with _fast_products(model):
        logits = model.step(tokens.to(device), states, context, last)
    source = Prefilled(states, logits, length)
    for request in requests:
        request.held = None
    return [
        Ready(Row(request, sample), source, index)
        for index, request in enumerate(requests)
        for sample in range(request.group)
    ]
