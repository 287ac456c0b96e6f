"""The watch over Triton's interpreter must see what it is there to see."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="there is no Triton here")

from tests.kernels import samples
from tests.kernels.interpreter import guarded, poisoned, to_bf16, to_fp32, watched


def run(function, x: torch.Tensor, programs: int = 2, out: torch.Tensor | None = None):
    out = torch.empty_like(x) if out is None else out
    function[(programs,)](x, out, x.numel(), BLOCK=16)
    return out


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (samples.reads_past, "12 elements loaded outside every tensor"),
        (samples.writes_past, "12 elements stored outside every tensor"),
        (samples.races, "two programs write the same place"),
        (samples.reads_what_another_writes, "a program reads what another writes"),
        (samples.adds_up_by_atomics, "atomics make sums that depend on who comes first"),
    ],
)
def test_a_misstep_raises(function, complaint: str):
    size = 20 if "past" in function.fn.__name__ else 32
    with pytest.raises(Exception, match=complaint), watched():
        run(function, torch.randn(size), out=torch.zeros(size))


def test_a_right_kernel_passes_and_outside_nothing_is_watched():
    x = torch.randn(20)
    with watched() as memory:
        assert torch.equal(run(samples.double, x), 2 * x)
    assert memory.programs == 2
    run(samples.races, torch.randn(32), out=torch.zeros(32))


def test_too_many_programs_are_refused():
    with pytest.raises(AssertionError, match="too many programs"), watched():
        run(samples.double, torch.randn(20), programs=101)


def test_bf16_is_calculated_as_numbers_rounded_to_nearest():
    x, y = torch.randn(2, 64).bfloat16()
    out = torch.empty(192, dtype=torch.bfloat16)
    with watched():
        samples.arithmetic[(1,)](x, y, out, BLOCK=64)
    expected = torch.cat(((x * y + x) / y, torch.maximum(x, y), torch.where(x < y, x, -y)))
    assert torch.equal(out, expected)


def test_bf16_dots_accumulate_in_fp32():
    a, b = torch.randn(20, 40).bfloat16(), torch.randn(24, 40).bfloat16()
    out = torch.empty(20, 24, dtype=torch.bfloat16)
    with watched():
        samples.product[(2, 2)](a, b, out, 20, 24, 40, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16)
    exact = a.double() @ b.double().T
    # Half a unit in bf16's last place, and fp32's sum on top.
    assert ((out.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all()


def test_rounding_of_every_bf16_and_its_neighbourhood():
    values = torch.randn(10_000) * torch.logspace(-30, 30, 10_000)
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, float("inf"), -float("inf"), 0.0, -0.0])
    for found in (values, ties):
        expected = found.bfloat16()
        assert torch.equal(torch.from_numpy(to_fp32(to_bf16(found.numpy()))), expected.float())
    assert np.isnan(to_fp32(to_bf16(np.array([np.nan], np.float32))))


def test_guards_hold_nan_and_outputs_start_as_nan():
    x = guarded(torch.zeros(3, 4))
    assert x.storage_offset() > 0 and torch.equal(x, torch.zeros(3, 4))
    around = x.untyped_storage()
    assert torch.tensor(around.tolist()).numel() > 12 * 4
    with poisoned():
        assert torch.empty(5).isnan().all() and x.new_empty(2, 3).isnan().all()
    with pytest.raises(AssertionError, match="behind an output's end"), poisoned():
        out = torch.empty(5)
        out.as_strided((6,), (1,), out.storage_offset())[5] = 0.0
