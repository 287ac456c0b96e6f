"""Completions of prompts of one length, as one tensor."""

import torch
from torch import Tensor, nn

from plm.errors import ConfigError
from plm.rollout.engine import Engine
from plm.rollout.sampling import Sampling


def generate(
    model: nn.Module,
    prompts: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
    stop: int | None = None,
    rope_theta: float | None = None,
) -> Tensor:
    """Continue prompts of one length.

    Args:
        model: a Transformer; its mode is restored.
        prompts: [B, P] int64, P at least 1.
        max_new_tokens: at most so many are added.
        temperature: 0 for the most likely token.
        top_k: sample among so many only; 0: among all.
        seed: of the draws.
        stop: a row that has drawn this token repeats it until all rows have.
        rope_theta: rotary base, where it is not the model's own.
    Returns:
        [B, N] int64, N at most max_new_tokens.
    Raises:
        ConfigError: prompt and new tokens together pass the model's context, the prompt is empty,
            or a setting is out of its range.
    """
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens={max_new_tokens} is negative; it goes from 0 up")
    if not max_new_tokens or not len(prompts):
        return prompts[:, :0]
    sampling = Sampling(max_new_tokens, temperature=temperature, top_k=top_k, seed=seed)
    stop_ids = () if stop is None else (stop,)
    engine = Engine(model, stop_ids=stop_ids, rope_theta=rope_theta, rows=min(len(prompts), 128))
    rows = [one.tokens for one in engine.generate(prompts.tolist(), sampling)]
    longest = max(map(len, rows))
    filled = [row + [stop or 0] * (longest - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.int64, device=prompts.device)
