"""Fast steps: one new position a row, in buffers made once for many steps.

A mixer, feed-forward or block may offer `fast(workshop)`: what makes its fast step, or None where
it cannot. The maker is called for each number of rows and each reach, with what all parts share (a
Frame) and, but for a feed-forward, with the state; it gives the step itself, `[B, D] -> [B, D]`,
whose output the next one may overwrite. A block that offers `fast` uses the plain `step` or forward
of parts that do not. Weights may have been joined, folded or packed: a maker does not outlive a
change of them. Nobody watches the parts while one is used.

`write(workshop)` is the same for compiled kernels (plm.kernels.cpu.Kernels). What it makes does not
take a step but writes one down, once for its buffers: what is given and returned are the places
where numbers will be, and what is no kernel is put between them by `also`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm.kernels.cpu import Kernels
from plm.model.common import own, plain_linear
from plm.model.context import Context
from plm.products import mkl_is_slow_here

Run = Callable[[Tensor], Tensor]
Product = Callable[..., Tensor]


class Frame:
    """What the fast steps of one shape share, brought up to date by `at`.

    Args:
        rows: B.
        reach: positions of the state that are looked at; no row is further.
        length: positions that the state has room for.
        like: of the hidden states' dtype and device.
        rope_theta: rotary base where it is not the model's own.
        shared: so many first positions are alike in all rows of a group.
        groups: first and end of each run of rows that share them; all rows are in one.
        kernels: compiled ones to step with; None: torch's operators.

    Attributes:
        positions: [B] int64.
        context: of this step, for parts without a fast step.
    """

    def __init__(
        self,
        rows: int,
        reach: int,
        length: int,
        like: Tensor,
        rope_theta: float | None,
        shared: int = 0,
        groups: Sequence[tuple[int, int]] = (),
        kernels: Kernels | None = None,
    ) -> None:
        self.shared, self.groups, self.kernels = shared, groups, kernels
        self.rows, self.reach, self.length, self.rope_theta = rows, reach, length, rope_theta
        self.dtype, self.device = like.dtype, like.device
        self.positions = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.context = Context(positions=self.positions[:, None])
        self._made: dict[object, Tensor] = {}
        self._refresh: list[Callable[[], Any]] = []

    def empty(self, *shape: int) -> Tensor:
        """A buffer of the hidden states' dtype."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def at(self, positions: Tensor) -> None:
        """Go on to these positions, [B] int64."""
        self.positions.copy_(positions)
        wide = torch.promote_types(self.dtype, torch.float32)
        self.context = Context(
            positions=self.positions[:, None],
            rope_theta=self.rope_theta,
            reach=self.reach,
            wide=wide,
        )
        for refresh in self._refresh:
            refresh()

    def flat(self, heads: int = 1) -> Tensor:
        """[B·heads] int64, where the new position lies in a cache [B·heads·length, …]."""
        if ("flat", heads) not in self._made:
            number = self.rows * heads
            base = torch.arange(number, device=self.device).view(-1, heads) * self.length
            found = torch.empty_like(base)
            self._keep(
                ("flat", heads),
                found.view(-1),
                lambda: torch.add(base, self.positions[:, None], out=found),
            )
        return self._made["flat", heads]

    def unseen(self, heads: int = 1) -> Tensor:
        """[B·heads, 1, reach - shared], to be added to scores of what is not shared: -inf behind
        the row's own position."""
        if ("unseen", heads) not in self._made:
            own = self.reach - self.shared
            line = self.empty(2 * own).fill_(float("-inf"))
            line[:own] = 0
            # Row r begins with own - r zeros, in the memory of one line.
            windows, found = line.unfold(0, own, 1), self.empty(self.rows * heads, own)

            def refresh() -> None:
                zeros = self.reach - 1 - self.positions
                index = zeros[:, None].expand(-1, heads).reshape(-1)
                torch.index_select(windows, 0, index, out=found)

            self._keep(("unseen", heads), found[:, None], refresh)
        return self._made["unseen", heads]

    def turns(self, dim: int, theta: float) -> Tensor:
        """[B, 1, dim / 2] complex, by which pairs are turned."""
        key = ("turns", dim, self.rope_theta or theta)
        if key not in self._made:
            table = self.table(dim, theta)
            found = torch.empty(self.rows, dim // 2, dtype=table.dtype, device=self.device)
            self._keep(
                key, found[:, None], lambda: torch.index_select(table, 0, self.positions, out=found)
            )
        return self._made[key]

    def table(self, dim: int, theta: float) -> Tensor:
        """[length, dim / 2] complex, the turns of every position."""
        key = ("table", dim, self.rope_theta or theta)
        if key not in self._made:
            every = torch.arange(self.length, device=self.device)[None]
            wide = torch.promote_types(self.dtype, torch.float32)
            context = Context(positions=every, rope_theta=self.rope_theta, wide=wide)
            self._made[key] = torch.complex(*context.rotary(dim, theta))[0]
        return self._made[key]

    def runs(self) -> Tensor:
        """int64, first rows of runs for compiled kernels, and the number of rows behind them.

        Each row is one where nothing is shared; else a group is, in parts where threads are many.
        """
        most = -(-self.rows // self.kernels.threads) if self.kernels and self.shared else 1
        groups = self.groups if self.shared else [(0, self.rows)]
        starts = [first for start, stop in groups for first in range(start, stop, most)]
        return torch.tensor([*starts, self.rows])

    def _keep(self, key: object, found: Tensor, refresh: Callable[[], Any]) -> None:
        self._made[key] = found
        self._refresh.append(refresh)


class Workshop:
    """What parts make their fast steps with.

    Args:
        pack: weights may be kept a second time, as the fastest library wants them.
        kernels: compiled ones to step with; None: torch's operators.

    Attributes:
        compiles: products are compiled too.
    """

    def __init__(self, pack: bool, kernels: Kernels | None = None) -> None:
        self.kernels, self.compiles = kernels, pack
        self.pack = pack and packs()
        self.context = Context(positions=torch.zeros(1, 1, dtype=torch.int64))

    def plain(self, *modules: nn.Module) -> bool:
        """Whether the weights of these projections say it all."""
        return plain_linear(self.context, *modules)

    def product(self, weight: Tensor, finish: str = "none") -> Product:
        """`x [B, in], out -> x @ weight.t() [B, out]`; out=None: anywhere.

        Args:
            weight: [out, in].
            finish: of plm.kernels.cpu.Kernels.product, with compiled kernels only.
        """
        weight = weight.detach()
        if self.kernels is not None and self.compiles:
            return self.kernels.product(weight, finish)
        if self.kernels is not None:
            return partial(self._later, self.kernels, weight.t(), finish)
        if not self.pack or weight.dtype != torch.float32:
            turned = weight.t()
            return lambda x, out=None: torch.mm(x, turned, out=out)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        call = torch.ops.mkldnn._linear_pointwise.default

        def product(x: Tensor, out: Tensor | None = None) -> Tensor:
            made = call(x, packed, None, "none", [], "")
            return made if out is None else out.copy_(made)

        return product

    def _later(
        self, kernels: Kernels, turned: Tensor, finish: str, x: Tensor, out: Tensor | None = None
    ) -> Tensor:
        """torch's own product in a program, for weights that are not to be kept twice."""
        made = x.new_empty(len(x), turned.shape[1]) if out is None else out
        kernels.also(partial(torch.mm, x, turned, out=made))
        if finish == "relu2":
            kernels.also(lambda: made.relu_().square_())
        elif finish == "silu_gate":
            gates, others = made.chunk(2, dim=1)
            kernels.also(lambda: F.silu(gates, inplace=True).mul_(others))
            made = gates
        return made


@lru_cache(maxsize=1)
def packs() -> bool:
    """Whether oneDNN's packed weights are there and beat what torch multiplies with."""
    return mkl_is_slow_here() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def pairs(x: Tensor) -> Tensor:
    """[..., R] as [..., R / 2] complex, in the same memory."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def fast_norm(norm: nn.Module, frame: Frame, out: Tensor | None = None) -> Run:
    """A norm's fast step, or the norm itself.

    Args:
        norm: of the last axis.
        frame: of the step.
        out: [B, size], where the result goes; None: anywhere.
    """
    fast = own(norm, "fast")
    if fast is not None:
        return fast(norm, frame, out)
    return norm if out is None else lambda x: out.copy_(norm(x))


def write_norm(norm: nn.Module, kernels: Kernels, x: Tensor, out: Tensor | None = None) -> Tensor:
    """Write a norm of x [B, size] down; where its result will be."""
    out = x.new_empty(x.shape) if out is None else out
    write = own(norm, "write")
    if write is not None:
        return write(norm, kernels, x, out)
    return write_plain(kernels, norm, x, out)


def write_plain(kernels: Kernels, call: Run, x: Tensor, out: Tensor | None = None) -> Tensor:
    """Write a call of torch's operators down; where its result will be, of x's shape."""
    out = x.new_empty(x.shape) if out is None else out
    kernels.also(lambda: out.copy_(call(x)))
    return out
