import torch

from tests.model.common import SIZES, plain_context, tiny

PARTS = ("self_attn", "mlp")


def test_by_hand():
    layer = tiny().layers[1]
    hidden = torch.randn(2, 4, SIZES["hidden_size"], dtype=torch.float64)
    context = plain_context(2, 4)
    mid = hidden + layer.self_attn(layer.input_layernorm(hidden), context)
    expected = mid + layer.mlp(layer.post_attention_layernorm(mid), context)
    assert torch.equal(layer(hidden, context), expected)


def test_parts_run_under_their_name_and_the_layer_s():
    model, names = tiny(), []
    for layer in model.layers:
        for part in (layer.self_attn, layer.mlp):
            part.register_forward_pre_hook(
                lambda module, args: names.append(f"{args[1].layer}.{args[1].part}")
            )
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    model(tokens, context=plain_context(1, 4))
    expected = [f"layers.{i}.{part}" for i in range(len(model.layers)) for part in PARTS]
    assert names == expected
    names.clear()
    model.step(tokens, model.init_state(1, 4, dtype=torch.float64), plain_context(1, 4))
    # The mixer takes a step of its own, without its hooks.
    assert names == [name for name in expected if name.endswith("mlp")]
