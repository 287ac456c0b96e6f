import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from plm import handoff, pretrained
from plm.data.order import Windows
from plm.errors import CheckpointError
from plm.pairs.reference import Reference, measure
from plm.preference.aries import aries
from plm.preference.common import PairLogps
from plm.preference.simpo import simpo
from tests.model.common import tiny
from tests.pairs.made import (
    batches,
    documents,
    drawn,
    one_by_one,
    plan_of,
    stage_of,
    write,
)


def order_of(streams: dict, most: int = 99) -> SimpleNamespace:
    """An order that reads the first windows of each source, all in one step, the last one twice."""
    names = list(streams)
    read = [
        (number, window * streams[name].size)
        for number, name in enumerate(names)
        for window in range(min(most, streams[name].n_windows))
    ]
    source, offset = np.array([*read, read[-1]]).T
    windows = Windows(source, offset, np.zeros_like(source), streams[names[0]].size)
    phase = SimpleNamespace(first_step=0, steps=1)
    plan = SimpleNamespace(phases=[phase])
    return SimpleNamespace(names=names, plan=plan, windows_of=lambda step, steps: windows)


def job_of(stage, streams: dict, held_out: dict, most=99, **settings) -> SimpleNamespace:
    """What `Reference.made` asks of a run's parts, on one rank."""
    stage.trainer = _Trainer
    return SimpleNamespace(
        order=order_of(streams, most),
        prepared=SimpleNamespace(streams=streams, held_out=held_out),
        stage=stage,
        settings={"micro_batch_size": 2, "reference": None, **settings},
        rank=0,
        world=1,
    )


_Trainer = SimpleNamespace(
    precision_plugin=SimpleNamespace(val_step_context=torch.no_grad), strategy=None
)


@pytest.fixture
def made(tmp_path):
    """Two sources, `b` before `a`, of several sizes: pairs, train streams, held-out streams."""
    pairs = {"b/train": drawn(6), "a/train": drawn(3, 1), "b/val": drawn(4, 2), "a/val": drawn(2)}
    found = {key: write(tmp_path / key, some) for key, some in pairs.items()}
    streams, held_out = (
        {name: found[f"{name}/{split}"] for name in ("b", "a")} for split in ("train", "val")
    )
    return pairs, streams, held_out


def expected(model, stream, pairs) -> Tensor:
    """[parts, 2], in the order of a stream."""
    with torch.no_grad():
        found = one_by_one(model, pairs)
    order = documents(stream, torch.arange(stream.n_parts))
    return torch.stack((found.chosen, found.rejected), -1)[order]


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_every_part_is_scored_at_its_number(made, rows):
    pairs, streams, held_out = made
    model = tiny().train()
    stage = stage_of(model, plan_of(streams), partial(aries))
    stage.open(job_of(stage, streams, held_out, micro_batch_size=rows))
    found = stage.reference
    assert found.names == ["b", "a"] and set(found.tables) == set(pairs)
    assert model.training and all(p.grad is None for p in model.parameters())
    for name in found.names:
        for split, of_split in (("train", streams), ("val", held_out)):
            table = found.tables[f"{name}/{split}"]
            wanted = expected(model, of_split[name], pairs[f"{name}/{split}"])
            assert table.dtype == torch.float32
            torch.testing.assert_close(table.double(), wanted, rtol=1e-6, atol=1e-6)


def test_what_is_not_read_is_not_scored(made):
    _, streams, held_out = made
    stage = stage_of(tiny(), plan_of(streams))
    job = job_of(stage, streams, held_out, most=1)
    found, whole = Reference.made(job), Reference.made(job_of(stage, streams, held_out))
    for name, stream in streams.items():
        key, table = f"{name}/train", found.tables[f"{name}/train"]
        read = np.isin(np.arange(stream.n_parts), stream.extras(np.zeros(1, int))["parts"])
        assert 0 < read.sum() < stream.n_parts
        torch.testing.assert_close(table[read], whole.tables[key][read])
        assert table[~read].isnan().all()
    # How many of these are looked at may change while the run goes on.
    assert not any(found.tables[f"{name}/val"].isnan().any() for name in held_out)


def test_ranks_fill_in_one_table(made, monkeypatch):
    _, streams, held_out = made
    stage = stage_of(tiny(), plan_of(streams))
    job = job_of(stage, streams, held_out)
    alone = Reference.made(job).tables
    # Without the sum over ranks each has its own share, and nothing elsewhere.
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda table: None)
    for world in (2, 9):
        job.world, shares = world, []
        for job.rank in range(world):
            shares.append(Reference.made(job).tables)
        for key, table in alone.items():
            there = torch.stack([share[key] for share in shares]) != 0
            assert (there.sum(0) == 1).all()
            torch.testing.assert_close(sum(share[key] for share in shares), table)


