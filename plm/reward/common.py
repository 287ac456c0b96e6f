"""What rewards share: what they know of a completion, and scoring many at once.

A reward is `(completion, example) -> float` from 0 to 1. What it cannot judge has NaN, which a
pairing counts as "no score". One that is quicker with many has
`many(completions, examples) -> list[float]`; one that needs a task's own grade says so by
`needs_grade = True`; one that can fail before there is anything to score has `check()`.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plm.errors import ConfigError, PlmError
from plm.evaluation.generated import Grade, Item
from plm.rounds.common import Answer

log = logging.getLogger("plm")


@dataclass(frozen=True)
class Example:
    """What is known of a completion besides its text.

    Attributes:
        question: what the user said.
        item: of the task that the question comes from; None: it comes from none.
        cut: the completion ended because it was too long.
        grade: of that task, for many completions at once; None: it has none.
        answer: the completion as a round keeps it; None: it is of no round.
    """

    question: str
    item: Item | None = None
    cut: bool = False
    grade: Grade | None = None
    answer: Answer | None = None


def score(
    reward: Callable[..., Any], completions: Sequence[str], examples: Sequence[Example]
) -> list[float]:
    """What a reward gives each completion, asked for all at once if it can be.

    Args:
        reward: a function or an object, or a partial of either as a configuration builds it.
        completions: texts without special tokens.
        examples: one a completion.
    Returns:
        In the order given. NaN and infinities are passed through.
    """
    many = _of(reward, "many")
    if many is None:
        pairs = zip(completions, examples, strict=True)
        return [float(reward(text, example)) for text, example in pairs]
    found = many(completions, examples, **getattr(reward, "keywords", {}))
    assert len(found) == len(completions) == len(examples)
    return [float(value) for value in found]


def check(reward: Callable[..., Any], *, graded: bool) -> None:
    """Refuse, before anything is sampled, a reward that could not score it.

    Args:
        reward: as in `score`.
        graded: the prompts come from a task that grades answers.
    Raises:
        ConfigError: the reward needs a grade that is not there, or its own check fails.
    """
    if _of(reward, "needs_grade") and not graded:
        raise ungraded()
    own = _of(reward, "check")
    if own is not None:
        own()


def ungraded() -> ConfigError:
    """The error for prompts without a grade where a reward needs one."""
    return ConfigError(
        "reward=verifier: the prompts come from no task that grades answers; take the prompts of "
        "a task of configs/task, or set reward=reward_model or reward=rule"
    )


def worthless(completion: str, example: Example) -> bool:
    """Whether a completion is empty, was cut, or only says the question again.

    Such a one has 0 from rewards that would otherwise judge it by its looks.
    """
    return example.cut or not own_text(completion, example)


def own_text(completion: str, example: Example) -> str:
    """A completion without copies of its question and without white space around it."""
    asked = example.question.strip()
    return (completion.replace(asked, "") if asked else completion).strip()


UNITS = ("tokens", "characters")


def size_of(completion: str, example: Example, unit: str | None) -> int:
    """Length of a completion.

    Args:
        completion, example: as a reward has them.
        unit: of `UNITS`; None: tokens where the example counts them, else characters.
    Raises:
        ConfigError: tokens, and the example does not count them.
    """
    counted = example.answer is not None
    if unit == "tokens" and not counted:
        raise ConfigError(
            "reward.unit=tokens: these completions come without their number of tokens; set "
            "reward.unit=characters"
        )
    if unit == "characters" or not counted:
        return len(completion)
    return example.answer.tokens


class Guarded:
    """A reward that gives a number from 0 to 1 whatever becomes of it: 0 where it fails.

    Failures are counted by kind, and each kind is said once. What is wrong with the settings or the
    machine is not the completion's fault and is raised on: errors of our own, and want of memory.

    Args:
        reward: as in `score`.
        name: for the warning.

    Attributes:
        failures: so many completions by kind: raised, NaN, outside.
    """

    def __init__(self, reward: Callable[..., Any], name: str = "reward") -> None:
        self.reward, self.name = reward, name
        self.needs_grade = bool(_of(reward, "needs_grade"))
        self.failures: Counter[str] = Counter()

    def __call__(self, completion: str, example: Example) -> float:
        """The reward of one completion, in [0, 1]."""
        return self.many([completion], [example])[0]

    def many(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """The reward of each; after a failure each is asked for alone, so that one fails alone."""
        try:
            found = score(self.reward, completions, examples)
        except Exception as error:
            self._pass_on(error)
            found = [self._one(*pair) for pair in zip(completions, examples, strict=True)]
        return [self._within(value) for value in found]

    def check(self) -> None:
        """As the reward's own."""
        own = _of(self.reward, "check")
        if own is not None:
            own()

    def close(self) -> None:
        """As the reward's own."""
        own = _of(self.reward, "close")
        if own is not None:
            own()

    def _one(self, completion: str, example: Example) -> float:
        try:
            return score(self.reward, [completion], [example])[0]
        except Exception as error:
            self._pass_on(error)
            self._failed("raised", f"{type(error).__name__}: {error}")
            return 0.0

    def _within(self, value: float) -> float:
        if math.isnan(value):
            self._failed("NaN", "it gave NaN")
        elif not 0 <= value <= 1:
            self._failed("outside", f"it gave {value}, and a reward lies in [0, 1]")
        else:
            return value
        return 0.0

    def _failed(self, kind: str, what: str) -> None:
        self.failures[kind] += 1
        if self.failures[kind] == 1:
            log.warning(
                "%s failed on a completion, which counts as 0; said once: %s",
                self.name,
                what.partition("\n")[0],
            )

    @staticmethod
    def _pass_on(error: Exception) -> None:
        # torch's own is no MemoryError, and torch is not imported for its name.
        if isinstance(error, PlmError | MemoryError) or "OutOfMemory" in type(error).__name__:
            raise error


def _of(reward: Callable[..., Any], name: str) -> Any:
    """An attribute of a reward, or of what it is a partial of; None where there is none."""
    return getattr(reward, name, getattr(getattr(reward, "func", None), name, None))
