"""Folders that transformers loads: the peers' own classes, and PLM by the files that go along."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from plm.data import tokenizer as bpe
from plm.errors import CheckpointError, ConfigError, DataError
from plm.export.hf import hf
from plm.formats.common import About
from plm.formats.parity import reference, with_transformers
from plm.pretrained import load
from tests.model.common import tiny

# Floats of 32 bits, some thousand of them added up.
CLOSE = 1e-5
MODELS = {
    "plm": (),
    "plm-untied": ("model/embedding=untied",),
    "llama": ("model=llama",),
    "llama-untied": ("model=llama", "model/embedding=untied"),
    "qwen2": ("model=llama", "model.attention.qkv_bias=true"),
    "qwen3": ("model=llama", "model.attention.qk_norm=true", "model.attention.head_dim=6"),
}
SIZES = ("scale.vocab_size=300", "scale.max_position_embeddings=256")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return bpe.train(["some text of a town\n"] * 3, vocab_size=290, special_tokens=special)


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_the_same(name: str, tokenizer: Tokenizer, tmp_path: Path):
    model = tiny(*MODELS[name], *SIZES, dtype=torch.float32).eval()
    ours = reference(model, tokenizer)
    folder = hf(model, tokenizer, tmp_path / "out", about=About(name))
    found = with_transformers(folder, ours)
    assert found.logit_error < CLOSE and found.positions == 200
    assert found.greedy == found.new_tokens == 128
    assert found.texts == {"multilingual": True, "code": True}


@pytest.mark.parametrize("name", MODELS)
def test_out_and_in_again_changes_no_bit(name: str, tokenizer: Tokenizer, tmp_path: Path):
    model = tiny(*MODELS[name], *SIZES, dtype=torch.float32)
    hf(
        model,
        tokenizer,
        tmp_path / "out",
        about=About(name, rope_theta=777.0, chat_template="{{ 1 }}"),
    )
    found = load(tmp_path / "out")
    for key, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], value), key
    assert found.model.layers[0].self_attn.rope_theta == 777.0
    assert found.end_of_text == "<|endoftext|>" and found.chat_template == "{{ 1 }}"
    assert bpe.load(found.tokenizer).to_str() == tokenizer.to_str()


def test_many_files_and_another_dtype(tokenizer: Tokenizer, tmp_path: Path):
    model = tiny(*MODELS["llama-untied"], *SIZES, dtype=torch.float32)
    hf(model, tokenizer, tmp_path / "out", about=About(), dtype="bfloat16", max_shard_bytes=9000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    found = load(tmp_path / "out").model.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value.bfloat16().float()), key
    assert all(v.dtype == torch.bfloat16 for f in files for v in load_file(f).values())


def test_what_a_folder_says(tokenizer: Tokenizer, tmp_path: Path):
    hf(tiny(*SIZES), tokenizer, tmp_path / "out", about=About("small"))
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "generation_config.json", "README.md", "modeling_plm.py",
            "configuration_plm.py"} <= there  # fmt: skip
    # Its tokenizer has ChatML's marks, but nothing taught the model to talk.
    assert "chat_template.jinja" not in there and load(tmp_path / "out").chat_template is None
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["PLMForCausalLM"] and config["eos_token_id"] == 0
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [0, 2]


def test_what_cannot_be_written_leaves_nothing(tokenizer: Tokenizer, tmp_path: Path):
    model = tiny(*SIZES)
    with pytest.raises(ConfigError, match="dtype=int8 is not one of float32"):
        hf(model, tokenizer, tmp_path / "out", about=About(), dtype="int8")
    with pytest.raises(DataError, match=r"the tokenizer has .* ids and the embedding 37 rows"):
        hf(tiny(), tokenizer, tmp_path / "out", about=About())
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="out exists already"):
        hf(model, tokenizer, tmp_path / "out", about=About())
    assert not list((tmp_path / "out").iterdir())
    model.layers[1].self_attn.q_proj = torch.nn.Sequential()
    model.layers[1].self_attn.q_proj.role = "q"
    with pytest.raises(ConfigError, match=r"layers.1.self_attn.q_proj is a Sequential"):
        hf(model, tokenizer, tmp_path / "other", about=About())


def test_a_float_that_is_too_small_for_a_weight_is_refused(tokenizer: Tokenizer, tmp_path: Path):
    model = tiny(*SIZES, dtype=torch.float32)
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight[3, 2] = 70000.0
    with pytest.raises(ConfigError, match=r"layers.1.mlp.up_proj.weight .* take dtype=bfloat16"):
        hf(model, tokenizer, tmp_path / "out", about=About(), dtype="float16")
    hf(model, tokenizer, tmp_path / "bf", about=About(), dtype="bfloat16")
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight[3, 2] = float("nan")
    with pytest.raises(CheckpointError, match=r"up_proj.weight holds NaN or infinity"):
        hf(model, tokenizer, tmp_path / "out", about=About())
    assert [path.name for path in tmp_path.iterdir()] == ["bf"]


def test_heads_for_training_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    model = tiny(*SIZES, dtype=torch.float32)
    model.heads["later"] = torch.nn.Linear(16, 16)
    with caplog.at_level("WARNING", logger="plm"):
        hf(model, None, tmp_path / "out", about=About())
    assert "model.heads: later left out" in caplog.text
    assert not [n for n in load_file(tmp_path / "out" / "model.safetensors") if "later" in n]
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert not there & {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["bos_token_id"] is config["eos_token_id"] is config["pad_token_id"] is None


def test_a_folder_whose_tokenizer_a_class_would_change_says_so(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model = tiny(*MODELS["qwen2"], *SIZES, dtype=torch.float32)
    with caplog.at_level("WARNING", logger="plm"):
        hf(model, tokenizer, tmp_path / "out", about=About())
    assert "PreTrainedTokenizerFast.from_pretrained takes this one's" in caplog.text
    card = (tmp_path / "out" / "README.md").read_text()
    assert "tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)" in card


@pytest.mark.parametrize("name", ["plm", "llama-untied"])
def test_transformers_loads_many_files(name: str, tokenizer: Tokenizer, tmp_path: Path):
    model = tiny(*MODELS[name], *SIZES, dtype=torch.float32).eval()
    folder = hf(model, tokenizer, tmp_path / "out", about=About(name), max_shard_bytes=1)
    files = list(folder.glob("model-*.safetensors"))
    assert len(files) == len(model.state_dict())
    found = with_transformers(folder, reference(model, tokenizer))
    assert found.logit_error < CLOSE and found.greedy == 128
    with pytest.raises(ConfigError, match="max_shard_bytes=0 must be a positive number"):
        hf(model, tokenizer, tmp_path / "other", about=About(), max_shard_bytes=0)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import safetensors
    import safetensors.torch

    def fail(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("I/O error: no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(ConfigError, match=r"out cannot be written: I/O error: no space left"):
        hf(tiny(*SIZES), tokenizer, tmp_path / "out", about=About())
    assert not list(tmp_path.iterdir())
