"""A phase: token budget, mixture, rate segment, sequence length and isolation in one object."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from plm.errors import ConfigError
from plm.schedule.common import Segment

BY_TOKENS = "tokens"
"""A source's weight that stands for the number of its tokens."""


@dataclass(frozen=True)
class Rate:
    """The phase's part of the learning rate, in shares of the peak.

    Attributes:
        shape: hold, linear, cosine, one_minus_sqrt or exponential.
        to: share at the end of the phase (from its start, for hold).
        warmup_tokens: linear rise from 0 at the start of the phase.
        start: share that a decay begins at; None: where the phase before ended, 1 for the first.
    """

    shape: str
    to: float
    warmup_tokens: int = 0
    start: float | None = None


@dataclass(frozen=True)
class Phase:
    """One entry of the mapping `phases`.

    Attributes:
        name: its key.
        tokens: budget asked for; realised in whole global batches.
        seq_len: T of its windows.
        global_batch_tokens: tokens of one optimizer step, over all ranks.
        mixture: weight of each source, in any unit; or `tokens` for each: as many tokens as it has.
        mixture_to: weights at the phase's end, approached linearly; empty: the mixture stays.
        temperature: of the weights `tokens`: sizes count to the power of its inverse.
        isolate_documents: documents of one window do not see each other; positions restart.
        rate: its part of the learning rate.
        rope_theta: base of the rotary angles; None: the model's.
        trainable: patterns of the parameters that learn; empty: all.
        regularizers: choices by name, active in this phase.
        transforms: choices by name, each with `every_tokens` (0: once, at the phase's entry).
    """

    name: str
    tokens: int
    seq_len: int
    global_batch_tokens: int
    mixture: Mapping[str, float | str]
    rate: Rate
    mixture_to: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    isolate_documents: bool = True
    rope_theta: float | None = None
    trainable: tuple[str, ...] = ()
    regularizers: Mapping[str, Any] = field(default_factory=dict)
    transforms: Mapping[str, Any] = field(default_factory=dict)


