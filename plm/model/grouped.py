"""A fast step of grouped-query attention: its projections joined, its cache written in one go."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plm.model.decoding import Frame, Run, Workshop, pairs


class GroupedWeights:
    """What a step multiplies by, from a mixer's projections as they are now.

    Args:
        mixer: a GQA.
        workshop: for the products.

    Attributes:
        to_q: product to queries with the scale in them, [H·K].
        to_kv: product to each key head's key with its value behind it, as the state keeps them.
        to_out: product from [H·U] to D.
        biases: of the first two; None: there are none.
    """

    def __init__(self, mixer: Any, workshop: Workshop) -> None:
        def joined(part: str, name: str) -> Tensor:
            k, v = (getattr(getattr(mixer, f"{which}_{part}"), name).detach() for which in "kv")
            heads = (mixer.kv_heads, -1)
            return torch.cat((k.unflatten(0, heads), v.unflatten(0, heads)), dim=1).flatten(0, 1)

        self.to_q = workshop.product(mixer.q_proj.weight.detach() * mixer.scale)
        self.to_kv = workshop.product(joined("proj", "weight"))
        self.to_out = workshop.product(mixer.o_proj.weight)
        self.biases: tuple[Tensor, Tensor] | None = None
        if hasattr(mixer.q_bias, "bias"):
            self.biases = mixer.q_bias.bias.detach() * mixer.scale, joined("bias", "bias")


def make_fast(mixer: Any, weights: GroupedWeights, frame: Frame, state: dict[str, Tensor]) -> Run:
    """The step for the rows of a frame and a state of `GQA.init_state`."""
    heads, rows, width = mixer.kv_heads, frame.rows, mixer.key + mixer.value
    q, kv = frame.empty(rows, mixer.heads * mixer.key), frame.empty(rows, heads * width)
    turns = frame.turns(mixer.key, mixer.rope_theta)
    q_pairs = pairs(q.view(rows, mixer.heads, mixer.key))
    k_pairs = pairs(kv.view(rows, heads, width)[..., : mixer.key])
    cache, new, flat = state["kv"].view(-1, width), kv.view(-1, width), frame.flat(heads)
    attend, mixed = _attention(frame, q.view(rows, heads, -1, mixer.key), state["kv"])
    whole = mixed.view(rows, -1)

    def run(x: Tensor) -> Tensor:
        weights.to_q(x, q)
        weights.to_kv(x, kv)
        if weights.biases is not None:
            q.add_(weights.biases[0])
            kv.add_(weights.biases[1])
        q_pairs.mul_(turns)
        k_pairs.mul_(turns)
        cache.index_copy_(0, flat, new)
        attend()
        return weights.to_out(whole)

    return run


def _attention(frame: Frame, queries: Tensor, kv: Tensor) -> tuple[Callable[[], None], Tensor]:
    """Attention of queries [B, Hk, H / Hk, K], and where its result [B, Hk, H / Hk, U] will be.

    Positions that rows share are read once for all of them.
    """
    (rows, heads, group, key), width = queries.shape, kv.shape[-1]
    shared, reach = frame.shared, frame.reach
    scores, pattern = (frame.empty(rows, heads, group, reach) for _ in range(2))
    mixed = frame.empty(rows, heads, group, width - key)
    own = kv.flatten(0, 1)[:, shared:reach]
    keys, values = own[..., :key].transpose(1, 2), own[..., key:]
    asking, to, weigh, into = (t.flatten(0, 1) for t in (queries, scores, pattern, mixed))
    # torch multiplies row by row into what is not contiguous (2.13).
    own_scores = frame.empty(rows * heads, group, reach - shared) if shared else to
    to, weigh = to[..., shared:], weigh[..., shared:]
    unseen = frame.unseen(heads).expand(-1, group, -1)
    parts = []
    for start, stop in frame.groups if shared else ():
        prompt, span = kv[start, :, :shared], slice(start, stop)
        # By head, as the prompt's keys are: a few small copies for one large read.
        parts.append(
            (
                *(tensor[span].transpose(0, 1) for tensor in (queries, scores, pattern, mixed)),
                prompt[..., :key].transpose(1, 2),
                prompt[..., key:],
            )
        )

    def attend() -> None:
        for ask, found, _, _, prompt_keys, _ in parts:
            made = torch.bmm(ask.flatten(1, 2), prompt_keys)
            found[..., :shared] = made.view(*ask.shape[:3], shared)
        torch.baddbmm(unseen, asking, keys, out=own_scores)
        if parts:
            to.copy_(own_scores)
        torch.softmax(scores, -1, out=pattern)
        for ask, _, share, found, _, prompt_values in parts:
            made = torch.bmm(share[..., :shared].flatten(1, 2), prompt_values)
            found.copy_(made.view(*ask.shape[:3], -1))
        if parts:
            into.baddbmm_(weigh, values)
        else:
            torch.bmm(weigh, values, out=into)

    return attend, mixed
