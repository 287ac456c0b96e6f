"""Cases by hand, bounds of perturbation theory, and what must not depend on the basis."""

import math

import pytest
import torch

from plm.analysis.update import (
    NAMES,
    angles,
    compare,
    measure,
    off_principal,
    origin,
    overlap,
    random_after,
    spectral_shift,
    unchanged,
    unchanged_bf16,
)

K, ALPHA, ETA = 4, 0.3, 1e-3
FIRST = {"k": K, "alpha": ALPHA}


def matrix(seed: int, rows: int = 24, columns: int = 17) -> torch.Tensor:
    """With a falling spectrum, fp64."""
    left, right = turn(seed, rows), turn(seed + 1000, columns)
    side = min(rows, columns)
    return left[:, :side] @ torch.diag(1.5 ** -torch.arange(side).double()) @ right[:side]


def turn(seed: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]


def moved(before: torch.Tensor, seed: int, share: float) -> torch.Tensor:
    return random_after(before, share * float(before.norm()), seed)


def figures(before: torch.Tensor, after: torch.Tensor) -> dict[str, float]:
    return measure(origin(before, **FIRST), after, eta=ETA).figures


def test_no_update():
    found = figures(matrix(0), matrix(0))
    assert tuple(found) == tuple(NAMES)
    for name in ("unchanged", "unchanged_bf16"):
        assert found[name] == 1
    for name in ("norm", "relative_norm", "spectral_shift"):
        assert found[name] == 0
    assert [found[n] for n in NAMES if n.startswith("angle")] == pytest.approx([0] * 4, abs=1e-9)
    for name in ("stable_rank", "off_principal", "overlap_low", "overlap_principal_bf16"):
        assert math.isnan(found[name])


def test_a_case_by_hand():
    before = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5]))
    after = before.clone()
    after[0, 0], after[3, 2] = 5.0, 0.25
    start = origin(before, k=1, alpha=0.25)
    # The four largest of the best rank-1 matrix: its one entry and three of many zeros.
    assert start.principal[0, 0] and start.principal.sum() == 4
    assert start.low.sum() == 4 and not start.low.diagonal().any()
    found = measure(start, after, eta=ETA).figures
    assert found["unchanged"] == found["unchanged_bf16"] == 14 / 16
    assert found["overlap_low"] == found["overlap_low_bf16"]
    assert found["overlap_low"] == float(start.low[3, 2]) / 2
    assert found["norm"] == pytest.approx(math.sqrt(1.0625))
    assert found["relative_norm"] == pytest.approx(math.sqrt(1.0625 / 21.25))
    assert found["stable_rank"] == pytest.approx(1.0625)
    assert found["off_principal"] == pytest.approx(1 - 1 / 1.0625)
    last = torch.linalg.svdvals(torch.tensor([[1.0, 0.0], [0.25, 0.5]]).double())
    shift = math.hypot(1, float(last[0]) - 1, float(last[1]) - 0.5) / math.sqrt(21.25)
    assert found["spectral_shift"] == pytest.approx(shift)
    assert found["angle_left_max_deg"] == pytest.approx(0, abs=1e-9)


def test_the_probe_is_equality_on_weights_kept_in_bf16():
    # All finite numbers of bf16, each beside its neighbour.
    bits = torch.arange(0x7F80, dtype=torch.int32)
    numbers = torch.cat([s * (bits << 16).view(torch.float32) for s in (1, -1)]).bfloat16()
    for other in (numbers, numbers.roll(1), numbers.roll(-1), numbers.flip(0)):
        same = unchanged(numbers, other, eta=ETA)
        assert torch.equal(same, numbers == other)
        assert torch.equal(same, unchanged_bf16(numbers, other))


def test_of_fp32_the_probe_and_the_copy_in_bf16_differ():
    before = torch.tensor([1.0, 1.0, 1.0 + 2.0**-9 * 1.1, 0.0])
    after = torch.tensor([1.0009, 1.003, 1.0 + 2.0**-8 * 1.1, 1e-30])
    assert unchanged(before, after, eta=ETA).tolist() == [True, False, False, False]
    # Half the distance to the next is 2^-8: by less than that an entry may move and stay.
    assert unchanged_bf16(before, after).tolist() == [True, True, False, False]
    assert unchanged(before, before, eta=0.0).all()
    # The larger of the two counts, on either side.
    pair = torch.tensor([1.0, 1.0010005], dtype=torch.float64)
    assert unchanged(pair, pair.flip(0), eta=ETA).all()
    assert not unchanged(pair, pair.flip(0), eta=0.9995e-3).any()


