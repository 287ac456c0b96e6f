"""Folders of other people: read as the peer's class reads them, refused with a reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from plm import handoff
from plm.errors import CheckpointError, PlmError
from plm.export.hf import hf
from plm.formats.common import About
from plm.formats.hf_weights import half_split
from plm.pretrained import load
from tests.formats.foreign import LAYOUTS, SIZES, make
from tests.model.common import draw, largest, logits_of


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_equal_the_peers(layout: str, tmp_path: Path):
    peer = make(layout, tmp_path / "peer")
    ours = load(tmp_path / "peer").model
    tokens = draw(2, 40)
    with torch.no_grad():
        expected = peer(tokens).logits
    assert largest(logits_of(ours, tokens), expected) < 1e-5
    with torch.no_grad():
        expected = peer.double()(tokens).logits
    # The peer's angles and norms are fp32 in a model in fp64 too.
    assert largest(logits_of(ours.double(), tokens), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_and_out_again_changes_no_bit(layout: str, dtype: torch.dtype, tmp_path: Path):
    make(layout, tmp_path / "peer", dtype)
    found = load(tmp_path / "peer")
    name = str(dtype).removeprefix("torch.")
    hf(found.model, None, tmp_path / "out", about=About(), dtype=name)
    there, here = (load_file(tmp_path / name / "model.safetensors") for name in ("peer", "out"))
    assert there.keys() == here.keys()
    for name, value in there.items():
        assert here[name].dtype == dtype and torch.equal(here[name], value), name
    configs = [
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("peer", "out")
    ]
    for key in (*SIZES, "rms_norm_eps", "tie_word_embeddings", "rope_parameters", "head_dim"):
        if key in configs[0]:
            assert configs[0][key] == configs[1][key], key


def test_old_configs_without_rope_parameters(tmp_path: Path):
    peer = make("smollm2", tmp_path / "peer")
    _edit(tmp_path / "peer", rope_parameters=None, rope_theta=100000.0, head_dim=None)
    tokens = draw(1, 30)
    with torch.no_grad():
        expected = peer(tokens).logits
    assert largest(logits_of(load(tmp_path / "peer").model, tokens), expected) < 1e-5


def test_half_split_and_back_is_the_same():
    from plm.formats.architecture import of_model
    from tests.model.common import tiny

    for model in (tiny(), tiny("model=llama", "model.attention.qk_norm=true")):
        architecture = of_model(model)
        moved = 0
        for name, value in model.state_dict().items():
            there = half_split(name, value, architecture)
            moved += not torch.equal(there, value)
            assert torch.equal(half_split(name, there, architecture, back=True), value)
        # q and kv_a of PLM, q, k and their norms of the other, in each of two layers.
        assert moved == (4 if architecture.kind == "plm" else 8)


def _edit(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def _torn(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _outside_shard(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "../peer/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def _nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _lacks_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors")


def _other_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.zeros_like(weights["model.embed_tokens.weight"])
    save_file(weights, folder / "model.safetensors")


def _other_tokenizer(folder: Path) -> None:
    from plm.data import tokenizer as bpe

    made = bpe.train(["some text"], vocab_size=300, special_tokens=["<|endoftext|>"])
    bpe.save(made, folder / "tokenizer.json")


BAD = [
    (_torn, "model.safetensors is torn or no safetensors"),
    (_missing_shard, "is half written: .* names model-00002-of-00002.safetensors, which is not"),
    (_outside_shard, "is half written: .* names ../peer/model.safetensors, which is not there"),
    (_pickle, "has pytorch_model.bin in the place of .*: pickled weights can run code"),
    (_nothing, "is half written: there is no"),
    (_lacks_a_tensor, "do not fit: layers.1.mlp.up_proj.weight is missing"),
    (_other_head, "tie_word_embeddings, but lm_head.weight differs from model.embed_tokens.weight"),
    (_other_tokenizer, "the tokenizer has 264 ids and the embedding 64 rows"),
    (lambda f: _edit(f, model_type="gpt2"), "model_type='gpt2' is not known here; plm, llama"),
    (lambda f: _edit(f, hidden_size="32"), "hidden_size='32' is not a size"),
    (lambda f: _edit(f, hidden_act="gelu"), "hidden_act='gelu', here 'silu' is built"),
    (lambda f: _edit(f, attention_bias=True), "attention_bias=True, here False is built"),
    (
        lambda f: _edit(f, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
        "rope scaling 'yarn', here 'default' is built",
    ),
    (lambda f: _edit(f, layer_types=["sliding_attention"] * 2), "here full attention is built"),
    (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    (lambda f: (f / "config.json").write_text("[]"), "config.json holds no JSON object"),
]


@pytest.mark.parametrize(("spoil", "said"), BAD)
def test_what_cannot_be_read_is_one_line(spoil, said: str, tmp_path: Path):
    make("smollm2", tmp_path / "peer")
    spoil(tmp_path / "peer")
    with pytest.raises(PlmError, match=said) as caught:
        load(tmp_path / "peer")
    assert "\n" not in str(caught.value) and "peer" in str(caught.value)


def test_code_in_a_folder_is_not_run(tmp_path: Path):
    make("smollm2", tmp_path / "peer")
    (tmp_path / "peer" / "modeling_x.py").write_text("raise SystemExit('ran')\n")
    _edit(tmp_path / "peer", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    assert load(tmp_path / "peer").model.vocab_size == SIZES["vocab_size"]


def test_a_folder_of_another_model_is_refused_with_what_differs(tmp_path: Path):
    make("smollm2", tmp_path / "peer")
    other = load(tmp_path / "peer").model
    shutil.copytree(tmp_path / "peer", tmp_path / "there")
    _edit(tmp_path / "there", rope_parameters=None, rope_theta=10.0, rms_norm_eps=1e-3)
    start = handoff.find(str(tmp_path / "there"), "auto", "pretrain")
    with pytest.raises(CheckpointError) as caught:
        handoff.check(start, other)
    said = str(caught.value)
    assert "rope_theta: 100000.0 here, 10.0 there" in said
    assert "rms_norm_eps: 1e-05 here, 0.001 there" in said
    assert "model=init_from takes the folder's" in said
