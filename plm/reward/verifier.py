"""1 for an answer that its task grades as right, 0 for any other.

Paper: Lambert et al., Tülu 3 (arXiv:2411.15124), which calls such a reward verifiable
Cost: that of the task's grade; programs run in the sandbox, several at once.
"""

from collections.abc import Sequence

from plm.reward.common import Example, ungraded


def verifier(completion: str, example: Example) -> float:
    """Whether the task of the question says that the answer is right.

    What becomes of an answer that was cut is up to the task: a program that does not end is wrong,
    a final answer that stands on a line of its own counts.

    Raises:
        ConfigError: the example has no task, or one without a grade.
    """
    return many([completion], [example])[0]


def many(completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
    """`verifier` of each completion, with one call of each task's grade.

    Raises:
        ConfigError: as `verifier`.
    """
    found = [0.0] * len(completions)
    by_grade: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        if example.grade is None or example.item is None:
            raise ungraded()
        by_grade.setdefault(id(example.grade), []).append(index)
    for chosen in by_grade.values():
        flat = [(examples[i].item, completions[i], examples[i].cut) for i in chosen]
        graded = examples[chosen[0]].grade(flat)
        for index, (right, _) in zip(chosen, graded, strict=True):
            found[index] = float(right)
    return found


verifier.many = many
verifier.needs_grade = True
