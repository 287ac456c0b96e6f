from functools import lru_cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from plm.batch import IGNORE_INDEX, LossSum
from plm.config import build
from plm.errors import ConfigError
from plm.loss.cross_entropy import cross_entropy
from plm.model.transformer import Transformer
from tests.model.common import (
    DOCUMENTS,
    SIZES,
    TINY,
    compose,
    draw,
    largest,
    logits_of,
    packed_context,
    plain_context,
    spans,
    tiny,
)

MODELS = ["plm", "llama"]
LENGTH = sum(DOCUMENTS)
LOSSES = {"ce": cross_entropy}


@pytest.fixture(params=MODELS)
def choice(request) -> str:
    return f"model={request.param}"


@lru_cache
def full_size(*overrides: str) -> Transformer:
    with torch.device("meta"):
        return build(compose("scale=1_8b", *overrides)["model"])


def test_the_paper_s_size():
    model = full_size()
    assert sum(p.numel() for p in model.parameters()) == 1_825_458_176
    assert model.parameters_of() == 1_825_458_176
    assert model.parameters_of(embedding=False) == 1_514_293_248


def test_names_and_shapes_are_plms():
    layer = {
        "input_layernorm": (2048,),
        "self_attn.q_proj": (16 * 192, 2048),
        "self_attn.kv_a_proj_with_mqa": (576, 2048),
        "self_attn.kv_a_layernorm": (512,),
        "self_attn.kv_b_proj": (16 * 256, 512),
        "self_attn.o_proj": (2048, 16 * 128),
        "post_attention_layernorm": (2048,),
        "mlp.up_proj": (8192, 2048),
        "mlp.down_proj": (2048, 8192),
    }
    expected = {"embed_tokens.weight": (151_936, 2048), "norm.weight": (2048,)} | {
        f"layers.{index}.{name}.weight": shape
        for index in range(32)
        for name, shape in layer.items()
    }
    found = {name: tuple(tensor.shape) for name, tensor in full_size().state_dict().items()}
    assert found == expected


def test_the_paper_s_decoding_state_and_flops():
    model = full_size()
    assert model.state_bytes(1) == 36 * 1024
    assert model.state_bytes(1, expanded=True) == 320 * 1024
    assert model.state_bytes(4096, element_bytes=4) == 2 * 4096 * 36 * 1024
    # All weights but the norms' once, then scores and values over half of the window.
    matrices = 1_825_458_176 - 32 * 4608 - 2048
    assert model.flops_per_token(4096) == 2 * matrices + 32 * 16 * (192 + 128) * 4096


def test_the_second_choice_has_equal_parameters():
    ours, theirs = (full_size(f"model={name}").parameters_of() for name in MODELS)
    # As near as feed-forward widths in steps of 32 come, of which one is 0.3 % of this model.
    assert abs(ours - theirs) / ours < 0.0017


@pytest.mark.parametrize("batch", [1, 3])
def test_flops_are_those_torch_counts(choice: str, batch: int):
    model, length = tiny(choice, kernels="reference"), 12
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        logits_of(model, draw(batch, length))
    # Torch counts all of the scores, we the causal half: a window twice as long has as many.
    assert counter.get_total_flops() == batch * length * model.flops_per_token(2 * length)


@pytest.mark.parametrize("learns", ["all", "last layer", "adapters"])
def test_a_step_s_flops_are_those_torch_counts(choice: str, learns: str):
    adapted = ("model/linear=lora",) if learns == "adapters" else ()
    model, length = tiny(choice, *adapted, kernels="reference"), 12
    last = f"layers.{len(model.layers) - 1}."
    for name, weight in model.named_parameters():
        weight.requires_grad_(
            learns == "all"
            or (learns == "last layer" and name.startswith(last))
            or ".lora_" in name
        )
    counter = FlopCounterMode(display=False)
    with counter:
        logits_of(model, draw(1, length)).sum().backward()
    counted = counter.get_total_flops() / length
    expected = model.training_flops_per_token(2 * length)
    # What the lowest part that learns needs no gradient for, its input, is counted here.
    assert 0 <= expected - counted <= 0.12 * expected
    if learns == "all":
        assert counted == expected == 3 * model.flops_per_token(2 * length)
    else:
        assert expected < 2.9 * model.flops_per_token(2 * length)


