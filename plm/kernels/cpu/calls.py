"""The kernels' calls: tensors in, addresses and sizes on to the library."""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plm.kernels.cpu.build import library

_P, _I = ctypes.c_void_p, ctypes.c_int64
# As in products.cpp.
_FINISHES = {"none": 0, "relu2": 1, "silu_gate": 2}


class Product(ctypes.Structure):
    """finish(x [rows, depth] @ weight + bias) into out [rows, columns].

    `packed` holds the weight's columns in panels of two vectors, [panels, depth, 2 · lanes], zeros
    behind the last; for "silu_gate" the first vector of each has gates and the second what they are
    multiplied with, and `columns` counts the results. bias: [panels, 2 · lanes] likewise, or null.
    """

    _fields_ = [
        *((name, _P) for name in ("x", "packed", "bias", "out")),
        *((name, _I) for name in ("x_row", "out_row", "rows", "depth", "columns", "finish")),
        ("threads", _I),
    ]


class Norm(ctypes.Structure):
    """x / rms(x) · weight of each row of x [rows, size] into out, which may be x."""

    _fields_ = [
        *((name, _P) for name in ("x", "weight", "out")),
        *((name, _I) for name in ("x_row", "out_row", "rows", "size")),
        ("eps", ctypes.c_double),
    ]


class Sum(ctypes.Structure):
    """to += x, of so many numbers."""

    _fields_ = [("to", _P), ("x", _P), ("size", _I)]


class Attention(ctypes.Structure):
    """One new position a row: turned, kept, and attending to those before it.

    Attributes:
        queries: [rows, heads, …] with the scale in them; turned in place.
        fresh: [rows, kept_heads, width], what is kept of the new position; turned in place.
        cache: [rows, kept_heads, …, width], where it goes.
        out: [rows, heads, value], contiguous.
        scratch: [2, rows, heads].
        turns: [positions, turned], pairs of cosine and sine.
        positions: [rows] int64.
        runs: [run_count + 1] int64, the first row of each run of rows that share the first
            `shared` positions, a multiple of 32, and behind the last.
        query_row, query_step, fresh_row, cache_row, cache_head: floats from one row or head to the
            next.
        query_turned, kept_turned: where in a query and in what is kept the turned part begins.
        key: of what is kept, the first so many are the key; values are `value` many from
            `value_start` on.
    """

    _fields_ = [
        *((name, _P) for name in ("queries", "fresh", "cache", "out", "scratch")),
        *((name, _P) for name in ("turns", "positions", "runs")),
        *((name, _I) for name in ("rows", "heads", "query_row", "query_step", "query_turned")),
        *((name, _I) for name in ("kept_heads", "fresh_row", "width", "kept_turned", "turned")),
        *((name, _I) for name in ("cache_row", "cache_head", "key", "value_start", "value")),
        *((name, _I) for name in ("shared", "run_count", "threads")),
    ]


class _Call(ctypes.Structure):
    _fields_ = [("kernel", _P), ("given", _P)]


@lru_cache(maxsize=1)
def _functions() -> Any:
    found = library()
    found.lanes.restype = _I
    found.run.argtypes, found.run.restype = [_P, _I], None
    found.draw.argtypes, found.draw.restype = [_P, _I, _P, _P, _P, _P, _P, _I, _I, _I], _I
    return found


class Program:
    """Calls one after the other, those of kernels without a way through Python between them."""

    def __init__(self) -> None:
        self.parts: list[Callable[[], Any] | list[_Call]] = []
        # What they only know the addresses of.
        self.keeps: list[Any] = []

    def kernel(self, function: Any, given: ctypes.Structure, *keeps: Any) -> None:
        """A kernel's call comes next."""
        if not (self.parts and isinstance(self.parts[-1], list)):
            self.parts.append([])
        address = ctypes.cast(function, _P)
        self.parts[-1].append(_Call(address, ctypes.addressof(given)))  # type: ignore[union-attr]
        self.keeps += [given, *keeps]

    def ready(self) -> Callable[[], None]:
        """What runs it; nothing can be added any more."""
        run, steps = _functions().run, []
        for part in self.parts:
            if isinstance(part, list):
                calls = (_Call * len(part))(*part)
                self.keeps.append(calls)
                steps.append((run, (ctypes.addressof(calls), len(part))))
            else:
                steps.append((part, ()))

        def program(keeps: list[Any] = self.keeps) -> None:
            for step, arguments in steps:
                step(*arguments)

        return program


