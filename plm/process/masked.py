"""Solutions with holes: what stood there is to be filled in.

Paper: Wang et al., MR-RLVR (arXiv:2511.17473), masked-then-fill
Departs: a reconstruction: mask rate, kinds of spans and wording are ours; what could be copied from
    the rest of the prompt is looked for and, unless asked otherwise, not masked.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple

from plm.errors import ConfigError
from plm.evaluation.common import seed_of
from plm.evaluation.generated import BOOTSTRAP_SEED, Generated, Item
from plm.evaluation.kinds import check_kinds
from plm.evaluation.statistics import Figure, mean_of
from plm.process.common import Process, asked, check_choice, check_text, told, trajectories
from plm.process.spans import KINDS, Seen, Span, covered, key_of, spans
from plm.reward.masked import masked as reward
from plm.reward.masked import read

LEAKS = ("drop", "weigh", "keep")
MOST = 99
"""Holes of a prompt."""
_HOLE = re.compile(r"\[\d\d?\]", re.ASCII)


class Masking(NamedTuple):
    """How holes are drawn; the fields are settings of `masked`."""

    rate: float
    holes: int
    spans: tuple[str, ...]
    together: bool
    leaks: str
    leak_weight: float


class Holes(NamedTuple):
    """A text with holes.

    Attributes:
        text: with `[1]` and so on in their places.
        holes: of each, from [1] on, its gold, kind and weight, and whether it is visible.
        drawn: holes before any was dropped.
        leaked: of these, how many could be copied from the rest of the prompt.
    """

    text: str
    holes: list[dict[str, Any]]
    drawn: int
    leaked: int


def masked(
    task: Generated,
    *,
    text: str,
    rate: float = 0.3,
    holes: int = 4,
    spans: Sequence[str] = KINDS,
    together: bool = True,
    leaks: str = "drop",
    leak_weight: float = 0.25,
    seed: int = 0,
) -> Process:
    """Fill the numbered holes in a worked solution.

    The solution is shown without its final answer; see `plm.process.steps.trajectory`.

    Args:
        task: whose items have solutions; how answers are drawn is its own setting.
        text: what is asked, with {question} and {steps}. The answer is read as
            `plm.reward.masked` says, which the text should ask for.
        rate: share of a solution's different entities that is masked, over 0 and at most 1; at
            least one is.
        holes: most of a prompt.
        spans: kinds of entities that may be masked: number, expression, latex, theorem.
        together: an entity is hidden wherever it stands in the steps, by holes of one number;
            False: each place is an entity by itself.
        leaks: a hole leaks if its text, as a token of its own, is in the question or in what is
            left of the steps. drop: it is no hole, and another one is looked for; weigh: it counts
            leak_weight; keep: it is as good as any.
        leak_weight: of a leaking hole beside others.
        seed: of the draw; an item's own comes from it and the item's name.
    Raises:
        ConfigError: a value that cannot be, or a task without solutions.
    """
    rules = Masking(rate, holes, tuple(spans), together, leaks, leak_weight)
    _check(rules, spans, seed)
    check_text(text)
    settings = {**rules._asdict(), "spans": list(spans), "text": text, "seed": seed}
    return Process(
        task,
        partial(_items, text=text, rules=rules, seed=seed),
        read,
        {"reward": reward},
        baselines=baselines,
        settings=settings,
    )


def _check(rules: Masking, spans: Any, seed: Any) -> None:
    kinds = {"rate": float, "holes": int, "together": bool, "leak_weight": float}
    given = {**rules._asdict(), "spans": spans, "seed": seed}
    check_kinds(given, {**kinds, "spans": list[str], "seed": int})
    if not 0 < rules.rate <= 1:
        raise ConfigError(f"rate={rules.rate} must be over 0 and at most 1, a share of the spans")
    if not 1 <= rules.holes <= MOST:
        raise ConfigError(f"holes={rules.holes} must be from 1 to {MOST}")
    if not 0 < rules.leak_weight <= 1:
        raise ConfigError(
            f"leak_weight={rules.leak_weight} must be over 0 and at most 1; leaks=drop leaves the "
            "leaking holes out"
        )
    check_choice("leaks", rules.leaks, LEAKS)
    if not rules.spans:
        raise ConfigError(f"spans=[] leaves nothing to mask; there are {', '.join(KINDS)}")
    for one in rules.spans:
        check_choice("spans", one, KINDS)


def _items(
    given: list[Item], *, text: str, rules: Masking, seed: int
) -> tuple[list[Item], list[str]]:
    out: Counter[str] = Counter()
    made, drawn, leaked = [], 0, 0
    for item, steps in trajectories(given, out):
        if holed(item.question) or holed(steps):
            out["a text that has [1] already"] += 1
            continue
        found = make_holes(item.question, steps, rules, Random(seed_of(seed, item.name)))
        drawn, leaked = drawn + found.drawn, leaked + found.leaked
        if not found.holes:
            out["nothing to mask" if not found.drawn else "leaking holes only"] += 1
            continue
        question = asked(text, item.question, found.text)
        answer = "\n".join(f"[{i}] {hole['gold']}" for i, hole in enumerate(found.holes, 1))
        more = {"holes": found.holes, "of": item.name}
        shown = f"Question: {question}\nSolution:\n"
        made.append(Item(item.name, question, shown, answer, item.group, more, answer))
    notes = told(made, given, out)
    number = sum(len(item.more["holes"]) for item in made)
    done = {"drop": "were not masked", "weigh": f"count {rules.leak_weight}", "keep": "are kept"}
    notes.append(
        f"leak rate {leaked / drawn:.3f}: {leaked} of {drawn} holes drawn stand in the rest of "
        f"their prompts, and {done[rules.leaks]}; {number} holes, {number / len(made):.2f} a prompt"
    )
    return made, notes


def holed(text: str) -> bool:
    """Whether a text has something that looks like a hole."""
    return _HOLE.search(text) is not None


def make_holes(question: str, text: str, rules: Masking, draw: Random) -> Holes:
    """Mask some of a text's entities.

    Args:
        question: shown before it.
        text: a solution.
        rules: what is masked.
        draw: the order in which entities are taken.
    Returns:
        No holes where there is nothing to mask.
    """
    entities = _entities(spans(text, rules.spans), rules.together)
    order = draw.sample(range(len(entities)), len(entities))
    most = max(1, min(rules.holes, round(rules.rate * len(entities))))
    chosen: list[list[Span]] = []
    for index in order:
        if len(chosen) < most and (fits := _fitting(entities[index], chosen)):
            chosen.append(fits)
    seen = Seen(question, text)
    leaking = seen.leaking(chosen)
    drawn, leaked = len(chosen), len(leaking)
    if rules.leaks == "drop" and leaking:
        chosen = _sound(seen, chosen, [entities[i] for i in order], most)
        leaking = []
    chosen.sort(key=lambda entity: entity[0].start)
    holes = [
        {
            "gold": entity[0].gold,
            "kind": entity[0].kind,
            "weight": rules.leak_weight if rules.leaks == "weigh" and entity in leaking else 1.0,
            "visible": entity in leaking,
        }
        for entity in chosen
    ]
    return Holes(_shown(text, chosen), holes, drawn, leaked)


def _entities(found: list[Span], together: bool) -> list[list[Span]]:
    if not together:
        return [[span] for span in found]
    groups: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in found:
        groups[span.kind, span.key].append(span)
    return list(groups.values())


def _fitting(entity: list[Span], chosen: list[list[Span]]) -> list[Span]:
    """The entity's places that are not hidden yet; none where one would be hidden half."""
    taken = [(span.start, span.end) for other in chosen for span in other]
    free = []
    for span in entity:
        meets = [(low, high) for low, high in taken if low < span.end and span.start < high]
        if not meets:
            free.append(span)
        elif not any(low <= span.start and span.end <= high for low, high in meets):
            return []
    return free


