"""Generation by compiled kernels against generation by torch's operators."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from plm.errors import GuardStop
from plm.kernels.cpu import problem
from plm.rollout import plan
from plm.rollout.completion import Completion
from plm.rollout.engine import Engine
from plm.rollout.sampling import Sampling
from tests.model.common import draw, tiny

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

CHOICES = [
    ["model=plm"],
    # A rank that is not worth folding, and sizes of whole vectors.
    ["model=plm", "scale.kv_lora_rank=64", "scale.qk_rope_head_dim=16"],
    ["model=plm", "scale.num_attention_heads=7"],
    ["model=llama"],
    ["model=llama", "model.attention.qkv_bias=true", "model.attention.head_dim=32"],
    # These have no compiled step of their own: a mixer, a feed-forward.
    ["model=llama", "model.attention.qk_norm=true"],
    ["model=plm", "model/activation=silu"],
    ["model=plm", "model/embedding=untied"],
]
# More than the rows, so that some begin where others have ended.
PROMPTS = [draw(length, seed=length).tolist() for length in (5, 2, 9, 33, 14, 1, 20)]
SAMPLINGS = {
    "greedy": Sampling(24),
    "warm": Sampling(24, temperature=0.8, seed=3),
    "top_p": Sampling(24, temperature=1.1, top_p=0.8, seed=4),
    "penalty": Sampling(24, repetition_penalty=1.3),
}


def model_of(*overrides: str) -> nn.Module:
    return tiny(*overrides, dtype=torch.float32)


def assert_same(found: list[Completion], expected: list[Completion]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        assert one.logps == pytest.approx(other.logps, abs=1e-5)
        assert one.sampled_logps == pytest.approx(other.sampled_logps, abs=1e-5)


@pytest.mark.parametrize("overrides", CHOICES, ids=lambda o: " ".join(o))
def test_every_choice_is_the_plain_one(overrides: list[str]):
    model = model_of(*overrides)
    compiled, plain = Engine(model, rows=3, compiled=True), Engine(model, rows=3)
    for sampling in (SAMPLINGS["greedy"], SAMPLINGS["warm"]):
        assert_same(compiled.generate(PROMPTS, sampling), plain.generate(PROMPTS, sampling))
    assert compiled.plan.kernels is not None and plain.plan.kernels is None


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("model", ["plm", "llama"])
def test_every_setting_is_the_plain_one(model: str, sampling: str):
    made = model_of(f"model={model}")
    found, expected = (
        Engine(made, rows=4, stop_ids=[7], compiled=compiled).generate(PROMPTS, SAMPLINGS[sampling])
        for compiled in (True, False)
    )
    assert_same(found, expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("model", ["plm", "llama"])
def test_groups_read_their_prompt_together(model: str, threads: int):
    made = model_of(f"model={model}", "scale.max_position_embeddings=256")
    prompts = [draw(length, seed=length).tolist() for length in (150, 131)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compiled = Engine(made, rows=8, compiled=True)
        warm = Sampling(20, temperature=1.0)
        found = compiled.generate(prompts, warm, group=4)
        assert compiled.plan.frame.shared == 128
    finally:
        torch.set_num_threads(before)
    assert_same(found, Engine(made, rows=8).generate(prompts, warm, group=4))


@pytest.mark.parametrize("model", ["plm", "llama"])
def test_rows_beside_it_change_no_bit(model: str):
    made = model_of(f"model={model}")
    # Taken in one by one in both: a prompt's products are torch's, and round by their shape.
    waiting = [(prompt, Sampling(20 + 3 * at)) for at, prompt in enumerate(PROMPTS)]

    def grown(rows: int) -> list[list[float]]:
        engine, found = Engine(made, rows=rows, compiled=True), []
        numbers = []
        for prompt, sampling in waiting:
            numbers.append(engine.add(prompt, sampling, keep=True))
            engine.advance()
        while not engine.idle:
            engine.advance()
        for number in numbers:
            found += [one.logps for one in engine.take(number)]
        return found

    assert grown(1) == grown(len(PROMPTS))


def test_a_model_too_large_to_be_packed(monkeypatch: pytest.MonkeyPatch):
    model = model_of("model=llama")
    plain = Engine(model).generate(PROMPTS, SAMPLINGS["greedy"])
    monkeypatch.setattr(plan, "_PACK_UP_TO", 0)
    assert_same(Engine(model, compiled=True).generate(PROMPTS, SAMPLINGS["greedy"]), plain)


def double(model: nn.Module) -> None:
    model.double()


def reference(model: nn.Module) -> None:
    model.use_kernels("reference")


def hooked(model: nn.Module) -> None:
    model.norm.register_forward_hook(lambda module, given, out: None)


@pytest.mark.parametrize("change", [double, reference, hooked], ids=lambda f: f.__name__)
def test_what_has_no_kernels_is_as_before(change: Callable[[nn.Module], None]):
    model = model_of()
    engine = Engine(model, compiled=True)
    engine.generate(PROMPTS[:2], Sampling(3))
    assert engine.plan.kernels is not None
    change(model)
    found = engine.generate(PROMPTS, SAMPLINGS["greedy"])
    assert engine.plan is None or engine.plan.kernels is None
    assert_same(found, Engine(model).generate(PROMPTS, SAMPLINGS["greedy"]))


def test_a_layer_that_offers_none_keeps_its_step(monkeypatch: pytest.MonkeyPatch):
    model = model_of()
    monkeypatch.delattr(type(model.layers[0]), "write")
    engine = Engine(model, compiled=True)
    found = engine.generate(PROMPTS, SAMPLINGS["greedy"])
    assert engine.plan is not None and engine.plan.kernels is None
    assert_same(found, Engine(model).generate(PROMPTS, SAMPLINGS["greedy"]))


def test_changed_weights_and_watched_zeros_are_seen():
    model = model_of()
    engine, seen = Engine(model, compiled=True), list[Tensor]()
    engine.generate(PROMPTS, Sampling(4))
    with torch.no_grad():
        model.layers[0].mlp.up_proj.weight.mul_(-1)
    model.layers[1].mlp.activation.observe = seen.append
    found = engine.generate(PROMPTS, SAMPLINGS["greedy"])
    assert len(seen) >= 24
    model.layers[1].mlp.activation.observe = None
    assert_same(found, Engine(model).generate(PROMPTS, SAMPLINGS["greedy"]))


def test_diverged_weights_stop_a_draw():
    model = model_of()
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with pytest.raises(GuardStop, match="not finite"):
        Engine(model, compiled=True).generate(PROMPTS, SAMPLINGS["warm"])
