import pytest
import torch
import torch.nn.functional as F

from plm.errors import ConfigError
from plm.kernels import mla_decode_triton
from plm.kernels.mla_decode import mla_decode
from plm.kernels.reference.mla_decode import mla_decode as plain
from plm.kernels.tiles import Tile, override
from tests.kernels.interpreter import guarded, poisoned
from tests.kernels.nearness import assert_near

SCALE = 0.3
# Of another cache than the one that is read, so that what is not to be read is NaN.
SPARE = 5


def case(heads: int, rank: int, rope: int, lengths: list[int], dtype: torch.dtype, device: str):
    """q_latent, q_rope, latent, k_rope, lengths; the cache is a slice, NaN past each length."""
    size = max(lengths)
    queries = [torch.randn(len(lengths), heads, n).to(device, dtype) for n in (rank, rope)]
    caches = []
    for width in (rank, rope):
        cache = torch.full((len(lengths), size + SPARE, width), float("nan"))
        for row, length in enumerate(lengths):
            cache[row, :length] = torch.randn(length, width)
        caches.append(cache.to(device, dtype)[:, :size])
    counts = torch.tensor(lengths, dtype=torch.int32, device=device)
    return [*(guarded(q) for q in queries), *caches, guarded(counts)]


def exact(q_latent, q_rope, latent, k_rope, lengths, casts=None):
    """In fp64, row by row, with a loop over heads; casts rounds the pattern as a kernel does."""
    out = torch.zeros_like(q_latent, dtype=torch.float64)
    for row, length in enumerate(lengths.tolist()):
        keys, turned = latent[row, :length].double(), k_rope[row, :length].double()
        for head in range(q_latent.shape[1] if length else 0):
            scores = keys @ q_latent[row, head].double() + turned @ q_rope[row, head].double()
            pattern = torch.softmax(SCALE * scores, 0)
            if casts:
                pattern = pattern.to(casts).double()
            out[row, head] = pattern @ keys
    return out


LENGTHS = [[1], [63, 100], [0, 17, 64, 97], [0, 0], [128]]


