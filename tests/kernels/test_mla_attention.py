import pytest
import torch

from plm.errors import ConfigError
from plm.kernels.mla_attention import (
    PAD_VALUES_FROM,
    _problem,
    document_bounds,
    mla_attention,
)
from plm.kernels.reference.mla_attention import mla_attention as reference
from plm.kernels.tiles import Tile, override
from tests.kernels.interpreter import guarded, poisoned

N, R, U = 32, 16, 32
NAMES = ("q", "kv", "k_rope")


def case(length: int, heads=(1, 1), lengths: list[int] | None = None, batch: int = 1, **kind):
    """Arguments by name; `lengths` of the documents of a row."""
    n, r, u = kind.pop("sizes", (N, R, U))
    kind.setdefault("dtype", torch.float64)
    position = torch.arange(length, dtype=torch.float64)
    angle = position[:, None] * 100.0 ** (-torch.arange(r // 2) / (r // 2))
    data = {
        "q": torch.randn(batch, length, heads[0], n + r, **kind),
        "kv": torch.randn(batch, length, heads[1], n + u, **kind),
        "k_rope": torch.randn(batch, length, r, **kind),
        "cos": angle.cos().expand(batch, -1, -1).contiguous(),
        "sin": angle.sin().expand(batch, -1, -1).contiguous(),
        "starts": None,
        "ends": None,
    }
    if lengths is not None:
        ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        data["starts"], data["ends"] = document_bounds(ids.expand(batch, -1))
    return data


def outcome(function, data: dict, **settings):
    """Output and the three gradients, for an incoming gradient that is the same each time."""
    data = {k: v if v is None else v.detach() for k, v in data.items()}
    leaves = [data[name].requires_grad_() for name in NAMES]
    out = function(**data, scale=0.3, **settings)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(out, leaves, grad.to(out))
    return [out.detach(), *grads]


def cast(data: dict, dtype: torch.dtype, place: str = "cpu") -> dict:
    """A case for the kernels: guarded, angles in fp32."""
    found = {}
    for name, tensor in data.items():
        if tensor is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype if name in NAMES else torch.float32)
        found[name] = tensor if tensor is None else guarded(tensor.to(place))
    return found


def on_kernels(data: dict, place: str, dtype=torch.float32, **settings):
    with poisoned():
        found = outcome(mla_attention, cast(data, dtype, place), form="triton", **settings)
    assert all(x.dtype == dtype for x in found)
    return [x.cpu() for x in found]


def assert_near(got, expected, share: float) -> None:
    """Within a share of each tensor's largest value, but not of less than 1.

    Gradients of scores are differences of numbers of the order of 1, and may cancel to nothing.
    """
    for name, a, b in zip(("out", *NAMES), got, expected, strict=True):
        assert a.shape == b.shape, name
        if b.numel():
            assert (a - b).abs().max() <= share * b.abs().max().clamp(min=1.0), name


LAYOUTS = [
    pytest.param(1, None, id="one token"),
    pytest.param(63, None, id="63"),
    pytest.param(37, [37], id="one document"),
    pytest.param(37, [5, 11, 21], id="boundaries inside blocks"),
    pytest.param(48, [16, 16, 16], id="boundaries between blocks"),
    pytest.param(35, [1, 1, 1, 14, 1, 17], id="documents of one token"),
    pytest.param(100, [40, 60], id="100"),
]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "lengths"), LAYOUTS)
def test_equals_fp64(place: str, length: int, lengths: list[int] | None, causal: bool):
    data = case(length, lengths=lengths)
    expected = outcome(reference, data, causal=causal)
    assert_near(on_kernels(data, place, causal=causal), expected, 1e-5)


HEADS = [
    pytest.param((4, 2), {}, id="two queries a key"),
    pytest.param((3, 1), {}, id="one key for all"),
    pytest.param((3, 3), {}, id="three keys"),
    pytest.param((2, 2), {"sizes": (64, 32, 32)}, id="64 32 32"),
    pytest.param((2, 1), {"sizes": (16, 16, 64)}, id="16 16 64"),
    pytest.param((2, 2), {"batch": 2}, id="two heads and rows"),
]