def test_weights_depend_on_seed_and_name_alone(choice: str):
    settings = compose(*TINY, choice)["model"]
    model = build(settings)
    model.init_weights(3)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    torch.manual_seed(99)
    model.init_weights(3)
    with torch.device("meta"):
        deeper = build(settings | {"num_hidden_layers": 3})
    deeper.to_empty(device="cpu").init_weights(3)
    for other in (model.state_dict(), deeper.state_dict()):
        assert first.keys() <= other.keys()
        assert all(torch.equal(other[name], tensor) for name, tensor in first.items())
    model.init_weights(4)
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(first[n], tensor)}
    assert changed == {name for name, tensor in first.items() if tensor.dim() > 1}
    drawn = [tensor.flatten()[:8] for tensor in first.values() if tensor.dim() > 1]
    assert len({tuple(part.tolist()) for part in drawn}) == len(drawn)


def test_the_spread_of_initial_weights():
    settings = compose(*TINY)["model"]
    for scaled, factor in ((False, 1.0), (True, (2 * SIZES["num_hidden_layers"]) ** -0.5)):
        model = build(settings | {"depth_scaled_init": scaled})
        model.init_weights(0)
        for role in ("o", "down", "up", "embedding"):
            names = [name for name, found in model.roles().items() if found == role]
            values = torch.cat([model.get_parameter(name).flatten() for name in names])
            expected = SIZES["initializer_range"] * (factor if role in ("o", "down") else 1.0)
            assert values.std().item() == pytest.approx(expected, rel=0.1)


def test_roles():
    roles = tiny("model/embedding=untied").roles()
    layer = {name.split(".", 2)[2]: role for name, role in roles.items() if "layers.1." in name}
    assert layer == {
        "input_layernorm.weight": "norm",
        "self_attn.q_proj.weight": "q",
        "self_attn.kv_a_proj_with_mqa.weight": "kv_a",
        "self_attn.kv_a_layernorm.weight": "norm",
        "self_attn.kv_b_proj.weight": "kv_b",
        "self_attn.o_proj.weight": "o",
        "post_attention_layernorm.weight": "norm",
        "mlp.up_proj.weight": "up",
        "mlp.down_proj.weight": "down",
    }
    assert roles["embed_tokens.weight"] == "embedding" and roles["norm.weight"] == "norm"
    assert roles["embed_tokens.lm_head.weight"] == "head"


