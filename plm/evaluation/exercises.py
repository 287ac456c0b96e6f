"""Generated problems of reasoning-gym, held out from training by seed and by family.

Source: open-thought/reasoning-gym, whose generators are used. Its scorers give part marks for
near and for longer answers (and one of them takes list entries that are off by one), so answers are
compared here, exactly.
"""

import dataclasses
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from plm.errors import ConfigError
from plm.evaluation.answers import answer_of, foreign_digits, normalised, same_number, same_text
from plm.evaluation.common import counted
from plm.evaluation.generated import Generated, Item, drawing
from plm.evaluation.kinds import check_kinds, unknown
from plm.evaluation.lookup import nearest
from plm.evaluation.statistics import Figure

NUMERIC = frozenset(
    "basic_arithmetic chain_sum count_bits count_primes decimal_chain_sum gcd gsm_symbolic "
    "largest_island lcm leg_counting letter_counting number_sequence products simple_equations "
    "simple_geometry".split()
)
"""Families whose answer is a number: 7, +7 and 7.0 are the same there."""
STRICT = frozenset({"prime_factorization"})
"""Families whose own scorer gives full marks to right answers only: factors come in any order."""
_POINT_ZERO = re.compile(r"(?<=\d)\.0(?!\d)")
STOP = ("\nQuestion:",)


def exercises(
    families: dict[str, dict[str, Any] | None],
    *,
    n: int = 100,
    items_seed: int = 700_000_000,
    trained: list[dict[str, Any]] | None = None,
    shots: int = 0,
    lookup: bool = False,
    steps: bool = True,
    **draw: Any,
) -> Generated:
    """Accuracy on families of problems, each item one that training has not seen.

    Args:
        families: name of each and settings of its generator, as in the recipe that trained.
        n: items a family; fewer where a family has not so many different ones.
        items_seed: of the generators; item i of seed s is item 0 of seed s + i.
        trained: `{seed, problems}` of what training generated with the same settings, and
            `families` where it was for some of them only: the ranges may not meet, and items whose
            question is among those are left out and counted.
        lookup: also give, as `lookup`, the accuracy of answering each item with the answer of the
            most similar trained problem: what remembering alone would reach.
        shots: worked problems before the question, for a model prompted with text; made with seeds
            of their own, so they are no item.
        steps: whether the items' solutions have their steps, or are the answer alone.
        draw: settings of `plm.evaluation.generated.Drawing`.
    Raises:
        ConfigError: a family that is not there, a value of the wrong kind, or seeds that meet
            those of training.
    """
    settings = {
        "families": families,
        "n": n,
        "items_seed": items_seed,
        "trained": [] if trained is None else trained,
        "shots": shots,
    }
    check_kinds({**settings, "lookup": lookup, "steps": steps}, _KINDS)
    for family, generator in families.items():
        if generator is not None and not isinstance(generator, dict):
            raise ConfigError(f"families.{family}={generator} is not a mapping, {{}} or null")
    if n < 1 or shots < 0 or not families:
        raise ConfigError(f"n={n} and shots={shots}: one item, one family, no less than 0 shots")
    for one in settings["trained"]:
        _apart(one, settings)

    def items() -> tuple[list[Item], list[str]]:
        found, notes = [], []
        for family in sorted(families):
            some, said = _family(family, dict(families[family] or {}), settings, steps)
            found += some
            notes += said
        return found, notes

    def baselines(items: list[Item]) -> dict[str, Figure]:
        return nearest(items, partial(_trained, settings=settings), right)

    return Generated(
        items,
        grade,
        drawing(draw, exercises),
        stop=STOP,
        baselines=baselines if lookup else None,
        settings=settings,
    )


_KINDS = {
    "families": dict, "n": int, "items_seed": int, "trained": list, "shots": int, "lookup": bool,
    "steps": bool,
}  # fmt: skip


def _apart(one: Any, settings: dict[str, Any]) -> None:
    """Refuse a stretch of trained problems that is none, or that the items' seeds meet."""
    known = {"seed", "problems"}
    if not isinstance(one, dict) or not known <= set(one) <= known | {"families"}:
        raise ConfigError(f"trained: {one} is not {{seed, problems}}, with families or without")
    try:
        check_kinds({"families": [], **one}, {**dict.fromkeys(known, int), "families": list[str]})
    except ConfigError as error:
        raise ConfigError(f"trained: {one}: {error}") from error
    seed, shots = settings["items_seed"], settings["shots"]
    first, last = one["seed"], one["seed"] + one["problems"]
    if first < seed + _TRIES * settings["n"] and seed - shots < last:
        raise ConfigError(
            f"items_seed={seed}: problems {first} to {last - 1} were trained on; item i is problem "
            f"items_seed + i, so take items_seed={last + shots} or more"
        )


_TRIES = 4
"""So many candidates a wanted item are looked through for unseen ones."""


