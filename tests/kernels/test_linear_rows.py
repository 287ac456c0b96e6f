"""The passes over a chunk of logits by themselves, and how many rows a chunk has."""

import math

import pytest
import torch

from plm.batch import IGNORE_INDEX
from plm.errors import ConfigError
from plm.kernels.linear_cross_entropy import linear_cross_entropy
from plm.kernels.linear_logprob import linear_logprob
from plm.kernels.linear_policy_loss import linear_policy_loss
from plm.kernels.linear_rows import Coefficients, Stats, default_chunk
from plm.kernels.tiles import Tile, override
from scripts.bench_common import allocated_peak

# BLOCK_V of the long rows: the interpreter takes a millisecond a block.
LONG = {
    name: Tile({"BLOCK_V": 2048}) for name in ("linear_rows_stats", "linear_rows_gradient")
}  # fmt: skip
# Rows, V; the interpreter refuses more than 100 programs.
SIZES = [(1, 37), (40, 37), (63, 29), (20, 100), (17, 64), (2, 8191)]


def middles(dtype: torch.dtype, scale: float, entropy: bool):
    # Not at the top: without Triton the other tests of this file still run.
    from plm.kernels.linear_rows_torch import TorchMiddle
    from plm.kernels.linear_rows_triton import TritonMiddle

    return TritonMiddle(dtype, scale), TorchMiddle(torch.float64, scale, entropy)


def fresh(rows: int, like: torch.Tensor, entropy: bool) -> Stats:
    sums = [like.new_empty(rows) for _ in range(2 + entropy)]
    top1 = torch.empty(rows, dtype=torch.int64, device=like.device) if entropy else None
    return Stats(sums[0], sums[1], sums[2] if entropy else None, top1)


def both(place, logits, labels, scale, entropy):
    """Statistics and gradients of Triton and of fp64 torch on the same logits."""
    from tests.kernels.interpreter import guarded, poisoned

    fast, slow = middles(logits.dtype, scale, entropy)
    rows = logits.shape[0]
    terms = torch.randn(3, rows, dtype=torch.float64, device=place)
    narrow = guarded(logits)
    with poisoned(), override(**LONG if logits.shape[1] > 1000 else {}):
        got = fresh(rows, torch.empty((), device=place), entropy)
        fast.take(narrow, guarded(labels), got)
        given = [guarded(term.float()) for term in terms]
        slope = fast.gradient(labels, Coefficients(*given[:2], given[2] if entropy else None))
    expected = fresh(rows, terms, entropy)
    exact = logits.double()
    slow.take(exact, labels, expected)
    exact_slope = slow.gradient(
        labels, Coefficients(terms[0], terms[1], terms[2] if entropy else None)
    )
    assert slope.data_ptr() == narrow.data_ptr() and slope.dtype == logits.dtype
    return [*got, slope], [*expected, exact_slope]


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize(("rows", "size"), SIZES)
def test_triton_is_fp64_to_five_digits(place: str, rows: int, size: int, entropy: bool):
    logits = 3 * torch.randn(rows, size, device=place)
    labels = torch.randint(0, size, (rows,), device=place)
    labels[0] = size - 1
    for got, expected in zip(*both(place, logits, labels, 1.3, entropy), strict=True):
        if got is None:
            assert expected is None
        elif got.dtype == torch.int64:
            assert torch.equal(got, expected)
        else:
            assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_logits_give_wide_statistics_and_a_gradient_rounded_once(place: str, dtype):
    logits = (3 * torch.randn(20, 100, device=place)).to(dtype)
    labels = torch.randint(0, 100, (20,), device=place)
    got, expected = both(place, logits, labels, 1.0, True)
    for one, two in zip(got[:3], expected[:3], strict=True):
        assert one.dtype == torch.float32
        assert (one - two).abs().max() <= 1e-5 * two.abs().max()
    # Half a unit in the last place is the rounding; what fp32 adds can turn it the other way.
    step = torch.finfo(dtype).eps * expected[-1].abs() + 1e-6
    assert ((got[-1].double() - expected[-1]).abs() <= step).all()


def test_equal_logits_give_the_first_of_them(place: str):
    logits = torch.zeros(3, 100, device=place)
    logits[1, 40:] = 2
    logits[2, [31, 32, 99]] = 5
    labels = torch.zeros(3, dtype=torch.int64, device=place)
    got, _ = both(place, logits, labels, 1.0, True)
    assert got[3].tolist() == [0, 40, 31]


