"""Tasks whose answers the model writes: drawing them, scoring them, pass@k."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any

from plm.errors import ConfigError
from plm.evaluation.common import (
    Part,
    Record,
    Result,
    Share,
    by_group,
    counted,
    digest_of,
    notes_of,
    records_of,
    seed_of,
)
from plm.evaluation.kinds import check_kinds, unknown
from plm.evaluation.statistics import Figure, mean_of, pass_at_k

BOOTSTRAP_SEED = 0
KEPT_LETTERS = 4000
"""Of a completion, in the stored records."""


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        name: unique in its task, and the same in every run.
        question: what a user says.
        text: what a model goes on from that knows no conversations.
        answer: the right one, for the records.
        group: part of the task that has figures of its own; "" for none.
        more: what scoring needs besides.
        solution: a worked one, in the form that conversations are trained on; "": there is none.
    """

    name: str
    question: str
    text: str
    answer: str
    group: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    solution: str = ""


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn.

    Args:
        samples: answers an item.
        k: pass@k is given for each; at most samples.
        temperature: 0 takes the most likely token, so that samples must be 1.
        top_p: share of the distribution that is drawn from.
        max_new_tokens: longest answer; less, and counted in a note, where prompt and answer would
            pass the context.
        seed: of the draws; each item's own seed comes from it and the item's name.
        limit: of the items, evenly spread over them; null: all.
    Raises:
        ConfigError: values that cannot work together.
    """

    samples: int = 1
    k: tuple[int, ...] = (1,)
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit={self.limit} must be at least 1; leave it out for all items")
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(
                f"samples={self.samples} at temperature=0 would be the same answer so many times; "
                "set temperature=0.8, say, or samples=1"
            )
        for k in self.k:
            if not 1 <= k <= self.samples:
                raise ConfigError(f"k={k}: pass@{k} needs samples={max(k, 1)} at least")

    def chosen(self, items: Sequence[Item]) -> list[Item]:
        """The items within the limit, spread over all of them, so that every group has its part."""
        count = len(items) if self.limit is None else min(self.limit, len(items))
        return [items[i * len(items) // count] for i in range(count)]


def drawing(settings: dict[str, Any], task: Callable[..., Any] | None = None) -> Drawing:
    """A Drawing from plain settings, where k may be one number.

    Args:
        settings: by name.
        task: what takes them beside settings of its own, which an error names too.
    Raises:
        ConfigError: an unknown setting, or a value of the wrong kind.
    """
    kinds = {item.name: type(item.default) for item in fields(Drawing)}
    kinds |= {"limit": (int, None)}
    for name, value in settings.items():
        if name not in kinds:
            own = signature(task).parameters.values() if task is not None else ()
            named = [one.name for one in own if one.kind is not one.VAR_KEYWORD]
            raise unknown(name, value, [*named, *kinds])
    check_kinds(settings, {n: kind for n, kind in kinds.items() if n in settings and n != "k"})
    k = settings.get("k", (1,))
    several = list(k) if isinstance(k, list | tuple) else [k]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in several):
        raise ConfigError(f"k={k} is not a whole number or a list of them")
    return Drawing(**{**settings, "k": tuple(several)})


# The texts of items and whether each is right: `[(item, completion, cut)] -> [(right, answer)]`.
Grade = Callable[[list[tuple[Item, str, bool]]], list[tuple[bool, str | None]]]


class Generated:
    """A task of items, each answered and graded.

    Args:
        items: makes the items, the same ones every time; called on first use.
        grade: rights and wrongs of completions.
        draw: how answers are drawn.
        stop: strings that end the answer of a model prompted with text.
        baselines: figures that go beside the model's own, from the items alone; made once.
        settings: of the task, which two results must share to be compared.

    Attributes:
        notes: on the items; there once these are.
        environment: answers are drawn in it; None: in one turn each.
    """

    environment: Callable[..., Any] | None = None

    def __init__(
        self,
        items: Callable[[], tuple[list[Item], list[str]]],
        grade: Grade,
        draw: Drawing,
        *,
        stop: tuple[str, ...] = (),
        baselines: Callable[[list[Item]], dict[str, Figure]] | None = None,
        settings: dict[str, Any],
    ) -> None:
        self._baselines = baselines
        self._beside: dict[str, Figure] | None = None
        self._make, self.grade, self.draw = items, grade, draw
        self.stop, self.settings = stop, settings
        self._items: list[Item] | None = None
        self.notes: list[str] = []

    @property
    def items(self) -> list[Item]:
        """All items within the limit."""
        if self._items is None:
            found, self.notes = self._make()
            if not found:
                raise ConfigError("the task has no items")
            self._items = self.draw.chosen(found)
        return self._items

    def prepare(self, context: int) -> None:
        """Make the items, so that what is missing is said before there is a model.

        Args:
            context: longest prompt and answer together, in tokens.
        Raises:
            ConfigError: no items, or answers so long that no prompt fits beside them.
            DataError: the items cannot be read.
        """
        assert self.items
        most = self.draw.max_new_tokens
        if most >= context:
            raise ConfigError(
                f"max_new_tokens={most} leaves no room for a prompt in the model's context of "
                f"{context}; set it below that"
            )

    def check(self, subject: Any) -> None:
        """What `prepare` does, and whether there is anything that the model can be asked.

        Raises:
            ConfigError: as `prepare`, or every prompt fills the context.
            DataError: as `prepare`.
        """
        self.prepare(subject.max_len)
        lengths = (len(subject.prompt(item.question, item.text)) for item in self.items)
        if all(length >= subject.max_len for length in lengths):
            raise ConfigError(
                f"{counted(len(self.items), 'prompt')}, and none leaves room for an answer in the "
                f"model's context of {subject.max_len}; ask with fewer shots, or shorter questions"
            )

    def run(self, subject: Any, share: Share = Share()) -> Part:  # noqa: B008
        """Answer and grade this process's items."""
        mine = share.of(self.items)
        answers, rooms = self.answered(subject, [item for _, item in mine])
        flat = [
            (item, text, cut)
            for (_, item), texts in zip(mine, answers, strict=True)
            for text, cut in texts
        ]
        graded = iter(self.grade(flat))
        records = []
        for (index, item), texts in zip(mine, answers, strict=True):
            outcome = [next(graded) for _ in texts]
            records.append(record(index, item, texts, outcome))
        full = sum(room < 1 for room in rooms)
        short = sum(0 < room < self.draw.max_new_tokens for room in rooms)
        return Part(records, {"notes": self.notes, "full": full, "short": short})

    def answered(
        self, subject: Any, items: list[Item]
    ) -> tuple[list[list[tuple[str, bool]]], list[int]]:
        """Of each item its completions, and whether each was cut; and the most tokens of each.

        Where there is room for no token there are no completions.
        """
        from plm.evaluation.asking import answered_in
        from plm.rollout.sampling import Sampling

        if self.environment is not None:
            with subject.device_context():
                return answered_in(self.environment, self, subject, items)
        draw = self.draw
        prompts = [subject.prompt(item.question, item.text) for item in items]
        rooms = [min(draw.max_new_tokens, subject.max_len - len(prompt)) for prompt in prompts]
        found: list[list[tuple[str, bool]]] = [[] for _ in items]
        for room in sorted({room for room in rooms if room > 0}, reverse=True):
            chosen = [i for i, r in enumerate(rooms) if r == room]
            sampling = Sampling(
                max_new_tokens=room,
                temperature=draw.temperature,
                top_p=draw.top_p,
                stop=self.stop if subject.chat is None else (),
                seed=draw.seed,
            )
            with subject.device_context():
                done = subject.engine.generate(
                    [prompts[i] for i in chosen],
                    sampling,
                    group=draw.samples,
                    seeds=[seed_of(draw.seed, items[i].name) for i in chosen],
                )
            for completion in done:
                cut = completion.finish == "length"
                found[chosen[completion.prompt]].append((completion.text, cut))
        return found, rooms

    def result(self, subject: Any, parts: list[Part]) -> Result:
        """Accuracy, pass@k, and the accuracy of each group."""
        records = records_of(parts)
        told = [[i.name, i.question, i.text, i.answer] for i in self.items]
        drawn = {name: value for name, value in vars(self.draw).items() if name != "limit"}
        return Result(
            figures=figures(records, self.draw) | self._beside_the_model(),
            records=records,
            settings={**self.settings, **drawn, "k": list(self.draw.k)},
            digest=digest_of(told),
            prompt=subject.style,
            notes=[*notes_of(parts), *self._room_notes(parts)],
        )

    def _room_notes(self, parts: list[Part]) -> list[str]:
        """What the context kept from being answered in full, over all processes."""
        full, short = (sum(p.told.get(name, 0) for p in parts) for name in ("full", "short"))
        most, notes = self.draw.max_new_tokens, []
        if short:
            notes.append(
                f"{counted(short, 'prompt')} with less room than max_new_tokens={most}: there the "
                "context ends the answer"
            )
        if full:
            notes.append(
                f"{counted(full, 'prompt')} without room for an answer in the context: wrong"
            )
        return notes

    def _beside_the_model(self) -> dict[str, Figure]:
        if self._beside is None:
            self._beside = self._baselines(self.items) if self._baselines else {}
        return self._beside


