"""Steps of a solution in a wrong order: the right one is to be found.

Paper: Wang et al., MR-RLVR (arXiv:2511.17473), step reordering
Departs: a reconstruction: how many steps, how they are mixed and the wording are ours; derangements
    give no reward for saying the shown order again.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from random import Random
from string import ascii_uppercase
from typing import Any

from plm.errors import ConfigError
from plm.evaluation.common import counted, seed_of
from plm.evaluation.generated import BOOTSTRAP_SEED, Generated, Item
from plm.evaluation.kinds import check_kinds
from plm.evaluation.statistics import Figure, mean_of
from plm.process.common import Process, asked, check_choice, check_text, told, trajectories
from plm.process.cues import by_cues
from plm.process.steps import WAYS, bare, split
from plm.reward.common import Example
from plm.reward.reordered import read
from plm.reward.reordered import reordered as reward

DRAWS = ("derangement", "uniform")
FEWEST, MOST = 4, len(ascii_uppercase)


def reordered(
    task: Generated,
    *,
    text: str,
    min_steps: int = 4,
    max_steps: int = 6,
    draw: str = "derangement",
    by: str = "auto",
    seed: int = 0,
) -> Process:
    """Put the labelled steps of a worked solution in order.

    The solution is without its final answer; see `plm.process.steps.trajectory`. Steps that do not
    depend on each other have a right order all the same: the solution's.

    Args:
        task: whose items have solutions; how answers are drawn is its own setting.
        text: what is asked, with {question} and {steps}. The answer is read as
            `plm.reward.reordered` says, which the text should ask for.
        min_steps: of a solution, 4 or more; shorter ones are left out.
        max_steps: labels of a prompt, at most 26; neighbours of longer solutions become one step.
        draw: how steps are mixed: derangement has none in its place, uniform is any order.
        by: how solutions are cut, as for `plm.process.steps.split`.
        seed: of the draw; an item's own comes from it and the item's name.
    Raises:
        ConfigError: a value that cannot be, or a task without solutions.
    """
    settings = {"min_steps": min_steps, "max_steps": max_steps, "draw": draw, "by": by}
    check_kinds({**settings, "seed": seed}, {"min_steps": int, "max_steps": int, "seed": int})
    check_choice("draw", draw, DRAWS)
    check_choice("by", by, WAYS)
    if min_steps < FEWEST:
        guess = f"1/{min_steps - 1}" if min_steps > 2 else "all"
        raise ConfigError(
            f"min_steps={min_steps} must be at least {FEWEST}: of n steps none of which is in its "
            f"place, the best constant guess puts 1/(n-1) right, here {guess}, which leaves little "
            "to be learnt"
        )
    if not min_steps <= max_steps <= MOST:
        raise ConfigError(
            f"max_steps={max_steps} must be from min_steps={min_steps} to {MOST}, one letter each"
        )
    check_text(text)
    return Process(
        task,
        partial(_items, text=text, seed=seed, **settings),
        read,
        {"reward": reward, "echo": echoed},
        baselines=partial(baselines, draw=draw),
        settings={**settings, "text": text, "seed": seed},
    )


def chance(n: int, draw: str) -> float:
    """What the best answer that is the same for every prompt earns on average.

    Args:
        n: steps.
        draw: as for `reordered`. After a derangement, label i stands at no position i, and at
            each other one equally often: the answer need only avoid the shown order.
    """
    return 1 / (n - 1) if draw == "derangement" else 1 / n


def echo(n: int, draw: str) -> float:
    """What the shown order, said again, earns on average."""
    return 0.0 if draw == "derangement" else 1 / n


def echoed(completion: str, example: Example) -> float:
    """1 where an answer says the shown order again, else 0; its mean is the echo rate."""
    said = read(completion, example)
    return float(said is not None and said.split() == sorted(said.split()))


def permuted(n: int, draw: str, random: Random) -> list[int]:
    """An order of n things: which of them is shown at each place.

    Args:
        n: 2 at least.
        draw: derangement or uniform; each one that there is, equally likely.
        random: where it is drawn from.
    """
    while True:
        order = random.sample(range(n), n)
        if draw == "uniform" or all(place != thing for place, thing in enumerate(order)):
            return order


def blocks(texts: Sequence[str], gaps: Sequence[str], most: int) -> list[str]:
    """Steps, with neighbours put together, as evenly as can be, where there are more than `most`.

    Args:
        texts, gaps: of `plm.process.steps.Split`.
        most: of them.
    """
    n = len(texts)
    parts = min(n, most)
    ends = [i * n // parts for i in range(parts + 1)]
    return [
        "".join(
            text + (gaps[i + 1] if i + 1 < high else "")
            for i, text in enumerate(texts[low:high], start=low)
        )
        for low, high in pairwise(ends)
    ]


def _items(
    given: list[Item],
    *,
    text: str,
    min_steps: int,
    max_steps: int,
    draw: str,
    by: str,
    seed: int,
) -> tuple[list[Item], list[str]]:
    out: Counter[str] = Counter()
    made, longer, cues = [], 0, 0.0
    for item, solution in trajectories(given, out):
        found = split(solution, by, min_steps)
        if len(found.texts) < min_steps:
            out[f"fewer than {min_steps} steps"] += 1
            continue
        steps = blocks([bare(step) for step in found.texts], found.gaps, max_steps)
        if len({" ".join(step.split()) for step in steps}) < len(steps):
            out["two equal steps"] += 1
            continue
        longer += len(found.texts) > max_steps
        cues += by_cues(steps, item.question)
        order = permuted(len(steps), draw, Random(seed_of(seed, item.name)))
        made.append(_item(item, steps, order, text))
    notes = told(made, given, out)
    if longer:
        notes.append(
            f"{counted(longer, 'solution')} of more than max_steps={max_steps} steps: neighbours "
            "are one step"
        )
    share = Counter(len(item.more["order"]) for item in made)
    level = sum(chance(n, draw) * number for n, number in share.items()) / len(made)
    notes.append(
        f"of the positions {cues / len(made):.3f} are right by surface cues alone, {level:.3f} by "
        f"the best constant guess; steps: {', '.join(f'{n} in {share[n]}' for n in sorted(share))}"
    )
    return made, notes


def _item(item: Item, steps: list[str], order: list[int], text: str) -> Item:
    shown = "\n".join(
        f"{label}. {steps[step]}" for label, step in zip(ascii_uppercase, order, strict=False)
    )
    labels = [ascii_uppercase[order.index(step)] for step in range(len(steps))]
    more: dict[str, Any] = {"order": labels, "steps": steps, "asked": item.question}
    question = asked(text, item.question, shown)
    answer = " ".join(labels)
    prompt = f"Question: {question}\nSolution:\n"
    return Item(item.name, question, prompt, answer, item.group, more, answer)


def baselines(items: list[Item], *, draw: str) -> dict[str, Figure]:
    """What is earned without reading the steps.

    Returns:
        `cues`: in the order that `plm.process.cues` gives. `constant`: by the best constant guess.
    """
    cues = [by_cues(item.more["steps"], item.more["asked"]) for item in items]
    levels = [chance(len(item.more["order"]), draw) for item in items]
    return {"cues": mean_of(cues, BOOTSTRAP_SEED), "constant": mean_of(levels, BOOTSTRAP_SEED)}
