"""Answers in turns with a Python interpreter: what stands in tags is run, and its output follows.

A turn pauses where a call closes; the model's cache is kept meanwhile. What the interpreter says is
no choice of the policy: later tokens depend on it, but nothing is learnt from it or divided by it.

Paper: Feng et al., ReTool (arXiv:2504.11536)
Departs: turns are limited, and in the last nothing is run; each program runs on its own; of an
    error the last line is shown.
Cost: a run of the sandbox for each different program of a turn; the output taken in as a prompt is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plm.environment.common import Asked, Reply
from plm.errors import ConfigError
from plm.evaluation.common import seed_of
from plm.rollout.completion import LENGTH, STOP, STOP_STRING, Completion
from plm.rollout.sampling import Sampling

_SHORTENED = "..."
_LEAST = 16
_WHY = {
    "cpu_time": "it took too long",
    "wall_time": "it took too long",
    "memory": "it needed too much memory",
    "output": "it printed too much",
    "processes": "it started too many processes",
    "killed": "it was killed",
}
# The processes' own randomness would make a rollout another one each time that it is drawn.
_SEEDED = "__import__('random').seed(0)\n"


@dataclass
class _Talk:
    """A rollout that grows turn by turn."""

    asked: Asked
    sample: int
    tokens: list[int] = field(default_factory=list)
    learn: list[int] = field(default_factory=list)
    sampled: list[float] = field(default_factory=list)
    calls: int = 0
    errors: int = 0
    turns: int = 0
    ended: str = STOP_STRING
    held: Any = None

    @property
    def room(self) -> int:
        return self.asked.room - len(self.tokens)

    def say(self, one: Completion) -> None:
        """The model's turn."""
        self.tokens += one.tokens
        self.learn += [1] * len(one.tokens)
        self.sampled += one.sampled_logps
        self.turns += 1
        self.ended, self.held = one.finish, one.held
        if self.ended == STOP_STRING and not self.room:
            self.ended = LENGTH

    def hear(self, ids: list[int]) -> None:
        """The interpreter's, where there is room for it and for a token more."""
        if len(ids) >= self.room:
            self.ended = LENGTH
            return
        self.tokens += ids
        self.learn += [0] * len(ids)
        self.sampled += [0.0] * len(ids)

    def reply(self, tokenizer: Any) -> Reply:
        said = self.tokens[:-1] if self.ended == STOP else self.tokens
        told = {"tool/calls": self.calls, "tool/errors": self.errors, "turns": self.turns}
        return Reply(
            tokens=self.tokens,
            learn=self.learn,
            sampled=self.sampled,
            text=tokenizer.decode(said, skip_special_tokens=True),
            cut=self.ended == LENGTH,
            told={name: float(number) for name, number in told.items()},
        )


