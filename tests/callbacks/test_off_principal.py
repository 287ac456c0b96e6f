"""When it measures, against which weights also after a resume, what it writes and refuses."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from plm.analysis.update import NAMES, compare
from plm.callbacks import off_principal
from plm.callbacks.off_principal import OffPrincipal, _seed, mean, weights
from plm.errors import CheckpointError, ConfigError
from plm.model.linear.lora import LoRA


class Model(nn.Module):
    def __init__(self, adapted: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        last = LoRA(10, 6, 2, 4.0) if adapted else nn.Linear(10, 6, bias=False)
        self.embed = nn.Embedding(20, 12)
        self.layers = nn.ModuleList([nn.Linear(12, 10), last])


def move(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)


def stage_of(model: nn.Module, whole: bool = True) -> SimpleNamespace:
    planned = SimpleNamespace(first_step=0, steps=4)
    return SimpleNamespace(
        model=model,
        row={},
        step=0,
        tokens_seen=0,
        device=torch.device("cpu"),
        placement=SimpleNamespace(whole_weights=whole),
        plan=SimpleNamespace(at=lambda step: planned),
    )


def trainer_of(rank: int = 0, ranks: int = 1) -> SimpleNamespace:
    strategy = SimpleNamespace(barrier=lambda: None)
    return SimpleNamespace(global_rank=rank, world_size=ranks, strategy=strategy, precision="32")


def callback(run: Path, **settings) -> OffPrincipal:
    return OffPrincipal(run, **{"k": 3, **settings})


def step(one: OffPrincipal, stage: SimpleNamespace, trainer=None, last: bool = True) -> None:
    """A step of 100 tokens: its weights move, then the callback has its turn."""
    batch = SimpleNamespace(last=last, step=stage.step, tokens_seen=stage.tokens_seen)
    move(stage.model, stage.step + 1)
    stage.step, stage.tokens_seen, stage.row = stage.step + 1, stage.tokens_seen + 100, {}
    one.on_train_batch_end(trainer or trainer_of(), stage, None, batch, 0)


def table(run: Path, tokens: int) -> dict:
    return json.loads((run / f"update/tokens-{tokens:015d}.json").read_text())


def test_when_it_measures_and_what_it_writes(tmp_path: Path):
    one, stage = callback(tmp_path, every_tokens=200), stage_of(Model())
    old = {name: weight.clone() for name, weight in weights(stage.model)}
    one.on_train_start(trainer_of(), stage)
    rows = []
    for _ in range(4):
        step(one, stage)
        rows.append(stage.row)
    assert [bool(row) for row in rows] == [False, True, False, True]
    assert [p.name[-8:] for p in sorted(tmp_path.glob("update/*.json"))] == ["200.json", "400.json"]
    told = table(tmp_path, 400)
    assert list(told["matrices"]) == ["layers.0.weight", "layers.1.weight"]
    now = dict(weights(stage.model))
    for name, found in told["matrices"].items():
        wanted = compare(old[name], now[name], k=3, alpha=0.3, eta=1e-3, seed=_seed(0, name))
        assert found == wanted
    values = [found["update"]["norm"] for found in told["matrices"].values()]
    assert rows[-1]["update/norm"] == pytest.approx(sum(values) / 2)
    assert rows[-1]["update/random/norm"] == pytest.approx(rows[-1]["update/norm"], rel=1e-5)
    assert set(rows[-1]) == {f"update/{p}{n}" for p in ("", "random/") for n in NAMES}
    assert told["means"] == rows[-1] and told["settings"]["k"] == 3 and told["left_out"] == {}
    # A run's last micro-batch but one says nothing, also where its step would be due.
    stage.step, stage.tokens_seen = 3, 300
    step(one, stage, last=False)
    assert stage.row == {}


def test_a_resumed_run_is_compared_with_the_same_weights(tmp_path: Path):
    whole = stage_of(Model())
    one = callback(tmp_path / "whole", every_tokens=100)
    one.on_train_start(trainer_of(), whole)
    step(one, whole)
    kept = {name: value.clone() for name, value in whole.model.state_dict().items()}
    step(one, whole)

    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    later = stage_of(Model())
    later.model.load_state_dict(kept)
    later.step, later.tokens_seen = 1, 100
    again = callback(tmp_path / "again", every_tokens=100)
    again.read(tmp_path / "again/checkpoints/tokens-000000000000100")
    again.on_train_start(trainer_of(), later)
    step(again, later)
    assert later.row == whole.row and later.row["update/norm"] > 0
    assert table(tmp_path / "again", 200) == table(tmp_path / "whole", 200)

    # From a checkpoint of that run in a folder of its own.
    moved = callback(tmp_path / "moved")
    moved.read(tmp_path / "whole/checkpoints/tokens-000000000000100")
    moved.on_train_start(trainer_of(), later)
    files = [tmp_path / name / "update/before.safetensors" for name in ("whole", "moved")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_that_began_anew_keeps_its_own_weights(tmp_path: Path):
    for seed in (1, 2):
        stage = stage_of(Model())
        move(stage.model, seed)
        one = callback(tmp_path)
        one.on_train_start(trainer_of(), stage)
    before = SimpleNamespace(last=True, step=3, tokens_seen=300)
    stage.step, stage.tokens_seen = 4, 400
    one.on_train_batch_end(trainer_of(), stage, None, before, 0)
    assert stage.row["update/unchanged"] == 1 and stage.row["update/norm"] == 0
    # Where nothing moved there is no overlap, and no column of it.
    assert "update/overlap_low" not in stage.row
    assert table(tmp_path, 400)["matrices"]["layers.0.weight"]["update"]["overlap_low"] is None


def test_ranks_share_the_matrices_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alone = stage_of(Model())
    one = callback(tmp_path / "one", every_tokens=100)
    one.on_train_start(trainer_of(), alone)
    step(one, alone)

    parts = []
    for rank in (1, 0):
        stage = stage_of(Model())
        shared = callback(tmp_path / "two", every_tokens=100)
        monkeypatch.setattr(
            off_principal, "across_ranks", lambda part: parts.insert(0, part) or parts
        )
        if rank == 1:
            callback(tmp_path / "two").on_train_start(trainer_of(0, 2), stage)
        shared.on_train_start(trainer_of(rank, 2), stage)
        step(shared, stage, trainer_of(rank, 2))
    assert [list(part[0]) for part in parts] == [["layers.0.weight"], ["layers.1.weight"]]
    assert stage.row == alone.row
    assert table(tmp_path / "two", 100) == table(tmp_path / "one", 100)


def test_adapters_count_as_part_of_their_weight(tmp_path: Path):
    model = Model(adapted=True)
    named = dict(weights(model))
    assert list(named) == ["embed.weight", "layers.0.weight", "layers.1.weight"]
    one, stage = callback(tmp_path, every_tokens=100, matrices=["layers.1.*"]), stage_of(model)
    one.on_train_start(trainer_of(), stage)
    with torch.no_grad():
        model.layers[1].lora_b += 0.1
    before = named["layers.1.weight"]
    one.on_train_batch_end(
        trainer_of(),
        SimpleNamespace(**{**vars(stage), "step": 1, "tokens_seen": 100}),
        None,
        SimpleNamespace(last=True, step=0, tokens_seen=0),
        0,
    )
    change = 2.0 * (model.layers[1].lora_b @ model.layers[1].lora_a).detach()
    assert torch.equal(before, model.layers[1].weight)
    found = table(tmp_path, 100)["matrices"]["layers.1.weight"]["update"]
    assert found["norm"] == pytest.approx(float(change.norm()), rel=1e-5)
    assert found["stable_rank"] == pytest.approx(1, rel=1e-4)


def test_matrices_that_changed_their_shape_are_left_out(tmp_path: Path):
    one, stage = callback(tmp_path, every_tokens=100), stage_of(Model())
    one.on_train_start(trainer_of(), stage)
    stage.model.layers[0] = nn.Linear(12, 14)
    stage.model.layers.append(nn.Linear(5, 5))
    del stage.model.layers[1]
    step(one, stage)
    told = table(tmp_path, 100)
    assert told["matrices"] == {} and stage.row == {}
    assert told["left_out"] == {
        "layers.0.weight": "[10, 12] before, [14, 12] now",
        "layers.1.weight": "[6, 10] before, [5, 5] now",
    }
    del stage.model.layers[1]
    step(one, stage)
    assert table(tmp_path, 200)["left_out"]["layers.1.weight"] == "not in the model any more"


def test_what_is_refused_at_the_start(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^callbacks\.off_principal needs all weights in one"):
        callback(tmp_path).on_train_start(trainer_of(), stage_of(Model(), whole=False))
    with pytest.raises(ConfigError, match=r"matrices=\['heads\.\*'\] names no weight with two"):
        callback(tmp_path, matrices=["heads.*"]).on_train_start(trainer_of(), stage_of(Model()))
    with pytest.raises(ConfigError, match=r"k=6 leaves nothing of layers\.1\.weight, \[6, 10\].*5"):
        callback(tmp_path, k=6).on_train_start(trainer_of(), stage_of(Model()))
    added = callback(tmp_path)
    added.read(tmp_path / "checkpoints/tokens-000000000000100")
    with pytest.raises(ConfigError, match=r"before\.safetensors is missing, so the weights"):
        added.on_train_start(trainer_of(), stage_of(Model()))
    assert not (tmp_path / "update").exists()
    (tmp_path / "update").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written"):
        callback(tmp_path).on_train_start(trainer_of(), stage_of(Model()))


def test_a_damaged_copy_is_named(tmp_path: Path):
    one, stage = callback(tmp_path, every_tokens=100), stage_of(Model())
    one.on_train_start(trainer_of(), stage)
    (tmp_path / "update/before.safetensors").write_bytes(b"12345678" * 4)
    with pytest.raises(CheckpointError, match=r"before\.safetensors cannot be read"):
        step(one, stage)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("matrices", [], "a list of patterns"),
        ("matrices", "layers.*", "a list of patterns"),
        ("matrices", None, "a list of patterns"),
        ("k", 0, "a whole number of 1 or more"),
        ("k", True, "a whole number of 1 or more"),
        ("k", 2.5, "a whole number of 1 or more"),
        ("alpha", 0, "a share between 0 and 1"),
        ("alpha", 1.0, "a share between 0 and 1"),
        ("alpha", "half", "a share between 0 and 1"),
        ("eta", -1e-3, "a share from 0 to below 1"),
        ("eta", float("nan"), "a share from 0 to below 1"),
        ("every_tokens", -1, "a whole number; 0: at phase ends"),
        ("seed", -1, "a whole number of 0 or more"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, name, value, rule):
    with pytest.raises(ConfigError, match=rf"^callbacks\.off_principal\.{name}=.* is not {rule}"):
        callback(tmp_path, **{name: value})


def test_means_leave_out_what_is_not_defined():
    rows = [dict.fromkeys(NAMES, value) for value in (1.0, 3.0)]
    rows[0] |= {"overlap_low": float("nan"), "stable_rank": float("nan")}
    rows[1] |= {"stable_rank": float("inf")}
    found = mean(rows)
    assert found["norm"] == 2 and found["overlap_low"] == 3 and "stable_rank" not in found
    assert mean([]) == {}