@pytest.mark.parametrize(("heads", "settings"), HEADS)
def test_heads_sizes_and_rows(place: str, heads: tuple[int, int], settings: dict):
    data = case(29, heads, [6, 23], **settings)
    expected = outcome(reference, data)
    assert_near(on_kernels(data, place), expected, 1e-5)


TILES = {
    "wide keys": {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 32},
    "wide queries": {"BLOCK_M": 64, "BLOCK_N": 16, "BLOCK_K": 64},
}
ATTENTION = [f"mla_attention_{name}" for name in ("forward", "query_gradient", "key_gradient")]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("blocks", TILES.values(), ids=TILES)
def test_tiles_of_unequal_sides(place: str, blocks: dict[str, int], causal: bool):
    data = case(150, lengths=[3, 70, 77])
    expected = outcome(reference, data, causal=causal)
    with override(**dict.fromkeys(ATTENTION, Tile(blocks))):
        assert_near(on_kernels(data, place, causal=causal), expected, 1e-5)


def test_documents_are_as_if_alone(place: str):
    lengths = [1, 20, 9]
    data = cast(case(30, lengths=lengths), torch.float32, place)
    with poisoned():
        out = mla_attention(**data, scale=0.3, form="triton").cpu()
    # One key: its value is the output, to the bit.
    assert torch.equal(out[:, 0], data["kv"][:, 0, :, N:].cpu())
    assert torch.equal(out[:, 1], data["kv"][:, 1, :, N:].cpu())
    for begin, end in ((1, 21), (21, 30)):
        alone = {name: data[name][:, begin:end].contiguous() for name in (*NAMES, "cos", "sin")}
        expected = mla_attention(**alone, scale=0.3, form="triton").cpu()
        assert (out[:, begin:end] - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_document_changes_nothing_in_another(place: str):
    data = case(30, lengths=[13, 17], dtype=torch.float32)
    before = on_kernels(data, place)
    for name in NAMES:
        data[name][:, 13:] = torch.randn_like(data[name][:, 13:])
    after = on_kernels(data, place)
    for name, a, b in zip(("out", *NAMES), before, after, strict=True):
        assert torch.equal(a[:, :13], b[:, :13]), name
        assert not torch.equal(a[:, 13:], b[:, 13:]), name


def test_large_scores_do_not_overflow(place: str):
    data = case(40, lengths=[40])
    data["q"] *= 100
    got, expected = on_kernels(data, place), outcome(reference, data)
    assert all(x.isfinite().all() for x in got)
    assert (got[0] - expected[0]).abs().max() <= 1e-4 * expected[0].abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_torch(place: str, dtype: torch.dtype):
    data = case(40, (2, 1), [9, 31])
    for name in NAMES:
        data[name] = data[name].to(dtype).double()
    data["cos"], data["sin"] = data["cos"].float().double(), data["sin"].float().double()
    exact = outcome(reference, data)
    plain = outcome(reference, {**data, **{name: data[name].to(dtype) for name in NAMES}})
    got = on_kernels(data, place, dtype)
    for name, a, b, c in zip(("out", *NAMES), got, plain, exact, strict=True):
        assert (a - c).abs().max() <= 2 * (b - c).abs().max(), name


def test_no_tokens(place: str):
    for length, batch in ((0, 1), (3, 0)):
        data = case(length, (2, 2), batch=batch, dtype=torch.float32)
        got = outcome(mla_attention, cast(data, torch.float32, place), form="triton")
        assert [x.shape for x in got] == [
            (batch, length, 2, U),
            *(data[name].shape for name in NAMES),
        ]


def test_a_key_that_is_a_slice(place: str):
    data = case(33, dtype=torch.float32)
    expected = on_kernels(data, place)
    latent = torch.full((1, 33, 64 + R), float("nan"))
    latent[..., 64:] = data["k_rope"]
    settings = cast(data, torch.float32, place)
    latent = latent.to(place).requires_grad_()
    leaves = [settings[name].requires_grad_() for name in ("q", "kv")] + [latent]
    out = mla_attention(**{**settings, "k_rope": latent[..., 64:]}, scale=0.3, form="triton")
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    *got, grad_latent = torch.autograd.grad(out, leaves, grad.to(out))
    for a, b in zip((out, *got, grad_latent[..., 64:]), expected, strict=True):
        assert torch.equal(a.detach().cpu(), b)


def test_a_key_of_one_token_whose_stride_says_nothing(place: str):
    data = cast(case(1, batch=2), torch.float32, place)
    expected = mla_attention(**data, scale=0.3, form="triton")
    data["k_rope"] = torch.stack(list(data["k_rope"]), dim=1).transpose(0, 1)
    assert data["k_rope"].stride(1) == 2 * R
    with poisoned():
        assert torch.equal(mla_attention(**data, scale=0.3, form="triton"), expected)


def test_the_same_bits_twice(place: str):
    data = case(40, (2, 1), [9, 31], dtype=torch.float32)
    for a, b in zip(on_kernels(data, place), on_kernels(data, place), strict=True):
        assert torch.equal(a, b)


def test_the_gradient_of_a_gradient_is_refused(place: str):
    data = cast(case(5), torch.float32, place)
    q = data["q"].requires_grad_()
    out = mla_attention(**data, scale=0.3, form="triton")
    (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="mla_attention_backward"):
        torch.autograd.grad(first.sum(), q)


def test_opcheck_and_one_graph(place: str):
    data = cast(case(9, lengths=[4, 5]), torch.float32, place)
    leaves = [data[name].requires_grad_() for name in NAMES]
    others = [data[name] for name in ("cos", "sin", "starts", "ends")]
    torch.library.opcheck(torch.ops.plm.mla_attention.default, (*leaves, *others, 0.3, True))

    def function():
        return mla_attention(**data, scale=0.3, form="triton")

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(), function())


