"""A round's pairs: prompts drawn, answered and refined by the model that the run begins from,
scored, and paired.

All of it lies in the run's folder `round/`: `samples.jsonl`, every prompt with its scored answers;
`pairs.jsonl`, what is trained on; `statistics.json`; `chains.html`, some of them side by side; and
`round.json`, written last. A run that was stopped goes on behind what it had sampled. What is drawn
for a prompt depends on the seed and the prompt alone, not on the number of processes.

Paper: Zeng et al., ARIES (arXiv:2502.05605)
"""

import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plm.checkpoint import write_atomic
from plm.data.order import permute
from plm.errors import CheckpointError, ConfigError, DataError
from plm.evaluation.common import digest_of, seed_of
from plm.pairing.common import CUT
from plm.reward.common import Example, score
from plm.rounds import statistics
from plm.rounds.common import Sampled
from plm.rounds.parts import Parts

log = logging.getLogger("plm")

FOLDER, SAMPLES, PAIRS, TOLD = "round", "samples.jsonl", "pairs.jsonl", "round.json"
STORED = "round.samples.jsonl"
"""The samples as a checkpoint keeps them."""
_PORTION = 32
"""Prompts that are noted together; a stop loses at most these, of each process."""

Tell = Callable[[str, int, int | None], None]


def wanted(settings: dict[str, Any]) -> bool:
    """Whether a run makes its own pairs."""
    return bool(settings.get("candidates"))


@dataclass
class Round:
    """A round that is made.

    Attributes:
        folder: `round` in the run's folder.
        told: what a checkpoint says of it: `prompts`, a digest of them all; `first` and `next`, the
            cursor before and behind; `samples`, sha256 of the stored ones; counts.
    """

    folder: Path
    told: dict[str, Any] = field(default_factory=dict)

    def data(self, node: dict[str, Any]) -> dict[str, Any]:
        """The node `data` with the round's pairs in it."""
        return {**node, "path": str(self.folder / PAIRS)}

    def files(self) -> dict[str, str]:
        """What a checkpoint keeps, by name."""
        return {STORED: (self.folder / SAMPLES).read_text(encoding="utf-8")}


def made(
    settings: dict[str, Any],
    run: Path,
    start: Any,
    *,
    resumed: bool,
    rank: int = 0,
    world_size: int = 1,
    tell: Tell | None = None,
) -> Round:
    """The round of a run, made where that has not been done.

    Args:
        settings: the run's.
        run: its folder.
        start: a plm.handoff.Start: the run's own checkpoint, if resumed, else what it begins from.
        resumed: the run has a checkpoint.
        rank, world_size: the processes share the prompts out.
        tell: told how far the sampling is.
    Raises:
        DataError: no pair is left; the line says why.
        CheckpointError: the samples of a resumed run are gone.
    """
    folder = run / FOLDER
    if not (folder / TOLD).is_file():
        parts = Parts.of(settings)
        folder.mkdir(parents=True, exist_ok=True)
        if resumed:
            first = _restore(folder, start)
        else:
            first = _first(parts, start)
            _sample(parts, folder, first, settings, rank, world_size, tell)
        _together(settings, world_size)
        if rank == 0:
            _finish(parts, folder, first, name=run.name)
        _together(settings, world_size)
    told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    return Round(folder, told)


def _together(settings: dict[str, Any], world_size: int) -> None:
    """Wait for the other processes."""
    if world_size == 1:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        from plm.precision import accelerator_of
        from plm.strategies import backend

        accelerator = accelerator_of(settings["trainer"]["accelerator"])
        if accelerator == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # One process may have hours of prompts left that another had done before a stop.
        dist.init_process_group(backend(accelerator), timeout=timedelta(days=1))
    dist.barrier()


def _restore(folder: Path, start: Any) -> int:
    """The samples from the run's own checkpoint; the first prompt's number."""
    stored = start.path / STORED
    if not stored.is_file():
        raise CheckpointError(f"{stored} is missing, and {folder / TOLD} too: name another run")
    shutil.copyfile(stored, folder / SAMPLES)
    return int(start.meta["round"]["first"])


