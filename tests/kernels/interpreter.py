"""Triton's interpreter as a proving ground: bf16 as on a GPU, memory watched, outputs full of NaN.

The interpreter of triton 3.7 holds bf16 as bit patterns and calculates with the patterns; it reads
and writes past the end of a tensor without a word; and it runs programs one after another, so that
two that write the same place do not meet. What is here mends the first and watches the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from plm.kernels import dispatch

# More programs than this would make a test of seconds.
MOST_PROGRAMS = 100
# Elements of NaN before and behind a watched tensor.
GUARD = 256


def to_fp32(bits: np.ndarray) -> np.ndarray:
    """bf16 patterns, uint16, as fp32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Numbers as bf16 patterns, uint16, rounded to nearest, ties to even, as a GPU does."""
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def _wide(handle):
    """A handle's numbers in a type that numpy calculates with."""
    return to_fp32(handle.data) if handle.dtype.scalar == tl.bfloat16 else handle.data


def _narrow(data: np.ndarray, dtype) -> interpreter.TensorHandle:
    if dtype.scalar == tl.bfloat16 and data.dtype != bool:
        data = to_bf16(data)
    return interpreter.TensorHandle(data, dtype.scalar)


def _calculating(plain, *, keeps_bits: tuple = ()):
    """Of a builder's method over handles, one that calculates with bf16 in fp32, rounded once."""

    def method(self, *handles_and_op):
        *handles, op = handles_and_op
        if op in keeps_bits or all(h.dtype.scalar != tl.bfloat16 for h in handles):
            return plain(self, *handles_and_op)
        return _narrow(op(*(_wide(h) for h in handles)), handles[-1].dtype)

    return method


def _cast(plain):
    def method(self, src, dst_type, *rounding):
        into, of = dst_type.scalar, src.dtype.scalar
        if tl.bfloat16 not in (into, of) or into == of:
            return plain(self, src, dst_type, *rounding)
        if of == tl.bfloat16:
            data = to_fp32(src.data).astype(interpreter._get_np_dtype(into))
        else:
            data = to_bf16(src.data)
        return interpreter.TensorHandle(data, into)

    return method


def _dot(plain):
    def method(self, a, b, d, *precision):
        if a.dtype.scalar != tl.bfloat16:
            return plain(self, a, b, d, *precision)
        product = np.matmul(_wide(a), _wide(b), dtype=np.float32) + _wide(d)
        return _narrow(product, d.dtype)

    return method


def _fma(self, x, y, z):
    return _narrow(_wide(x) * _wide(y) + _wide(z), z.dtype)


def _refused(self, rmw, ptr, val, *rest):
    raise AssertionError("atomics make sums that depend on who comes first")


