"""Held-out loss and bits per byte of each source, the same on any number of ranks."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from plm.batch import IGNORE_INDEX
from plm.data.loader import assemble, cumulative_lengths
from plm.data.order import Windows
from plm.loss.cross_entropy import cross_entropy
from plm.model.context import Context


def spread(tokens: int, seq_len: int, windows: int) -> np.ndarray:
    """[n] int64: starts of at most `windows` windows, evenly spread over a stream of tokens."""
    there = (tokens - 1) // seq_len
    count = min(windows, there)
    return np.arange(count, dtype=np.int64) * there // max(count, 1) * seq_len


@torch.no_grad()
def validate(
    model: nn.Module,
    streams: Mapping[str, Any],
    token_bytes: np.ndarray,
    *,
    seq_len: int,
    windows: int,
    micro_batch_size: int,
    isolate: bool,
    device: torch.device,
    rope_theta: float | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, dict[str, float]]:
    """Evaluate each source on the same windows every time.

    Args:
        model: a Transformer; its mode is restored.
        streams: held-out stream of each source.
        token_bytes: [V] int32, bytes of each token's text.
        seq_len, windows: length and greatest number of windows a source.
        isolate: keep the documents of a window apart, as in training.
        rope_theta: rotary base, where it is not the model's own.
        rank, world_size: the ranks share the windows out.
    Returns:
        By source: loss in nats a token, bpb in bits a byte of text.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(len(streams), 3, dtype=torch.float64, device=device)
    for index, stream in enumerate(streams.values()):
        starts = spread(stream.n_tokens, seq_len, windows)
        # Every rank runs as many forwards as the others: sharded weights are gathered together.
        share = -(-len(starts) // world_size)
        mine = np.arange(rank * share, (rank + 1) * share)
        for low in range(0, share, micro_batch_size):
            rows = mine[low : low + micro_batch_size]
            real = rows < len(starts)
            offset = starts[np.minimum(rows, len(starts) - 1)]
            zeros = np.zeros(len(rows), dtype=np.int64)
            found = assemble([stream], Windows(zeros, offset, zeros, seq_len), isolate)
            found["labels"][~torch.from_numpy(real)] = IGNORE_INDEX
            sums[index] += _forward(model, found, token_bytes, device, rope_theta)
    model.train(training)
    if world_size > 1:
        torch.distributed.all_reduce(sums)
    result = {}
    for name, (total, count, size) in zip(streams, sums.tolist(), strict=True):
        result[name] = {
            "loss": total / count if count else math.nan,
            "bpb": total / math.log(2) / size if size else math.nan,
        }
    return result


def _forward(
    model: nn.Module,
    found: dict[str, torch.Tensor],
    token_bytes: np.ndarray,
    device: torch.device,
    rope_theta: float | None,
) -> torch.Tensor:
    """[3] fp64: nats, tokens and bytes of one micro-batch."""
    labels = found["labels"]
    kept = labels[labels != IGNORE_INDEX]
    size = float(token_bytes[kept.numpy()].sum())
    context = Context(
        positions=found["positions"].to(device),
        doc_ids=found["doc_ids"].to(device) if "doc_ids" in found else None,
        cu_seqlens=cumulative_lengths(found["positions"]).to(device),
        rope_theta=rope_theta,
    )
    loss = model(
        found["tokens"].to(device),
        context=context,
        labels=labels.to(device),
        losses={"loss": cross_entropy},
    ).losses["loss"]
    return torch.tensor(
        [float(loss.total), float(loss.count), size], dtype=torch.float64, device=device
    )
