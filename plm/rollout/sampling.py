"""How a token is drawn from logits: settings a row, filters, and draws that know no batch.

Papers: Holtzman et al. (arXiv:1904.09751) for top-p, Nguyen et al. (arXiv:2407.01082) for min-p,
    Keskar et al. (arXiv:1909.05858) for the repetition penalty
Departs: tokens as likely as the last one that a filter keeps are kept too, so that what is kept
    does not depend on how a sort orders equals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from plm.errors import ConfigError, GuardStop
from plm.kernels.cpu import Kernels

# So many of the likeliest tokens nearly always hold the mass that top-p keeps.
_LIKELY = 256
_BLOCK = 64
_DIVERGED = "the model's scores are not finite: its weights have diverged"


@dataclass(frozen=True)
class Sampling:
    """How a row is drawn; a group's rows share it.

    Attributes:
        max_new_tokens: drawn at most, 1 or more.
        temperature: 0 for the likeliest token.
        top_k: draw among the k likeliest; 0: among all.
        top_p: of these, among the fewest that hold this share of their mass.
        min_p: of these, among those at least this share as likely as the likeliest.
        repetition_penalty: scores of tokens that the row holds, prompt included, are divided by it
            where positive and multiplied where negative; 1: not at all.
        stop: texts that end a row, and are cut off, wherever they appear in what was drawn.
        seed: of the draws.

    Raises:
        ConfigError: a value is out of its range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        rules = {
            "max_new_tokens": (self.max_new_tokens >= 1, "it must be at least 1"),
            # Smaller ones are 0 in fp32.
            "temperature": (
                self.temperature == 0 or 1e-5 <= self.temperature < float("inf"),
                "it is 0 (the likeliest token), or goes from 1e-5 up",
            ),
            "top_k": (self.top_k >= 0, "it goes from 0 (all tokens) up"),
            "top_p": (0 < self.top_p <= 1, "it must be above 0 and at most 1 (all tokens)"),
            "min_p": (0 <= self.min_p <= 1, "it goes from 0 (all tokens) to 1"),
            "repetition_penalty": (
                0.01 <= self.repetition_penalty <= 100,
                "it goes from 0.01 to 100; 1 is none",
            ),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"{name}={getattr(self, name)} cannot be; {rule}")
        object.__setattr__(self, "stop", tuple(self.stop))
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ConfigError(f"stop={list(self.stop)} must hold texts of at least one character")


@dataclass
class Stacked:
    """Settings of several rows, [B] each; None: no row has the filter.

    Attributes:
        greedy: bool, the rows that take the likeliest; None: no row does.
        all_greedy: every row does.
        temperature: 1 for greedy rows; None: 1 for all.
        top_k, top_p, min_p, penalty: as in Sampling.
        most: the largest top_k.
        heat: [B] fp32, the temperature and 0 for greedy rows; None: there are other settings.
    """

    all_greedy: bool
    greedy: Tensor | None = None
    temperature: Tensor | None = None
    top_k: Tensor | None = None
    top_p: Tensor | None = None
    min_p: Tensor | None = None
    penalty: Tensor | None = None
    most: int = 0
    heat: Tensor | None = None

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> "Stacked":
        """Those of the rows."""

        def column(values: list, unless: float, kind: torch.dtype = torch.float64) -> Tensor | None:
            if all(value == unless for value in values):
                return None
            return torch.tensor(values, device=device, dtype=kind)

        cold = [row.temperature == 0 for row in rows]
        plain = all(
            (row.top_k, row.top_p, row.min_p, row.repetition_penalty) == (0, 1, 0, 1)
            for row in rows
        )
        heat = torch.tensor([row.temperature for row in rows], dtype=torch.float32, device=device)
        return cls(
            heat=heat if plain else None,
            all_greedy=all(cold),
            greedy=column(cold, False, torch.bool),
            temperature=column([row.temperature or 1.0 for row in rows], 1.0),
            top_k=column([row.top_k for row in rows], 0, torch.int64),
            top_p=column([row.top_p for row in rows], 1.0),
            min_p=column([row.min_p for row in rows], 0.0),
            penalty=column([row.repetition_penalty for row in rows], 1.0),
            most=max((row.top_k for row in rows), default=0),
        )

    def to(self, dtype: torch.dtype) -> "Stacked":
        """The same for logits of this dtype."""
        names = ("temperature", "top_p", "min_p", "penalty")
        given = {name: getattr(self, name) for name in names}
        if all(value is None or value.dtype == dtype for value in given.values()):
            return self
        cast = {name: None if value is None else value.to(dtype) for name, value in given.items()}
        return replace(self, **cast)


def row_seed(seed: int, index: int) -> int:
    """A seed for the index-th prompt of a call; the first has the call's own."""
    return int(_mix(_mix(np.uint64(seed % 2**64)) + np.uint64(index))) if index else seed