def record(
    index: int, item: Item, texts: list[tuple[str, bool]], outcome: list[tuple[bool, str | None]]
) -> Record:
    """What is stored of an item: its completions, whether each was cut, and what it was graded."""
    return {
        "index": index,
        "id": item.name,
        "group": item.group,
        # A prompt without room has no answers, and counts as one that is wrong.
        "correct": [right for right, _ in outcome] or [False],
        "answers": [answer for _, answer in outcome],
        "wanted": item.answer,
        "cut": [cut for _, cut in texts],
        "texts": [text[:KEPT_LETTERS] for text, _ in texts],
    }


def figures(records: list[Record], draw: Drawing) -> dict[str, Figure]:
    """Accuracy (mean over samples), pass@k for k above 1, and the accuracy of each group."""

    def accuracy(some: list[Record]) -> Figure:
        return mean_of([sum(r["correct"]) / len(r["correct"]) for r in some], BOOTSTRAP_SEED)

    found = {"accuracy": accuracy(records)}
    for k in draw.k:
        if k > 1:
            values = [_pass(r["correct"], draw.samples, k) for r in records]
            found[f"pass@{k}"] = mean_of(values, BOOTSTRAP_SEED)
    groups = by_group(records)
    if len(groups) > 1:
        found |= {f"accuracy/{group}": accuracy(some) for group, some in groups.items()}
    if records:
        cut = [float(any(r["cut"])) for r in records]
        found["cut"] = mean_of(cut, BOOTSTRAP_SEED)
    return found


def _pass(correct: list[bool], samples: int, k: int) -> float:
    return pass_at_k(samples, sum(correct), k)
