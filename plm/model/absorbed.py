"""A fast step of latent attention: scores and values straight from the latents.

Paper: DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434), section 2.1
Cost: as `plm.model.attention.mla`, less 2·C·H·(N + U) where weights are folded and more in the
    products that they are folded into.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plm.model.decoding import Frame, Run, Workshop, fast_norm, pairs

# Folding two products into one spares a call; it pays while the one costs hardly more than both.
_FOLD_UP_TO = 1.5


class AbsorbedWeights:
    """What a step multiplies by, from a mixer's projections as they are now.

    Args:
        mixer: an MLA.
        workshop: for the products.

    Attributes:
        first: product to queries with the scale in them, then to the latent and the shared key.
            Folded: a head's query is [C + R], through the keys' up-projection; else [N + R].
        keys: [H, N, C]; None: folded into `first`.
        values: [H, C, U]; None: folded into `last`.
        last: product from [H·C] folded, else from [H·U], to D.
    """

    def __init__(self, mixer: Any, workshop: Workshop) -> None:
        heads, nope, rank, value = mixer.heads, mixer.nope, mixer.rank, mixer.value
        q, kv_a, kv_b, o = (
            part.weight.detach()
            for part in (mixer.q_proj, mixer.kv_a_proj_with_mqa, mixer.kv_b_proj, mixer.o_proj)
        )
        size = q.shape[1]
        keys, values = kv_b.unflatten(0, (heads, nope + value)).split([nope, value], dim=1)
        q = q.unflatten(0, (heads, nope + mixer.rope)) * mixer.scale
        self.keys: Tensor | None = keys
        if rank * size <= _FOLD_UP_TO * nope * (size + rank):
            latent = torch.einsum("hnd,hnc->hcd", q[:, :nope], keys)
            q, self.keys = torch.cat((latent, q[:, nope:]), dim=1), None
        self.first = workshop.product(torch.cat((q.flatten(0, 1), kv_a)))
        self.values: Tensor | None = values.transpose(1, 2)
        if rank * size <= _FOLD_UP_TO * value * (size + rank):
            o, self.values = (
                torch.einsum("dhu,huc->dhc", o.unflatten(1, (heads, value)), values),
                None,
            )
            o = o.flatten(1)
        self.last = workshop.product(o)


def make_fast(mixer: Any, weights: AbsorbedWeights, frame: Frame, state: dict[str, Tensor]) -> Run:
    """The step for the rows of a frame and a state of `MLA.init_state`."""
    heads, rank, rope, rows = mixer.heads, mixer.rank, mixer.rope, frame.rows
    width, query = rank + rope, mixer.rope + (rank if weights.keys is None else mixer.nope)
    wide = frame.empty(rows, heads * query + width)
    given, new = wide[:, : heads * query].view(rows, heads, query), wide[:, heads * query :]
    norm = fast_norm(mixer.kv_a_layernorm, frame, new[:, :rank])
    turns, k_pairs = frame.turns(rope, mixer.rope_theta), pairs(new[:, None, rank:])
    given_pairs = pairs(given[..., query - rope :])
    # Rows of one matrix, as the products over several rows of the batch take them.
    queries = frame.empty(rows, heads, width)
    turned = pairs(queries[..., rank:])
    cache, flat = state["latent"].view(-1, width), frame.flat()
    attend, mixed = _attention(frame, queries, state["latent"], rank)
    risen = mixed if weights.values is None else frame.empty(rows, heads, mixer.value)
    whole = risen.view(rows, -1)

    def run(x: Tensor) -> Tensor:
        weights.first(x, wide)
        torch.mul(given_pairs, turns, out=turned)
        k_pairs.mul_(turns)
        norm(new[:, :rank])
        cache.index_copy_(0, flat, new)
        if weights.keys is None:
            queries[..., :rank] = given[..., :rank]
        else:
            by_head = given[..., : mixer.nope].transpose(0, 1)
            queries[..., :rank] = torch.bmm(by_head, weights.keys).transpose(0, 1)
        attend()
        if weights.values is not None:
            risen.copy_(torch.bmm(mixed.transpose(0, 1), weights.values).transpose(0, 1))
        return weights.last(whole)

    return run


def _attention(
    frame: Frame, queries: Tensor, latent: Tensor, rank: int
) -> tuple[Callable[[], None], Tensor]:
    """Attention of one query a row and head, and where its result [B, H, C] will be.

    Positions that rows share are read once for all of them.
    """
    rows, heads, width = queries.shape
    shared, reach = frame.shared, frame.reach
    scores, pattern = (frame.empty(rows, heads, reach) for _ in range(2))
    mixed = frame.empty(rows, heads, rank)
    own = latent[:, shared:reach]
    keys, values = own.transpose(1, 2), own[..., :rank]
    # torch multiplies row by row into what is not contiguous (2.13).
    own_scores = frame.empty(rows, heads, reach - shared) if shared else scores
    own_pattern = pattern[..., shared:]
    unseen = frame.unseen().expand(-1, heads, -1)
    parts = []
    for start, stop in frame.groups if shared else ():
        span, prompt = slice(start * heads, stop * heads), latent[start, :shared]
        ask, to = queries.view(-1, width)[span], scores.view(-1, reach)[span, :shared]
        parts.append((ask, prompt.t(), to))
        weigh, into = pattern.view(-1, reach)[span, :shared], mixed.view(-1, rank)[span]
        parts[-1] += (weigh, prompt[:, :rank], into)

    def attend() -> None:
        for ask, prompt_keys, to, *_ in parts:
            torch.mm(ask, prompt_keys, out=to)
        torch.baddbmm(unseen, queries, keys, out=own_scores)
        if parts:
            scores[..., shared:] = own_scores
        torch.softmax(scores, -1, out=pattern)
        for *_, weigh, prompt_values, into in parts:
            torch.mm(weigh, prompt_values, out=into)
        if parts:
            mixed.baddbmm_(own_pattern, values)
        else:
            torch.bmm(own_pattern, values, out=mixed)

    return attend, mixed
