"""Generation: rows that come, grow a token a step, and go, in places allocated once."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plm.errors import ConfigError
from plm.kernels.cpu import wanted
from plm.model.context import Context
from plm.rollout.completion import CANCELLED, LENGTH, STOP, STOP_STRING, Completion, Event
from plm.rollout.held import Held, states_of
from plm.rollout.plan import Plan, possible
from plm.rollout.prefill import Ready, prefill, take
from plm.rollout.sampling import Sampling, Stacked, draw, row_seed
from plm.rollout.slots import Request, Row, Slots, fitting
from plm.rollout.text import GrowingText, Vocabulary


class Engine:
    """Batched sampling from a model by its mixers' own decoding states.

    Rows begin as places get free; a step takes all that are under way one token further. It is
    driven from one thread. Weights may change, and hooks come and go, while it is idle.

    Args:
        model: a Transformer; its mode is restored after every call.
        tokenizer: for text and stop strings.
        stop_ids: tokens that end a row.
        rope_theta: rotary base, where it is not the model's own.
        rows: at most so many grow at once.
        max_len: positions of a row at most, and as many are allocated; None: as many as the
            longest so far needs, up to the model's context.
        compiled: step by kernels that a C++ compiler builds on first use (plm.kernels.cpu), where
            the weights are fp32 on a CPU and nobody looks; "auto": if there is a compiler.
    Raises:
        ConfigError: a setting is out of its range; the kernels cannot be built.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        tokenizer: Any = None,
        stop_ids: Sequence[int] = (),
        rope_theta: float | None = None,
        rows: int = 32,
        max_len: int | None = None,
        compiled: bool | str = False,
    ) -> None:
        longest = model.max_position_embeddings
        if rows < 1:
            raise ConfigError(f"rows={rows} must be at least 1")
        if max_len is not None and not 1 < max_len <= longest:
            raise ConfigError(f"max_len={max_len} must be from 2 to the model's context, {longest}")
        if any(not 0 <= token < model.vocab_size for token in stop_ids):
            raise ConfigError(f"stop_ids={list(stop_ids)}: ids go from 0 to {model.vocab_size - 1}")
        self.compiled = wanted(compiled)
        self.model, self.rope_theta, self.rows = model, rope_theta, rows
        self.max_len, self.longest = max_len, max_len or longest
        self.tokenizer, self.stop_ids = tokenizer, tuple(stop_ids)
        self.vocabulary = None if tokenizer is None else Vocabulary(tokenizer)
        device = model.embed_tokens.head_weight.device
        self.stops = torch.zeros(model.vocab_size, dtype=torch.bool, device=device)
        self.stops[list(stop_ids)] = True
        self.slots: Slots | None = None
        self.waiting: deque[Request] = deque()
        self.ready: deque[Ready] = deque()
        self.kept: dict[int, Request] = {}
        self.plan: Plan | None = None
        self.numbers = 0
        # So many more rows may end with their state kept.
        self.spare = 0
        # Of all rows under way; None: some came or went since.
        self.settings: Stacked | None = None

    @classmethod
    def of(cls, pretrained: Any, **settings: Any) -> "Engine":
        """For a model with what belongs to it (plm.pretrained.Pretrained).

        Its end of text, and ChatML's end of a turn if the tokenizer has it, end a row.
        """
        from plm.data import tokenizer as bpe
        from plm.formats.common import IM_END

        tokenizer, stop_ids = None, []
        if pretrained.tokenizer is not None:
            tokenizer = bpe.load(pretrained.tokenizer)
            marks = (pretrained.end_of_text, IM_END)
            found = [tokenizer.token_to_id(mark) for mark in marks if mark is not None]
            stop_ids = [index for index in found if index is not None]
        given = {"tokenizer": tokenizer, "stop_ids": stop_ids}
        given["rope_theta"] = pretrained.rope_theta
        return cls(pretrained.model, **{**given, **settings})

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing grows."""
        return not (self.waiting or self.ready or (self.slots is not None and self.slots.rows))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        *,
        group: int = 1,
        seeds: Sequence[int] | None = None,
        hold: int = 0,
        held: Sequence[Held | None] | None = None,
    ) -> list[Completion]:
        """Complete prompts of any number and lengths.

        Args:
            prompts: ids.
            sampling: of all rows, or one a prompt.
            group: completions a prompt; the prompt is taken in once.
            seeds: one a prompt; None: made of `sampling.seed` and the prompt's index.
            hold: so many rows that a stop string ends, at most, come with their state, if mixers
                keep it by position.
            held: one a prompt: such a state, of the same weights, that knows the prompt's
                beginning, so that the rest alone is taken in; None: the prompt is taken in whole.
        Returns:
            Prompt by prompt, a group's samples one after the other.
        Raises:
            ConfigError: a prompt or setting cannot be, before anything is drawn; or the engine has
                other work under way.
        """
        self._alone()
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        seeds = [row_seed(s.seed, i) for i, s in enumerate(each)] if seeds is None else seeds
        held = [None] * len(prompts) if held is None else held
        for what, given in {"samplings": each, "seeds": seeds, "states": held}.items():
            if len(given) != len(prompts):
                raise ConfigError(f"{len(given)} {what} for {len(prompts)} prompts; give one each")
        requests = [
            self._request(prompts[i], each[i], group, seeds[i], held[i], f"prompt {i}", keep=True)
            for i in range(len(prompts))
        ]
        self.spare = hold if self.model.ragged else 0
        self.waiting.extend(requests)
        self.kept.update((request.number, request) for request in requests)
        try:
            with evaluating(self.model):
                while not self.idle:
                    self._advance(None)
        except BaseException:
            self.clear()
            raise
        finally:
            self.spare = 0
        found = []
        for index, request in enumerate(requests):
            for completion in self.take(request.number):
                completion.prompt = index
                found.append(completion)
        return found

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Event]:
        """Complete one prompt, token by token.

        Raises:
            ConfigError: as `generate`.
        """
        self._alone()
        number = self.add(prompt, sampling)
        try:
            while not self.idle:
                yield from self.advance()
        finally:
            self.cancel(number)

    def add(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        group: int = 1,
        seed: int | None = None,
        keep: bool = False,
    ) -> int:
        """Queue a prompt; its number.

        Args:
            prompt: ids.
            sampling: of its rows.
            group: rows.
            seed: of their draws; None: `sampling.seed`.
            keep: its completions are wanted by `take`.
        Raises:
            ConfigError: it can never be completed.
        """
        seed = sampling.seed if seed is None else seed
        request = self._request(prompt, sampling, group, seed, keep=keep)
        self.waiting.append(request)
        if keep:
            self.kept[request.number] = request
        return request.number

    def advance(self) -> list[Event]:
        """One token for every row under way, and the first of those that begin; [] when idle."""
        events: list[Event] = []
        with evaluating(self.model):
            self._advance(events)
        return events

    def cancel(self, request: int) -> None:
        """End a request wherever it stands; one that has ended is left alone."""
        self.waiting = deque(one for one in self.waiting if one.number != request)
        self.ready = deque(item for item in self.ready if item.row.request.number != request)
        if self.slots is not None:
            rows = self.slots.rows
            at = [slot for slot, row in enumerate(rows) if row.request.number == request]
            self._end([(slot, CANCELLED) for slot in at])

    def take(self, request: int) -> list[Completion]:
        """Completions of a request that was added with `keep` and has ended; only once.

        A sample that was cancelled before it began is not among them.
        """
        done = self.kept.pop(request).done
        return [Completion(request, sample, *done[sample]) for sample in sorted(done)]

    def clear(self) -> None:
        """Forget all that waits and grows."""
        self.waiting.clear()
        self.ready.clear()
        self.kept.clear()
        self.slots = self.settings = None

    def _alone(self) -> None:
        if not self.idle:
            raise ConfigError("the engine has work under way; advance() it until it is idle first")

    def _request(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        group: int,
        seed: int,
        held: Held | None = None,
        name: str = "the prompt",
        *,
        keep: bool = False,
    ) -> Request:
        tokens, new = [int(token) for token in prompt], sampling.max_new_tokens
        if not tokens:
            raise ConfigError(f"{name} is empty; give it at least one token")
        if len(tokens) + new > self.longest:
            what = "max_len" if self.max_len else "the model's context"
            raise ConfigError(
                f"max_new_tokens={new} after a prompt of {len(tokens)} passes {what} of "
                f"{self.longest}; ask for fewer, or cut the prompt"
            )
        if min(tokens) < 0 or max(tokens) >= self.model.vocab_size:
            wrong = next(t for t in tokens if not 0 <= t < self.model.vocab_size)
            most = self.model.vocab_size - 1
            raise ConfigError(f"{name} holds token {wrong}; the model's ids go from 0 to {most}")
        if group < 1:
            raise ConfigError(f"group={group} must be at least 1")
        if sampling.stop and self.vocabulary is None:
            raise ConfigError(f"stop={list(sampling.stop)} needs an engine with a tokenizer")
        if held is not None and held.tokens != tokens[:-1][: len(held.tokens)]:
            raise ConfigError(f"{name} does not go on from what its held state knows")
        self.numbers += 1
        return Request(self.numbers, tokens, sampling, group, seed, keep=keep, held=held)

    @torch.no_grad()
    def _advance(self, events: list[Event] | None) -> None:
        if self.slots is not None and self.slots.rows:
            at = self.slots.taken()
            if self.settings is None:
                self.settings = self.slots.settings(at)
            self._draw(self._forward(at), at, self.settings, events)
        elif not self.ready:
            self._renew()
        while (self.ready or self.waiting) and self._begin(events):
            pass

    def _forward(self, at: slice) -> Tensor:
        """Logits after the last token of each row, [N, V]."""
        tokens, place = self.slots.last(at)
        if self.plan is not None:
            return self.plan.step(tokens, place, self.slots)
        reach = self.slots.reach()
        context = Context(positions=place[:, None], rope_theta=self.rope_theta, reach=reach)
        return self.model.step(tokens[:, None], self.slots.first(), context)

    def _renew(self) -> None:
        """Look at the model again: its weights, its hooks, its switches."""
        # Whenever the engine was idle: nothing tells whether weights have changed, since fused
        # optimizers leave a tensor's version as it is (torch 2.13).
        self.plan = None
        if possible(self.model):
            self.plan = Plan(self.model, self.rope_theta, self.compiled)
        if self.slots is not None and not self.slots.serves(self.model):
            self.slots = None

    def _begin(self, events: list[Event] | None) -> bool:
        """Let rows begin in free places; False: there is none."""
        free = self.rows - (len(self.slots.rows) if self.slots else 0)
        if not free:
            return False
        if not self.ready:
            wanted = take(self.waiting, free, self.model.ragged)
            self.ready.extend(prefill(self.model, wanted, self.rope_theta))
        source, items = self.ready[0].source, []
        while self.ready and len(items) < free and self.ready[0].source is source:
            items.append(self.ready.popleft())
        for item in items:
            request = item.row.request
            if self.vocabulary and (events is not None or request.sampling.stop):
                item.row.text = GrowingText(self.vocabulary, request.sampling.stop)
        self.slots = fitting(self.slots, self.model, items, self.rows, self.max_len)
        index = torch.tensor([item.index for item in items], device=source.logits.device)
        at = self.slots.put([item.row for item in items], source.states, index)
        self.settings = None
        settings = self.slots.settings(at)
        self._draw(source.logits.index_select(0, index), at, settings, events)
        return True

    def _draw(
        self, logits: Tensor, at: slice, settings: Stacked, events: list[Event] | None
    ) -> None:
        """One token for each of these rows; those that end go."""
        slots = self.slots
        uniform = None if settings.all_greedy else slots.uniform(at)
        seen = None if settings.penalty is None else slots.seen[at]
        kernels = None if self.plan is None else self.plan.kernels
        token, logp, sampled = draw(logits, settings, uniform, seen, kernels)
        full = slots.write(at, token, logp, sampled)
        if events is not None or slots.watched:
            self._tell(at, zip(token.tolist(), logp.tolist(), full.tolist(), strict=True), events)
            return
        stopped = self.stops.index_select(0, token)
        over = full | stopped
        if bool(over.any()):
            both = zip(over.tolist(), stopped.tolist(), strict=True)
            reasons = enumerate((STOP if stop else LENGTH) if end else None for end, stop in both)
            self._end([(at.start + index, reason) for index, reason in reasons if reason])

    def _tell(
        self, at: slice, drawn: Iterable[tuple[int, float, bool]], events: list[Event] | None
    ) -> None:
        """Events of the rows, and the end of those that a stop string ends too."""
        ended = []
        for slot, (token, logp, full) in enumerate(drawn, start=at.start):
            row, said = self.slots.rows[slot], ""
            reason = STOP if token in self.stop_ids else None
            if row.text is not None and reason is None:
                said = row.text.push(token)
                reason = STOP_STRING if row.text.stopped else None
            if reason is None and full:
                reason = LENGTH
            if reason is not None:
                ended.append((slot, reason))
                said += row.text.flush() if row.text is not None else ""
            if events is not None:
                number = row.request.number
                events.append(Event(number, row.sample, token, logp, said, reason))
        self._end(ended)

    def _end(self, ended: list[tuple[int, str]]) -> None:
        """Take rows out, with their reasons."""
        paused = [slot for slot, reason in ended if reason == STOP_STRING][: self.spare]
        self.spare -= len(paused)
        states = states_of(self.slots, paused)
        for slot, reason in ended:
            row = self.slots.rows[slot]
            if row.request.keep:
                drawn = self.slots.drawn(slot)
                text = self._text(row, drawn[0], reason)
                row.request.done[row.sample] = (*drawn, reason, text, states.get(slot))
        if ended:
            self.slots.close([slot for slot, _ in ended])
            self.settings = None

    def _text(self, row: Row, tokens: list[int], reason: str) -> str:
        if self.vocabulary is None:
            return ""
        if row.text is not None:
            row.text.flush()
            return row.text.text
        return self.vocabulary.decode(tokens[:-1] if reason == STOP else tokens)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it the model is in its mode for evaluation; afterwards each module in its own."""
    learning = [module for module in model.modules() if module.training]
    for module in learning:
        module.training = False
    try:
        yield
    finally:
        for module in learning:
            module.training = True
