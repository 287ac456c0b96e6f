"""Made-up plans, sources of prompts and rollouts."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from plm.batch import Batch
from plm.evaluation.generated import Item
from plm.phases import Plan
from plm.reward.common import Example
from plm.rlvr.prompts import PromptSet, Source
from plm.rlvr.rollouts import Rollout
from tests.model.common import SIZES, logits_of

ROWS, SEQ_LEN = 8, 64


def phase(mixture: Mapping[str, Any], steps: int = 4, rows: int = ROWS, **more: Any) -> dict:
    """One phase of so many steps of so many rollouts."""
    return {
        "tokens": steps * rows * SEQ_LEN,
        "seq_len": SEQ_LEN,
        "global_batch_tokens": rows * SEQ_LEN,
        "mixture": dict(mixture),
        "rate": {"shape": "hold", "to": 1.0},
        **more,
    }


def plan_of(**mixtures: Mapping[str, Any]) -> Plan:
    """A phase for each mixture, by name."""
    return Plan.read({name: phase(mixture) for name, mixture in mixtures.items()})


def right(completion: str, example: Example) -> float:
    """1 where the completion has the answer."""
    return float(example.item.answer in completion)


def short(completion: str, example: Example) -> float:
    """1 over the tokens of the completion."""
    return 1 / example.answer.tokens


def source_of(
    name: str,
    number: int,
    rewards: Mapping[str, Callable[..., float]] | None = None,
    weights: Mapping[str, float] | None = None,
    **more: Any,
) -> Source:
    """So many prompts, the i-th of them i % 5 + 1 tokens long."""
    rewards = rewards or {"right": right}
    items = [Item(f"{name}-{i}", f"question {i}", f"question {i}", "a") for i in range(number)]
    return Source(
        name=name,
        task=SimpleNamespace(grade=None),
        rewards=rewards,
        weights={**dict.fromkeys(rewards, 1.0), **(weights or {})},
        items=items,
        prompts=[[3 + i] * (i % 5 + 1) for i in range(number)],
        **more,
    )


def prompt_set(*sources: Source) -> PromptSet:
    """What a run has of them."""
    return PromptSet(
        sources={source.name: source for source in sources},
        tokenizer_path=Path("tokenizer.json"),
        end_of_text="<end>",
        chat_template=None,
        vocab_size=SIZES["vocab_size"],
        block_tokens=SEQ_LEN,
        fingerprint="0",
        manifest={},
    )


def rollout(prompt: Sequence[int], tokens: Sequence[int], **more: Any) -> Rollout:
    """One whose tokens are all the policy's, if nothing else is said."""
    given: dict[str, Any] = {
        "number": 0,
        "sample": 0,
        "source": "sums",
        "item": 0,
        "learn": [1] * len(tokens),
        "sampled": [-1.0] * len(tokens),
        "text": "a",
        "cut": False,
        **more,
    }
    return Rollout(prompt=list(prompt), tokens=list(tokens), **given)


def rollouts(number: int, seed: int = 0, longest: int = 14, tools: bool = True) -> list[Rollout]:
    """Of all lengths, with log-probabilities near those of no model, some with a tool's words."""
    draw, found = random.Random(seed), []
    for index in range(number):
        size = draw.randint(1, longest)
        prompt = [draw.randrange(37) for _ in range(draw.randint(1, 5))]
        tokens = [draw.randrange(37) for _ in range(size)]
        learn = [int(not tools or draw.random() < 0.7) for _ in range(size)]
        learn[-1] = 1
        near = [[draw.uniform(-4, -0.5) if own else 0.0 for own in learn] for _ in range(3)]
        found.append(
            rollout(
                prompt,
                tokens,
                number=index // 2,
                sample=index % 2,
                learn=learn,
                sampled=near[0],
                old=near[1],
                reference=near[2],
                advantage=draw.choice((-1.5, -0.3, 0.0, 0.8)),
                reward=draw.random(),
            )
        )
    return found


def empty_batch() -> Batch:
    """A micro-batch's numbers without tokens."""
    nothing = torch.zeros(0, 0, dtype=torch.int64)
    return Batch(nothing, nothing, nothing, step=3, tokens_seen=96, rows_in_step=8, phase="one")


def alone(model: nn.Module, one: Rollout, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy at each of a rollout's own tokens: no packing, no fused head."""
    logits = logits_of(model, torch.tensor([[*one.prompt, *one.tokens]]))[0]
    logps = (logits / temperature).log_softmax(-1)[len(one.prompt) - 1 : -1]
    own = torch.tensor(one.learn, dtype=torch.bool)
    entropy = -(logps.exp() * logps).sum(-1)
    return logps.gather(1, torch.tensor(one.tokens)[:, None])[own, 0], entropy[own]


def own(one: Rollout, values: Sequence[float]) -> Tensor:
    """Those of a rollout's values that stand at its own tokens, fp64."""
    return torch.tensor(values, dtype=torch.float64)[torch.tensor(one.learn, dtype=torch.bool)]