@pytest.mark.parametrize("form", ["triton", "torch"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("heads", "rank", "rope"), [(5, 32, 16), (1, 20, 6), (18, 16, 16)])
def test_is_near_fp64(heads: int, rank: int, rope: int, lengths: list, form: str, place: str):
    data = case(heads, rank, rope, lengths, torch.float32, place)
    with poisoned():
        got = mla_decode(*data, scale=SCALE, form=form)
    assert got.dtype == torch.float32 and got.is_contiguous()
    assert_near(got, exact(*data))
    assert_near(plain(*data, scale=SCALE), exact(*data))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lengths", [[63, 100], [0, 97]])
def test_triton_in_half_is_as_near_as_torch_with_the_same_casts(lengths, dtype, place: str):
    data = case(5, 32, 16, lengths, dtype, place)
    got = mla_decode(*data, scale=SCALE, form="triton").double()
    truth = exact(*data)
    allowed = 2 * (exact(*data, casts=dtype).to(dtype).double() - truth).abs().max()
    assert got.isfinite().all()
    assert 0 < (got - truth).abs().max() <= allowed


def test_triton_splits_nothing_where_one_program_is_enough(place: str, monkeypatch):
    data = case(5, 32, 16, [0, 33, 70], torch.float32, place)
    monkeypatch.setattr(mla_decode_triton, "splits_of", lambda *_: 1)
    assert_near(mla_decode(*data, scale=SCALE, form="triton"), exact(*data))


def test_triton_gives_the_same_bits_twice_and_in_any_tile(place: str):
    data = case(5, 32, 16, [0, 33, 100], torch.float32, place)
    first, again = (mla_decode(*data, scale=SCALE, form="triton") for _ in range(2))
    with override(mla_decode=Tile({"BLOCK_S": 64}), mla_decode_combine=Tile({"BLOCK_P": 8})):
        other = mla_decode(*data, scale=SCALE, form="triton")
    assert torch.equal(first, again)
    torch.testing.assert_close(first, other)


@pytest.mark.parametrize("form", ["triton", "torch"])
def test_lengths_past_the_cache_see_all_of_it(form: str, place: str):
    *data, lengths = case(2, 16, 16, [20, 20], torch.float32, place)
    data = [value.contiguous() for value in data]
    got = mla_decode(*data, lengths + 100, scale=SCALE, form=form)
    assert_near(got, exact(*data, lengths))


def test_large_scores_do_not_overflow(place: str):
    q_latent, *data = case(2, 16, 16, [40], torch.float32, place)
    got = mla_decode(1e3 * q_latent, *data, scale=SCALE, form="triton")
    assert_near(got, exact(1e3 * q_latent, *data))


@pytest.mark.parametrize("size", [40, 300])
def test_on_a_cpu_it_has_the_bits_of_attention_over_a_whole_cache(size: int):
    q_latent, q_rope, latent, k_rope, lengths = case(4, 32, 16, [size] * 2, torch.float32, "cpu")
    got = mla_decode(q_latent, q_rope, latent, k_rope, lengths, scale=SCALE)
    q = torch.cat((q_latent, q_rope), -1)[:, :, None]
    k, v = torch.cat((latent, k_rope), -1)[:, None], latent[:, None]
    if size >= 256:
        v = F.pad(v, (0, 16))
    expected = F.scaled_dot_product_attention(q, k, v, scale=SCALE, enable_gqa=True)
    assert torch.equal(got, expected[:, :, 0, :32])


@pytest.mark.parametrize("form", ["triton", "torch"])
def test_a_derivative_is_refused(form: str, place: str):
    q_latent, *data = case(2, 16, 16, [20], torch.float32, place)
    out = mla_decode(q_latent.requires_grad_(), *data, scale=SCALE, form=form)
    with pytest.raises(RuntimeError, match=r"mla_decode.* no autograd formula was registered"):
        out.sum().backward()


@pytest.mark.parametrize("form", ["triton", "torch"])
def test_opcheck_and_one_graph(form: str, place: str):
    data = case(2, 16, 16, [20], torch.float32, place)
    arguments = *data, SCALE, form == "triton"
    torch.library.opcheck(torch.ops.plm.mla_decode.default, arguments)
    compiled = torch.compile(mla_decode, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        got = compiled(*data, scale=SCALE, form=form)
    assert torch.equal(got, mla_decode(*data, scale=SCALE, form=form))


def test_splits_fill_the_multiprocessors(monkeypatch):
    monkeypatch.setattr(mla_decode_triton, "interpreting", lambda: False)
    monkeypatch.setattr(mla_decode_triton, "processors", lambda device: 132)
    found = [
        mla_decode_triton.splits_of(programs, positions, torch.device("cpu"))
        for programs, positions in ((1, 100), (1, 4096), (1, 10**6), (40, 4096), (132, 4096))
    ]
    assert found == [1, 32, 128, 3, 1]


def test_says_what_it_does_not_take():
    wrong = {
        "q_rope": (torch.ones(2, 2, 4), r"q_rope has shape \(2, 2, 4\), not \(1, 2, 4\)"),
        "latent": (torch.ones(1, 3, 7), r"latent has shape \(1, 3, 7\), not \(1, 3, 8\)"),
        "k_rope": (torch.ones(1, 4, 4), r"k_rope has shape \(1, 4, 4\), not \(1, 3, 4\)"),
        "lengths": (torch.tensor([3]), "lengths is torch.int64, not torch.int32"),
    }
    triton = {
        "q_latent": (torch.ones(1, 8, 2).transpose(1, 2), "q_latent is not contiguous"),
        "latent": (torch.ones(1, 8, 3).transpose(1, 2), "last dimension of latent is not cont"),
        "k_rope": (torch.ones(1, 3, 4).double(), "k_rope is torch.float64, q_latent torch.float32"),
    }
    right = {
        "q_latent": torch.ones(1, 2, 8),
        "q_rope": torch.ones(1, 2, 4),
        "latent": torch.ones(1, 3, 8),
        "k_rope": torch.ones(1, 3, 4),
        "lengths": torch.tensor([3], dtype=torch.int32),
    }
    for form, cases in (("torch", wrong), ("triton", triton)):
        for name, (value, message) in cases.items():
            with pytest.raises(ConfigError, match=f"mla_decode: .*{message}"):
                mla_decode(**{**right, name: value}, scale=SCALE, form=form)
    wide = {"q_latent": torch.ones(1, 2, 513), "latent": torch.ones(1, 3, 513)}
    with pytest.raises(ConfigError, match=r"latent has rows of 513; .* takes 1 to 512"):
        mla_decode(**{**right, **wide}, scale=SCALE, form="triton")
    double = {name: value.double() for name, value in right.items() if name != "lengths"}
    with pytest.raises(ConfigError, match=r"q_latent is torch.float64; the Triton kernel takes"):
        mla_decode(**{**right, **double}, scale=SCALE, form="triton")