def test_what_is_kept_for_the_backward(place: str):
    data = cast(case(9, (2, 2), [4, 5]), torch.float32, place)
    data["q"].requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = mla_attention(**data, scale=0.3, form="triton")
    places = {t.data_ptr() for t in (*data.values(), out)}
    assert [tuple(t.shape) for t in kept if t.data_ptr() not in places] == [(1, 2, 9)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [[100], [20, 1, 79], None])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_plain_torch_equals_fp64(heads: tuple[int, int], lengths: list[int] | None, causal: bool):
    # Without bounds at a length whose values are padded.
    data = case(PAD_VALUES_FROM if lengths is None else 100, heads, lengths)
    expected = outcome(reference, data, causal=causal)
    exact = outcome(mla_attention, data, causal=causal)
    assert_near(exact, expected, 1e-12)
    near = outcome(mla_attention, cast(data, torch.float32), causal=causal, form="torch")
    assert_near(near, expected, 1e-5)


def test_the_reference_twice():
    data = case(4, (2, 1), [1, 3], sizes=(2, 2, 2))
    leaves = [data[name].requires_grad_() for name in NAMES]

    def function(*leaves):
        return reference(**{**data, **dict(zip(NAMES, leaves, strict=True))}, scale=0.3)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_a_case_by_hand():
    """Scores 0 and log 3 after a quarter turn of the second token."""
    data = {
        "q": torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]]]),
        "kv": torch.tensor([[[[0.0, 1.0]], [[0.0, 5.0]]]]),
        "k_rope": torch.tensor([[[0.0, 9.0], [0.0, 1.0]]]),
        "cos": torch.tensor([[[1.0], [0.0]]]),
        "sin": torch.tensor([[[0.0], [1.0]]]),
    }
    # The query, turned, is (-1, 0); the keys are (0, 9) and (-1, 0).
    for function in (reference, mla_attention):
        out = function(**data, scale=torch.log(torch.tensor(3.0)).item())
        torch.testing.assert_close(out, torch.tensor([[[[1.0]], [[4.0]]]]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_document_bounds(dtype: torch.dtype):
    ids = torch.tensor([[7, 7, 7, 2, 5, 5], [0, 0, 0, 0, 0, 0]], dtype=dtype)
    starts, ends = document_bounds(ids)
    assert starts.dtype == ends.dtype == torch.int32
    assert starts.tolist() == [[0, 0, 0, 3, 4, 4], [0] * 6]
    assert ends.tolist() == [[3, 3, 3, 4, 6, 6], [6] * 6]
    for shape in ((0, 3), (2, 0)):
        assert [x.shape for x in document_bounds(torch.zeros(shape, dtype=dtype))] == [shape] * 2


WRONG = [
    ({"q": (1, 5, 2, 24 + R)}, "q's part without position, 24, is not a power of 2 from 16 to 256"),
    ({"kv": (1, 5, 2, N + 8)}, "kv's values, 8, is not a power of 2 from 16 to 256"),
    ({"k_rope": (1, 5, 8)}, "k_rope's size, 8, is not a power of 2 from 16 to 256"),
    ({"kv": (1, 5, 3, N + U)}, "q's 2 heads are no multiple of kv's 3"),
    ({"kv": (1, 4, 2, N + U)}, r"kv is \(1, 4, 2, 64\), not \(1, 5, 2, 64\)"),
    ({"k_rope": (1, 4, R)}, r"k_rope is \(1, 4, 16\), not \(1, 5, 16\)"),
    ({"cos": (1, 5, R)}, r"cos is \(1, 5, 16\), not \(1, 5, 8\)"),
    ({"starts": (1, 6)}, r"starts is \(1, 6\), not \(1, 5\)"),
    ({"q": torch.float64}, "q is torch.float64; bfloat16, float16 or float32 is needed"),
    ({"kv": torch.bfloat16}, "kv is torch.bfloat16, q torch.float32"),
    ({"k_rope": torch.float16}, "k_rope is torch.float16, q torch.float32"),
    ({"sin": torch.float64}, "sin is torch.float64, not torch.float32"),
    ({"ends": torch.int64}, "ends is torch.int64, not torch.int32"),
]


@pytest.mark.parametrize(("changes", "text"), WRONG)
def test_what_the_kernels_do_not_take(place: str, changes: dict, text: str):
    data = cast(case(5, (2, 2), [5]), torch.float32, place)
    for name, change in changes.items():
        if isinstance(change, torch.dtype):
            data[name] = data[name].to(change)
        else:
            data[name] = torch.zeros(change, dtype=data[name].dtype, device=place)
    if "k_rope" in changes and changes["k_rope"] == (1, 5, 8):
        data["cos"], data["sin"] = (data[name][..., :4].contiguous() for name in ("cos", "sin"))
        data["q"] = data["q"][..., : N + 8].contiguous()
    with pytest.raises(ConfigError, match=f"^mla_attention: {text}$"):
        mla_attention(**data, scale=0.3, form="triton")


def test_a_strided_query_is_named(place: str):
    data = cast(case(5, (2, 2)), torch.float32, place)
    data["q"] = data["q"].transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(ConfigError, match="mla_attention: q is not contiguous"):
        mla_attention(**data, scale=0.3, form="triton")


def test_rows_too_long_are_named():
    length = 2**31 // (2 * (N + U))
    data = case(1, (2, 2), dtype=torch.float32)
    data = {name: data[name].expand(1, length, *data[name].shape[2:]) for name in NAMES}
    found = _problem(**data, tables={})
    assert found == f"q's rows of {length} positions are too long"


def test_heads_too_wide_are_named():
    data = case(5, sizes=(128, 64, 128), dtype=torch.bfloat16)
    data = {name: data[name] for name in NAMES}
    assert _problem(**data, tables={}) is None
    wide = {name: x.float() for name, x in data.items()}
    found = _problem(**wide, tables={})
    assert found == "q's and kv's columns take 1280 bytes a head and token, above 768"


def test_one_bound_alone_is_refused():
    data = case(5, lengths=[5])
    data["ends"] = None
    with pytest.raises(ConfigError, match="starts and ends are given both or neither"):
        mla_attention(**data, scale=0.3)
