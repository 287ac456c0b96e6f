"""Held-out prompts answered and rewarded while a run learns."""

from collections.abc import Mapping
from typing import Any

import torch

from plm.evaluation.asking import answered_in
from plm.evaluation.common import Share
from plm.reward.common import Example, score
from plm.rlvr.prompts import Source
from plm.rounds.common import Answer


def measure(
    setup: Any, sources: Mapping[str, Source], *, device: torch.device, windows: int, **_: Any
) -> dict[str, dict[str, float]]:
    """Mean reward of each source's held-out prompts, as their task draws answers.

    Where the run's answers have turns, they are drawn as it draws them.

    Args:
        setup: a plm.rlvr.setup.Setup.
        sources: those without held-out prompts are left out.
        device: that figures are added up on.
        windows: prompts of each source that are looked at, at most.
    Returns:
        by source `reward`, from 0 to 1; `loss`, what it lacks of 1; `tokens` an answer; `cut`, the
        share of answers that were; and `reward/<kind>`, where there are several kinds.
    """
    found, subject = {}, setup.subject()
    for name, source in sources.items():
        if source.held_out is None:
            continue
        task = source.held_out
        items = task.items
        count = min(windows, len(items))
        chosen = [items[i * len(items) // count] for i in range(count)]
        mine = [item for _, item in Share(setup.rank, setup.world_size).of(chosen)]
        sums = _sums(source, task, subject, mine, setup.environment).to(device)
        if setup.world_size > 1:
            torch.distributed.all_reduce(sums)
        answers, *rest = sums.tolist()
        tokens, cut, *kinds = (total / max(answers, 1) for total in rest)
        by_kind = dict(zip(source.rewards, kinds, strict=True))
        weight = sum(source.weights.values()) or 1.0
        reward = sum(source.weights[kind] / weight * mean for kind, mean in by_kind.items())
        found[name] = {"loss": 1 - reward, "reward": reward, "tokens": tokens, "cut": cut}
        if len(by_kind) > 1:
            found[name] |= {f"reward/{kind}": mean for kind, mean in by_kind.items()}
    return found


def _sums(
    source: Source, task: Any, subject: Any, items: list[Any], environment: Any
) -> torch.Tensor:
    """[3 + K] fp64: answers, tokens, answers that were cut; and what each of K rewards gave."""
    texts: list[str] = []
    examples: list[Example] = []
    with torch.no_grad():
        if environment is None:
            answers, _ = task.answered(subject, items)
        else:
            answers, _ = answered_in(environment, task, subject, items)
    for item, some in zip(items, answers, strict=True):
        for text, cut in some:
            tokens = len(subject.encode([text])[0])
            answer = Answer(text, 0, 0, tokens, cut)
            texts.append(text)
            examples.append(Example(item.question, item, cut, task.grade, answer))
    kinds = [sum(score(reward, texts, examples)) for reward in source.rewards.values()]
    spent = sum(example.answer.tokens for example in examples)
    cuts = sum(example.cut for example in examples)
    return torch.tensor([len(texts), spent, cuts, *kinds], dtype=torch.float64)
