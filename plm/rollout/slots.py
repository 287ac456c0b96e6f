"""The places where rows grow: their mixers' state and what was drawn, allocated once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plm.rollout.sampling import Sampling, Stacked, uniforms
from plm.rollout.text import GrowingText

# Positions come in steps of so many, so that the state is not moved at every longer prompt.
_STEP = 64
# Shared positions are taken in whole multiples, and where so many rows share them on average.
_SHARED, _ROWS_A_RUN = 32, 3


@dataclass
class Request:
    """A prompt that waits or is under way.

    Attributes:
        number: as `Engine.add` gave it.
        prompt: ids, at least one.
        sampling: of all its rows.
        group: rows that it asks for.
        seed: of their draws.
        keep: its completions are wanted whole.
        held: the state that has taken in the prompt's beginning (plm.rollout.held.Held), until the
            rest is taken in too; None: there is none.
        done: by sample what a Completion says, in its order, where they are kept.
    """

    number: int
    prompt: list[int]
    sampling: Sampling
    group: int
    seed: int
    keep: bool = False
    held: Any = None
    done: dict[int, tuple] = field(default_factory=dict)

    @property
    def known(self) -> int:
        """Tokens of the prompt that need not be taken in again."""
        return 0 if self.held is None else len(self.held.tokens)

    @property
    def length(self) -> int:
        """Positions that a row of it may take."""
        return len(self.prompt) + self.sampling.max_new_tokens


@dataclass
class Row:
    """A row under way; `text` where somebody reads along or a stop string is to be found."""

    request: Request
    sample: int
    text: GrowingText | None = None


def tensors_of(model: nn.Module, rows: int, length: int) -> dict[str, Tensor]:
    """What is kept of each row, by position but for the first two."""
    head = model.embed_tokens.head_weight
    wide = torch.promote_types(head.dtype, torch.float32)

    def made(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=head.device)

    return {
        # The position of the last token, which the next step takes in; and of the very last.
        "place": made(torch.int64, rows),
        "limit": made(torch.int64, rows),
        "tokens": made(torch.int64, rows, length),
        "uniforms": made(torch.float64, rows, length),
        "logps": made(wide, rows, length),
        "sampled": made(wide, rows, length),
    }


class Slots:
    """Places for rows, of which the first `len(self.rows)` are taken.

    Args:
        model: whose state they hold.
        rows: places.
        length: positions of each.
    """

    def __init__(self, model: nn.Module, rows: int, length: int) -> None:
        self.model, self.size, self.length = model, rows, length
        self.device = model.embed_tokens.head_weight.device
        self.dtype = state_dtype(model)
        self.states: list[Any] = model.init_state(rows, length, self.device, self.dtype)
        self.kept = tensors_of(model, rows, length)
        self.seen: Tensor | None = None
        self.rows: list[Row] = []
        self.every = torch.arange(rows, device=self.device)
        self.lines = self.every * length
        # Found out anew when rows come or go.
        self._reach: int | None = None
        self._first: list[Any] | None = None

    def serves(self, model: nn.Module) -> bool:
        """Whether the model's next rows may grow here.

        Not once it has another dtype or device, nor after it gave what is no number: a place that
        is masked is multiplied by 0, which a number that is none outlives.
        """
        same = (self.dtype, self.device) == (
            state_dtype(model),
            model.embed_tokens.head_weight.device,
        )
        return same and bool(self.kept["logps"].isfinite().all())

    @property
    def watched(self) -> bool:
        """Whether a row's text is read while it grows."""
        return any(row.text is not None for row in self.rows)

    def grown(self, rows: int, length: int) -> "Slots":
        """A larger one with the same rows in it."""
        new = Slots(self.model, rows, length)
        taken = self.every[: len(self.rows)]
        new.model.place(new.states, taken, self.states, taken)
        for name, tensor in self.kept.items():
            new.kept[name][tuple(map(slice, tensor.shape))] = tensor
        if self.seen is not None:
            new.seen = self.seen.new_zeros(rows, self.seen.shape[1])
            new.seen[: self.size] = self.seen
        new.rows = self.rows
        return new

    def taken(self) -> slice:
        """The places of all rows."""
        return slice(0, len(self.rows))

    def first(self) -> list[Any]:
        """The states of the rows that are there."""
        if self._first is None:
            self._first = self.model.first(self.states, len(self.rows))
        return self._first

    def shared(self) -> tuple[int, list[tuple[int, int]]]:
        """Positions that neighbours of one request share at least, and the runs of such rows.

        0 where too few share too little for it to pay.
        """
        numbers = [row.request.number for row in self.rows]
        starts = [i for i, number in enumerate(numbers) if i == 0 or numbers[i - 1] != number]
        runs = list(zip(starts, [*starts[1:], len(numbers)], strict=True))
        length = min(len(row.request.prompt) for row in self.rows) // _SHARED * _SHARED
        pays = len(numbers) >= _ROWS_A_RUN * len(runs) and length >= 2 * _SHARED
        return (length, runs) if pays else (0, [])

    def settings(self, at: slice) -> Stacked:
        """Of the rows in these places."""
        return Stacked.of([row.request.sampling for row in self.rows[at]], self.device)

    def reach(self) -> int:
        """Positions that the longest row holds after the next step."""
        if self._reach is None:
            self._reach = int(self.kept["place"][: len(self.rows)].max())
        self._reach += 1
        return self._reach

    def put(self, rows: list[Row], states: list[Any], index: Tensor) -> slice:
        """Let rows begin behind those that are there.

        Args:
            rows: as many as there are places, or fewer.
            states: with their prompts taken in.
            index: [N] int64, the row of `states` for each.
        Returns:
            Their places.
        """
        first, self._reach, self._first = len(self.rows), None, None
        at = slice(first, first + len(rows))
        self.model.place(self.states, self.every[at], states, index)
        self.rows += rows
        for slot, row in enumerate(rows, start=first):
            request, sampling = row.request, row.request.sampling
            start = len(request.prompt)
            self.kept["place"][slot] = start - 1
            self.kept["limit"][slot] = request.length - 1
            self.kept["tokens"][slot, :start] = torch.tensor(request.prompt)
            if sampling.temperature:
                numbers = uniforms(request.seed, row.sample, sampling.max_new_tokens)
                self.kept["uniforms"][slot, start : request.length] = torch.from_numpy(numbers)
            if sampling.repetition_penalty != 1:
                self._see(slot, request.prompt)
        return at

    def _see(self, slot: int, prompt: list[int]) -> None:
        if self.seen is None:
            shape = (self.size, self.model.vocab_size)
            self.seen = torch.zeros(shape, dtype=torch.bool, device=self.device)
        self.seen[slot] = False
        self.seen[slot, torch.tensor(prompt, device=self.device)] = True

    def _flat(self, at: slice) -> Tensor:
        """[N] int64, where in a tensor of rows and positions the last token of each row is."""
        return self.lines[at] + self.kept["place"][at]

    def last(self, at: slice) -> tuple[Tensor, Tensor]:
        """Last token of each row and its position, [N] int64 each."""
        tokens = self.kept["tokens"].view(-1).index_select(0, self._flat(at))
        return tokens, self.kept["place"][at]

    def uniform(self, at: slice) -> Tensor:
        """[N] float64, the numbers for the next draw of each row."""
        return self.kept["uniforms"].view(-1).index_select(0, self._flat(at) + 1)

    def write(self, at: slice, token: Tensor, logp: Tensor, sampled: Tensor) -> Tensor:
        """Append one token to each row; which of them are full now, [N] bool."""
        place = self.kept["place"][at].add_(1)
        flat = self._flat(at)
        for name, value in (("tokens", token), ("logps", logp), ("sampled", sampled)):
            self.kept[name].view(-1).index_copy_(0, flat, value)
        if self.seen is not None:
            self.seen[at].scatter_(1, token[:, None], True)
        return place >= self.kept["limit"][at]

    def drawn(self, slot: int) -> tuple[list[int], list[float], list[float]]:
        """What a row has drawn: tokens, and the two log-probabilities of each."""
        start, end = len(self.rows[slot].request.prompt), int(self.kept["place"][slot]) + 1
        tokens, logps, sampled = (
            self.kept[name][slot, start:end].tolist() for name in ("tokens", "logps", "sampled")
        )
        return tokens, logps, sampled

    def close(self, slots: list[int]) -> None:
        """Free places; rows from the end move into them."""
        gone, self._reach, self._first = set(slots), None, None
        stay = len(self.rows) - len(gone)
        movers = [slot for slot in range(stay, len(self.rows)) if slot not in gone]
        holes = [slot for slot in sorted(gone) if slot < stay]
        if movers:
            to = torch.tensor(holes, device=self.device)
            of = torch.tensor(movers, device=self.device)
            self.model.place(self.states, to, self.states, of)
            for tensor in [*self.kept.values(), *([] if self.seen is None else [self.seen])]:
                tensor.index_copy_(0, to, tensor.index_select(0, of))
            for hole, mover in zip(holes, movers, strict=True):
                self.rows[hole] = self.rows[mover]
        del self.rows[stay:]


def state_dtype(model: nn.Module) -> torch.dtype:
    """Of what mixers keep: under autocast the latents and keys come in its dtype."""
    head = model.embed_tokens.head_weight
    if torch.is_autocast_enabled(head.device.type):
        return torch.get_autocast_dtype(head.device.type)
    return head.dtype


def fitting(
    slots: Slots | None, model: nn.Module, items: Sequence[Any], rows: int, max_len: int | None
) -> Slots:
    """The places, made or made larger where these rows do not fit in.

    Args:
        slots: None: there are none yet.
        model: whose state they hold.
        items: the rows that begin, as `Ready`.
        rows: places at most.
        max_len: their positions; None: as many as are needed, in steps.
    """
    taken = len(slots.rows) if slots is not None else 0
    needed = max(max(item.row.request.length, item.source.length) for item in items)
    length = max_len or min(-(-needed // _STEP) * _STEP, model.max_position_embeddings)
    if slots is None:
        return Slots(model, min(rows, _power(len(items))), length)
    size = min(rows, _power(taken + len(items)))
    if size <= slots.size and length <= slots.length:
        return slots
    return slots.grown(max(size, slots.size), max(length, slots.length))


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