def _family(
    family: str, generator: dict[str, Any], settings: dict[str, Any], steps: bool
) -> tuple[list[Item], list[str]]:
    """The items of one family, and what was left out."""
    n, seed, shots = settings["n"], settings["items_seed"], settings["shots"]
    generator.pop("problems", None)
    trained = {question for question, _ in _trained(family, settings)}
    worked = list(_problems(family, generator, seed - shots, shots))
    seen = trained | {problem.question for problem in worked}
    examples = "".join(
        f"Question: {p.question}\nSolution:\n{p.steps}Answer: {p.answer}\n\n" for p in worked
    )
    items, met = [], 0
    for problem in _problems(family, generator, seed, _TRIES * n):
        if problem.question in seen:
            met += 1
            continue
        seen.add(problem.question)
        text = f"{examples}Question: {problem.question}\nSolution:\n"
        more = {"family": family, "entry": problem.entry}
        name = f"{family}/{problem.number}"
        solution = _solution(problem.small, steps)
        items.append(Item(name, problem.question, text, problem.answer, family, more, solution))
        if len(items) == n:
            break
    notes = []
    if met:
        notes.append(f"{family}: {counted(met, 'problem')} left out, trained on or there twice")
    if len(items) < n:
        notes.append(f"{family}: {counted(len(items), 'item')} of {n}: it has no more that are new")
    if not items:
        raise ConfigError(f"families.{family}: no problem of it is new; were all trained on?")
    return items, notes


def _trained(family: str, settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Question and answer of the problems of a family that training generated."""
    generator = dict(settings["families"][family] or {})
    generator.pop("problems", None)
    for one in settings["trained"]:
        if family in one.get("families", [family]):
            for problem in _problems(family, generator, one["seed"], one["problems"]):
                yield problem.question, problem.answer


class _Problem(NamedTuple):
    number: int
    question: str
    answer: str
    entry: dict[str, Any]
    steps: str
    small: Any


def _problems(family: str, generator: dict[str, Any], seed: int, size: int) -> Iterator[_Problem]:
    """A stretch of problems, worded as training words them where it has worked solutions."""
    import reasoning_gym

    from plm.data.sources.small_steps import SMALL_STEPS
    from plm.data.sources.solutions import SOLVERS

    _check_generator(family, generator)
    if size < 1:
        return
    try:
        dataset = reasoning_gym.create_dataset(family, seed=seed, size=size, **generator)
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"families.{family}: {generator}: {error}") from error
    for place in range(size):
        entry = dataset[place]
        question, answer, steps, small = entry["question"].strip(), entry["answer"], "", None
        if family in SOLVERS:
            told = {**entry["metadata"], "question": entry["question"]}
            worked, small = SOLVERS[family](told), SMALL_STEPS[family](told)
            if worked is None:
                continue
            question, answer = worked.question, worked.answer
            steps = "".join(f"{step}\n" for step in worked.steps)
        if answer is not None:
            yield _Problem(seed + place, question, str(answer), entry, steps, small)


def _solution(worked: Any, steps: bool) -> str:
    """As training on conversations has it; "" where there is none."""
    from plm.data.sources.dialogues import exchange

    if worked is None:
        return ""
    return exchange(worked.question, worked.steps if steps else [], worked.answer)[1]["content"]


def _check_generator(family: str, generator: dict[str, Any]) -> None:
    """Refuse a family that is not there, and settings that its generator does not take."""
    from reasoning_gym.factory import DATASETS

    from plm.data.sources.solutions import SOLVERS

    if family not in DATASETS:
        near = get_close_matches(family, list(DATASETS))
        hint = f"did you mean {', '.join(near)}?" if near else f"some are {', '.join(SOLVERS)}"
        raise ConfigError(f"families.{family}: reasoning-gym has no such family; {hint}")
    # Seed and size are those of the items.
    taken = [f for f in dataclasses.fields(DATASETS[family][1]) if f.name not in ("seed", "size")]
    kinds = {f.name: f.type for f in taken}
    for name, value in generator.items():
        key = f"families.{family}.{name}"
        if name not in kinds:
            raise unknown(name, value, list(kinds), within=f"families.{family}.")
        if kinds[name] in (int, float, bool, str):
            check_kinds({key: value}, {key: kinds[name]})


def grade(flat: list[tuple[Item, str, bool]]) -> list[tuple[bool, str | None]]:
    """Right or wrong, and the answer that was read; see `plm.evaluation.answers`."""
    found = []
    for item, text, cut in flat:
        answer = answer_of(text, question=item.question, cut=cut)
        found.append((right(answer, item.answer, item.more["family"], item.more["entry"]), answer))
    return found


def right(answer: str | None, wanted: str, family: str, entry: dict[str, Any]) -> bool:
    """Whether an answer is exactly that of a problem.

    Args:
        answer: as read off the completion.
        wanted: in the form that training writes.
        family, entry: of the problem, whose own form of the answer is right as well.
    """
    if same_text(answer, wanted) or same_text(answer, str(entry["answer"])):
        return True
    if not answer:
        return False
    if family in NUMERIC:
        return same_number(answer, wanted)
    if family == "complex_arithmetic":
        return _complex(normalised(answer)) == _complex(wanted)
    strict = family in STRICT and not foreign_digits(answer)
    return strict and _full_marks(answer, family, entry)


def _complex(answer: str) -> str:
    return _POINT_ZERO.sub("", "".join(answer.split()))


def _full_marks(answer: str, family: str, entry: dict[str, Any]) -> bool:
    import reasoning_gym

    try:
        score = reasoning_gym.create_dataset(family, seed=0, size=1).score_answer(answer, entry)
    # Its scorers raise whatever parsing a stranger's answer raises.
    except Exception:
        return False
    return score == 1.0