def _first(parts: Parts, start: Any) -> int:
    """The cursor: behind what the round before drew of the same prompts."""
    before = start.meta.get("round") or {}
    mark = prompts_mark(parts)
    if before and before["prompts"] != mark:
        log.info("other prompts than those of the round before: the first of them are drawn")
    return int(before["next"]) if before.get("prompts") == mark else 0


def prompts_mark(parts: Parts) -> str:
    """Hash of the prompts and of the order that they are drawn in, hex."""
    return digest_of([parts.seed, [[item.name, item.question] for item in parts.task.items]])


def places(size: int, first: int, number: int, seed: int) -> np.ndarray:
    """[number] int64: which items the prompts first, first + 1, … are.

    The prompts go on for ever: each epoch is a permutation of all items, of its own.
    """
    epoch, inside = np.divmod(np.arange(first, first + number, dtype=np.int64), size)
    found = np.empty_like(inside)
    for value in np.unique(epoch):
        rows = epoch == value
        found[rows] = permute(inside[rows], size, seed_of(seed, f"prompts/{value}"))
    return found


def _sample(
    parts: Parts,
    folder: Path,
    first: int,
    settings: dict[str, Any],
    rank: int,
    world_size: int,
    tell: Tell | None,
) -> None:
    """This process's prompts, answered and scored, noted portion by portion."""
    items = parts.task.items
    if parts.solutions and not any(item.solution for item in items):
        raise ConfigError("round.solutions=true, but the prompts have none; set it to false")
    if parts.number + first > len(items):
        log.warning(
            "%s prompts from number %s on, and there are %s: some are drawn again",
            parts.number,
            first,
            len(items),
        )
    chosen = places(len(items), first, parts.number, parts.seed)
    done = {one.index for one in _noted(folder)}
    numbers = range(first, first + parts.number)
    portions = [numbers[low : low + _PORTION] for low in range(0, parts.number, _PORTION)]
    mine = [p for p in portions[rank::world_size] if not done.issuperset(p)]
    if not mine:
        return
    subject = _subject(parts, settings)
    journal = folder / f"samples-{rank}-of-{world_size}.part"
    with journal.open("a", encoding="utf-8") as file:
        # A stop may have torn the last line: what follows must not become a part of it.
        file.write("\n" if file.tell() else "")
        count = 0
        for portion in mine:
            asked = [(index, items[chosen[index - first]]) for index in portion]
            for sampled in _answered(parts, subject, asked):
                file.write(json.dumps(sampled.plain(), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            count += len(portion)
            if tell is not None:
                tell("sampling", count, sum(map(len, mine)))
    if hasattr(parts.reward, "close"):
        # A reward model makes room for the training.
        parts.reward.close()


def _subject(parts: Parts, settings: dict[str, Any]) -> Any:
    from plm import pretrained
    from plm.evaluation.subject import subject_of
    from plm.precision import accelerator_of

    found = pretrained.load(settings["init_from"])
    cuda = accelerator_of(settings["trainer"]["accelerator"]) == "cuda"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else None
    narrow = cuda and settings["precision"] != "fp32" and torch.cuda.is_bf16_supported(False)
    return subject_of(
        found,
        rows=parts.rows,
        device=device,
        dtype=torch.bfloat16 if narrow else None,
        compiled=parts.compiled,
    )


def _answered(parts: Parts, subject: Any, asked: Sequence[tuple[int, Any]]) -> Iterator[Sampled]:
    seeds = [seed_of(parts.seed, f"{index}/{item.name}") for index, item in asked]
    questions = [item.question for _, item in asked]
    found = parts.candidates(subject, questions, parts.template, seeds)
    texts, examples = [], []
    for (_, item), answers in zip(asked, found, strict=True):
        for answer in answers:
            texts.append(answer.text)
            grade = getattr(parts.task, "grade", None)
            examples.append(Example(item.question, item, answer.cut, grade, answer))
    scores = iter(score(parts.reward, texts, examples))
    for (index, item), answers in zip(asked, found, strict=True):
        for answer in answers:
            answer.score = next(scores)
        solution = item.solution if parts.solutions else ""
        yield Sampled(index, item.name, item.question, item.group, answers, solution)


def _noted(folder: Path) -> list[Sampled]:
    """What processes of this try and of earlier ones have noted; a torn last line is no line."""
    found: dict[int, Sampled] = {}
    for path in sorted(folder.glob("samples-*.part")):
        # By bytes and not by characters: a stop may have torn one, and text that a model draws
        # holds characters that end a line elsewhere.
        for line in path.read_bytes().split(b"\n"):
            try:
                one = Sampled.of(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue
            found[one.index] = one
    return [found[index] for index in sorted(found)]


def read_samples(path: Path) -> Iterator[Sampled]:
    """The prompts of a `samples.jsonl`, one at a time."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Sampled.of(json.loads(line))


def _finish(parts: Parts, folder: Path, first: int, name: str) -> None:
    """Pair the samples, and write what the round was."""
    from plm.rounds.page import write_page

    samples = folder / SAMPLES
    if not samples.is_file():
        noted = _noted(folder)
        assert [one.index for one in noted] == list(range(first, first + parts.number))
        lines = (json.dumps(one.plain(), ensure_ascii=False) + "\n" for one in noted)
        write_atomic(samples, "".join(lines))
    rows, unused, dropped = _paired(parts, samples)
    stats = statistics.of_round(read_samples(samples), dropped, pairs=len(rows))
    # Counts answers, where `dropped` counts prompts.
    stats["pairs"]["unused"] = dict(unused)
    write_atomic(folder / "statistics.json", json.dumps(stats, indent=1))
    write_page(
        folder / "chains.html",
        read_samples(samples),
        template=parts.template,
        title=name,
        statistics=stats,
        pairs=rows,
    )
    for line in statistics.lines(stats):
        log.info("%s", line)
    if (asked := len({row["prompt"] for row in rows})) < 2:
        left = "no pair is left" if not asked else "pairs of one question only are left"
        way = "draw more answers (candidates.answers), take other prompts, or choose another "
        way += "reward or pairing"
        if unused and unused.most_common(1)[0][0] == CUT:
            way = "raise candidates.max_new_tokens, or fine-tune longer"
        raise DataError(
            f"round: {left} of {stats['prompts']} prompts ({_counts(dropped)}; their answers: "
            f"{_counts(unused)}); see {samples}; {way}"
        )
    write_atomic(folder / PAIRS, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    for path in folder.glob("samples-*.part"):
        path.unlink()
    told = {
        "prompts": prompts_mark(parts),
        "first": first,
        "next": first + stats["prompts"],
        "samples": digest_of(samples.read_text(encoding="utf-8")),
        "pairs": len(rows),
        "tokens": stats["tokens"],
    }
    write_atomic(folder / TOLD, json.dumps(told, indent=1))


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common()) or "none"


def _paired(parts: Parts, samples: Path) -> tuple[list[dict[str, Any]], Counter[str], Counter[str]]:
    """Rows of pairs; why answers are in none; why prompts have none."""
    rows: list[dict[str, Any]] = []
    unused: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for one in read_samples(samples):
        answers = one.candidates()
        found = parts.pairing(answers)
        unused.update(found.unused)
        dropped.update(found.dropped)
        for better, worse in found.pairs:
            chosen, rejected = answers[better], answers[worse]
            scores = {"chosen": chosen.score, "rejected": rejected.score}
            if scores["chosen"] < scores["rejected"]:
                # Rows that contradict their scores are no pairs where such files are read.
                scores = {}
            rows.append(
                {
                    "id": f"{one.index}/{one.name}/{better}-{worse}",
                    "prompt": one.question,
                    "chosen": chosen.text,
                    "rejected": rejected.text,
                    # A pairing that looks at no score may take answers without one.
                    **{f"score_{key}": s for key, s in scores.items() if math.isfinite(s)},
                }
            )
    return rows, unused, dropped