def uniforms(seed: int, sample: int, count: int) -> np.ndarray:
    """One number in [0, 1) for each of a row's draws, [count] float64.

    Number i is a function of (seed, sample, i) alone: a hash of a counter, not a generator's state.
    """
    key = _mix(_mix(np.uint64(seed % 2**64)) ^ np.uint64(sample % 2**64))
    places = np.arange(count, dtype=np.uint64)
    return (_mix(key + places * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.uint64 | np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def draw(
    logits: Tensor,
    settings: Stacked,
    uniform: Tensor | None,
    seen: Tensor | None = None,
    kernels: Kernels | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One token a row.

    Args:
        logits: [B, V].
        settings: of these rows.
        uniform: [B] float64 in [0, 1); what decides the draw; None: all rows are greedy.
        seen: [B, V] bool, tokens that a row holds; needed where one has a repetition penalty.
        kernels: compiled ones, for fp32 logits on the CPU; they draw where temperature is the only
            setting.
    Raises:
        GuardStop: a row has no distribution, since its logits are not finite.
    Returns:
        [B] int64 tokens; their log-probabilities by the logits as they are; and by the
        distribution that was drawn from, 0 for greedy rows. In fp32, or fp64 for fp64.
    """
    if kernels is not None and settings.heat is not None:
        *drawn, finite = kernels.draw(logits, settings.heat, uniform)
        if not (finite or settings.all_greedy):
            raise GuardStop(_DIVERGED)
        return tuple(drawn)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    settings = settings.to(logits.dtype)
    # Faster on a CPU than logsumexp, which does not use its vectors.
    logps, scores = logits.log_softmax(-1), logits
    if settings.penalty is not None and seen is not None:
        factor = settings.penalty[:, None]
        held = torch.where(scores > 0, scores / factor, scores * factor)
        scores = torch.where(seen, held, scores)
    if settings.all_greedy:
        best = likeliest(scores)
        own = logps.gather(1, best[:, None])[:, 0]
        return best, own, torch.zeros_like(own)
    if settings.temperature is not None:
        scores = scores / settings.temperature[:, None]
    weights = _kept_weights(scores, settings)
    if not bool(weights.isfinite().all()):
        raise GuardStop(_DIVERGED)
    tokens, total = _at_share(weights, uniform)
    sampled = (weights.gather(1, tokens[:, None]) / total).log()[:, 0]
    if settings.greedy is not None:
        tokens = torch.where(settings.greedy, likeliest(scores), tokens)
        sampled = sampled.masked_fill(settings.greedy, 0.0)
    return tokens, logps.gather(1, tokens[:, None])[:, 0], sampled


def likeliest(scores: Tensor) -> Tensor:
    """argmax of [B, V], the first of equals; in two steps, of which the large one is vectorised."""
    size = scores.shape[1]
    if size % _BLOCK:
        return scores.argmax(-1)
    blocks = scores.unflatten(1, (-1, _BLOCK))
    block = blocks.amax(-1).argmax(-1)
    return block * _BLOCK + _of_block(blocks, block).argmax(-1)


def _of_block(blocks: Tensor, block: Tensor) -> Tensor:
    return blocks[torch.arange(len(blocks), device=blocks.device), block]


def _at_share(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The token where the running sum of the weights passes a share of it all, and the sum.

    Args:
        weights: [B, V], none negative, one positive.
        uniform: [B] float64 in [0, 1), the share.
    Returns:
        [B] int64, of a positive weight; [B, 1].
    """
    size = weights.shape[1]
    # The sum over all tokens one by one is slow on a CPU: first over blocks, then in one of them.
    blocks = weights.unflatten(1, (-1, _BLOCK if size % _BLOCK == 0 else size))
    mass = blocks.sum(-1).cumsum(-1)
    total = mass[:, -1:]
    target = (uniform[:, None] * total).to(mass.dtype)
    block = torch.searchsorted(mass, _below(target, total), right=True)
    start = torch.cat((torch.zeros_like(total), mass), dim=1).gather(1, block)
    inner = _of_block(blocks, block[:, 0]).cumsum(-1)
    place = torch.searchsorted(inner, _below(target - start, inner[:, -1:]), right=True)
    return (block * blocks.shape[2] + place)[:, 0], total


def _below(target: Tensor, total: Tensor) -> Tensor:
    """A target rounded up to the total would point past the last token."""
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total))).clamp_(min=0)


def _kept_weights(scores: Tensor, settings: Stacked) -> Tensor:
    """Probabilities [B, V], 0 where a filter drops a token."""
    weights = scores.softmax(-1)
    if settings.top_k is not None:
        most = min(settings.most, scores.shape[-1])
        place = settings.top_k.clamp(1, most) - 1
        least = scores.topk(most, dim=-1).values.gather(1, place[:, None])
        least = least.masked_fill(settings.top_k[:, None] == 0, float("-inf"))
        weights.masked_fill_(scores < least, 0.0)
    if settings.top_p is not None:
        weights.masked_fill_(weights < _least_of_mass(weights, settings.top_p), 0.0)
    if settings.min_p is not None:
        least = weights.amax(-1, keepdim=True) * settings.min_p[:, None]
        weights.masked_fill_(weights < least, 0.0)
    return weights


def _least_of_mass(weights: Tensor, share: Tensor) -> Tensor:
    """Weight of the last token, by falling weight, that a row needs for this share, [B, 1]."""
    wanted = (share * weights.sum(-1)).masked_fill(share >= 1, 0)[:, None]
    size = weights.shape[-1]
    order = weights.topk(min(_LIKELY, size), dim=-1).values
    mass = order.cumsum(-1)
    if size > _LIKELY and bool((mass[:, -1:] < wanted).any()):
        order = weights.sort(dim=-1, descending=True).values
        mass = order.cumsum(-1)
    before = torch.cat((torch.zeros_like(mass[:, :1]), mass[:, :-1]), dim=-1)
    number = (before < wanted).sum(-1, keepdim=True).clamp(min=1)
    least = order.gather(1, number - 1)
    return least.masked_fill(share[:, None] >= 1, 0.0)
