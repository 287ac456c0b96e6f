"""A whole model on the Triton kernels, in their interpreter: the same figures as plain torch."""

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="there is no Triton here")

from plm.kernels.tiles import Kernel, interpreting
from plm.loss.cross_entropy import cross_entropy
from plm.model.activation.relu2 import ReLU2
from plm.model.context import Context
from plm.model.norm.rms_norm import RMSNorm
from tests.kernels.interpreter import watched
from tests.model.common import draw, packed_context, plain_context, tiny

# Of the least sizes that the kernels take.
SIZES = (
    "scale.hidden_size=32", "scale.qk_nope_head_dim=16", "scale.qk_rope_head_dim=16",
    "scale.v_head_dim=16", "scale.kv_lora_rank=32", "scale.intermediate_size=48",
    "scale.num_attention_heads=2",
)  # fmt: skip
B, T = 2, 16
FORWARD = {"add_rms_norm", "latent_norm", "mla_attention", "relu2_mlp", "rms_norm", "linear"}
pytestmark = pytest.mark.skipif(not interpreting(), reason="TRITON_INTERPRET=0")


def model(kernels: str, *overrides: str) -> nn.Module:
    return tiny(*SIZES, *overrides, dtype=torch.float32, kernels=kernels)


def context(packed: bool) -> Context:
    return packed_context(B) if packed else plain_context(B, T)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that were launched."""
    names: list[str] = []
    plain = Kernel.function

    def function(kernel: Kernel):
        names.append(kernel.name)
        return plain(kernel)

    monkeypatch.setattr(Kernel, "function", function)
    return names


def outcome(network: nn.Module, around: Context) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, and the gradients by parameter."""
    tokens, labels = draw(B, T), draw(B, T, seed=1)
    network.zero_grad()
    found = network(tokens, context=around, labels=labels, losses={"ce": cross_entropy})
    total = found.losses["ce"].total
    total.backward()
    return total.detach(), {n: p.grad.clone() for n, p in network.named_parameters()}


def close(got: Tensor, expected: Tensor, name: str = "") -> None:
    # fp32 sums in another order, over two layers.
    assert (got - expected).abs().max() <= 2e-5 * expected.abs().max(), name


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("recompute", ["false", "true"])
def test_loss_and_gradients(packed: bool, recompute: str, launched: list[str]):
    overrides = (f"model.checkpoint_activations={recompute}",)
    expected = outcome(model("reference", *overrides), context(packed))
    with watched():
        got = outcome(model("triton", *overrides), context(packed))
    close(got[0], expected[0])
    for name, grad in expected[1].items():
        close(got[1][name], grad, name)
    families = {name.removesuffix("_rows") for name in launched}
    missing = {name for name in FORWARD if not any(f.startswith(name) for f in families)}
    assert not missing, sorted(launched)


def test_a_hooked_part_runs_by_itself(launched: list[str]):
    network, seen = model("triton"), []
    taps = ("mlp.pre_activation", "residual_mid", "self_attn.attend.q")
    for name in taps:
        part = network.layers[0].get_submodule(name)
        part.register_forward_hook(lambda module, args, out: seen.append(out))
    expected = outcome(model("reference"), context(True))
    with watched():
        got = outcome(network, context(True))
    assert len(seen) == len(taps)
    close(got[0], expected[0])
    # The other layer is fused all the same.
    assert sum(name.startswith("mla_attention") for name in launched) > 0


def test_steps_equal_the_forward(launched: list[str]):
    tokens = draw(B, T)
    with torch.no_grad():
        expected = model("reference")(tokens, context=plain_context(B, T)).logits
        network = model("triton").eval()
        states = network.init_state(B, T + 4)
        with watched():
            first = network.step(tokens[:, :5], states, plain_context(B, 5))
            found = [first] + [
                network.step(tokens[:, at : at + 1], states, plain_context(B, 1, at))
                for at in range(5, T)
            ]
    close(torch.stack(found, 1), expected[:, 4:])
    assert any(name.startswith("mla_decode") for name in launched)


def test_one_graph_a_layer():
    network = model("triton")
    around = context(True)
    hidden = torch.randn(B, T, 32, requires_grad=True)
    network._enter(hidden, around)
    layer = network.layers[0]
    network._prepare(layer, around)

    def run(x: Tensor) -> Tensor:
        return layer(x, around)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    with watched():
        got, expected = compiled(hidden), run(hidden)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_under_bf16_autocast():
    expected = outcome(model("reference"), context(True))
    with watched(), torch.autocast("cpu", torch.bfloat16):
        got = outcome(model("triton"), context(True))
        plain = outcome(model("reference"), context(True))
    # Not further from fp32 than twice plain torch with the same casts, and never by chance.
    for name, exact in expected[1].items():
        assert got[1][name].dtype == torch.float32
        size = exact.abs().max()
        apart = [(found[1][name] - exact).abs().max() / size for found in (got, plain)]
        assert apart[0] <= 2 * apart[1] + 1e-2, name


class Shifted(ReLU2):
    """Another activation, by a user who begins from ours."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x + 1.0, context)


class Plus(RMSNorm):
    """Another norm, by a user who begins from ours."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1.0


class Quantised(Tensor):
    """A weight of a class of its own, as libraries for quantisation make them."""


def _activation(network: nn.Module) -> None:
    network.layers[0].mlp.activation = Shifted()


def _norms(network: nn.Module) -> None:
    for layer in network.layers:
        for place, name in (
            (layer, "post_attention_layernorm"),
            (layer.self_attn, "kv_a_layernorm"),
        ):
            other = Plus(getattr(place, name).weight.shape[0])
            other.kernels = network.kernels
            setattr(place, name, other)


def _replaced_forward(network: nn.Module) -> None:
    projection = network.layers[0].mlp.up_proj
    plain = projection.forward
    projection.forward = lambda x: 2 * plain(x)


def _weight(network: nn.Module) -> None:
    projection = network.layers[0].mlp.up_proj
    made = (2 * projection.weight.detach()).as_subclass(Quantised)
    projection.weight = nn.Parameter(made, requires_grad=False)


@pytest.mark.parametrize("kernels", ["auto", "triton"])
@pytest.mark.parametrize("change", [_activation, _norms, _replaced_forward, _weight])
def test_what_is_not_ours_is_not_fused_away(change, kernels: str):
    losses = []
    for choice in ("reference", kernels):
        network = model(choice)
        plain = network(draw(B, T), context=context(False)).logits if choice != "triton" else None
        change(network)
        with torch.no_grad(), watched():
            losses.append(network(draw(B, T), context=context(False)).logits)
        if plain is not None:
            assert not torch.allclose(plain, losses[-1])
    close(losses[1], losses[0])