def test_overlap():
    changed = torch.tensor([True, True, True, False])
    assert overlap(changed, torch.tensor([True, False, False, True])) == pytest.approx(1 / 3)
    assert overlap(changed, changed) == 1
    assert math.isnan(overlap(~changed & changed, changed))


@pytest.mark.parametrize("degrees", [1e-5, 0.3, 30.0, 44.0, 46.0, 89.0])
def test_angles_of_planes_by_hand(degrees):
    basis = turn(3, 9)
    a = math.radians(degrees)
    turned = torch.stack((basis[:, 0], math.cos(a) * basis[:, 1] + math.sin(a) * basis[:, 2]), 1)
    # Another basis of each plane leaves the angles.
    found = angles(basis[:, :2] @ turn(1, 2), turned @ turn(2, 2))
    assert found.tolist() == pytest.approx([0, degrees], rel=1e-9, abs=1e-9)


def test_bounds():
    for seed in range(8):
        before = matrix(seed)
        for share in (1e-4, 1e-2, 0.1, 0.5):
            after = moved(before, seed, share)
            start, change = origin(before, **FIRST), after - before
            values = torch.linalg.svdvals(after)
            spread, slack = float(torch.linalg.matrix_norm(change, 2)), 1e-12
            shifts = (values - start.values).abs()
            # Weyl; Mirsky.
            assert shifts.max() <= spread + slack
            assert shifts.norm() <= change.norm() + slack
            found = measure(start, after, eta=ETA)
            limit = float(change.norm() / before.norm())
            assert found.figures["spectral_shift"] <= limit + slack
            assert 1 - slack <= found.figures["stable_rank"] <= 17 + slack
            assert 0 <= found.figures["off_principal"] <= 1
            # Wedin: the gap is between one matrix's k-th value and the other's next.
            gap = float(values[K - 1] - start.values[K])
            if gap > 0:
                sines = torch.deg2rad(torch.stack((found.left, found.right))).sin()
                assert sines.max() <= spread / gap + 1e-9


def test_the_bound_on_angles_needs_both_spectra():
    """With the gap of the matrix before alone it does not hold: 45 degrees at half the gap."""
    tiny = 1e-6
    before = torch.diag(torch.tensor([2.0, 1.0]).double())
    change = torch.tensor([[-0.5, tiny], [tiny, 0.5]]).double()
    found = measure(origin(before, k=1, alpha=ALPHA), before + change, eta=ETA)
    spread, sine = float(torch.linalg.matrix_norm(change, 2)), math.sin(math.radians(found.left[0]))
    assert sine > 1.4 * spread / (2 - 1)
    assert sine <= spread / (float(torch.linalg.svdvals(before + change)[0]) - 1)


def test_energy_off_the_principal_directions():
    start = origin(matrix(5), **FIRST)
    within = start.left @ turn(6, K) @ start.right.mT
    assert off_principal(within, start.left, start.right) == pytest.approx(0, abs=1e-12)
    # On one side alone is not within.
    side = start.left @ turn(6, 17)[:K]
    rest = side - side @ start.right @ start.right.mT
    assert off_principal(rest, start.left, start.right) == pytest.approx(1)
    both = off_principal(within + 2 * rest, start.left, start.right)
    share = float(4 * rest.norm() ** 2 / (4 * rest.norm() ** 2 + within.norm() ** 2))
    assert both == pytest.approx(share)


def test_random_updates_give_what_counting_says():
    before = matrix(7)
    told = [compare(before, moved(before, s, 0.1), **FIRST, eta=ETA, seed=s) for s in range(30)]
    chance = told[0]["chance"]
    assert chance == {"overlap": round(ALPHA * 408) / 408, "off_principal": 1 - 16 / 408}
    for kind in ("update", "random"):
        shares = torch.tensor([t[kind]["off_principal"] for t in told])
        assert float(shares.mean()) == pytest.approx(chance["off_principal"], abs=0.005)
        # Nearly all entries move, so that the mask is as good as drawn.
        overlaps = torch.tensor([t[kind]["overlap_principal"] for t in told])
        assert float(overlaps.mean()) == pytest.approx(chance["overlap"], abs=0.01)


def test_a_small_random_update_already_favours_low_entries():
    """Why there is a random baseline besides alpha: the probe is relative to the entry."""
    before = matrix(8)
    told = compare(before, moved(before, 1, 1e-3), **FIRST, eta=1e-2, seed=2)
    assert told["random"]["overlap_low"] > told["chance"]["overlap"] + 0.1
    assert told["random"]["norm"] == pytest.approx(told["update"]["norm"], rel=1e-12)


