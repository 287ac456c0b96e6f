"""A run begins from what another program can load: our own export, and a peer's folder."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from plm.checkpoint import read_meta
from plm.data import tokenizer as bpe
from plm.export.hf import hf
from plm.formats.common import About
from plm.pretrained import load
from tests.e2e.conftest import Trainer, last_weights, metrics
from tests.formats.foreign import make


@pytest.fixture(scope="session")
def exported(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = load(whole)
    folder = tmp_path_factory.mktemp("hf") / "model"
    about = About(end_of_text=found.end_of_text)
    return hf(found.model, bpe.load(found.tokenizer), folder, about=about)


def first_loss(run: Path) -> float:
    return float(next(row["loss"] for row in metrics(run) if row.get("loss")))


def test_a_run_goes_on_from_a_hugging_face_folder(trainer: Trainer, whole: Path, exported: Path):
    small = ("scale.tokens.pretrain=8192", "scale.warmup_tokens=1024")
    trainer.run("name=on", f"init_from={exported}", *small)
    on = trainer.runs / "on"
    # From scratch the first step's loss is ln(512) = 6.24 and the run's end far below it.
    assert first_loss(whole) > 6.1
    assert first_loss(on) < first_loss(whole) - 1
    meta = read_meta(sorted((on / "checkpoints").glob("tokens-*"))[-1])
    assert meta["origin"]["path"] == str(exported) and meta["origin"]["tokens_seen"] == 0


def test_the_weights_of_the_folder_are_the_runs(whole: Path, exported: Path):
    there = load_file(exported / "model.safetensors")
    ours = last_weights(whole)
    assert {name.removeprefix("model.") for name in there} == set(ours)
    assert all(torch.equal(there[f"model.{name}"], value) for name, value in ours.items())


def test_pretraining_goes_on_from_a_peers_folder_with_new_tokens(trainer: Trainer, tmp_path: Path):
    peer = tmp_path / "peer"
    text = trainer.text.read_text(encoding="utf-8")
    special = ["<|im_end|>", "<|endoftext|>"]
    made = bpe.train([text], vocab_size=300, special_tokens=special)
    rows = bpe.size(made) + 3
    model = make("qwen2.5", peer, vocab_size=rows)
    bpe.save(made, peer / "tokenizer.json")
    new = "data.new_tokens=['<tool>','</tool>','<a>','<b>']"
    arguments = trainer.arguments(
        "+experiment=continued_pretrain", "name=peer", f"init_from={peer}", new,
        "scale.tokens.pretrain=4096",
    )  # fmt: skip
    arguments.remove("+experiment=plm_pretrain")
    trainer.arguments = lambda *overrides: arguments
    trainer.run()
    run = trainer.runs / "peer"
    frozen = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert frozen["model"]["attention"]["qkv_bias"] is True
    # Three of the four new tokens find a row; the fourth gets one.
    assert frozen["model"]["vocab_size"] == rows + 1 == frozen["data"]["vocab_size"]
    found = load(run)
    assert found.end_of_text == "<|endoftext|>" and found.run == run
    tokenizer = bpe.load(found.tokenizer)
    assert tokenizer.token_to_id("<b>") == rows
    table = found.model.embed_tokens.weight
    assert table.shape == (rows + 1, 32)
    # Weights that training has moved a little, not new ones.
    there = model.model.layers[0].mlp.up_proj.weight
    assert (found.model.layers[0].mlp.up_proj.weight - there).abs().max() < 0.1 * there.abs().max()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=init_from"], "model=init_from needs init_from=<run, checkpoint or Hugging Face"),
        (["data.tokenizer=init_from"], "data.tokenizer=init_from needs init_from="),
        (["data.new_tokens=['<a>']"], "data.new_tokens extends an existing tokenizer: name data."),
        (["init_from={exported}", "model=llama"], "is another model than the configured one (kind"),
        (["init_from={exported}", "init=all"], "is a Hugging Face folder, with weights only"),
    ],
)
def test_what_cannot_be_taken_over_is_one_line(trainer: Trainer, exported, overrides, said):
    out = trainer.run("name=bad", *(o.format(exported=exported) for o in overrides), code=2)
    assert said in out and "Traceback" not in out
    assert len(out.strip().splitlines()) == 1
    assert not (trainer.runs / "bad").exists()


def test_data_of_another_tokenizer_are_refused(trainer: Trainer, exported: Path):
    other = ("data.vocab_size=270", f"init_from={exported}", "name=other")
    out = trainer.run(*other, code=2)
    assert "the data's tokenizer is not that of init_from=" in out
    assert "data.tokenizer=init_from takes it over" in out
    trainer.run(*other, "data.allow_changed=true", "scale.tokens.pretrain=2048")
