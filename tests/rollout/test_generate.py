import pytest
import torch

from plm.errors import ConfigError
from plm.rollout.generate import generate
from tests.model.common import SIZES, draw, logits_of, tiny


def naive(model, prompts: torch.Tensor, number: int) -> torch.Tensor:
    tokens = prompts
    for _ in range(number):
        tokens = torch.cat((tokens, logits_of(model, tokens)[:, -1:].argmax(-1)), dim=1)
    return tokens[:, prompts.shape[1] :]


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", ["plm", "llama"])
def test_greedy_equals_full_forwards(choice: str, seed: int, kernels: str):
    model = tiny(f"model={choice}", kernels=kernels, seed=seed)
    for length in (1, 6):
        prompts = draw(3, length, seed=seed)
        found = generate(model, prompts, 15)
        assert torch.equal(found, naive(model, prompts, 15))
        assert len(set(found.flatten().tolist())) > 5


def test_the_whole_context_is_used_and_not_more():
    model, longest = tiny(), SIZES["max_position_embeddings"]
    assert generate(model, draw(1, longest - 2), 2).shape == (1, 2)
    with pytest.raises(
        ConfigError, match="max_new_tokens=3 after a prompt of 62 passes the model's context of 64"
    ):
        generate(model, draw(1, longest - 2), 3)


def test_sampling_depends_on_the_seed_alone():
    model, prompts = tiny(), draw(4, 3)
    found = []
    for seed in (1, 1, 2):
        torch.rand(3)
        found.append(generate(model, prompts, 12, temperature=1.0, seed=seed))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    greedy = generate(model, prompts, 12)
    assert torch.equal(generate(model, prompts, 12, temperature=1.0, top_k=1, seed=5), greedy)


def test_a_row_that_stopped_repeats_the_stop():
    model, prompts = tiny(), draw(4, 3)
    free = generate(model, prompts, 15)
    stop = free[0, 2].item()
    found = generate(model, prompts, 15, stop=stop)
    ends = []
    for row, other in zip(found, free, strict=True):
        places = (other == stop).nonzero().flatten()
        end = places[0].item() if len(places) else 14
        ends.append(end)
        kept = min(end + 1, found.shape[1])
        assert torch.equal(row[:kept], other[:kept])
        assert (row[kept:] == stop).all()
    assert found.shape[1] == max(ends) + 1


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(training: bool):
    model = tiny().train(training)
    generate(model, draw(1, 2), 2)
    assert model.training == training
    model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(model, draw(1, 2), 2)
    assert model.training == training


def test_no_gradients_are_kept():
    assert not generate(tiny(), draw(1, 2), 2).requires_grad


def test_nothing_asked_nothing_given():
    found = generate(tiny(), draw(2, 3), 0)
    assert found.shape == (2, 0) and found.dtype == torch.int64


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (0, {"max_new_tokens": 1}, "prompt 0 is empty; give it at least one token"),
        (2, {"max_new_tokens": -1}, "max_new_tokens=-1 is negative"),
        (2, {"max_new_tokens": 1, "temperature": -0.5}, "temperature=-0.5 cannot be"),
    ],
)
def test_what_is_refused(prompt: int, settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        generate(tiny(), draw(1, prompt), **settings)
