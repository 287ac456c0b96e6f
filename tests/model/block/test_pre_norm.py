import torch

from tests.model.common import SIZES, plain_context, tiny


def test_by_hand():
    layer = tiny().layers[1]
    hidden = torch.randn(2, 4, SIZES["hidden_size"], dtype=torch.float64)
    context = plain_context(2, 4)
    mid = hidden + layer.self_attn(layer.input_layernorm(hidden), context)
    expected = mid + layer.mlp(layer.post_attention_layernorm(mid), context)
    assert torch.equal(layer(hidden, context), expected)


def test_parts_run_under_their_path():
    layer, context, paths = tiny().layers[1], plain_context(1, 4), []
    for part in (layer.self_attn, layer.mlp):
        part.register_forward_pre_hook(lambda module, args: paths.append(args[1].path))
    hidden = torch.randn(1, 4, SIZES["hidden_size"], dtype=torch.float64)
    layer(hidden, context)
    assert paths == ["layers.1.self_attn", "layers.1.mlp"]
    layer.step(hidden, layer.self_attn.init_state(1, 4, hidden.device, hidden.dtype), context)
    assert paths[2:] == ["layers.1.mlp"]
