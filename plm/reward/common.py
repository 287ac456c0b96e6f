"""What rewards share: what they know of a completion, and scoring many at once.

A reward is `(completion, example) -> float` from 0 to 1. What it cannot judge has NaN, which a
pairing counts as "no score". One that is quicker with many has
`many(completions, examples) -> list[float]`; one that needs a task's own grade says so by
`needs_grade = True`; one that can fail before there is anything to score has `check()`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plm.errors import ConfigError
from plm.evaluation.generated import Grade, Item
from plm.rounds.common import Answer


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
    asked = example.question.strip()
    own = completion.replace(asked, "") if asked else completion
    return example.cut or not own.strip()


def _of(reward: Callable[..., Any], name: str) -> Any:
    """An attribute of a reward, or of what it is a partial of; None where there is none."""
    return getattr(reward, name, getattr(getattr(reward, "func", None), name, None))
