"""Which window is read when: a pure function of (phases, sources, seed, step).

Seeking costs O(sources) whatever the step: quotas come from nested rounding, the order of blocks
from a keyed permutation, so nothing is stored and nothing depends on what was read before.

Source of the permutation: Luby & Rackoff (1988); cycle walking: Black & Rogaway (2002).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm

import numpy as np

from plm.errors import ConfigError, DataError
from plm.phases import Plan, PlannedPhase

WEIGHT_UNITS = 1_000_000
MIXTURE_PIECES = 64
ROUNDS = 6
_CARRY = 2**20
_DENOMINATOR = 10_000


def permute(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """A keyed permutation of range(size), evaluated at the given places alone.

    Args:
        index: int64, each in [0, size).
        size: length of the permuted range, at most 2^62.
        key: chooses the permutation.
    Returns:
        int64, same shape.
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = _round_keys(key)
    value = np.array(index, dtype=np.uint64)
    pending = np.ones(value.shape, dtype=bool)
    while pending.any():
        left, right = value[pending] >> half, value[pending] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        value[pending] = (left << half) | right
        # The network permutes a power of four; walk on until back inside the range.
        pending = value >= np.uint64(size)
    return value.astype(np.int64)


@lru_cache(maxsize=1024)
def _round_keys(key: int) -> list[np.uint64]:
    return [np.uint64(_number(f"{key}/{r}")) for r in range(ROUNDS)]


