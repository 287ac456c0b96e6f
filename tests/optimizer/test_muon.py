import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from plm.errors import ConfigError
from plm.optimizer.adamw import adamw
from plm.optimizer.common import NamedParameter
from plm.optimizer.muon import muon, orthogonalise


def matrix(*shape: int, role: str = "up") -> NamedParameter:
    generator = torch.Generator().manual_seed(shape[0])
    return NamedParameter("m", torch.randn(shape, generator=generator).requires_grad_(), role)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_singular_values_come_near_1_and_directions_stay(shape: tuple):
    values = torch.linspace(0.1, 3, 16)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    result = orthogonalise(u * values @ v)
    inner = u.t() @ result @ v.t()
    assert result.shape == shape
    assert ((inner.diag() > 0.65) & (inner.diag() < 1.25)).all()
    assert (inner - inner.diag().diag()).abs().max() < 1e-4
    assert not orthogonalise(torch.zeros(shape)).any()


def test_equals_torchs_own_up_to_its_bf16():
    ours, theirs = matrix(12, 20).parameter, matrix(12, 20).parameter
    settings = {"lr": 0.02, "weight_decay": 0.1}
    optimizers = [
        muon([NamedParameter("m", ours, "up")], **settings),
        torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings),
    ]
    start = ours.detach().clone()
    for _ in range(3):
        ours.grad = torch.randn(12, 20)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    # bf16 through five iterations: some percent of an update.
    assert (ours - theirs).norm() < 0.05 * (ours - start).norm()


def test_the_size_of_a_step_is_adamws():
    item = matrix(64, 256)
    before = item.parameter.detach().clone()
    item.parameter.grad = torch.randn(64, 256)
    muon([item], lr=0.1, weight_decay=0.0).step()
    rms = (item.parameter - before).square().mean().sqrt().item()
    # Liu et al.: AdamW's updates have a root mean square of 0.2 to 0.4 of the rate.
    assert 0.15 < rms / 0.1 < 0.25


def test_embedding_head_norm_and_vectors_go_by_adamw():
    items = [matrix(6, 4, role=role) for role in ("embedding", "head", "norm")]
    items.append(NamedParameter("b", torch.ones(4, requires_grad=True), "other"))
    twins = [
        NamedParameter(i.name, i.parameter.detach().clone().requires_grad_(), i.role) for i in items
    ]
    optimizers = muon(items, lr=0.1), adamw(twins, lr=0.1)
    assert {group["kind"] for group in optimizers[0].param_groups} == {"adamw"}
    for _ in range(2):
        for a, b in zip(items, twins, strict=True):
            a.parameter.grad = torch.randn_like(a.parameter)
            b.parameter.grad = a.parameter.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(a.parameter, b.parameter) for a, b in zip(items, twins, strict=True))


def test_weight_decay_follows_the_rate_without_the_scale():
    item = matrix(6, 4)
    before = item.parameter.detach().clone()
    item.parameter.grad = torch.zeros(6, 4)
    muon([item], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(item.parameter.detach(), before * 0.95)


def test_a_closure_is_called_with_gradients_on():
    item = matrix(6, 4)

    def closure():
        loss = item.parameter.square().sum()
        loss.backward()
        return loss

    assert muon([item], lr=0.1).step(closure).item() > 0
    assert item.parameter.grad is not None


def test_a_flat_shard_is_refused_by_name():
    item = matrix(6, 4)
    optimizer = muon([item], lr=0.1)
    flat = torch.ones(24, requires_grad=True)
    flat.grad = torch.ones(24)
    optimizer.param_groups[0]["params"] = [flat]
    assert optimizer.needs_whole_matrices
    with pytest.raises(ConfigError, match=r"optimizer=muon got a shard of shape \(24,\)"):
        optimizer.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0}, r"momentum=1\.0 of muon is not in \[0, 1\)"),
        ({"steps": 0}, "steps=0 of muon is not 1 or more"),
        ({"eps": -1}, "eps=-1 of muon is not 0 or more"),
    ],
)
def test_errors(settings: dict, message: str):
    with pytest.raises(ConfigError, match=r"optimizer\." + message):
        muon([matrix(6, 4)], lr=0.1, **settings)


def _two_ranks(rank: int, folder: str) -> None:
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    # 7 rows: the two shards differ in size.
    whole = [matrix(7, 10), matrix(5, 4, role="embedding")]
    cut = [
        NamedParameter(
            item.name,
            distribute_tensor(item.parameter.detach(), mesh, [Shard(0)]).requires_grad_(),
            item.role,
        )
        for item in whole
    ]
    optimizers = muon(whole, lr=0.1), muon(cut, lr=0.1)
    torch.manual_seed(1)
    for _ in range(3):
        for a, b in zip(whole, cut, strict=True):
            a.parameter.grad = torch.randn_like(a.parameter)
            b.parameter.grad = distribute_tensor(a.parameter.grad, mesh, [Shard(0)])
        for optimizer in optimizers:
            optimizer.step()
    gap = [
        (a.parameter - b.parameter.full_tensor()).abs().max().item()
        for a, b in zip(whole, cut, strict=True)
    ]
    local = cut[0].parameter.to_local().shape[0]
    Path(folder, f"rank{rank}").write_text(f"{max(gap)} {local} {math.isfinite(sum(gap))}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_sharded_matrices_move_as_whole_ones(tmp_path: Path):
    mp.spawn(_two_ranks, (str(tmp_path),), nprocs=2)
    found = [Path(tmp_path, f"rank{rank}").read_text().split() for rank in (0, 1)]
    assert [line[1:] for line in found] == [["4", "True"], ["3", "True"]]
    assert all(float(line[0]) < 1e-6 for line in found)
