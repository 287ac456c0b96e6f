"""How often each prompt was solved, sampling by sampling, and which prompts varied the most.

Paper: Wang et al., Reinforcement learning for reasoning with one training example
    (arXiv:2504.20571): prompts are ranked by the variance of their training accuracy
"""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import pvariance
from typing import NamedTuple

from plm.rlvr.prompts import PromptSet
from plm.rlvr.rollouts import Drawn

FILE = "groups.jsonl"


class Ranked(NamedTuple):
    """One prompt.

    Attributes:
        source, name: of its item.
        variance: of its groups' accuracies, over the samplings that drew it.
        accuracy: their mean.
        times: samplings that drew it.
    """

    source: str
    name: str
    variance: float
    accuracy: float
    times: int


def note(folder: Path, step: int, drawn: Drawn, prompts: PromptSet) -> None:
    """Append a sampling's groups; what a killed process noted is noted again.

    Args:
        folder: the run's.
        step: that the sampling is for.
        drawn: judged.
        prompts: whose items they are.
    """
    lines = []
    for low in range(0, len(drawn.rollouts), drawn.group):
        some = drawn.rollouts[low : low + drawn.group]
        source = prompts.sources[some[0].source]
        first = next(iter(source.rewards))
        told = {
            "step": step,
            "number": some[0].number,
            "source": source.name,
            "name": source.items[some[0].item].name,
            "accuracy": sum(one.rewards[first] for one in some) / len(some),
        }
        lines.append(json.dumps(told) + "\n")
    with (folder / FILE).open("a", encoding="utf-8") as file:
        # A kill may have torn the last line.
        file.write("\n" if file.tell() else "")
        file.writelines(lines)


def read(folder: Path) -> Iterator[dict]:
    """The groups that a run drew, each once, in their order."""
    found = {}
    for line in (folder / FILE).read_text(encoding="utf-8").splitlines():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        found[one["step"], one["number"]] = one
    yield from (found[key] for key in sorted(found))


def ranked(folder: Path) -> list[Ranked]:
    """All prompts that a run drew, the most varied first; of equals those drawn more often."""
    history: dict[tuple[str, str], list[float]] = {}
    for one in read(folder):
        history.setdefault((one["source"], one["name"]), []).append(one["accuracy"])
    found = [
        Ranked(source, name, pvariance(values), sum(values) / len(values), len(values))
        for (source, name), values in history.items()
    ]
    return sorted(found, key=lambda one: (-one.variance, -one.times, one.source, one.name))