@lru_cache(maxsize=1024)
def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class _Fork:
    """Two groups of sources and how many of the first windows of both the first group takes.

    Args:
        first, second: sources of each group.
        units: [P, K] of all sources.
        bounds: [P] windows of both groups at which each piece begins.
    """

    def __init__(
        self, first: list[int], second: list[int], units: np.ndarray, bounds: np.ndarray
    ) -> None:
        self.first, self.second, self._bounds = first, second, bounds
        self._units = units[:, first].sum(axis=1)
        self._both = np.maximum(units[:, first + second].sum(axis=1), 1)
        whole, carry = [0], [0]
        for p, size in enumerate(np.diff(bounds)):
            grown, rest = divmod(int(size) * int(self._units[p]), int(self._both[p]))
            more = carry[-1] + rest * _CARRY // int(self._both[p])
            whole.append(whole[-1] + grown + more // _CARRY)
            carry.append(more % _CARRY)
        self._whole, self._carry = np.array(whole, dtype=np.int64), np.array(carry, dtype=np.int64)

    def taken(self, windows: np.ndarray) -> np.ndarray:
        """Of the first `windows` of both groups, how many belong to the first."""
        many = len(self._bounds) > 1
        p = np.searchsorted(self._bounds, windows, side="right") - 1 if many else 0
        both = self._both[p]
        grown, part = np.divmod((windows - self._bounds[p]) * self._units[p], both)
        # Half a window and more counts as one.
        part = 2 * (self._carry[p] * both + part * _CARRY) + _CARRY * both
        return self._whole[p] + grown + part // (2 * _CARRY * both)


class Quotas:
    """How many of the first i windows belong to each source, in integers.

    Nested rounding: the sources are parted into two groups of like weight, each of these again, and
    so on; the first group of a fork gets its rounded share of the fork's windows. Every count grows
    by 0 or 1 a window, and an error shrinks with the share at each fork. Weights that change do so
    at the bounds of pieces, with the fraction of a window that a piece ends with carried on.

    Args:
        pieces: shares by source of each piece; exact where they are fractions of small numbers,
            else at a resolution of a millionth.
        windows: of all pieces together; unused for a single one, which has no end.
    """

    def __init__(self, pieces: Sequence[Mapping[str, float]], windows: int = 0) -> None:
        self.names = list(pieces[0])
        units = np.array([_units(piece) for piece in pieces], dtype=np.int64)
        weights = (units / units.sum(axis=1, keepdims=True)).sum(axis=0)
        # The heaviest first; of equals the one that was named first.
        order = sorted(range(len(self.names)), key=lambda k: -round(float(weights[k]), 9))
        bounds = np.array([windows * p // len(pieces) for p in range(len(pieces))], dtype=np.int64)
        self._forks: dict[tuple[int, ...], _Fork] = {}
        self._whole = order
        self._part(order, units, weights, bounds)

    def _part(
        self, members: list[int], units: np.ndarray, weights: np.ndarray, bounds: np.ndarray
    ) -> None:
        if len(members) == 1:
            return
        ahead = np.cumsum(weights[members])
        at = int(np.argmin(np.round(np.abs(2 * ahead[:-1] - ahead[-1]), 9))) + 1
        fork = _Fork(members[:at], members[at:], units, bounds)
        self._forks[tuple(members)] = fork
        taken = fork.taken(bounds)
        self._part(fork.first, units, weights, taken)
        self._part(fork.second, units, weights, bounds - taken)

    def counts(self, windows: np.ndarray) -> np.ndarray:
        """[..., K] int64: of the first `windows` (int64) windows, how many each source has."""
        whole = np.asarray(windows, dtype=np.int64)
        found = np.empty((*whole.shape, len(self.names)), dtype=np.int64)
        waiting = [(self._whole, whole)]
        while waiting:
            members, rest = waiting.pop()
            if len(members) == 1:
                found[..., members[0]] = rest
                continue
            fork = self._forks[tuple(members)]
            taken = fork.taken(rest)
            waiting += [(fork.first, taken), (fork.second, rest - taken)]
        return found

    @classmethod
    def of(cls, planned: PlannedPhase) -> "Quotas":
        """Those of a phase; a mixture that changes does so in MIXTURE_PIECES pieces."""
        changes = bool(planned.phase.mixture_to)
        pieces = min(MIXTURE_PIECES, planned.windows) if changes else 1
        return cls([planned.shares(p, pieces) for p in range(pieces)], planned.windows)


def _units(shares: Mapping[str, float]) -> list[int]:
    total = sum(shares.values())
    exact = [Fraction(w / total).limit_denominator(_DENOMINATOR) for w in shares.values()]
    near = all(
        abs(float(e) - w / total) < 1e-12 for e, w in zip(exact, shares.values(), strict=True)
    )
    common = lcm(*(e.denominator for e in exact))
    if near and sum(exact) == 1 and common <= WEIGHT_UNITS:
        return [int(e * common) for e in exact]
    return [max(1, round(w / total * WEIGHT_UNITS)) if w > 0 else 0 for w in shares.values()]


@dataclass(frozen=True)
class Windows:
    """Rows of a batch.

    Attributes:
        source: [n] int64, index into `Order.names`.
        offset: [n] int64, first token in the source's stream.
        epoch: [n] int64, times the source was read whole before.
        seq_len: T.
    """

    source: np.ndarray
    offset: np.ndarray
    epoch: np.ndarray
    seq_len: int


class Order:
    """Batch k of a run.

    Args:
        plan: the phases.
        tokens: length of each source's stream.
        block_tokens: unit of the permutation; a multiple of every phase's seq_len.
        seed: of the permutation.
        cursors: tokens already read of each source, over all epochs, where the run begins.
    Raises:
        ConfigError: a mixture names a source that is not there, or a window that no block fits.
        DataError: a source has less than one block.
    """

    def __init__(
        self,
        plan: Plan,
        tokens: Mapping[str, int],
        block_tokens: int,
        seed: int,
        cursors: Mapping[str, int] | None = None,
    ) -> None:
        self.plan, self.block_tokens, self.seed = plan, block_tokens, seed
        self.names = plan.sources()
        self._check(plan, tokens, block_tokens)
        self.blocks = {name: (tokens[name] - 1) // block_tokens for name in self.names}
        for name, blocks in self.blocks.items():
            if blocks < 1:
                raise DataError(
                    f"source {name} has {tokens[name]} tokens, less than one block of "
                    f"{block_tokens}; give it more text or lower data.block_tokens"
                )
        self._starts: list[dict[str, int]] = []
        self._quotas: list[Quotas] = []
        cursor = {name: int((cursors or {}).get(name, 0)) for name in self.names}
        for planned in plan.phases:
            seq_len, quotas = planned.phase.seq_len, Quotas.of(planned)
            start = {n: -(-cursor[n] // seq_len) * seq_len for n in quotas.names}
            self._starts.append(start)
            self._quotas.append(quotas)
            counts = quotas.counts(np.int64(planned.steps * planned.rows))
            for name, count in zip(quotas.names, counts, strict=True):
                cursor[name] = start[name] + int(count) * seq_len

    @staticmethod
    def _check(plan: Plan, tokens: Mapping[str, int], block_tokens: int) -> None:
        for planned in plan.phases:
            phase = planned.phase
            for name in phase.mixture:
                if name not in tokens:
                    raise ConfigError(
                        f"phases.{phase.name}.mixture.{name} is not a source of the data; "
                        f"there are: {', '.join(tokens)}"
                    )
            if block_tokens % phase.seq_len:
                raise ConfigError(
                    f"phases.{phase.name}.seq_len={phase.seq_len} does not divide "
                    f"data.block_tokens={block_tokens}; set data.block_tokens to a multiple of it "
                    "(this prepares the data again)"
                )

    def windows(self, step: int, first: int = 0, last: int | None = None) -> Windows:
        """Rows [first, last) of the step's global batch, all by default."""
        return self.windows_of(step, 1, first, last)

    def windows_of(self, step: int, steps: int, first: int = 0, last: int | None = None) -> Windows:
        """Rows [first, last) of each of so many steps, all of one phase, one step after another."""
        index = self.plan.phases.index(self.plan.at(step))
        planned, quotas, start = self.plan.phases[index], self._quotas[index], self._starts[index]
        last = planned.rows if last is None else last
        base = (step - planned.first_step + np.arange(steps, dtype=np.int64)) * planned.rows
        place = (base[:, None] + np.arange(first, last, dtype=np.int64)).reshape(-1)
        counts = quotas.counts(place)
        local = (quotas.counts(place + 1) - counts).argmax(axis=1)
        nth = np.take_along_axis(counts, local[:, None], axis=1)[:, 0]
        seq_len = planned.phase.seq_len
        source, offset, epoch = (np.zeros(len(place), dtype=np.int64) for _ in range(3))
        for k in np.unique(local):
            name, rows = quotas.names[k], local == k
            at = start[name] + nth[rows] * seq_len
            source[rows] = self.names.index(name)
            offset[rows], epoch[rows] = self._locate(name, at)
        return Windows(source, offset, epoch, seq_len)

    def _locate(self, name: str, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token offset and epoch of places `at` on a source's endless line."""
        block, inside = np.divmod(at, self.block_tokens)
        epoch, block = np.divmod(block, self.blocks[name])
        place = np.zeros_like(block)
        for value in np.unique(epoch):
            rows = epoch == value
            key = _number(f"{self.seed}/{name}/{value}")
            place[rows] = permute(block[rows], self.blocks[name], key)
        return place * self.block_tokens + inside, epoch

    def cursors(self, step: int) -> dict[str, int]:
        """Tokens read of each source over all epochs, before a step."""
        found = dict.fromkeys(self.names, 0)
        for planned, quotas, start in zip(
            self.plan.phases, self._quotas, self._starts, strict=True
        ):
            if step <= planned.first_step and planned is not self.plan.phases[0]:
                break
            steps = min(step - planned.first_step, planned.steps)
            counts = quotas.counts(np.int64(steps * planned.rows))
            for name, count in zip(quotas.names, counts, strict=True):
                found[name] = start[name] + int(count) * planned.phase.seq_len
        return found

    def epochs(self) -> dict[str, float]:
        """How often the run reads each source, what a fork's origin has read included."""
        ends = self.cursors(self.plan.total_steps)
        return {n: end / (self.blocks[n] * self.block_tokens) for n, end in ends.items()}

    def read(self, first_step: int, last_step: int) -> dict[str, int]:
        """Tokens of each source that the steps [first_step, last_step) read."""
        found = dict.fromkeys(self.names, 0)
        for planned, quotas in zip(self.plan.phases, self._quotas, strict=True):
            low = min(max(first_step - planned.first_step, 0), planned.steps)
            high = min(max(last_step - planned.first_step, 0), planned.steps)
            counts = quotas.counts(np.array([low, high], dtype=np.int64) * planned.rows)
            for name, count in zip(quotas.names, counts[1] - counts[0], strict=True):
                found[name] += int(count) * planned.phase.seq_len
        return found