def test_large_and_lone_logits_stay_finite(place: str):
    logits = 1e4 * torch.randn(4, 100, device=place)
    # The first block has nothing of weight once the second is seen.
    logits[0, :64], logits[0, 64:] = -1e30, 1e4
    logits[1] = -5e4 + torch.randn(100, device=place)
    labels = torch.tensor([0, 1, 99, 50], device=place)
    got, expected = both(place, logits, labels, 1.0, True)
    for one, two in zip(got, expected, strict=True):
        assert torch.isfinite(one.double()).all()
        # fp32 holds a log-sum-exp of 1e4 to within 5e-4, and every probability follows it.
        torch.testing.assert_close(one.double(), two.double(), rtol=1e-3, atol=1e-5)


def test_a_wrong_number_is_not_hidden(place: str):
    logits = torch.randn(2, 100, device=place)
    logits[1, 70] = float("nan")
    labels = torch.tensor([0, 1], device=place)
    got, _ = both(place, logits, labels, 1.0, True)
    for part in (*got[:3], got[-1]):
        assert torch.isfinite(part[0]).all() and part[1].isnan().any()


def test_the_same_bits_twice(place: str):
    logits, labels = torch.randn(9, 100, device=place), torch.arange(9, device=place)
    torch.manual_seed(1)
    first, _ = both(place, logits, labels, 0.7, True)
    torch.manual_seed(1)
    second, _ = both(place, logits, labels, 0.7, True)
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)


def moved_bytes(rows: int, size: int, width: int, chunk: int) -> int:
    """Of a bf16 head product with gradients, as the module's opening counts them."""
    return 12 * rows * size + 12 * size * width * math.ceil(rows / chunk)


@pytest.mark.parametrize(
    ("rows", "width", "size"),
    [(16384, 2048, 151936), (32768, 640, 49152), (8192, 384, 8192)],
    ids=["1_8b", "135m", "micro"],
)
def test_a_gpu_moves_no_more_bytes_than_with_ligers_chunks(rows: int, width: int, size: int):
    chunk = default_chunk(size, width, "cuda", 2)
    # linkedin/Liger-Kernel, ops/fused_linear_cross_entropy.py; its other bytes taken to be ours.
    theirs = 2 ** math.ceil(math.log2(math.ceil(rows / math.ceil(size / width))))
    assert moved_bytes(rows, size, width, chunk) < moved_bytes(rows, size, width, theirs)
    # Nor as many as plain torch with full fp32 logits has at once.
    assert 2 * chunk * size <= min(2**30, 4 * rows * size)


def test_default_chunk():
    # Four times the width; held by the memory; small vocabularies by their rows.
    assert default_chunk(49152, 640, "cuda", 2) == 2560
    assert default_chunk(151936, 2048, "cuda", 2) == 2**29 // 151936 // 128 * 128 == 3456
    assert default_chunk(151936, 2048, "cuda", 6) == 1152
    assert default_chunk(8192, 384, "cuda", 2) == 8192
    assert default_chunk(2**24, 384, "cuda", 2) == 128
    assert default_chunk(8192, 384, "cpu", 4) == 512


def logprob_sum(hidden, weight, labels):
    found = linear_logprob(hidden, weight, labels)
    return found.logps.sum() + found.entropy.sum()


def policy_sum(hidden, weight, labels):
    ones = torch.ones(len(labels))
    return linear_policy_loss(
        hidden, weight, labels, old_logps=None, advantages=ones, weights=ones, entropy_weight=0.1
    ).total


OPS = {
    "linear_cross_entropy": lambda *tensors: linear_cross_entropy(*tensors).total,
    "linear_logprob": logprob_sum,
    "linear_policy_loss": policy_sum,
}


@pytest.mark.parametrize("name", OPS)
def test_a_step_holds_a_tenth_of_the_full_logits_at_most(name: str):
    rows, size = 4096, 32768
    hidden, weight = (torch.randn(n, 32, requires_grad=True) for n in (rows, size))
    labels = torch.randint(0, size, (rows,))
    peak = allocated_peak(lambda: OPS[name](hidden, weight, labels).backward())
    assert 0 < peak <= 0.1 * 4 * rows * size


