"""What every choice of configs/export must hold."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from torch import nn

from plm import config
from plm.config import build, trust
from plm.data import tokenizer as bpe
from plm.errors import CheckpointError, ConfigError, DataError
from plm.formats.common import About
from tests.model.common import ROOT, choices, tiny

HERE = Path(__file__).resolve().parent
EXPORTS = choices("export")
ROWS = "scale.vocab_size=300"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return bpe.train(["some text of a town\n"] * 3, vocab_size=290, special_tokens=special)


def node_of(choice: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "configs" / "export" / f"{choice}.yaml").read_text())


def target_of(choice: str, folder: Path) -> Path:
    """One file with the format's ending where the format has types, else a folder."""
    return folder / (f"small.{choice}" if "kind" in node_of(choice) else "small")


def model_of(*overrides: str) -> nn.Module:
    return tiny(ROWS, *overrides, dtype=torch.float32)


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files}


def test_there_are_choices():
    assert {"hf", "gguf"} <= set(EXPORTS)
    assert all(node_of(choice)["_partial_"] is True for choice in EXPORTS)


@pytest.mark.parametrize("with_tokenizer", [True, False])
@pytest.mark.parametrize("choice", EXPORTS)
def test_it_writes_what_it_says_and_leaves_the_model(
    choice: str, with_tokenizer: bool, tokenizer: Tokenizer, tmp_path: Path
):
    model, export = model_of(), build(node_of(choice))
    model.layers[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    ids = tokenizer.to_str()
    # The folder above need not be there.
    target = target_of(choice, tmp_path / "deep" / "er")
    found = export(model, tokenizer if with_tokenizer else None, target, about=About("small"))
    assert found == target and contents(target)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.to_str() == ids


@pytest.mark.parametrize("choice", EXPORTS)
def test_twice_gives_the_same_bytes(choice: str, tokenizer: Tokenizer, tmp_path: Path):
    export = build(node_of(choice))
    first, second = (
        contents(export(model_of(), tokenizer, target_of(choice, tmp_path / n), about=About("x")))
        for n in ("a", "b")
    )
    assert first == second


@pytest.mark.parametrize("choice", EXPORTS)
def test_what_is_there_stays(choice: str, tokenizer: Tokenizer, tmp_path: Path):
    target = target_of(choice, tmp_path)
    target.write_text("mine")
    with pytest.raises(ConfigError, match="exists already; remove it, or give another out=…"):
        build(node_of(choice))(model_of(), tokenizer, target, about=About())
    assert contents(target) == {target.name: b"mine"} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("choice", EXPORTS)
def test_a_disk_that_fills_up_leaves_nothing(
    choice: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConfigError, match=r"small.* cannot be written: No space left on device"):
        build(node_of(choice))(model_of(), tokenizer, target_of(choice, tmp_path), about=About())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", EXPORTS)
def test_a_weight_that_is_no_number_leaves_nothing(
    choice: str, tokenizer: Tokenizer, tmp_path: Path
):
    model = model_of()
    with torch.no_grad():
        # The last one, so that the others are written by then.
        model.norm.weight[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"norm.weight holds NaN or infinity"):
        build(node_of(choice))(model, tokenizer, target_of(choice, tmp_path), about=About())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", EXPORTS)
def test_a_tokenizer_of_another_model_is_refused(choice: str, tokenizer: Tokenizer, tmp_path: Path):
    model = tiny("scale.vocab_size=200", dtype=torch.float32)
    with pytest.raises(DataError, match=r"has \d+ ids and the embedding 200 rows"):
        build(node_of(choice))(model, tokenizer, target_of(choice, tmp_path), about=About())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", EXPORTS)
def test_a_mixer_of_one_s_own_is_refused_by_name(
    choice: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(config, "_TRUSTED", ["plm"])
    trust(["mylab"])
    lab = f"hydra.searchpath=[file://{HERE}/mylab/configs]"
    model = model_of(lab, "trust=[mylab]", "model/attention=decaying_mean")
    with pytest.raises(ConfigError, match=r"model.attention=DecayingMean goes into no file format"):
        build(node_of(choice))(model, tokenizer, target_of(choice, tmp_path), about=About())
    assert not list(tmp_path.iterdir())
