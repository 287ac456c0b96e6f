"""Where an update of a matrix lies: its sparsity, and its place to the matrix's main directions.

Paper: Zhu et al., The Path Not Taken (arXiv:2511.08567)
Departs: the matrices are those that the optimizer keeps, with a copy in bf16 beside them; each
  figure is also that of a random update of the same norm; the share of energy off the principal
  directions, which are the first matrix's, is ours.
Cost: five singular value decompositions a matrix, in double precision.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

NAMES = (
    "unchanged unchanged_bf16 spectral_shift angle_left_max_deg angle_left_mean_deg "
    "angle_right_max_deg angle_right_mean_deg overlap_principal overlap_low "
    "overlap_principal_bf16 overlap_low_bf16 off_principal stable_rank norm relative_norm"
).split()
"""Of what is measured: `_bf16` on copies in bf16, `_deg` in degrees."""


class Measured(NamedTuple):
    """What one update has done.

    Attributes:
        figures: by NAMES; NaN for what is not defined: overlaps where nothing changed, directions
            where the matrix has fewer than k, everything where an entry is not finite.
        left, right: [k] fp64, principal angles of the first k singular vectors, rising, degrees.
    """

    figures: dict[str, float]
    left: Tensor
    right: Tensor


class Origin(NamedTuple):
    """What is needed of the matrix before.

    Attributes:
        weight: [m, n], as the optimizer keeps it.
        values: [min(m, n)] fp64, singular values, falling.
        left, right: [m, k] and [n, k] fp64, the first k singular vectors.
        principal: [m, n] bool, the largest entries of the best approximation of rank k.
        low: [m, n] bool, as many of the smallest entries.
    """

    weight: Tensor
    values: Tensor
    left: Tensor
    right: Tensor
    principal: Tensor
    low: Tensor

    @property
    def rank(self) -> int:
        """k."""
        return self.left.shape[1]


def origin(weight: Tensor, *, k: int, alpha: float) -> Origin:
    """Decompose the matrix before.

    Args:
        weight: [m, n] of any floating dtype, finite.
        k: directions that count as principal, below min(m, n).
        alpha: share of the entries in each mask, in (0, 1).
    """
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    left, right = left[:, :k], right[:k].mT
    approximation = (left * values[:k]) @ right.mT
    principal = _largest(approximation.abs(), alpha)
    return Origin(weight, values, left, right, principal, _largest(-weight.double().abs(), alpha))


def _largest(values: Tensor, alpha: float) -> Tensor:
    count = max(1, round(alpha * values.numel()))
    found = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    found[values.flatten().topk(count).indices] = True
    return found.view_as(values)


def unchanged(before: Tensor, after: Tensor, *, eta: float) -> Tensor:
    """Entries that count as the same: [m, n] bool, |after - before| <= eta max(|before|, |after|).

    Neighbours in bf16 lie at least 2^-8 of the larger apart: of weights kept in bf16, and with
    eta below that, it is equality. Of weights kept in fp32 it is not, see `unchanged_bf16`.
    """
    before, after = before.double(), after.double()
    return (after - before).abs() <= eta * torch.maximum(before.abs(), after.abs())


def unchanged_bf16(before: Tensor, after: Tensor) -> Tensor:
    """Entries that are equal once both are rounded to bf16: [m, n] bool."""
    return before.bfloat16() == after.bfloat16()


def overlap(changed: Tensor, mask: Tensor) -> float:
    """Share of the changed entries that lie in the mask; NaN where nothing changed."""
    number = int(changed.sum())
    return int((changed & mask).sum()) / number if number else math.nan


def spectral_shift(before: Tensor, after: Tensor) -> float:
    """Norm of the difference of sorted singular values, over the norm of those before."""
    return float((after - before).norm() / before.norm())


def angles(before: Tensor, after: Tensor) -> Tensor:
    """Principal angles between two subspaces, rising, in degrees.

    Args:
        before, after: [m, k] fp64, orthonormal columns.
    Returns:
        [k] fp64. Below 45 degrees from the sines: a cosine near 1 would hide a small angle.
    """
    cross = before.mT @ after
    cosines = torch.linalg.svdvals(cross).clamp(max=1)
    sines = torch.linalg.svdvals(after - before @ cross).clamp(max=1).flip(0)
    return torch.rad2deg(torch.where(cosines**2 > 0.5, sines.asin(), cosines.acos()))


def off_principal(change: Tensor, left: Tensor, right: Tensor) -> float:
    """Share of the change's squared Frobenius norm outside the principal directions.

    Args:
        change: [m, n] fp64.
        left, right: [m, k] and [n, k] fp64, orthonormal columns.
    Returns:
        1 - ||L' C R||^2 / ||C||^2; of a random change 1 - k^2 / (m n) is expected; NaN without one.
    """
    return float(1 - (left.mT @ change @ right).norm() ** 2 / change.norm() ** 2)


def random_after(before: Tensor, norm: float, seed: int) -> Tensor:
    """The matrix after a Gaussian update of that Frobenius norm, in the dtype of the one before.

    The same on every device. Rounded as the optimizer's own step is, so that in bf16 much of a
    small update is lost.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(before.shape, dtype=torch.float64, generator=generator)
    noise *= norm / noise.norm()
    return (before.double() + noise.to(before.device)).to(before.dtype)