def test_a_step_compares_with_the_own_part(made):
    pairs, streams, _ = made
    names, model = list(streams), tiny()
    tables = {
        f"{name}/train": expected(model, streams[name], pairs[f"{name}/train"]) for name in names
    }
    reference, stage = Reference(tables, names), stage_of(model, plan_of(streams))
    stage.reference, seen = reference, []
    for batch in batches(streams, 3, rows=4).step(0):
        there = batch.extras["parts"] >= 0
        rows = [
            tables[f"{names[source]}/train"][part]
            for source, parts in zip(batch.source_ids, batch.extras["parts"], strict=True)
            for part in parts[parts >= 0]
        ]
        found = reference.of(batch.extras["parts"], batch.source_ids)
        assert found.shape == (int(there.sum()), 2) and torch.equal(found, torch.stack(rows))
        # The policy is the reference: nothing lies between them, whatever the part.
        stage.compute(batch)
        seen += batch.source_ids.tolist()
    assert set(seen) == {0, 1}
    assert stage.sums.means()["pref/margin"] == pytest.approx(0, abs=1e-12)


def test_parts_of_several_sources_by_hand():
    tables = {"b/train": [[0, 1], [2, 3], [4, 5]], "a/train": [[6, 7], [8, 9]]}
    reference = Reference({n: torch.tensor(t).float() for n, t in tables.items()}, ["b", "a"])
    parts = torch.tensor([[1, -1, -1], [0, 2, -1], [1, 0, -1]])
    found = reference.of(parts, torch.tensor([1, 0, 0]))
    assert found.tolist() == [[8, 9], [0, 1], [4, 5], [2, 3], [0, 1]]
    assert reference.of(parts[:0], torch.zeros(0).long()).shape == (0, 2)


def test_another_model_as_the_reference(made, monkeypatch):
    pairs, streams, held_out = made
    other, asked = tiny(seed=1), []

    def load(place):
        asked.append(place)
        return SimpleNamespace(model=other, tokenizer=None)

    monkeypatch.setattr(pretrained, "load", load)
    monkeypatch.setattr(handoff, "find", lambda *_: pytest.fail("it has no tokenizer"))
    stage = stage_of(tiny(), plan_of(streams))
    found = Reference.made(job_of(stage, streams, held_out, reference="runs/other"))
    assert asked == ["runs/other"] and not other.training
    wanted = expected(other, streams["a"], pairs["a/train"])
    torch.testing.assert_close(found.tables["a/train"].double(), wanted, rtol=1e-6, atol=1e-6)


def test_written_and_read(tmp_path):
    tables = {"b/train": torch.rand(3, 2), "b/val": torch.rand(1, 2)}
    # A view, which is not contiguous.
    tables |= {"a/train": torch.rand(2, 4).t(), "a/val": torch.zeros(0, 2)}
    tables["a/train"] = tables["a/train"][:, :2]
    before = Reference(tables, ["b", "a"])
    before.write(tmp_path)
    after = Reference.read(tmp_path)
    assert after.names == ["b", "a"] and after.tables.keys() == tables.keys()
    assert all(torch.equal(after.tables[key], table) for key, table in tables.items())
    parts, sources = torch.tensor([[3, 0], [2, -1]]), torch.tensor([1, 0])
    assert torch.equal(after.of(parts, sources), before.of(parts, sources))


def test_a_stage_keeps_its_reference_with_a_checkpoint(tmp_path):
    stream = write(tmp_path / "x", drawn(2))
    stage = stage_of(tiny(), plan_of({"x": stream}))
    stage.reference = Reference({"x/train": torch.rand(6, 2), "x/val": torch.rand(3, 2)}, ["x"])
    stage.write(tmp_path)
    again = stage_of(tiny(), plan_of({"x": stream}))
    again.read(tmp_path)
    kept = again.reference
    assert torch.equal(kept.train, stage.reference.train)
    # It is not made anew: that would be of the weights that the checkpoint holds.
    again.open(job=None)
    assert again.reference is kept
    free = stage_of(tiny(), plan_of({"x": stream}), partial(simpo))
    (tmp_path / "empty").mkdir()
    free.write(tmp_path / "empty")
    free.read(tmp_path / "empty")
    assert free.reference is None and not list((tmp_path / "empty").iterdir())


