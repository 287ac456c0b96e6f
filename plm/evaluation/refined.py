"""Answers that the model is shown again: what each refinement is worth, beside as many new answers.

The draws of turn 0 are those of the task by itself, and an item's independent answers begin with
it: chain and independent answers are compared on the same items, with the same first answer.

Source: the modes are those of Zeng et al., ARIES (arXiv:2502.05605): direct, one refinement, chain
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from plm.errors import ConfigError
from plm.evaluation import turns as told
from plm.evaluation.common import Part, Record, Result, Share, records_of, seed_of
from plm.evaluation.generated import KEPT_LETTERS, Generated, Item, record
from plm.evaluation.kinds import check_kinds
from plm.rounds.common import Answer
from plm.rounds.template import DEFAULT, PLACES, Template, default_text


def refined(
    task: Generated, *, turns: int = 1, template: str | None = None, independent: bool = True
) -> "Refined":
    """A task whose answers are refined, turn after turn, and every turn graded.

    Args:
        task: any whose answers are generated, one sample an item; how it draws goes for all turns.
        turns: refinements an item.
        template: how an answer is shown, as for `template_of`; null: as the checkpoint was trained.
        independent: also draw so many independent answers an item; off at temperature 0, where all
            would be the same.
    Raises:
        ConfigError: another kind of task or value, or a text without its places.
    """
    kinds = {"turns": int, "template": (str, None), "independent": bool}
    check_kinds({"turns": turns, "template": template, "independent": independent}, kinds)
    if turns < 1:
        raise ConfigError(f"turns={turns} must be at least 1; the task by itself has none")
    if not isinstance(task, Generated):
        raise ConfigError(
            "task: its answers are not generated one by one, so that there is none to refine; "
            "exercises, gsm8k and humaneval have such answers"
        )
    if task.draw.samples != 1:
        raise ConfigError(
            f"samples={task.draw.samples}: a refined task asks each item once; turns={turns} says "
            "how many answers follow, refinements and independent ones; set samples=1"
        )
    if template is not None:
        template_of(template)
    return Refined(task, turns, template, independent)


def refining(tasks: Mapping[str, Any], turns: int, template: str | None) -> dict[str, Any]:
    """The tasks, with those refined whose answers are generated.

    Args:
        tasks: by name.
        turns, template: as for `refined`.
    Raises:
        ConfigError: of one of them, with its name; or none has such answers.
    """
    for name, task in tasks.items():
        if isinstance(task, Refined):
            raise ConfigError(f"refine={turns}: {name} is refined already; set {name}.turns")
    if not any(isinstance(task, Generated) for task in tasks.values()):
        raise ConfigError(
            f"refine={turns}: none of {', '.join(tasks)} has answers that could be refined, as "
            "exercises, gsm8k and humaneval have"
        )
    found = dict(tasks)
    for name, task in tasks.items():
        if isinstance(task, Generated):
            try:
                found[name] = refined(task, turns=turns, template=template)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error
    return found


def template_of(named: str | None, trained: str | None = None) -> tuple[Template, str]:
    """How an answer is shown, and in words where that is from.

    Args:
        named: a text with its places, a file of it (in YAML as `text`), or the name of one in
            configs/refinement; None: `trained`, else the default of configs/refinement.
        trained: text that the model was trained with.
    Raises:
        ConfigError: there is no such file, or it holds no text with the places.
    """
    if named is None and trained is not None:
        return Template(trained), "the checkpoint's own"
    if named is None:
        where = f"configs/refinement/{DEFAULT.name}, since the checkpoint names none"
        return Template(default_text()), where
    if any(place in named for place in PLACES):
        return Template(named), "as given"
    return Template(_read(named)), named


def _read(name: str) -> str:
    try:
        file = DEFAULT.parent / f"{name}.yaml"
        file = file if file.is_file() else Path(name).expanduser()
        text = file.read_text(encoding="utf-8")
        if file.suffix in (".yaml", ".yml"):
            node = yaml.safe_load(text)
            text = node.get("text") if isinstance(node, dict) else None
    except (OSError, ValueError, yaml.YAMLError) as error:
        known = ", ".join(sorted(path.stem for path in DEFAULT.parent.glob("*.yaml")))
        raise ConfigError(
            f"template={name!r} is no text with {' and '.join(PLACES)}, none of {known}, and no "
            f"file that can be read: {getattr(error, 'strerror', None) or 'not plain text or YAML'}"
        ) from error
    return text.removesuffix("\n") if isinstance(text, str) else text


class Refined:
    """A `Task` round another one; see `refined`."""

    def __init__(
        self, task: Generated, turns: int, template: str | None, independent: bool
    ) -> None:
        self.task, self.turns, self.named = task, turns, template
        self.asked_apart = independent
        self.apart = independent and task.draw.temperature > 0

    def prepare(self, context: int) -> None:
        """As the task's own: make the items.

        Raises:
            ConfigError, DataError: the task's.
        """
        self.task.prepare(context)

    def check(self, subject: Any) -> None:
        """What would stop the task, or its refinements.

        Raises:
            ConfigError: as the task's; the model is prompted with text; or no answer could be
                shown beside its question.
            DataError: the task's.
        """
        if subject.chat is None:
            raise ConfigError(
                "the model is prompted with text, and answers are refined in a conversation; leave "
                "the refinement out, or take a model with a chat template"
            )
        self.task.check(subject)
        template, _ = template_of(self.named, subject.refinement)
        least = min(len(_prompt(subject, template.render(i.question, ""))) for i in self.task.items)
        if least >= subject.max_len:
            raise ConfigError(
                f"the refinement's prompts take {least} tokens at least, without the answer, and "
                f"the context has {subject.max_len}; give a shorter template="
            )

    def run(self, subject: Any, share: Share = Share()) -> Part:  # noqa: B008
        """Answer, refine and grade this process's items."""
        # Here, since settings are checked without torch.
        from plm.candidates.chain import chain
        from plm.candidates.independent import independent

        mine = share.of(self.task.items)
        items = [item for _, item in mine]
        template, _ = template_of(self.named, subject.refinement)
        draw = self.task.draw
        how = {name: getattr(draw, name) for name in ("temperature", "top_p", "max_new_tokens")}
        asked = [item.question for item in items]
        seeds = [seed_of(draw.seed, item.name) for item in items]
        chains = chain(subject, asked, template, seeds, turns=self.turns, **how)
        others: list[list[Answer]] = [[] for _ in items]
        if self.apart:
            seeds = [seed_of(draw.seed, f"{item.name}/independent") for item in items]
            others = independent(subject, asked, template, seeds, answers=self.turns, **how)
        both = list(zip(items, chains, others, strict=True))
        flat = [(i, one.text, one.cut) for i, of_chain, new in both for one in [*of_chain, *new]]
        graded = iter(self.task.grade(flat))
        rooms = [subject.max_len - len(_prompt(subject, question)) for question in asked]
        records = [
            self._record(index, subject, template, *three, graded)
            for (index, _), three in zip(mine, both, strict=True)
        ]
        full = sum(room < 1 for room in rooms)
        short = sum(0 < room < draw.max_new_tokens for room in rooms)
        return Part(records, {"notes": self.task.notes, "full": full, "short": short})

    def _record(
        self,
        index: int,
        subject: Any,
        template: Template,
        item: Item,
        of_chain: list[Answer],
        new: list[Answer],
        graded: Iterator[tuple[bool, str | None]],
    ) -> Record:
        outcome = [next(graded) for _ in of_chain]
        firsts = [(one.text, one.cut) for one in of_chain[:1]]
        found = record(index, item, firsts, outcome[:1])
        turns = _told(of_chain, outcome)
        before = [None, *(one.text for one in of_chain)]
        prompts = [
            item.question if shown is None else template.render(item.question, shown)
            for shown, _ in zip(before, of_chain, strict=False)
        ]
        turns["read"] = [len(_prompt(subject, text)) for text in prompts]
        turns["copied"] = [
            shown is not None and one.text.strip() == shown.strip()
            for shown, one in zip(before, of_chain, strict=False)
        ]
        # What could not be refined any more stands; without any answer all is wrong.
        last = turns["correct"][-1] if of_chain else False
        turns["correct"] += [last] * (self.turns + 1 - len(of_chain))
        others = None
        if self.apart:
            others = _told(new, [next(graded) for _ in new])
            others["correct"] += [False] * (self.turns - len(new))
            # One prompt: it is taken in once, for turn 0.
            others["read"] = [0 for _ in new]
        found |= {"turns": turns, "values": told.values(turns, others)}
        return found if others is None else found | {"independent": others}

    def result(self, subject: Any, parts: list[Part]) -> Result:
        """The task's figures at turn 0, and those of the turns; see plm.evaluation.turns."""
        base = self.task.result(subject, parts)
        template, where = template_of(self.named, subject.refinement)
        records = records_of(parts)
        notes = [f"refinement text: {where} (sha256 {template.sha256[:8]})"]
        if self.asked_apart and not self.apart:
            notes.append("temperature=0: independent answers would be the same one; none are drawn")
        return replace(
            base,
            figures=base.figures | told.figures(records),
            settings={**base.settings, "turns": self.turns, "refinement": template.sha256},
            notes=[*base.notes, *notes, *told.notes(records)],
        )


def _prompt(subject: Any, text: str) -> list[int]:
    return subject.prompt(text, text)


def _told(answers: list[Answer], outcome: list[tuple[bool, str | None]]) -> told.Told:
    return {
        "correct": [right for right, _ in outcome],
        "answers": [answer for _, answer in outcome],
        "cut": [one.cut for one in answers],
        "texts": [one.text[:KEPT_LETTERS] for one in answers],
        "tokens": [one.tokens for one in answers],
    }