@pytest.mark.parametrize("form", ["torch", "auto"])
@pytest.mark.parametrize("label", [-1, -101, 37, 2**40])
@pytest.mark.parametrize("op", [linear_cross_entropy, linear_logprob, linear_policy_loss])
def test_a_label_that_is_no_token_is_named(op, label: int, form: str):
    labels = torch.tensor([0, IGNORE_INDEX, 36, label, 5, -7])
    more = {"old_logps": None, "advantages": torch.ones(6), "weights": torch.ones(6)}
    words = rf"{op.__name__}: labels\[3\]={label} is neither a token of V=37 nor IGNORE_INDEX=-100"
    with pytest.raises(ConfigError, match=words):
        op(
            torch.randn(6, 8),
            torch.randn(37, 8),
            labels,
            form=form,
            **more if op is linear_policy_loss else {},
        )


BAD = [
    ({"hidden": torch.zeros(2, 3, 8)}, r"hidden has the shape \(2, 3, 8\), not \[N, D\]"),
    ({"weight": torch.zeros(8)}, r"weight has the shape \(8,\), not \[V, D\]"),
    (
        {"weight": torch.zeros(37, 9)},
        r"weight has the shape \(37, 9\), not \[V, 8\] as hidden \(6, 8\)",
    ),
    (
        {"labels": torch.zeros(5).long()},
        r"labels has the shape \(5,\), not \[6\] as hidden \(6, 8\) asks for",
    ),
    ({"labels": torch.zeros(6).int()}, "labels are torch.int32, not torch.int64"),
    ({"weight": torch.zeros(37, 8, device="meta")}, "weight is on meta, hidden on cpu"),
    ({"chunk": 0}, "chunk=0 of linear_.* must be at least 1 row"),
    ({"form": "cuda"}, "form='cuda' of linear_.* is not one of: auto, triton, torch"),
]


@pytest.mark.parametrize(("wrong", "words"), BAD)
@pytest.mark.parametrize("op", [linear_cross_entropy, linear_logprob, linear_policy_loss])
def test_what_does_not_fit_is_named(op, wrong: dict, words: str):
    given = {"hidden": torch.zeros(6, 8), "weight": torch.zeros(37, 8)}
    given["labels"] = torch.zeros(6).long()
    if op is linear_policy_loss:
        given |= {"old_logps": None, "advantages": torch.ones(6), "weights": torch.ones(6)}
    with pytest.raises(ConfigError, match=words):
        op(**given | wrong)


def test_triton_insisted_on_says_why_not():
    tensors = torch.zeros(6, 8).double(), torch.zeros(37, 8).double(), torch.zeros(6).long()
    with pytest.raises(ConfigError, match=r"hidden is torch\.float64; the Triton kernel takes"):
        linear_cross_entropy(*tensors, form="triton")


@pytest.mark.parametrize("name", ["linear_cross_entropy", "linear_policy_loss"])
def test_a_backward_that_keeps_its_graph_can_run_again(name: str):
    inputs = [torch.randn(n, 8, requires_grad=True) for n in (6, 37)]
    loss = OPS[name](*inputs, torch.randint(0, 37, (6,)))
    first, second, last = (
        torch.autograd.grad(2.5 * loss, inputs, retain_graph=keeps) for keeps in (True, True, False)
    )
    for a, b, c in zip(first, second, last, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(2.5 * loss, inputs)


def test_the_weights_gradient_is_held_once():
    rows, size, width = 64, 8192, 128
    hidden, weight = (torch.randn(n, width, requires_grad=True) for n in (rows, size))
    labels = torch.randint(0, size, (rows,))
    peak = allocated_peak(lambda: OPS["linear_cross_entropy"](hidden, weight, labels).backward())
    # A chunk of logits, and its two neighbours in the pass, are the rest.
    assert peak <= 4 * (size * width + 3 * rows * size)


@pytest.mark.parametrize("factor", [1 / 509001, 65536.0])
@pytest.mark.parametrize("keeps", [False, True])
def test_a_narrow_gradient_is_scaled_by_a_wide_factor(factor: float, keeps: bool):
    hidden = torch.randn(64, 16, dtype=torch.float16, requires_grad=True)
    weight, labels = torch.randn(37, 16, dtype=torch.float16), torch.randint(0, 37, (64,))
    loss = linear_cross_entropy(hidden, weight, labels).total
    (plain,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (scaled,) = torch.autograd.grad(loss * factor, hidden, retain_graph=keeps)
    # A factor rounded to fp16 would be infinite, or 9 % off.
    torch.testing.assert_close(scaled, (plain.double() * factor).half(), rtol=2e-3, atol=1e-7)
