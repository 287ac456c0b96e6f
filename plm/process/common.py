"""What the tasks on worked solutions share: the text that asks, what is left out, their figures."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from plm.errors import ConfigError
from plm.evaluation.common import Part, Result, counted
from plm.evaluation.exercises import STOP
from plm.evaluation.generated import BOOTSTRAP_SEED, Generated, Item
from plm.evaluation.statistics import Figure, mean_of
from plm.process.steps import trajectory
from plm.reward.common import Example

PLACES = ("{question}", "{steps}")

# What an answer earns, by the name of its figure.
Measures = dict[str, Callable[[str, Example], float]]


class Process(Generated):
    """A task made of another one's worked solutions.

    Answers are drawn as the other task's are, within the same limit.

    Args:
        task: whose items have solutions.
        items: makes this task's, with notes, from the other's.
        read: an answer in the one form that it is compared in; None: it is malformed.
        measures: of an answer in that form, or of "" for a malformed one; `reward` among them,
            which is 1 for what is right.
        baselines, settings: as for Generated.
    Raises:
        ConfigError: the task has no items to make others of.
    """

    def __init__(
        self,
        task: Any,
        items: Callable[[list[Item]], tuple[list[Item], list[str]]],
        read: Callable[[str, Example], str | None],
        measures: Measures,
        *,
        baselines: Callable[[list[Item]], dict[str, Figure]],
        settings: dict[str, Any],
    ) -> None:
        if not isinstance(task, Generated):
            raise ConfigError(
                "task: it has no worked solutions; take one that has, such as prompts@prompts.task="
                "exercises or gsm8k"
            )
        self.task, self.measures = task, measures

        def grade(flat: list[tuple[Item, str, bool]]) -> list[tuple[bool, str | None]]:
            found = []
            for item, text, cut in flat:
                example = Example(item.question, item, cut)
                answer = read(text, example)
                found.append((measures["reward"](text, example) == 1.0, answer))
            return found

        super().__init__(
            lambda: items(task.items),
            grade,
            task.draw,
            stop=STOP,
            baselines=baselines,
            settings={"task": task.settings, **settings},
        )

    def result(self, subject: Any, parts: list[Part]) -> Result:
        """As any task's, and before these the mean of each measure."""
        result = super().result(subject, parts)
        items = {item.name: item for item in self.items}
        means: dict[str, list[float]] = {name: [] for name in self.measures}
        for record in result.records:
            item = items[record["id"]]
            example = Example(item.question, item)
            said = [answer or "" for answer in record["answers"]] or [""]
            for name, measure in self.measures.items():
                means[name].append(sum(measure(one, example) for one in said) / len(said))
        measured = {name: mean_of(values, BOOTSTRAP_SEED) for name, values in means.items()}
        result.figures = measured | result.figures
        return result


def check_text(text: Any) -> None:
    """Refuse a text that does not show what is asked about.

    Raises:
        ConfigError: it is no text, or lacks one of `PLACES`.
    """
    if not isinstance(text, str) or any(place not in text for place in PLACES):
        raise ConfigError(
            f"text={text!r} must be a text with {' and '.join(PLACES)}, where the question and "
            "the steps are to stand"
        )


def asked(text: str, question: str, steps: str) -> str:
    """The text with its places filled. Braces in what fills them are left as they are."""
    pieces = text.split("{steps}")
    return steps.join(piece.replace("{question}", question) for piece in pieces)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ConfigError: the setting, its value and the choices.
    """
    if value not in choices:
        raise ConfigError(f"{name}={value} is none of {', '.join(choices)}")


def trajectories(items: list[Item], out: Counter[str]) -> Iterator[tuple[Item, str]]:
    """Each item with its solution's steps.

    Args:
        items: of the task.
        out: counts those left out, by reason.
    """
    for item in items:
        text = trajectory(item.solution)
        if text:
            yield item, text
        else:
            out["no worked solution" if not item.solution else "an answer without steps"] += 1


def told(made: list[Item], of: list[Item], out: Counter[str]) -> list[str]:
    """Notes on how many solutions are used, and why the others are not.

    Raises:
        ConfigError: none is.
    """
    reasons = ", ".join(f"{number} with {why}" for why, number in sorted(out.items()))
    if not made:
        raise ConfigError(f"task: none of its {counted(len(of), 'item')} can be used: {reasons}")
    used = f"{len(made)} of {counted(len(of), 'solution')} used"
    return [f"{used}; left out: {reasons}" if out else used]
