import pytest
import torch

from plm.errors import ConfigError
from plm.kernels import rms_norm
from plm.kernels.latent_norm import latent_norm
from plm.kernels.reference.latent_norm import latent_norm as plain
from plm.kernels.tiles import Tile, override
from plm.model.rotary import rotate
from tests.kernels.interpreter import guarded, poisoned
from tests.kernels.nearness import assert_near

EPS = 1e-6


def case(batch: int, length: int, rank: int, rope: int, dtype: torch.dtype, device: str = "cpu"):
    """kv_a, weight, cosine, sine, and the gradients of latent and key."""
    shape = batch, length
    angle = torch.rand(*shape, rope // 2) * 100
    made = [torch.randn(*shape, rank + rope), torch.randn(rank)]
    grads = [torch.randn(*shape, size) for size in (rank, rope)]
    tables = [guarded(table.to(device)) for table in (angle.cos(), angle.sin())]
    first, last = ([guarded(t.to(device, dtype)) for t in group] for group in (made, grads))
    return [*first, *tables, *last]


def outcome(function, kv_a, weight, cos, sin, *grads, **settings):
    """Latent, key, and the gradients of kv_a and weight; grads may be None."""
    inputs = [value.detach().clone().requires_grad_() for value in (kv_a, weight)]
    outs = function(*inputs, cos, sin, EPS, rank=len(weight), **settings)
    pairs = [(out, grad) for out, grad in zip(outs, grads, strict=True) if grad is not None]
    used, grads = zip(*pairs, strict=True)
    found = torch.autograd.grad(used, inputs, grads, allow_unused=True)
    return *(out.detach() for out in outs), *found


def doubled(data):
    return [None if value is None else value.double() for value in data]


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 5, 2), (2, 7, 33, 6), (1, 11, 64, 16), (0, 3, 8, 4)])
def test_triton_is_near_fp64(shape: tuple, dtype: torch.dtype, rotate: bool, place: str):
    data = case(*shape, dtype, place)
    with poisoned():
        got = outcome(latent_norm, *data, rotate=rotate, form="triton")
    for a, b in zip(got, outcome(plain, *doubled(data), rotate=rotate), strict=True):
        assert a.dtype == dtype and a.is_contiguous()
        assert_near(a, b)


@pytest.mark.parametrize("which", [(True, False), (False, True)])
def test_one_gradient_alone(which: tuple, place: str):
    *data, first, second = case(1, 7, 32, 8, torch.float32, place)
    grads = [grad if used else None for grad, used in zip((first, second), which, strict=True)]
    got = outcome(latent_norm, *data, *grads, form="triton")
    expected = outcome(plain, *doubled([*data, *grads]))
    for a, b in zip(got[:3], expected[:3], strict=True):
        assert_near(a, b)
    assert_near(got[3], torch.zeros_like(got[3]).double() if expected[3] is None else expected[3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_on_a_cpu_it_has_the_bits_of_norm_and_rotation_apart(dtype: torch.dtype):
    data = case(2, 9, 40, 16, dtype)

    def apart(kv_a, weight, cos, sin, eps, rank):
        latent, k_rope = kv_a.split([rank, kv_a.shape[-1] - rank], dim=-1)
        return rms_norm(latent, weight, eps), rotate(k_rope, (cos, sin))

    for a, b in zip(outcome(latent_norm, *data), outcome(apart, *data), strict=True):
        assert torch.equal(a, b)


def test_torch_copies_the_key_where_it_is_not_turned():
    kv_a, weight, cos, sin, *_ = case(2, 3, 8, 4, torch.float32)
    _, key = latent_norm(kv_a, weight, cos, sin, EPS, rank=8, rotate=False)
    assert torch.equal(key, kv_a[..., 8:]) and key.is_contiguous()


def test_triton_gives_the_same_bits_twice_and_in_any_tile(place: str):
    data = case(1, 13, 48, 16, torch.float32, place)
    first = outcome(latent_norm, *data, form="triton")
    flat, walk = Tile({"BLOCK_SIZE": 1024}, 8), Tile({"BLOCK_SIZE": 1024, "STAGES": 2}, 8)
    with override(latent_norm=flat, latent_norm_backward=walk):
        other = outcome(latent_norm, *data, form="triton")
    again = outcome(latent_norm, *data, form="triton")
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


def test_triton_refuses_a_second_derivative(place: str):
    kv_a, weight, cos, sin, *_ = case(1, 3, 16, 4, torch.float32, place)
    kv_a.requires_grad_()
    latent, _ = latent_norm(kv_a, weight, cos, sin, EPS, rank=16, form="triton")
    (first,) = torch.autograd.grad(latent.sum(), kv_a, create_graph=True)
    with pytest.raises(RuntimeError, match="latent_norm_backward"):
        torch.autograd.grad(first.sum(), kv_a)


def test_the_reference_is_twice_differentiable():
    kv_a, weight, cos, sin, *_ = case(1, 3, 4, 2, torch.float64)

    def of(kv_a, weight):
        return plain(kv_a, weight, cos, sin, EPS, rank=4)

    assert torch.autograd.gradgradcheck(of, [kv_a.requires_grad_(), weight.requires_grad_()])


def test_opcheck_and_one_graph(place: str):
    data = case(1, 3, 16, 4, torch.float32, place)
    kv_a, weight, cos, sin, *grads = data
    inverse = torch.ones(3, 1, device=place)
    arguments = *grads, kv_a, weight, cos, sin, inverse, True
    torch.library.opcheck(torch.ops.plm.latent_norm_backward.default, arguments)
    arguments = kv_a.requires_grad_(), weight.requires_grad_(), cos, sin, EPS, 16, True
    torch.library.opcheck(torch.ops.plm.latent_norm.default, arguments)
    compiled = torch.compile(latent_norm, fullgraph=True, backend="aot_eager")
    got = outcome(compiled, *data, form="triton")
    for a, b in zip(got, outcome(latent_norm, *data, form="triton"), strict=True):
        assert torch.equal(a, b)


KV, WEIGHT, HALF = torch.ones(1, 2, 12), torch.ones(8), torch.ones(1, 2, 2)


@pytest.mark.parametrize(
    ("kv_a", "weight", "table", "message"),
    [
        (KV, torch.ones(7), HALF, "rank=8 must be the weight's size, 7, and leave an even"),
        (torch.ones(1, 2, 8), WEIGHT, HALF, "number of kv_a's 8 columns for the key"),
        (torch.ones(1, 2, 11), WEIGHT, HALF, "number of kv_a's 11 columns for the key"),
        (KV.double(), WEIGHT, HALF, "kv_a is torch.float64; the Triton kernel takes"),
        (KV, WEIGHT.double(), HALF, "weight is torch.float64; the Triton kernel takes"),
        (torch.ones(1, 2, 16)[..., :12], WEIGHT, HALF, "kv_a is not contiguous"),
        (KV, WEIGHT, torch.ones(1, 1, 2), r"cos has shape \(1, 1, 2\), not \(1, 2, 2\)"),
    ],
)
def test_says_what_it_does_not_take(kv_a, weight, table, message: str):
    with pytest.raises(ConfigError, match=f"latent_norm: .*{message}"):
        latent_norm(kv_a, weight, table, table, EPS, rank=8, form="triton")