def interpreter(
    subject: Any,
    asked: Sequence[Asked],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    call: Sequence[str] = ("<code>", "</code>"),
    result: Sequence[str] = ("<result>", "</result>"),
    max_turns: int = 4,
    max_output: int = 256,
    limits: Mapping[str, float] | None = None,
    workers: int | None = None,
) -> list[Reply]:
    """Draw until the model ends its answer or the room ends, and run what it calls.

    What is drawn in a turn depends on the prompt's seed, the sample and the turn's number alone. A
    call that never closes is none, and so is a closing tag alone.

    Args:
        subject: a plm.evaluation.subject.Subject.
        asked: prompts.
        temperature, top_p: of the draws.
        call, result: the tags round a program, and round its output; plain text.
        max_turns: in which the model speaks; nothing is run in the last.
        max_output: characters of an output, or of an error, at most.
        limits: of plm.sandbox.Limits, for each program.
        workers: programs at a time; None: one for each processor.
    Raises:
        ConfigError: a setting is out of its range; no program can be run here.
    """
    from plm.evaluation.humaneval import limits_of
    from plm.sandbox import run_many

    _check(call, result, max_turns, max_output)
    allowed, engine = limits_of(dict(limits or {})), subject.engine

    def sampling(room: int, turn: int) -> Sampling:
        stop = (call[1],) if turn < max_turns else ()
        return Sampling(room, temperature=temperature, top_p=top_p, stop=stop)

    talks = list(_begin(engine, asked, lambda room: sampling(room, 1)))
    for turn in range(2, max_turns + 1):
        paused = [talk for talk in talks if talk.ended == STOP_STRING]
        written = [_program(subject.tokenizer, talk, call) for talk in paused]
        # Answers to one prompt often call alike.
        programs = list(dict.fromkeys(one for one in written if one is not None))
        outcomes = dict(
            zip(programs, run_many(programs, limits=allowed, workers=workers), strict=True)
        )
        for talk, program in zip(paused, written, strict=True):
            if program is not None:
                outcome = outcomes[program]
                talk.calls += 1
                talk.errors += outcome.status != "ok"
                said = f"\n{result[0]}\n{shown(outcome, max_output)}\n{result[1]}\n"
                talk.hear(subject.encode([said])[0])
        live = [talk for talk in paused if talk.ended == STOP_STRING]
        if not live:
            break
        done = engine.generate(
            [[*talk.asked.prompt, *talk.tokens] for talk in live],
            [sampling(talk.room, turn) for talk in live],
            seeds=[seed_of(talk.asked.seed, f"{talk.sample}/{turn}") for talk in live],
            hold=engine.rows,
            held=[talk.held for talk in live],
        )
        for talk, one in zip(live, done, strict=True):
            talk.say(one)
    return [talk.reply(subject.tokenizer) for talk in talks]


def _begin(engine: Any, asked: Sequence[Asked], sampling: Any) -> Iterator[_Talk]:
    """The first turns, in the order of the prompts, a group's samples one after the other."""
    found: list[list[_Talk]] = [[] for _ in asked]
    for group in sorted({one.group for one in asked}):
        chosen = [index for index, one in enumerate(asked) if one.group == group]
        done = engine.generate(
            [asked[i].prompt for i in chosen],
            [sampling(asked[i].room) for i in chosen],
            group=group,
            seeds=[asked[i].seed for i in chosen],
            hold=engine.rows,
        )
        for one in done:
            talk = _Talk(asked[chosen[one.prompt]], one.sample)
            talk.say(one)
            found[chosen[one.prompt]].append(talk)
    return (talk for talks in found for talk in talks)


def _program(tokenizer: Any, talk: _Talk, call: Sequence[str]) -> str | None:
    """What stands between the tags that the talk pauses behind; None: none opens it."""
    start = len(talk.tokens)
    while start and talk.learn[start - 1]:
        start -= 1
    said = tokenizer.decode(talk.tokens[start:], skip_special_tokens=True)
    before = said[: said.rfind(call[1])]
    opened = before.rfind(call[0])
    if opened < 0 or call[1] in before[opened:]:
        return None
    code = before[opened + len(call[0]) :].strip("\n")
    return f"{_SEEDED}{code}" if "random" in code else code


def shown(outcome: Any, most: int) -> str:
    """What a program printed, or its error's last line, in so many characters at most."""
    if outcome.status == "ok":
        text = outcome.stdout.strip()
    elif outcome.status == "failed":
        text = outcome.stderr.strip().rpartition("\n")[2] or f"Error: exit code {outcome.exit_code}"
    else:
        text = f"Error: {_WHY[outcome.status]}"
    return text if len(text) <= most else text[: most - len(_SHORTENED)] + _SHORTENED


def _check(call: Sequence[str], result: Sequence[str], max_turns: int, max_output: int) -> None:
    for name, tags in {"call": call, "result": result}.items():
        texts = not isinstance(tags, str) and all(isinstance(tag, str) and tag for tag in tags)
        if not texts or len(tags) != 2 or tags[0] == tags[1]:
            raise ConfigError(
                f"environment.{name}={tags} must be two different texts, such as [<code>, </code>]"
            )
    numbers = ("max_turns", max_turns, 1), ("max_output", max_output, _LEAST)
    for name, value, least in numbers:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"environment.{name}={value} must be a whole number from {least} on")
