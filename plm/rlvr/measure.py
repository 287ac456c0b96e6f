"""Held-out prompts answered and rewarded while a run learns."""

from collections.abc import Mapping
from typing import Any

import torch

from plm.evaluation.common import Share
from plm.evaluation.environments import answered_in
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
        share of answers that were.
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
        total, answers, tokens, cut = sums.tolist()
        reward = total / max(answers, 1)
        found[name] = {
            "loss": 1 - reward,
            "reward": reward,
            "tokens": tokens / max(answers, 1),
            "cut": cut / max(answers, 1),
        }
    return found


def _sums(
    source: Source, task: Any, subject: Any, items: list[Any], environment: Any
) -> torch.Tensor:
    """[4] fp64: rewards, answers, tokens, answers that were cut."""
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
    total = 0.0
    weight = sum(source.weights.values()) or 1.0
    for kind, reward in source.rewards.items():
        total += source.weights[kind] / weight * sum(score(reward, texts, examples))
    spent = sum(example.answer.tokens for example in examples)
    cuts = sum(example.cut for example in examples)
    return torch.tensor([total, len(texts), spent, cuts], dtype=torch.float64)
