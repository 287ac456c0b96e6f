"""Sampling from a model with its mixers' own decoding states."""

import torch
from torch import Tensor, nn

from plm.errors import ConfigError
from plm.model.context import Context


def choose(
    logits: Tensor, temperature: float, top_k: int, generator: torch.Generator | None
) -> Tensor:
    """One token a row: [B, V] -> [B] int64; temperature 0 takes the most likely."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    scores = logits.float() / temperature
    if 0 < top_k < scores.shape[-1]:
        least = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, float("-inf"))
    return torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]


@torch.no_grad()
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
    length = prompts.shape[1]
    if length < 1:
        raise ConfigError("a prompt is empty; give it at least one token")
    for name, value in {"max_new_tokens": max_new_tokens, "temperature": temperature}.items():
        if value < 0:
            raise ConfigError(f"{name}={value} is negative; it goes from 0 up")
    longest = model.max_position_embeddings
    if length + max_new_tokens > longest:
        raise ConfigError(
            f"max_new_tokens={max_new_tokens} after a prompt of {length} passes the model's "
            f"context of {longest}"
        )
    training = model.training
    model.eval()
    try:
        found = _draw(model, prompts, max_new_tokens, temperature, top_k, seed, stop, rope_theta)
    finally:
        model.train(training)
    return torch.stack(found, dim=1) if found else prompts[:, :0]


def _draw(
    model: nn.Module,
    prompts: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    stop: int | None,
    rope_theta: float | None,
) -> list[Tensor]:
    """New tokens, [B] each, in the order they were drawn."""
    (batch, length), device = prompts.shape, prompts.device
    generator = torch.Generator(device=device).manual_seed(seed)
    # Under autocast the latents and keys that are kept come in its dtype.
    mixed = torch.is_autocast_enabled(device.type)
    head = model.embed_tokens.head_weight.dtype
    dtype = torch.get_autocast_dtype(device.type) if mixed else head
    states = model.init_state(batch, length + max_new_tokens, device, dtype)
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    tokens, start, found = prompts, 0, []
    for _ in range(max_new_tokens):
        positions = torch.arange(start, start + tokens.shape[1], device=device).expand(batch, -1)
        logits = model.step(tokens, states, Context(positions=positions, rope_theta=rope_theta))
        start += tokens.shape[1]
        new = choose(logits, temperature, top_k, generator)
        if stop is not None:
            new = torch.where(ended, stop, new)
            ended |= new == stop
        found.append(new)
        if stop is not None and bool(ended.all()):
            break
        tokens = new[:, None]
    return found