def test_a_checkpoint_without_one(tmp_path):
    error = r"reference\.safetensors is missing: the checkpoint is not one of stage=preference$"
    with pytest.raises(CheckpointError, match=error):
        Reference.read(tmp_path)


def measured(stage, held_out, *, rows=2, world=1, windows=99, monkeypatch=None) -> dict:
    """Held-out figures as every rank gets them; the ranks run one after another."""
    given = {
        "windows": windows, "micro_batch_size": rows, "device": torch.device("cpu"),
        "rope_theta": None, "world_size": world, "seq_len": 0, "isolate": True,
    }  # fmt: skip
    if world == 1:
        return measure(stage, stage.model, held_out, rank=0, **given)
    told: list[list[Tensor]] = []

    def note(values: Tensor) -> None:
        told[-1].append(values.clone())

    def add(values: Tensor) -> None:
        values.copy_(sum(of_rank[len(answered)] for of_rank in told))
        answered.append(values)

    monkeypatch.setattr(torch.distributed, "all_reduce", note)
    for rank in range(world):
        told.append([])
        measure(stage, stage.model, held_out, rank=rank, **given)
    assert len({len(of_rank) for of_rank in told}) == 1
    monkeypatch.setattr(torch.distributed, "all_reduce", add)
    found = []
    for rank in range(world):
        answered: list[Tensor] = []
        found.append(measure(stage, stage.model, held_out, rank=rank, **given))
    assert all(one == found[0] for one in found)
    return found[0]


@pytest.fixture
def held(made):
    """(stage, held-out streams, what the figures must be)."""
    pairs, streams, held_out = made
    stage, other = stage_of(tiny(), plan_of(streams), partial(aries, beta=0.05)), tiny(seed=1)
    tables = {f"{n}/train": torch.zeros(0, 2) for n in streams}
    figures = {}
    for name, stream in held_out.items():
        tables[f"{name}/val"] = base = expected(other, stream, pairs[f"{name}/val"])
        ours = expected(stage.model, stream, pairs[f"{name}/val"])
        margin = (ours - base)[:, 0] - (ours - base)[:, 1]
        shown = documents(stream, torch.arange(stream.n_parts)) % 3
        ones = torch.ones(len(shown)).long()
        sides = (PairLogps(*part.unbind(-1), ones, ones, shown) for part in (ours, base))
        figures[name] = {
            "loss": float(aries(*sides, beta=0.05).total) / len(shown),
            "accuracy": float((margin > 0).double().mean()),
            "margin": float(margin.mean()),
            "margins": margin,
        }
    stage.reference = Reference(tables, list(streams))
    return stage, held_out, figures


@pytest.mark.parametrize(("world", "rows"), [(1, 1), (1, 3), (1, 50), (2, 1), (3, 2), (9, 1)])
def test_held_out_figures_do_not_depend_on_ranks(held, monkeypatch, world, rows):
    stage, held_out, figures = held
    # Of nine ranks some have no window.
    assert all(1 < stream.n_windows < 9 for stream in held_out.values())
    found = measured(stage, held_out, rows=rows, world=world, monkeypatch=monkeypatch)
    assert found.keys() == figures.keys()
    for name, wanted in figures.items():
        assert found[name].keys() == {"loss", "accuracy", "margin"}
        for key, value in found[name].items():
            assert value == pytest.approx(wanted[key], rel=1e-11)


def test_held_out_figures_leave_the_run_as_it_is(held):
    stage, held_out, _ = held
    stage.model.train()
    measured(stage, held_out)
    assert stage.model.training and stage.sums.means() == {}
    assert all(p.grad is None for p in stage.model.parameters())


def test_as_many_windows_as_are_asked_for(held):
    stage, held_out, figures = held
    stream = held_out["b"]
    spread = np.array([0, stream.n_windows // 2])
    parts = stream.extras(spread * stream.size)["parts"]
    chosen = torch.from_numpy(parts[parts >= 0])
    assert stream.n_windows > 3 and len(chosen) < stream.n_parts
    found = measured(stage, held_out, windows=2)["b"]
    wanted = float(figures["b"]["margins"][chosen].mean())
    assert found["margin"] == pytest.approx(wanted, rel=1e-11)


def test_a_loss_without_a_reference_is_measured(made):
    _, streams, held_out = made
    stage = stage_of(tiny(), plan_of(streams), partial(simpo))
    found = measured(stage, held_out)
    assert set(found["a"]) == {"loss", "accuracy", "margin"}
    assert all(math.isfinite(value) for of in found.values() for value in of.values())