def test_outputs_before_a_token_do_not_see_it(choice: str):
    model, tokens = tiny(choice), draw(2, 11)
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % SIZES["vocab_size"]
    before, after = logits_of(model, tokens), logits_of(model, changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert (before[:, 6:] != after[:, 6:]).any(-1).all()


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_documents_of_a_window_do_not_see_each_other(choice: str, kernels: str):
    model, tokens = tiny(choice, kernels=kernels), draw(2, LENGTH)
    whole = logits_of(model, tokens, packed_context(2))
    for span in spans():
        changed = tokens.clone()
        changed[:, span] = (changed[:, span] + 1) % SIZES["vocab_size"]
        other = logits_of(model, changed, packed_context(2))
        rest = torch.ones(LENGTH, dtype=torch.bool)
        rest[span] = False
        assert torch.equal(other[:, rest], whole[:, rest])
        alone = logits_of(model, tokens[:, span])
        torch.testing.assert_close(whole[:, span], alone, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(whole[:, DOCUMENTS[0] :], logits_of(model, tokens)[:, DOCUMENTS[0] :])


def test_a_packed_window_s_loss_is_the_sum_over_its_documents(choice: str):
    model, tokens, labels = tiny(choice), draw(2, LENGTH), draw(2, LENGTH, seed=1)
    labels[:, [4, 7, -1]] = IGNORE_INDEX
    packed = model(tokens, context=packed_context(2), labels=labels, losses=LOSSES).losses["ce"]
    packed.total.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    parts = [
        model(
            tokens[:, span],
            context=plain_context(2, span.stop - span.start),
            labels=labels[:, span],
            losses=LOSSES,
        ).losses["ce"]
        for span in spans()
    ]
    total = sum(part.total for part in parts)
    total.backward()
    assert packed.count == sum(part.count for part in parts) == 2 * (LENGTH - 3)
    torch.testing.assert_close(packed.total, total, rtol=1e-12, atol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-9, atol=1e-11)


def run(model: Transformer, rows: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of eight rows in micro-batches."""
    tokens, labels = draw(8, LENGTH), draw(8, LENGTH, seed=1)
    model.zero_grad()
    total = 0.0
    for first in range(0, 8, rows):
        part = slice(first, first + rows)
        out = model(tokens[part], context=packed_context(rows), labels=labels[part], losses=LOSSES)
        out.losses["ce"].total.backward()
        total += out.losses["ce"].total.item()
    return total, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_recomputing_activations_changes_nothing(choice: str):
    model = tiny(choice, dtype=torch.float32).train()
    plain = run(model, 8)
    model.checkpoint_activations = True
    calls = []
    model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    again = run(model, 8)
    assert len(calls) == 2
    assert plain[0] == again[0]
    assert all(torch.equal(plain[1][name], grad) for name, grad in again[1].items())


def test_micro_batches_add_up(choice: str):
    model = tiny(choice)
    whole, parts = run(model, 8), run(model, 2)
    assert parts[0] == pytest.approx(whole[0], rel=1e-13)
    assert all(largest(parts[1][name], grad) < 1e-12 for name, grad in whole[1].items())


def test_vectors_in_the_place_of_tokens(choice: str):
    model, tokens = tiny(choice), draw(2, 7)
    found = model(inputs_embeds=model.embed_tokens(tokens), context=plain_context(2, 7)).logits
    assert torch.equal(found, logits_of(model, tokens))


def test_a_phase_s_rotary_base(choice: str):
    model, tokens = tiny(choice), draw(1, 9)
    context = plain_context(1, 9)
    context.rope_theta = 10.0
    changed = logits_of(model, tokens, context)
    assert not torch.allclose(changed, logits_of(model, tokens))
    for layer in model.layers:
        layer.self_attn.rope_theta = 10.0
    assert torch.equal(changed, logits_of(model, tokens))


def test_parts_ask_for_a_rate_of_their_own():
    model = tiny()
    assert model.parameter_settings() == {}
    model.layers[1].mlp.parameter_settings = lambda: {
        "up_proj.weight": {"rate_factor": 0.1, "decay": False}
    }
    asked = model.parameter_settings()
    assert asked == {"layers.1.mlp.up_proj.weight": {"rate_factor": 0.1, "decay": False}}
    assert set(asked) < {name for name, _ in model.named_parameters()}


def test_a_loss_may_but_need_not_know_the_kernels():
    said = []

    def plain(hidden: Tensor, head_weight: Tensor, labels: Tensor) -> LossSum:
        return LossSum(hidden.sum(), torch.tensor(1))

    def informed(hidden: Tensor, head_weight: Tensor, labels: Tensor, *, kernels: str) -> LossSum:
        said.append(kernels)
        return plain(hidden, head_weight, labels)

    tokens = torch.zeros(1, 4, dtype=torch.int64)
    losses = {"plain": plain, "informed": informed, "bound": partial(informed)}
    out = tiny()(tokens, context=plain_context(1, 4), labels=tokens, losses=losses)
    assert set(out.losses) == set(losses) and said == ["auto", "auto"]


def test_the_head_is_the_embedding():
    model = tiny()
    out = model(draw(1, 4), context=plain_context(1, 4))
    assert torch.equal(out.logits, F.linear(out.hidden, model.embed_tokens.weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_stay_close(choice: str, dtype: torch.dtype):
    wide, narrow = tiny(choice), tiny(choice, dtype=dtype)
    tokens = draw(2, LENGTH)
    found = logits_of(narrow, tokens, packed_context(2))
    assert found.dtype == dtype
    expected = logits_of(wide, tokens, packed_context(2))
    # Three units of bf16 at some ten roundings one after the other; fp32 likewise.
    assert largest(found.double(), expected) < 30 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.vocab_size=0", "model.vocab_size=0 must be at least 1"),
        ("model.num_hidden_layers=0", "model.num_hidden_layers=0 must be at least 1"),
        ("kernels=fast", "kernels='fast' is not one of: auto, triton, reference"),
    ],
)
def test_sizes_that_cannot_work(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        tiny(override)


def test_a_mixer_that_does_not_say_that_it_isolates_is_refused(choice: str, monkeypatch):
    model = tiny(choice)
    mixer = type(model.layers[0].self_attn)
    monkeypatch.delattr(mixer, "isolates_documents")
    with pytest.raises(ConfigError, match=rf"{mixer.__name__} cannot keep the documents"):
        logits_of(model, draw(1, LENGTH), packed_context(1))
    logits_of(model, draw(1, LENGTH))
