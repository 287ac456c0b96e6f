import itertools

import numpy as np
import pytest
import torch

from plm.errors import ConfigError, GuardStop
from plm.rollout.completion import Completion
from plm.rollout.engine import Engine
from plm.rollout.sampling import Sampling, row_seed
from tests.model.common import SIZES, compose, draw, tiny
from tests.rollout.common import full_logps, naive, tokenizer

LENGTHS = (3, 1, 12, 7, 20, 5, 2)
HOT = Sampling(9, temperature=1.0, top_p=0.95, repetition_penalty=1.1)


def prompts(lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    return [draw(length, seed=index).tolist() for index, length in enumerate(lengths)]


def talker(**settings) -> tuple[Engine, torch.nn.Module]:
    """An engine that can read and write."""
    model = tiny("scale.vocab_size=300")
    return Engine(model, tokenizer=tokenizer(), **settings), model


@pytest.mark.parametrize("seed", range(20))
def test_greedy_equals_full_forwards_with_ragged_rows_and_refill(seed: int):
    choice = ("plm", "llama")[seed % 2]
    heads = (2, 4, 8)[seed % 3]
    sizes = {
        "hidden_size": 16 * (1 + seed % 2), "num_hidden_layers": 1 + seed % 3,
        "num_attention_heads": heads, "kv_lora_rank": (6, 10, 40)[seed % 3],
        "v_head_dim": (4, 6)[seed // 2 % 2],
    }  # fmt: skip
    model = tiny(f"model={choice}", *(f"scale.{k}={v}" for k, v in sizes.items()), seed=seed)
    # One row after another gets a free place while the others are under way.
    news = (4, 15, 9, 1, 11, 3, 8)
    engine, texts = Engine(model, rows=3), prompts()
    numbers = [
        engine.add(prompt, Sampling(new), keep=True)
        for prompt, new in zip(texts, news, strict=True)
    ]
    most = 0
    while not engine.idle:
        engine.advance()
        most = max(most, len(engine.slots.rows))
    assert engine.plan is not None and most == 3
    for number, prompt, new in zip(numbers, texts, news, strict=True):
        tokens, logps = naive(model, prompt, new)
        (found,) = engine.take(number)
        assert found.tokens == tokens and found.finish == "length"
        assert found.logps == pytest.approx(logps, abs=1e-10)
        assert found.sampled_logps == [0.0] * new


@pytest.mark.parametrize("sampling", [Sampling(9), HOT], ids=["greedy", "sampled"])
@pytest.mark.parametrize("choice", ["plm", "llama"])
def test_a_row_does_not_depend_on_its_batch(choice: str, sampling: Sampling):
    model, texts = tiny(f"model={choice}"), prompts()
    seeds = [row_seed(5, index) for index in range(len(texts))]
    expected = [
        Engine(model, rows=1).generate([prompt], sampling, seeds=[seed])[0]
        for prompt, seed in zip(texts, seeds, strict=True)
    ]
    assert len({tuple(one.tokens) for one in expected}) == len(texts)
    orders = [list(range(7)), list(range(6, -1, -1)), [3, 0, 6, 2, 5, 1, 4]]
    for order, rows in itertools.product(orders, (2, 3, 7)):
        found = Engine(model, rows=rows).generate(
            [texts[i] for i in order], sampling, seeds=[seeds[i] for i in order]
        )
        assert [one.prompt for one in found] == list(range(7))
        for one, index in zip(found, order, strict=True):
            assert one.tokens == expected[index].tokens
            assert one.logps == pytest.approx(expected[index].logps, abs=1e-10)
            assert one.sampled_logps == pytest.approx(expected[index].sampled_logps, abs=1e-10)


@pytest.mark.parametrize("choice", ["plm", "llama"])
def test_a_group_is_the_same_as_its_samples_alone(choice: str, monkeypatch):
    from plm.rollout import engine as module

    lengths, taken_in = [], module.prefill
    monkeypatch.setattr(
        module,
        "prefill",
        lambda m, r, t: lengths.extend(len(x.prompt) for x in r) or taken_in(m, r, t),
    )
    # Long enough that rows of a group read their prompt together.
    model = tiny(f"model={choice}", "scale.max_position_embeddings=160")
    texts = [draw(length, seed=length).tolist() for length in (70, 101)]
    whole = Engine(model, rows=8).generate(texts, HOT, group=4)
    assert [(one.prompt, one.sample) for one in whole] == list(
        itertools.product(range(2), range(4))
    )
    assert lengths == [70, 101]
    assert len({tuple(one.tokens) for one in whole}) == 8
    few = Engine(model, rows=3).generate(texts, HOT, group=4)
    assert lengths == [70, 101] * 2
    assert [one.tokens for one in few] == [one.tokens for one in whole]


def test_prompts_are_shared_only_where_it_pays():
    model = tiny("scale.max_position_embeddings=160")
    engine = Engine(model, rows=8)
    for length, group in ((70, 4), (101, 4)):
        engine.add(draw(length).tolist(), Sampling(5), group=group)
    engine.advance()
    assert engine.slots.shared() == (64, [(0, 4), (4, 8)])
    engine = Engine(model, rows=8)
    for _ in range(8):
        engine.add(draw(70).tolist(), Sampling(5))
    engine.advance()
    assert engine.slots.shared() == (0, [])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("choice", ["plm", "llama"])
def test_log_probabilities_are_the_trainer_s(choice: str, temperature: float):
    model = tiny(f"model={choice}", dtype=torch.float32)
    sampling = Sampling(25, temperature=temperature, top_k=20, min_p=0.01)
    for one, prompt in zip(Engine(model).generate(prompts(), sampling), prompts(), strict=True):
        expected = full_logps(model, prompt, one.tokens)
        assert (torch.tensor(one.logps) - expected).abs().max() < 1e-5


def test_what_is_drawn_from_the_model_is_distributed_as_it_says():
    model, prompt = tiny("scale.vocab_size=11"), [3, 1, 4]
    found = Engine(model, rows=64).generate([prompt], Sampling(1, temperature=1.0), group=3000)
    tokens = torch.tensor([one.tokens[0] for one in found])
    shares = tokens.bincount(minlength=11) / 3000
    expected = torch.tensor([full_logps(model, prompt, [t]).item() for t in range(11)]).exp()
    # Four standard deviations of a share of 3000 draws.
    assert (shares - expected).abs().max() < 4 * (0.25 / 3000) ** 0.5
    for one in found[:5]:
        assert one.sampled_logps == pytest.approx(one.logps, abs=1e-6)


def test_stop_ids_end_rows():
    model, texts = tiny(), prompts()
    free = Engine(model).generate(texts, Sampling(15))
    stop = free[0].tokens[3]
    for one, other in zip(
        Engine(model, stop_ids=[stop]).generate(texts, Sampling(15)), free, strict=True
    ):
        end = other.tokens.index(stop) + 1 if stop in other.tokens else 15
        assert one.tokens == other.tokens[:end]
        assert one.finish == ("stop" if stop in other.tokens else "length")
        assert len(one.logps) == len(one.sampled_logps) == end


def test_a_stop_string_ends_a_row_and_is_cut():
    engine, _ = talker()
    prompt = tokenizer().encode("the cat").ids
    (free,) = engine.generate([prompt], Sampling(20, temperature=1.0))
    assert free.text == tokenizer().decode(free.tokens) and len(free.text) > 12
    stop = free.text[5:9]
    at = free.text.index(stop)
    sampling = Sampling(20, temperature=1.0, stop=("never there", stop))
    (found,) = engine.generate([prompt], sampling)
    assert found.finish == "stop_string" and found.text == free.text[:at]
    assert found.tokens == free.tokens[: len(found.tokens)]
    assert stop in tokenizer().decode(found.tokens)
    assert stop not in tokenizer().decode(found.tokens[:-1])


def test_a_stop_string_in_the_prompt_ends_nothing():
    engine, _ = talker()
    prompt = tokenizer().encode("the cat sat on the mat").ids
    (free,) = engine.generate([prompt], Sampling(6))
    (found,) = engine.generate([prompt], Sampling(6, stop=("cat sat",)))
    assert "cat sat" not in free.text
    assert found == free


def test_a_stream_is_the_completion():
    engine, _ = talker(stop_ids=[7])
    prompt = tokenizer().encode("the dog").ids
    for seed in range(4):
        sampling = Sampling(30, temperature=1.2, stop=("a", "§§"), seed=seed)
        (whole,) = engine.generate([prompt], sampling)
        events = list(engine.stream(prompt, sampling))
        assert [event.token for event in events] == whole.tokens
        assert [event.logp for event in events] == pytest.approx(whole.logps, abs=1e-10)
        assert "".join(event.text for event in events) == whole.text
        assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)
        assert events[-1].finish == whole.finish
    stream = engine.stream(prompt, sampling)
    next(stream)
    stream.close()
    assert engine.idle


def test_requests_come_and_are_cancelled_while_others_run():
    model, texts = tiny(), prompts()
    engine = Engine(model, rows=2)
    first, second, third = (engine.add(text, Sampling(10), keep=True) for text in texts[:3])
    for _ in range(3):
        events = engine.advance()
    assert {event.request for event in events} == {first, second}
    engine.cancel(first)
    (cut,) = engine.take(first)
    assert cut.finish == "cancelled" and cut.tokens == naive(model, texts[0], 3)[0]
    fourth = engine.add(texts[3], Sampling(4), keep=True)
    engine.cancel(third)
    assert engine.take(third) == []
    seen = []
    while not engine.idle:
        seen += engine.advance()
    assert {event.request for event in seen} == {second, fourth}
    assert engine.take(second)[0].tokens == naive(model, texts[1], 10)[0]
    assert engine.take(fourth)[0].tokens == naive(model, texts[3], 4)[0]
    assert engine.advance() == []
    engine.cancel(second)


def test_places_grow_with_what_comes():
    model = tiny()
    engine = Engine(model, rows=4)
    number = engine.add(draw(2).tolist(), Sampling(20), keep=True)
    engine.advance()
    assert engine.slots.size == 1 and engine.slots.length == 64
    for seed in range(3):
        engine.add(draw(2, seed=seed).tolist(), HOT)
    while not engine.idle:
        engine.advance()
    assert engine.slots.size == 4
    assert engine.take(number)[0].tokens == naive(model, draw(2).tolist(), 20)[0]
    fixed = Engine(model, rows=2, max_len=30)
    fixed.generate([[1]], Sampling(3))
    assert fixed.slots.length == 30


def test_latents_take_eight_point_nine_times_less():
    scale = "scale=1_8b"
    from plm.config import build

    with torch.device("meta"):
        model = build(compose(scale)["model"])
    states = model.init_state(2, 64, "meta", torch.bfloat16)
    held = sum(t.untyped_storage().nbytes() for state in states for t in state.values())
    layers = len(model.layers)
    assert held == 2 * 64 * layers * 576 * 2
    one = model.layers[0].self_attn
    expanded = 2 * 64 * layers * one.heads * (one.nope + one.rope + one.value) * 2
    assert expanded / held == pytest.approx(8.9, abs=0.05)
    # The same for what lies in memory, with the engine's own tensors around it.
    small = tiny()
    engine = Engine(small, rows=2, max_len=32)
    engine.generate([[1], [2]], Sampling(2))
    real = sum(t.untyped_storage().nbytes() for s in engine.slots.states for t in s.values())
    assert real == 2 * small.state_bytes(32, 8)


def test_bfloat16_and_mixers_without_a_fast_step_take_the_plain_way():
    model = tiny(dtype=torch.bfloat16)
    engine = Engine(model)
    assert len(engine.generate([[1, 2]], Sampling(4))[0].tokens) == 4
    assert engine.plan is None


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(training: bool):
    model = tiny().train(training)
    engine = Engine(model)
    engine.generate([[1, 2]], Sampling(2))
    assert model.training == training
    model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.generate([[1, 2]], Sampling(2))
    assert model.training == training and engine.idle


LONGEST = SIZES["max_position_embeddings"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.generate([[1], []], Sampling(2)), "prompt 1 is empty; give it at least one"),
        (
            lambda e: e.add([1] * 60, Sampling(5)),
            f"max_new_tokens=5 after a prompt of 60 passes the model's context of {LONGEST}; ask",
        ),
        (lambda e: e.add([1, 99], Sampling(2)), "the prompt holds token 99; the model's ids go"),
        (lambda e: e.add([1], Sampling(2), group=0), "group=0 must be at least 1"),
        (lambda e: e.add([1], Sampling(2, stop=("x",))), "needs an engine with a tokenizer"),
        (lambda e: e.generate([[1]], Sampling(2), seeds=[1, 2]), "2 seeds for 1 prompts"),
        (lambda e: Engine(e.model, rows=0), "rows=0 must be at least 1"),
        (lambda e: Engine(e.model, max_len=65), "max_len=65 must be from 2 to the model's context"),
        (lambda e: Engine(e.model, stop_ids=[37]), r"stop_ids=\[37\]: ids go from 0 to 36"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(call, message: str):
    engine = Engine(tiny())
    with pytest.raises(ConfigError, match=message):
        call(engine)
    assert engine.idle


def test_a_busy_engine_is_not_shared():
    engine = Engine(tiny())
    engine.add([1], Sampling(3))
    for call in (lambda: engine.generate([[1]], HOT), lambda: next(engine.stream([1], HOT))):
        with pytest.raises(ConfigError, match="the engine has work under way"):
            call()
    engine.clear()
    assert engine.idle and isinstance(engine.generate([[1]], HOT)[0], Completion)


MIXED = [
    Sampling(9),
    Sampling(14, temperature=1.2, seed=3),
    Sampling(12, temperature=0.7, top_k=5, seed=4),
    Sampling(11, temperature=1.0, repetition_penalty=1.5, seed=5),
    Sampling(13, temperature=0.9, top_p=0.6, seed=6),
]


def late(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    """Each request added when those before it have drawn some tokens."""
    numbers = []
    for prompt, sampling in zip(prompts, MIXED, strict=True):
        numbers.append(engine.add(prompt, sampling, keep=True))
        engine.advance()
        engine.advance()
    while not engine.idle:
        engine.advance()
    return [engine.take(number)[0].tokens for number in numbers]


@pytest.mark.parametrize("choice", ["plm", "llama"])
def test_rows_that_come_late_keep_their_own_settings(choice: str):
    model = tiny(f"model={choice}")
    prompts = [draw(3 + i, seed=i).tolist() for i in range(len(MIXED))]
    alone = [
        Engine(model).generate([prompt], sampling)[0].tokens
        for prompt, sampling in zip(prompts, MIXED, strict=True)
    ]
    engine = Engine(model)
    assert late(engine, prompts) == alone
    # Forgetting all of it leaves nothing behind.
    engine.add(prompts[1], MIXED[1])
    engine.advance()
    engine.clear()
    assert late(engine, prompts) == alone


def test_weights_that_were_no_numbers_leave_nothing_behind():
    model, prompts = tiny(), [[1, 2, 3], [4, 5]]
    engine = Engine(model)
    expected = [one.tokens for one in engine.generate(prompts, Sampling(12))]
    weight = model.layers[0].self_attn.kv_a_proj_with_mqa.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    engine.generate(prompts, Sampling(12))
    with pytest.raises(GuardStop, match="not finite: its weights have diverged"):
        engine.generate(prompts, Sampling(12, temperature=1.0))
    with torch.no_grad():
        weight.copy_(kept)
    found = engine.generate(prompts, Sampling(12))
    assert [one.tokens for one in found] == expected
    assert all(np.isfinite(one.logps).all() for one in found)


def test_another_dtype_gets_another_cache():
    model = tiny(dtype=torch.float32)
    engine = Engine(model)
    expected = engine.generate([[1, 2, 3]], Sampling(6))[0].tokens
    model.double()
    assert len(engine.generate([[1, 2, 3]], Sampling(6))[0].tokens) == 6
    model.float()
    assert engine.generate([[1, 2, 3]], Sampling(6))[0].tokens == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert len(engine.generate([[1, 2, 3]], Sampling(6))[0].tokens) == 6


def test_a_refused_prompt_keeps_nothing():
    engine = Engine(tiny())
    with pytest.raises(ConfigError, match="prompt 1 is empty"):
        engine.generate([[1], []], Sampling(2))
    assert not engine.kept and engine.idle


def test_a_part_that_was_frozen_stays_so():
    model = tiny().train()
    model.layers[0].eval()
    Engine(model).generate([[1, 2]], Sampling(2))
    assert model.training and not model.layers[0].training and model.layers[1].training