def _check_keys(found: Mapping[str, Any], allowed: type, where: str) -> None:
    from difflib import get_close_matches

    names = [item.name for item in fields(allowed) if item.name != "name"]
    for key in found:
        if key not in names:
            near = get_close_matches(key, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; keys: {', '.join(names)}"
            raise ConfigError(f"{where}.{key} is not a setting of a phase{hint}")


def read_phase(name: str, settings: Mapping[str, Any]) -> Phase:
    """One phase from its plain settings.

    Raises:
        ConfigError: a key or value that cannot work.
    """
    where = f"phases.{name}"
    for key in ("", "mixture", "mixture_to", "rate"):
        node = settings.get(key) if key else settings
        if node is not None and not isinstance(node, Mapping):
            at = f"{where}.{key}" if key else where
            raise ConfigError(f"{at}={node!r} must be a mapping")
    _check_keys(settings, Phase, where)
    needed = ("tokens", "seq_len", "global_batch_tokens", "mixture", "rate")
    missing = [key for key in needed if settings.get(key) is None]
    if missing:
        raise ConfigError(f"{where}.{missing[0]} is missing")
    _check_keys(settings["rate"], Rate, f"{where}.rate")
    for key in ("tokens", "seq_len", "global_batch_tokens"):
        value = settings[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{where}.{key}={value!r} must be a whole number of at least 1")
    seq_len, batch = settings["seq_len"], settings["global_batch_tokens"]
    if batch % seq_len:
        low = max(seq_len, batch // seq_len * seq_len)
        raise ConfigError(
            f"{where}.global_batch_tokens={batch} is not a multiple of seq_len={seq_len}; "
            f"nearest: {low}, {low + seq_len}"
        )
    mixtures = _read_mixtures(where, settings)
    try:
        rate = Rate(**settings["rate"])
    except TypeError as error:
        raise ConfigError(f"{where}.rate: shape and to are needed") from error
    rest = {
        key: value
        for key, value in settings.items()
        if key not in ("rate", "trainable", "mixture", "mixture_to")
    }
    return Phase(
        name=name,
        rate=rate,
        trainable=tuple(settings.get("trainable") or ()),
        **mixtures,
        **rest,
    )


def _read_mixtures(where: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The weights `mixture` and `mixture_to`, without sources that have none in either."""
    found = {}
    temperature = settings.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ConfigError(f"{where}.temperature={temperature!r} must be a number above 0")
    for key in ("mixture", "mixture_to"):
        weights = found[key] = dict(settings.get(key) or {})
        if key == "mixture" and weights and set(weights.values()) == {BY_TOKENS}:
            if settings.get("mixture_to"):
                raise ConfigError(f"{where}.mixture_to needs numbers in {where}.mixture, too")
            return found
        for source, weight in weights.items():
            if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
                raise ConfigError(
                    f"{where}.{key}.{source}={weight!r} must be a number from 0 up"
                    + (f", or every weight {BY_TOKENS}" if key == "mixture" else "")
                )
        if (weights or key == "mixture") and sum(weights.values()) <= 0:
            raise ConfigError(f"{where}.{key} sums to nothing; give at least one source a weight")
    if temperature != 1:
        raise ConfigError(f"{where}.temperature={temperature} needs the weights {BY_TOKENS}")
    start, end = found["mixture"], found["mixture_to"]
    names = [s for s in dict.fromkeys([*start, *end]) if start.get(s, 0) + end.get(s, 0) > 0]
    if not end:
        return {"mixture": {name: start[name] for name in names}, "mixture_to": {}}
    return {k: {n: w.get(n, 0) for n in names} for k, w in found.items()}


@dataclass(frozen=True)
class PlannedPhase:
    """A phase placed on the run's line of steps and tokens.

    Attributes:
        phase: its settings.
        first_step: index of its first step in this run.
        steps: how many it takes.
        start_tokens: tokens of the run before it, those of a fork's origin included.
        rows: windows of one global batch.
    """

    phase: Phase
    first_step: int
    steps: int
    start_tokens: int
    rows: int

    @property
    def windows(self) -> int:
        """Windows of all its steps."""
        return self.steps * self.rows

    def shares(self, piece: int = 0, pieces: int = 1) -> dict[str, float]:
        """Each source's share of the tokens, in the middle of one of so many equal pieces.

        By default over the whole phase.
        """
        at = (piece + 0.5) / pieces
        start, end = ({n: w / sum(m.values()) for n, w in m.items()} for m in self._ends())
        return {name: start[name] * (1 - at) + end[name] * at for name in start}

    def _ends(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        start = self.phase.mixture
        return start, self.phase.mixture_to or start

    @property
    def tokens(self) -> int:
        """Realised budget: whole global batches."""
        return self.steps * self.phase.global_batch_tokens

    @property
    def end_tokens(self) -> int:
        """Tokens of the run after it."""
        return self.start_tokens + self.tokens


class Plan:
    """All phases of a run in order.

    Args:
        phases: at least one.
        origin_tokens: tokens that the checkpoint this run is forked from had seen.
    """

    def __init__(self, phases: list[Phase], origin_tokens: int = 0) -> None:
        if not phases:
            raise ConfigError("phases is empty; choose one, for example phases=plm")
        self.origin_tokens = origin_tokens
        self.phases: list[PlannedPhase] = []
        step, tokens = 0, origin_tokens
        for phase in phases:
            steps = -(-phase.tokens // phase.global_batch_tokens)
            rows = phase.global_batch_tokens // phase.seq_len
            self.phases.append(PlannedPhase(phase, step, steps, tokens, rows))
            step, tokens = step + steps, tokens + steps * phase.global_batch_tokens
        self.total_steps, self.end_tokens = step, tokens

    @classmethod
    def read(cls, settings: Mapping[str, Mapping[str, Any]], origin_tokens: int = 0) -> "Plan":
        """From the plain mapping `phases` of a configuration; null removes an entry."""
        phases = [read_phase(name, entry) for name, entry in settings.items() if entry is not None]
        return cls(phases, origin_tokens)

    def resolved(self, tokens: Mapping[str, int]) -> "Plan":
        """The same plan with a number for every weight.

        Args:
            tokens: size of each source.
        Raises:
            ConfigError: a weight asks for the size of a source that is not among them.
        """
        phases = []
        for planned in self.phases:
            phase = planned.phase
            if BY_TOKENS in phase.mixture.values():
                for name in phase.mixture:
                    if name not in tokens:
                        raise ConfigError(
                            f"phases.{phase.name}.mixture.{name}={BY_TOKENS}: the size of {name} "
                            f"is not known; known: {', '.join(tokens)}"
                        )
                power = 1 / phase.temperature
                most = max(tokens[name] for name in phase.mixture)
                mixture = {name: (tokens[name] / most) ** power for name in phase.mixture}
                phase = replace(phase, mixture=mixture)
            phases.append(phase)
        return Plan(phases, self.origin_tokens)

    @property
    def total_tokens(self) -> int:
        """Tokens that this run reads itself."""
        return self.end_tokens - self.origin_tokens

    @property
    def max_seq_len(self) -> int:
        """Longest window of any phase."""
        return max(planned.phase.seq_len for planned in self.phases)

    def at(self, step: int) -> PlannedPhase:
        """The phase that a step belongs to; the last one from the run's end on."""
        for planned in self.phases:
            if step < planned.first_step + planned.steps:
                return planned
        return self.phases[-1]

    def tokens_before(self, step: int) -> int:
        """Tokens of the run before a step, those of a fork's origin included."""
        planned = self.at(step)
        return (
            planned.start_tokens + (step - planned.first_step) * planned.phase.global_batch_tokens
        )

    def step_at(self, tokens_seen: int) -> int:
        """The step that begins at tokens_seen.

        Raises:
            ConfigError: no step begins there.
        """
        for planned in self.phases:
            if planned.start_tokens <= tokens_seen < planned.end_tokens:
                steps, rest = divmod(
                    tokens_seen - planned.start_tokens, planned.phase.global_batch_tokens
                )
                if rest == 0:
                    return planned.first_step + steps
        if tokens_seen == self.end_tokens:
            return self.total_steps
        raise ConfigError(f"no step of these phases begins at {tokens_seen} tokens")

    def segments(self) -> list[Segment]:
        """What a schedule needs of each phase: realised tokens and its rate."""
        return [
            Segment(tokens=planned.tokens, name=planned.phase.name, **asdict(planned.phase.rate))
            for planned in self.phases
        ]

    def sources(self) -> list[str]:
        """Names of all sources, in the order of first appearance."""
        return list(dict.fromkeys(name for p in self.phases for name in p.phase.mixture))