def test_random_after():
    before = matrix(9).float()
    after = random_after(before, 0.01, 5)
    assert after.dtype == torch.float32
    assert float((after - before).double().norm()) == pytest.approx(0.01, rel=1e-4)
    assert torch.equal(after, random_after(before, 0.01, 5))
    assert not torch.equal(after, random_after(before, 0.01, 6))
    # In bf16 so small a step is mostly lost, as the optimizer's own would be.
    kept = before.bfloat16()
    assert (random_after(kept, 1e-5, 5) == kept).double().mean() > 0.9


def test_what_does_not_depend_on_the_basis():
    before, after = matrix(10), moved(matrix(10), 3, 0.05)
    found = figures(before, after)
    left, right = turn(1, 24), turn(2, 17)
    turned = figures(left @ before @ right, left @ after @ right)
    spectral = [n for n in NAMES if not n.startswith(("unchanged", "overlap"))]
    assert [turned[n] for n in spectral] == pytest.approx([found[n] for n in spectral], rel=1e-8)
    rows, columns = torch.randperm(24), torch.randperm(17)
    swapped = figures(before[rows][:, columns], after[rows][:, columns])
    assert swapped == pytest.approx(found, rel=1e-8)
    doubled = figures(2 * before, 2 * after)
    assert doubled == pytest.approx({**found, "norm": 2 * found["norm"]}, rel=1e-8)
    other = figures(before.mT, after.mT)
    assert other["angle_left_max_deg"] == pytest.approx(found["angle_right_max_deg"], rel=1e-8)


def test_a_turn_that_keeps_the_function():
    """Of W_o W_v only the product counts: turned inside, spectra stay and the entries do not."""
    first, second, inner = matrix(11, 17, 24), matrix(12, 24, 17), turn(4, 24)
    torch.testing.assert_close((first @ inner) @ (inner.mT @ second), first @ second)
    found = figures(second, inner.mT @ second)
    assert found["spectral_shift"] == pytest.approx(0, abs=1e-14)
    assert found["angle_right_max_deg"] == pytest.approx(0, abs=1e-9)
    assert found["angle_left_max_deg"] > 10
    assert found["unchanged"] < 0.02
    # An update on the smallest entries alone is on no such entries in another basis.
    low = origin(second, **FIRST).low
    after = second + 0.01 * low
    assert figures(second, after)["overlap_low"] == 1
    elsewhere = figures(inner.mT @ second, inner.mT @ after)
    assert elsewhere["overlap_low"] == pytest.approx(ALPHA, abs=0.06)


def test_what_is_not_defined():
    # Two directions, where four are asked for.
    thin = turn(1, 24)[:, :2] @ turn(2, 17)[:2]
    found = figures(thin, moved(thin, 1, 0.1))
    for name in ("angle_left_max_deg", "off_principal", "overlap_principal"):
        assert math.isnan(found[name])
    assert found["spectral_shift"] > 0 and found["overlap_low"] > 0
    broken = matrix(1)
    broken[2, 3] = math.nan
    told = compare(matrix(1), broken, **FIRST, eta=ETA, seed=0)
    assert all(math.isnan(told[kind][name]) for kind in ("update", "random") for name in NAMES)
    assert math.isnan(figures(torch.zeros(6, 6), torch.ones(6, 6))["angle_left_max_deg"])


def test_spectral_shift():
    values = torch.tensor([3.0, 4.0])
    assert spectral_shift(values, values + torch.tensor([0.3, 0.4])) == pytest.approx(0.1)


def test_compare_tells_the_spectrum():
    before = matrix(13)
    told = compare(before, moved(before, 1, 0.01), **FIRST, eta=ETA, seed=0)
    assert told["shape"] == [24, 17] and told["dtype"] == "float64"
    assert told["spectrum"]["gap"] == pytest.approx(1 - 1 / 1.5)
    squares = [1.5 ** (-2 * i) for i in range(17)]
    assert told["spectrum"]["energy"] == pytest.approx(sum(squares[:K]) / sum(squares))
    for side in ("left", "right"):
        curve = told[f"angles_{side}_deg"]
        assert len(curve) == K and curve == sorted(curve)
        assert curve[-1] == told["update"][f"angle_{side}_max_deg"]
        assert sum(curve) / K == pytest.approx(told["update"][f"angle_{side}_mean_deg"])