class Memory:
    """What the programs of a launch may touch, and who touched what."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.program = 0
        self.programs = 0
        self.written: list[tuple[int, np.ndarray]] = []
        self.read: list[tuple[int, np.ndarray]] = []

    def open(self, tensors: list[torch.Tensor]) -> None:
        """A launch begins over these tensors."""
        self.ranges = [(t.data_ptr(), t.data_ptr() + _extent(t)) for t in tensors if t.numel()]
        self.written, self.read = [], []

    def touch(self, addresses: np.ndarray, mask: np.ndarray, size: int, write: bool) -> None:
        """A program loads or stores `size` bytes at each address whose mask is true."""
        # A block's mask and a comparison of numbers make int32.
        mask = mask.astype(bool)
        addresses = np.broadcast_to(addresses, np.broadcast_shapes(addresses.shape, mask.shape))
        found = addresses[np.broadcast_to(mask, addresses.shape)].astype(np.uint64)
        inside = np.zeros(found.shape, bool)
        for low, high in self.ranges:
            inside |= (found >= low) & (found + np.uint64(size) <= high)
        if not inside.all():
            raise AssertionError(
                f"{(~inside).sum()} elements {'stored' if write else 'loaded'} outside every tensor"
            )
        if write and len(np.unique(found)) != found.size:
            raise AssertionError("one store writes the same place twice")
        (self.written if write else self.read).append((self.program, found))

    def close(self) -> None:
        """The launch ends: no place may be written by one program and touched by another."""
        owners: dict[int, int] = {}
        for program, places in self.written:
            for place in places.tolist():
                if owners.setdefault(place, program) != program:
                    raise AssertionError("two programs write the same place: a race")
        for program, places in self.read:
            for place in places.tolist() if owners else ():
                if owners.get(place, program) != program:
                    raise AssertionError("a program reads what another writes: a race")


def _extent(tensor: torch.Tensor) -> int:
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _loading(memory: Memory, plain):
    def method(self, ptrs, mask, other, *rest):
        memory.touch(ptrs.data, mask.data, ptrs.get_element_ty().primitive_bitwidth // 8, False)
        return plain(self, ptrs, mask, other, *rest)

    return method


def _storing(memory: Memory, plain):
    def method(self, ptrs, value, mask, *rest):
        memory.touch(ptrs.data, mask.data, ptrs.get_element_ty().primitive_bitwidth // 8, True)
        return plain(self, ptrs, value, mask, *rest)

    return method


def _placing(memory: Memory, plain):
    def method(self, *index):
        memory.program += 1
        memory.programs += 1
        return plain(self, *index)

    return method


def _launching(memory: Memory, plain):
    def call(self, *args, **kwargs):
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        memory.open(tensors)
        before = memory.programs
        plain(self, *args, **kwargs)
        assert memory.programs - before <= MOST_PROGRAMS, "a test's launch has too many programs"
        memory.close()

    return call


@contextmanager
def watched() -> Iterator[Memory]:
    """Within it, launches calculate with bf16 as a GPU does, and a misstep raises.

    Every load and store must lie inside a tensor that was given; no place is written by two
    programs or read by one and written by another; atomics are refused.
    """
    memory = Memory()
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    changed = {
        "binary_op": _calculating(builder.binary_op),
        "unary_op": _calculating(builder.unary_op),
        "ternary_op": _calculating(builder.ternary_op, keeps_bits=(np.where,)),
        "cast_impl": _cast(builder.cast_impl),
        "create_fp_to_fp": _cast(builder.create_fp_to_fp),
        "create_dot": _dot(builder.create_dot),
        "create_fma": _fma,
        "create_atomic_rmw": _refused,
        "create_masked_load": _loading(memory, builder.create_masked_load),
        "create_masked_store": _storing(memory, builder.create_masked_store),
        "set_grid_idx": _placing(memory, builder.set_grid_idx),
    }
    with (
        mock.patch.multiple(builder, **changed),
        mock.patch.object(dispatch, "interpreter_knows_bf16", True),
        mock.patch.object(executor, "__call__", _launching(memory, executor.__call__)),
        # NaN in a part that a mask hides is what the guards and the fresh outputs hold.
        np.errstate(all="ignore"),
    ):
        yield memory


def guarded(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose neighbours in memory are NaN (the lowest integer for integers)."""
    filler = float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).min
    whole = torch.full(
        (tensor.numel() + 2 * GUARD,), filler, dtype=tensor.dtype, device=tensor.device
    )
    inside = whole[GUARD : GUARD + tensor.numel()].view(tensor.shape)
    inside.copy_(tensor)
    return inside.requires_grad_(tensor.requires_grad)


@contextmanager
def poisoned() -> Iterator[None]:
    """Within it, torch.empty and its kin give NaN between guards of NaN, checked at the end."""
    made: list[torch.Tensor] = []

    def fill(plain):
        def make(*args, **kwargs):
            found = plain(*args, **kwargs)
            if not found.is_floating_point() or not found.is_contiguous() or not found.numel():
                return found
            whole = torch.full(
                (found.numel() + 2 * GUARD,), float("nan"), dtype=found.dtype, device=found.device
            )
            made.append(whole)
            return whole[GUARD : GUARD + found.numel()].view(found.shape)

        return make

    with (
        mock.patch.object(torch, "empty", fill(torch.empty)),
        mock.patch.object(torch, "empty_like", fill(torch.empty_like)),
        mock.patch.object(torch.Tensor, "new_empty", fill(torch.Tensor.new_empty)),
    ):
        yield
    for whole in made:
        assert whole[:GUARD].isnan().all(), "written before an output's beginning"
        assert whole[-GUARD:].isnan().all(), "written behind an output's end"