class Kernels:
    """The library; its calls take as many threads as torch has when this is made.

    A call is not made but written down in `program`, to be run as often as its buffers are filled
    anew. All tensors are fp32 on the CPU and contiguous along their last axis; they stay where they
    are, and are kept as long as the program.

    Raises:
        ConfigError: the library cannot be built.
    """

    def __init__(self) -> None:
        self.library, self.threads = _functions(), torch.get_num_threads()
        self.program = Program()

    def begin(self) -> Program:
        """A new program, which calls from now on go into."""
        self.program = Program()
        return self.program

    def also(self, call: Callable[[], Any]) -> None:
        """Something else than a kernel is called next."""
        self.program.parts.append(call)

    def product(self, weight: Tensor, finish: str = "none") -> Callable[..., Tensor]:
        """`x [B, in], out -> finish(x @ weight.t()) [B, N]`; out=None: a buffer of its own.

        Args:
            weight: [N, in]; for "silu_gate" [2·N, in], the gates first.
            finish: "none"; "relu2", relu(y)²; "silu_gate", silu(gate)·up.
        """
        weight, lanes, size = weight.detach(), self.library.lanes(), weight.shape[1]
        columns = len(weight) // (2 if finish == "silu_gate" else 1)
        if finish == "silu_gate":
            # A vector of gates, then one of what they are multiplied with.
            parts = [_panels(part, lanes) for part in weight.split(columns)]
            packed = torch.cat(parts, dim=2)
        else:
            packed = _panels(weight, 2 * lanes).contiguous()

        def product(x: Tensor, out: Tensor | None = None) -> Tensor:
            out = x.new_empty(len(x), columns) if out is None else out
            given = Product(
                x=x.data_ptr(), packed=packed.data_ptr(), out=out.data_ptr(), x_row=x.stride(0),
                out_row=out.stride(0), rows=len(x), depth=size, columns=columns,
                finish=_FINISHES[finish], threads=self.threads,
            )  # fmt: skip
            self.program.kernel(self.library.product, given, x, packed, out)
            return out

        return product

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """x / rms(x) · weight, [B, size], into `out`, which may be x."""
        rows, size = x.shape
        given = Norm(
            x=x.data_ptr(), weight=weight.data_ptr(), out=out.data_ptr(), x_row=x.stride(0),
            out_row=out.stride(0), rows=rows, size=size, eps=eps,
        )  # fmt: skip
        self.program.kernel(self.library.rms_norm, given, x, weight, out)
        return out

    def add(self, to: Tensor, x: Tensor) -> Tensor:
        """to += x, both contiguous and of one size."""
        given = Sum(to=to.data_ptr(), x=x.data_ptr(), size=to.numel())
        self.program.kernel(self.library.add, given, to, x)
        return to

    def attend(self, **fields: int | Tensor) -> None:
        """A call with these fields of Attention, `threads` excepted."""
        given = {
            name: value.data_ptr() if isinstance(value, Tensor) else value
            for name, value in fields.items()
        }
        settings = Attention(**given, threads=self.threads)
        self.program.kernel(self.library.attend, settings, *fields.values())

    def draw(
        self, logits: Tensor, heat: Tensor, uniform: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """One token a row, at once, as `plm.rollout.sampling.draw` with temperatures only.

        Args:
            logits: [B, V].
            heat: [B], temperatures, 0 for the likeliest token.
            uniform: [B] float64 in [0, 1); None: every row is greedy.
        Returns:
            Tokens, their two log-probabilities, and whether every row had a distribution.
        """
        rows, size = logits.shape
        token = torch.empty(rows, dtype=torch.int64)
        logp, sampled = logits.new_empty(2, rows)
        bad = self.library.draw(
            logits.data_ptr(), logits.stride(0), heat.data_ptr(),
            None if uniform is None else uniform.data_ptr(), token.data_ptr(), logp.data_ptr(),
            sampled.data_ptr(), rows, size, self.threads,
        )  # fmt: skip
        return token, logp, sampled, not bad


def _panels(weight: Tensor, width: int) -> Tensor:
    """[N, in] as [N / width, in, width], with zeros behind the last."""
    padded = F.pad(weight, (0, 0, 0, -len(weight) % width))
    return padded.unflatten(0, (-1, width)).transpose(1, 2)