def _sound(
    seen: Seen, chosen: list[list[Span]], entities: list[list[Span]], most: int
) -> list[list[Span]]:
    """The chosen without those that leak, filled up with others that do not."""
    # To leave one out makes it visible, and another one may lie in it.
    while leaking := seen.leaking(chosen):
        chosen = [entity for entity in chosen if entity not in leaking]
    for entity in entities:
        if len(chosen) == most:
            break
        fits = _fitting(entity, chosen)
        if fits and not seen.leaking([*chosen, fits]):
            chosen = [*chosen, fits]
    return chosen


def _shown(text: str, chosen: list[list[Span]]) -> str:
    gaps = [
        (span.start, span.end, f"[{i}]")
        for i, entity in enumerate(chosen, start=1)
        for span in entity
    ]
    return covered(text, gaps)


def baselines(items: list[Item]) -> dict[str, Figure]:
    """What is earned without knowing anything, of at most 1.

    Returns:
        `constant`: the same best text in every hole. `copied`: each hole filled from the rest of
        its prompt, wherever that can be done.
    """
    shares: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * len(items))
    copied = []
    for index, item in enumerate(items):
        holes = item.more["holes"]
        whole = sum(hole["weight"] for hole in holes)
        for hole in holes:
            key = (hole["kind"], key_of(hole["kind"], hole["gold"]))
            shares[key][index] += hole["weight"] / whole
        copied.append(sum(hole["weight"] for hole in holes if hole["visible"]) / whole)
    best = max(shares.values(), key=sum)
    return {
        "constant": mean_of(best, BOOTSTRAP_SEED),
        "copied": mean_of(copied, BOOTSTRAP_SEED),
    }
