"""Fast steps of attention by the kernels of plm/kernels/cpu: turn, keep and attend in one call."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from plm.model.absorbed import AbsorbedWeights
from plm.model.decoding import Frame, Run, write_norm
from plm.model.grouped import GroupedWeights


def make_latent(
    mixer: Any, weights: AbsorbedWeights, frame: Frame, state: dict[str, Tensor]
) -> Run:
    """The step for the rows of a frame and a state of `MLA.init_state`."""
    heads, rank, rope, rows = mixer.heads, mixer.rank, mixer.rope, frame.rows
    width, query = rank + rope, rope + (rank if weights.keys is None else mixer.nope)
    wide = frame.empty(rows, heads * query + width)
    given, new = wide[:, : heads * query].view(rows, heads, query), wide[:, heads * query :]
    latent = new[:, :rank]
    queries = given if weights.keys is None else frame.empty(rows, heads, width)
    attend, mixed = _attend(
        frame, queries, new[:, None], state["latent"][:, None], mixer.rope_theta,
        turned=rope, query_turned=rank, kept_turned=rank, value_start=0, value=rank,
    )  # fmt: skip
    risen = mixed if weights.values is None else frame.empty(rows, heads, mixer.value)
    whole = risen.view(rows, -1)

    def run(x: Tensor) -> Tensor:
        weights.first(x, wide)
        write_norm(mixer.kv_a_layernorm, frame.kernels, latent, latent)
        if weights.keys is not None:
            frame.kernels.also(sink)
        attend()
        if weights.values is not None:
            frame.kernels.also(rise)
        return weights.last(whole)

    def sink() -> None:
        by_head = given[..., : mixer.nope].transpose(0, 1)
        queries[..., :rank] = torch.bmm(by_head, weights.keys).transpose(0, 1)
        queries[..., rank:] = given[..., mixer.nope :]

    def rise() -> None:
        risen.copy_(torch.bmm(mixed.transpose(0, 1), weights.values).transpose(0, 1))

    return run


def make_grouped(
    mixer: Any, weights: GroupedWeights, frame: Frame, state: dict[str, Tensor]
) -> Run:
    """The step for the rows of a frame and a state of `GQA.init_state`."""
    heads, rows, width = mixer.kv_heads, frame.rows, mixer.key + mixer.value
    q, kv = frame.empty(rows, mixer.heads * mixer.key), frame.empty(rows, heads * width)
    attend, mixed = _attend(
        frame, q.view(rows, mixer.heads, -1), kv.view(rows, heads, width), state["kv"],
        mixer.rope_theta, turned=mixer.key, query_turned=0, kept_turned=0, key=mixer.key,
        value_start=mixer.key, value=mixer.value,
    )  # fmt: skip
    whole = mixed.view(rows, -1)

    def run(x: Tensor) -> Tensor:
        weights.to_q(x, q)
        weights.to_kv(x, kv)
        if weights.biases is not None:
            frame.kernels.also(partial(q.add_, weights.biases[0]))
            frame.kernels.also(partial(kv.add_, weights.biases[1]))
        attend()
        return weights.to_out(whole)

    return run


def _attend(
    frame: Frame, queries: Tensor, fresh: Tensor, cache: Tensor, theta: float, **sizes: int
) -> tuple[Any, Tensor]:
    """The call, and where its result [B, H, value] will be.

    Args:
        frame: of the step.
        queries: [B, H, key].
        fresh: [B, kept heads, width].
        cache: [B, kept heads, length, width].
        theta: rotary base.
        sizes: as in plm.kernels.cpu.Attention; key: None for the whole width.
    """
    rows, heads, _ = queries.shape
    kept_heads, width = fresh.shape[1:]
    assert cache.stride()[2:] == (width, 1) and fresh.stride()[1:] == (width, 1)
    mixed = frame.empty(rows, heads, sizes["value"])
    runs = frame.runs()
    call = partial(
        frame.kernels.attend,
        queries=queries, fresh=fresh, cache=cache, out=mixed,
        scratch=frame.empty(2, rows, heads), turns=frame.table(sizes["turned"], theta),
        positions=frame.positions, runs=runs, rows=rows, heads=heads,
        query_row=queries.stride(0), query_step=queries.stride(1), kept_heads=kept_heads,
        fresh_row=fresh.stride(0), width=width, cache_row=cache.stride(0),
        cache_head=cache.stride(1), shared=frame.shared, run_count=len(runs) - 1,
        **{"key": width, **sizes},
    )  # fmt: skip
    return call, mixed
