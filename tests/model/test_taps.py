"""Every named place can be read, replaced and given another backward by torch's own hooks."""

import pytest
import torch
from torch import Tensor

from plm.batch import LossSum
from plm.errors import ConfigError
from plm.loss.cross_entropy import cross_entropy
from plm.model.taps import reading
from tests.model.common import SIZES, draw, logits_of, plain_context, tiny

B, T, D = 2, 5, SIZES["hidden_size"]
HEADS, KEY, VALUE = SIZES["num_attention_heads"], 12, SIZES["v_head_dim"]
WIDE = SIZES["intermediate_size"]
TAPS = {
    "embedded": (B, T, D),
    "layers.0.input_layernorm": (B, T, D),
    "layers.0.self_attn.attend.q": (B, HEADS, T, KEY),
    "layers.0.self_attn.attend.k": (B, HEADS, T, KEY),
    "layers.0.self_attn.attend.v": (B, HEADS, T, VALUE),
    "layers.0.self_attn.attend.pattern": (B, HEADS, T, T),
    "layers.0.mixed": (B, T, D),
    "layers.0.residual_mid": (B, T, D),
    "layers.0.post_attention_layernorm": (B, T, D),
    "layers.0.mlp.pre_activation": (B, T, WIDE),
    "layers.0.mlp.activation": (B, T, WIDE),
    "layers.0.mlp": (B, T, D),
    "layers.0.residual": (B, T, D),
    "norm": (B, T, D),
}
PATTERN = "layers.0.self_attn.attend.pattern"


class Negated(torch.autograd.Function):
    """Its input, with a backward of its own."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return -grad


@pytest.fixture(params=TAPS)
def name(request) -> str:
    return request.param


@pytest.fixture
def model():
    return tiny(kernels="reference")


def test_read(model, name: str):
    seen = []
    model.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(out))
    plain = logits_of(model, draw(B, T))
    assert [tuple(out.shape) for out in seen] == [TAPS[name]]
    # What is read is what the rest is made of: it lies on the way to the logits.
    (grad,) = torch.autograd.grad(plain.square().sum(), seen[0])
    assert grad.any()


def test_replaced(model, name: str):
    plain = logits_of(model, draw(B, T))
    hook = model.get_submodule(name).register_forward_hook(lambda module, args, out: out * 0.5)
    assert not torch.allclose(logits_of(model, draw(B, T)), plain)
    hook.remove()
    assert torch.equal(logits_of(model, draw(B, T)), plain)


@pytest.mark.parametrize("way", ["function", "backward hook"])
def test_another_backward(model, name: str, way: str):
    weight = model.embed_tokens.weight
    tap = model.get_submodule(name)
    # The table is the head too: only what comes by way of its vectors is looked at.
    vectors = model.embed_tokens(draw(B, T)).detach().requires_grad_()

    def gradient() -> Tensor:
        out = model(inputs_embeds=vectors, context=plain_context(B, T)).logits
        return torch.autograd.grad((out * torch.arange(weight.shape[0])).sum(), vectors)[0]

    plain, value = gradient(), logits_of(model, draw(B, T))
    if way == "function":
        tap.register_forward_hook(lambda module, args, out: Negated.apply(out))
    else:
        # A part that is given the context has None in its place.
        tap.register_full_backward_hook(
            lambda module, grads, _: tuple(None if g is None else -g for g in grads)
        )
    assert torch.equal(logits_of(model, draw(B, T)), value)
    assert not torch.allclose(gradient(), plain)


def test_all_but_the_pattern_are_there_under_auto_too(name: str):
    model, seen = tiny(), []
    model.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(out))
    logits_of(model, draw(B, T))
    assert bool(seen) == (name != PATTERN)


def test_the_pattern_is_a_causal_distribution(model):
    seen = []
    model.get_submodule(PATTERN).register_forward_hook(lambda module, args, out: seen.append(out))
    logits_of(model, draw(B, T))
    assert not seen[0].triu(1).any()
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(B, HEADS, T, dtype=torch.float64))


def test_taps_act_while_decoding_as_in_a_forward(model, name: str):
    model.get_submodule(name).register_forward_hook(lambda module, args, out: out * 0.5)
    tokens = draw(B, 6)
    states = model.init_state(B, 6, "cpu", torch.float64)
    for place in range(6):
        context = plain_context(B, 1, start=place)
        found = model.step(tokens[:, place : place + 1], states, context)
    torch.testing.assert_close(found, logits_of(model, tokens)[:, -1], rtol=1e-10, atol=1e-10)


def sparsity(context, tokens_seen: int) -> LossSum:
    total = sum(tap.abs().sum() for name, tap in context.taps.items() if name.endswith("mlp"))
    return LossSum(total, torch.tensor(len(context.taps)))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_regularizer_reads_parts(recompute: bool):
    sparsity.reads = ("layers.*.mlp",)
    model = tiny().train()
    model.checkpoint_activations = recompute
    context = plain_context(B, T)
    settings = {"context": context, "labels": draw(B, T), "regularizers": {"l1": sparsity}}
    out = model(draw(B, T), losses={"ce": cross_entropy}, **settings)
    assert out.losses["regularizers.l1"].count == SIZES["num_hidden_layers"]
    out.losses["regularizers.l1"].total.backward()
    assert model.layers[0].mlp.up_proj.weight.grad.any()
    assert sorted(context.taps) == ["layers.0.mlp", "layers.1.mlp"]
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("reads", "kernels", "message"),
    [
        ("layers.*.ffn", "auto", "regularizers.l1 reads layers.*.ffn, which no part is named"),
        ("*.pattern", "auto", "did not run as a module of its own; set kernels=reference"),
    ],
)
def test_a_regularizer_that_reads_nothing_is_refused(reads: str, kernels: str, message: str):
    sparsity.reads = (reads,)
    with pytest.raises(ConfigError) as error:
        tiny(kernels=kernels)(
            draw(B, T), context=plain_context(B, T), regularizers={"l1": sparsity}
        )
    assert message in str(error.value)


def test_compiled_layers_are_refused(monkeypatch):
    # The compiler itself takes seconds to load.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    sparsity.reads = ("layers.*.mlp",)
    model = tiny()
    model.layers[0].compile()
    with (
        pytest.raises(ConfigError, match=r"compile=true hides layers\.0\.mlp"),
        reading(model, {"l1": sparsity}, plain_context(B, T)),
    ):
        pass
