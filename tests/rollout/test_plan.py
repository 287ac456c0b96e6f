import pytest
import torch

from plm.model.decoding import Frame
from plm.rollout.engine import Engine
from plm.rollout.plan import possible
from plm.rollout.sampling import Sampling
from tests.model.common import draw, tiny
from tests.rollout.common import naive

CHOICES = [
    ["model=plm"],
    # A rank that is not worth folding.
    ["model=plm", "scale.kv_lora_rank=64"],
    ["model=llama"],
    ["model=llama", "model.attention.qkv_bias=true"],
    # These have no fast step of their own.
    ["model=llama", "model.attention.qk_norm=true"],
    ["model=plm", "model/embedding=untied"],
]
PROMPTS = [draw(length, seed=length).tolist() for length in (5, 2, 9)]


def tokens(engine: Engine, new: int = 20) -> list[list[int]]:
    return [one.tokens for one in engine.generate(PROMPTS, Sampling(new))]


@pytest.mark.parametrize("overrides", CHOICES, ids=lambda o: " ".join(o))
def test_fast_steps_are_the_plain_ones(overrides: list[str]):
    model = tiny(*overrides)
    engine = Engine(model)
    fast = engine.generate(PROMPTS, Sampling(20))
    assert engine.plan is not None
    model.use_kernels("reference")
    slow = engine.generate(PROMPTS, Sampling(20))
    assert engine.plan is None
    for one, other in zip(fast, slow, strict=True):
        assert one.tokens == other.tokens
        assert one.logps == pytest.approx(other.logps, abs=1e-10)


def test_packed_weights_multiply_alike():
    model = tiny(dtype=torch.float32)
    engine = Engine(model)
    fast = engine.generate(PROMPTS, Sampling(20))
    model.use_kernels("reference")
    for one, other in zip(fast, engine.generate(PROMPTS, Sampling(20)), strict=True):
        assert one.tokens == other.tokens
        assert one.logps == pytest.approx(other.logps, abs=1e-5)


@pytest.mark.parametrize("where", ["layers.1.mlp", "layers.0.residual_mid", "norm", "embedded"])
def test_a_hook_is_seen(where: str):
    model = tiny()
    engine, seen = Engine(model), []
    before = tokens(engine)
    hook = model.get_submodule(where).register_forward_hook(lambda m, a, out: seen.append(out))
    assert not possible(model)
    assert tokens(engine) == before and len(seen) >= 20
    hook.remove()
    tokens(engine)
    assert engine.plan is not None


def step(model: torch.nn.Module, **settings) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


CHANGES = {
    "fused": lambda model: step(model, fused=True),
    "foreach": lambda model: step(model, foreach=True),
    "load": lambda model: model.load_state_dict(tiny(seed=3).state_dict()),
    "assign": lambda model: model.load_state_dict(tiny(seed=3).state_dict(), assign=True),
    "in place": lambda model: model.layers[0].self_attn.kv_b_proj.weight.mul_(-1),
    "module": lambda model: setattr(model.layers[0], "mlp", tiny(seed=3).layers[0].mlp),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_used(change: str):
    model = tiny()
    engine = Engine(model)
    before = tokens(engine)
    with torch.no_grad():
        CHANGES[change](model)
    assert tokens(engine) == [naive(model, prompt, 20)[0] for prompt in PROMPTS] != before


def test_a_frame_by_hand():
    frame = Frame(2, 4, 10, torch.zeros(1, dtype=torch.float64), None)
    flat, by_head, unseen = frame.flat(), frame.flat(3), frame.unseen()
    turns = frame.turns(4, 100.0)
    frame.at(torch.tensor([1, 3]))
    assert flat.tolist() == [1, 13]
    assert by_head.tolist() == [1, 11, 21, 33, 43, 53]
    assert unseen[:, 0].isneginf().tolist() == [[False, False, True, True], [False] * 4]
    angle = torch.tensor([3.0, 3 * 100**-0.5], dtype=torch.float64)
    torch.testing.assert_close(turns[1, 0], torch.polar(torch.ones_like(angle), angle))