def measure(before: Origin, after: Tensor, *, eta: float) -> Measured:
    """What one update has done to a matrix.

    Args:
        before: the matrix before.
        after: [m, n], in the dtype of before.
        eta: of `unchanged`.
    """
    weight, wide = before.weight.double(), after.double()
    curves = [torch.full((before.rank,), math.nan, dtype=torch.float64)] * 2
    if not wide.isfinite().all():
        return Measured(dict.fromkeys(NAMES, math.nan), *curves)
    change = wide - weight
    left, values, right = torch.linalg.svd(wide, full_matrices=False)
    k, norm, spread = before.rank, float(change.norm()), float(torch.linalg.matrix_norm(change, 2))
    named = _has(before.values, k, weight.shape)
    if named and _has(values, k, weight.shape):
        curves = [angles(before.left, left[:, :k]), angles(before.right, right[:k].mT)]
    found = {
        "spectral_shift": spectral_shift(before.values, values),
        "angle_left_max_deg": float(curves[0].max()),
        "angle_left_mean_deg": float(curves[0].mean()),
        "angle_right_max_deg": float(curves[1].max()),
        "angle_right_mean_deg": float(curves[1].mean()),
        "off_principal": off_principal(change, before.left, before.right) if named else math.nan,
        "stable_rank": (norm / spread) ** 2 if spread else math.nan,
        "norm": norm,
        "relative_norm": float(change.norm() / weight.norm()),
    }
    same = {"": unchanged(weight, wide, eta=eta), "_bf16": unchanged_bf16(before.weight, after)}
    for copy, equal in same.items():
        found[f"unchanged{copy}"] = float(equal.double().mean())
        found[f"overlap_principal{copy}"] = overlap(~equal, before.principal) if named else math.nan
        found[f"overlap_low{copy}"] = overlap(~equal, before.low)
    return Measured({name: found[name] for name in NAMES}, *curves)


def _has(values: Tensor, k: int, shape: torch.Size) -> bool:
    """Whether the k-th singular value is more than rounding."""
    return bool(values[k - 1] > max(shape) * torch.finfo(values.dtype).eps * values[0])


def compare(
    before: Tensor, after: Tensor, *, k: int, alpha: float, eta: float, seed: int
) -> dict[str, Any]:
    """All that is told of one matrix.

    Args:
        before, after: [m, n], of one dtype.
        k, alpha: see `origin`.
        eta: of `unchanged`.
        seed: of the random update.
    Returns:
        `update`: figures of `measure`; `random`: those of a random update of the same Frobenius
        norm; `chance`: overlap and off_principal by counting; `angles_left_deg`,
        `angles_right_deg`: all k of them; `spectrum`: how far the k-th singular value before
        stands out of the next, as `gap` over itself, and the first k's share of the squares,
        `energy`.
    """
    start = origin(before, k=k, alpha=alpha)
    found = measure(start, after, eta=eta)
    norm = found.figures["norm"]
    drawn = after if math.isnan(norm) else random_after(before, norm, seed)
    squares = start.values**2
    return {
        "shape": list(before.shape),
        "dtype": str(before.dtype).removeprefix("torch."),
        "update": found.figures,
        "random": measure(start, drawn, eta=eta).figures,
        "chance": {
            "overlap": float(start.low.double().mean()),
            "off_principal": 1 - k * k / before.numel(),
        },
        "angles_left_deg": found.left.tolist(),
        "angles_right_deg": found.right.tolist(),
        "spectrum": {
            "gap": float(1 - start.values[k] / start.values[k - 1]),
            "energy": float(squares[:k].sum() / squares.sum()),
        },
    }
