"""GGUF files: every key, tensor and bit against lists written here; llama.cpp as their reader."""

import logging
import struct
import sys
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import gguf as package
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as Type
from torch import Tensor, nn

from plm.config import build
from plm.data import tokenizer as bpe
from plm.errors import CheckpointError, ConfigError, DataError
from plm.export.gguf import gguf
from plm.formats import llama_cpp_types
from plm.formats.common import About
from plm.formats.llama_cpp import LlamaCpp
from plm.formats.llama_cpp_types import VARIABLE
from tests.model.common import compose, largest, logits_of

BASE = ("scale=test", "scale.initializer_range=0.2")
# Both rotary halves of a head differ, and so do query and key heads.
CASES = {
    "plm": ("model=plm",),
    "llama": ("model=llama",),
    "llama_untied": ("model=llama", "model/embedding=untied"),
    "qwen2": ("model=llama", "model.attention.qkv_bias=true"),
    "qwen3": ("model=llama", "model.attention.qk_norm=true"),
    # A head's size that is not D / H.
    "qwen3_wide": ("model=llama", "model.attention.qk_norm=true", "model.attention.head_dim=64"),
}
# Columns of all matrices are multiples of 256; scores of about one, as those of a trained model.
WIDE = (
    "scale.initializer_range=0.06",
    "scale.hidden_size=256",
    "scale.num_attention_heads=4",
    "scale.num_key_value_heads=2",
    "scale.kv_lora_rank=256",
    "scale.v_head_dim=64",
    "scale.intermediate_size=512",
    "scale.gated_intermediate_size=256",
)
ABOUT = About(name="tiny one")
KV = {
    "block_count": (Type.UINT32, 2),
    "context_length": (Type.UINT32, 256),
    "embedding_length": (Type.UINT32, 64),
    "feed_forward_length": (Type.UINT32, 96),
    "attention.head_count": (Type.UINT32, 2),
    "attention.head_count_kv": (Type.UINT32, 1),
    "attention.layer_norm_rms_epsilon": (Type.FLOAT32, 1e-6),
    "attention.key_length": (Type.UINT32, 32),
    "attention.value_length": (Type.UINT32, 32),
    "rope.dimension_count": (Type.UINT32, 32),
    "rope.freq_base": (Type.FLOAT32, 100000.0),
    "vocab_size": (Type.UINT32, 512),
}
PLM_KV = KV | {
    "feed_forward_length": (Type.UINT32, 128),
    "attention.head_count_kv": (Type.UINT32, 2),
    "attention.kv_lora_rank": (Type.UINT32, 32),
    "attention.key_length": (Type.UINT32, 64),
}
WIDE_HEAD_KV = KV | {
    "attention.key_length": (Type.UINT32, 64),
    "attention.value_length": (Type.UINT32, 64),
    "rope.dimension_count": (Type.UINT32, 64),
}
NORMS = {"attn_norm": ("input_layernorm", (64,)), "ffn_norm": ("post_attention_layernorm", (64,))}
PLM_LAYER = NORMS | {
    "attn_q": ("self_attn.q_proj", (128, 64)),
    "attn_kv_a_mqa": ("self_attn.kv_a_proj_with_mqa", (64, 64)),
    "attn_kv_a_norm": ("self_attn.kv_a_layernorm", (32,)),
    "attn_kv_b": ("self_attn.kv_b_proj", (128, 32)),
    "attn_output": ("self_attn.o_proj", (64, 64)),
    "ffn_up": ("mlp.up_proj", (128, 64)),
    "ffn_down": ("mlp.down_proj", (64, 128)),
}


def gqa_layer(head: int = 32) -> dict[str, tuple[str, tuple[int, ...]]]:
    return NORMS | {
        "attn_q": ("self_attn.q_proj", (2 * head, 64)),
        "attn_k": ("self_attn.k_proj", (head, 64)),
        "attn_v": ("self_attn.v_proj", (head, 64)),
        "attn_output": ("self_attn.o_proj", (64, 2 * head)),
        "ffn_gate": ("mlp.gate_proj", (96, 64)),
        "ffn_up": ("mlp.up_proj", (96, 64)),
        "ffn_down": ("mlp.down_proj", (64, 96)),
    }


@lru_cache
def made(case: str, *overrides: str) -> nn.Module:
    """fp32, all its weights drawn; not to be changed."""
    model = build(compose(*BASE, *CASES[case], *overrides)["model"])
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def halves(value: Tensor, heads: int) -> Tensor:
    """The even rows of each head, then its odd ones."""
    rows = value.unflatten(0, (heads, -1))
    return torch.stack([torch.cat((head[0::2], head[1::2])) for head in rows]).flatten(0, 1)


def expected_tensors(case: str, model: nn.Module) -> dict[str, Tensor]:
    """Name and values of each tensor, its shape as the facts have it."""
    weights, found = model.state_dict(), {}
    outside = {
        "token_embd.weight": ("embed_tokens.weight", (512, 64)),
        "output_norm.weight": ("norm.weight", (64,)),
    }
    if case == "llama_untied":
        outside["output.weight"] = ("embed_tokens.lm_head.weight", (512, 64))
    layer = PLM_LAYER if case == "plm" else gqa_layer(64 if case == "qwen3_wide" else 32)
    inside = {f"{name}.weight": (f"{ours}.weight", shape) for name, (ours, shape) in layer.items()}
    if case == "qwen2":
        for role, size in (("q", 64), ("k", 32), ("v", 32)):
            inside[f"attn_{role}.bias"] = (f"self_attn.{role}_bias.bias", (size,))
    if case.startswith("qwen3"):
        size = 64 if case == "qwen3_wide" else 32
        for role in ("q", "k"):
            inside[f"attn_{role}_norm.weight"] = (f"self_attn.{role}_norm.weight", (size,))
    every = outside | {
        f"blk.{index}.{name}": (f"layers.{index}.{ours}", shape)
        for index in range(2)
        for name, (ours, shape) in inside.items()
    }
    heads = {"attn_q.weight": 2, "attn_k.weight": 1, "attn_q.bias": 2, "attn_k.bias": 1}
    heads |= {"attn_q_norm.weight": 1, "attn_k_norm.weight": 1}
    for name, (ours, shape) in every.items():
        value = weights[ours]
        assert tuple(value.shape) == shape, name
        short = name.split(".", 2)[-1]
        found[name] = (
            halves(value, heads[short]) if case.startswith("qwen") and short in heads else value
        )
    return found


def read(path: Path) -> tuple[dict[str, tuple], dict[str, package.ReaderTensor]]:
    """Type and value of each key, and the tensors."""
    reader = package.GGUFReader(path)
    fields = {
        name: (
            *(field.types if field.types[0] == Type.ARRAY else field.types[:1]),
            field.contents(),
        )
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def expected_keys(case: str, file_type: int) -> dict[str, tuple]:
    arch = case.split("_")[0]
    values = {"plm": PLM_KV, "qwen3_wide": WIDE_HEAD_KV}.get(case, KV)
    return {
        "general.architecture": (Type.STRING, arch),
        "general.name": (Type.STRING, "tiny one"),
        "general.file_type": (Type.UINT32, file_type),
        "general.quantization_version": (Type.UINT32, 2),
        "tokenizer.ggml.model": (Type.STRING, "no_vocab"),
    } | {f"{arch}.{name}": found for name, found in values.items()}


def as_f32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


@pytest.mark.parametrize("case", CASES)
def test_every_key_and_tensor_and_no_other(case: str, tmp_path: Path):
    model = made(case)
    target = tmp_path / "new" / "tiny.gguf"
    assert gguf(model, None, target, about=ABOUT, kind="F32") == target
    keys, tensors = read(target)
    expected = expected_keys(case, 0)
    assert {name: found[0] for name, found in keys.items()} == {
        name: found[0] for name, found in expected.items()
    }
    for name, (kind, value) in expected.items():
        assert keys[name][1] == (as_f32(value) if kind == Type.FLOAT32 else value), name
    wanted = expected_tensors(case, model)
    assert set(tensors) == set(wanted)
    for name, value in wanted.items():
        # ggml writes the columns first.
        assert tensors[name].shape.tolist() == list(reversed(value.shape)), name
        assert tensors[name].tensor_type == Kind.F32
        np.testing.assert_array_equal(tensors[name].data, value.numpy(), err_msg=name)
    assert [file.name for file in target.parent.iterdir()] == ["tiny.gguf"]


def test_plm_has_nine_tensors_a_layer(tmp_path: Path):
    gguf(made("plm"), None, tmp_path / "x.gguf", about=ABOUT)
    assert len(read(tmp_path / "x.gguf")[1]) == 9 * 2 + 2


@pytest.mark.parametrize(("kind", "file_type"), [("F16", 1), ("BF16", 32)])
@pytest.mark.parametrize("case", ["plm", "qwen2"])
def test_half_precision_is_torchs(case: str, kind: str, file_type: int, tmp_path: Path):
    model, target = made(case), tmp_path / "x.gguf"
    gguf(model, None, target, about=ABOUT, kind=kind)
    keys, tensors = read(target)
    assert keys["general.file_type"][1] == file_type
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
    for name, value in expected_tensors(case, model).items():
        found = tensors[name]
        if value.dim() == 1:
            assert found.tensor_type == Kind.F32
            np.testing.assert_array_equal(found.data, value.numpy())
        else:
            assert found.tensor_type == Kind[kind]
            bits = np.ascontiguousarray(found.data).view(np.int16).reshape(value.shape)
            np.testing.assert_array_equal(bits, value.to(dtype).view(torch.int16).numpy())


# Blocks of 32 with one scale, their largest value over this; half a step off, and where the
# largest is negative Q4_0 has no code for its opposite: one step off.
STEPS = {"Q8_0": (7, 127, 0.5), "Q4_0": (2, 8, 1.0)}


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("case", ["plm", "llama_untied"])
def test_quantised_types_are_within_their_step(case: str, kind: str, tmp_path: Path):
    file_type, most, share = STEPS[kind]
    model, target = made(case), tmp_path / "x.gguf"
    gguf(model, None, target, about=ABOUT, kind=kind)
    keys, tensors = read(target)
    assert keys["general.file_type"][1] == file_type
    for name, value in expected_tensors(case, model).items():
        found = tensors[name]
        if value.dim() == 1:
            assert found.tensor_type == Kind.F32
            continue
        assert found.tensor_type == Kind[kind]
        blocks = value.reshape(-1, 32)
        near = torch.from_numpy(package.dequantize(found.data, Kind[kind])).reshape(blocks.shape)
        step = blocks.abs().amax(dim=1, keepdim=True) / most
        # The scale is kept in fp16, eleven bits of it.
        assert ((near - blocks).abs() <= step * (share + most * 2**-11)).all(), name
        assert not torch.equal(near, blocks)


def test_narrow_weights_and_a_phases_base_are_written(tmp_path: Path):
    model = build(compose(*BASE, "model=plm")["model"]).to(torch.bfloat16)
    model.init_weights(0)
    about = About(rope_theta=5e5)
    gguf(model, None, tmp_path / "x.gguf", about=about, kind="F32")
    keys, tensors = read(tmp_path / "x.gguf")
    assert keys["plm.rope.freq_base"] == (Type.FLOAT32, 5e5)
    assert keys["general.name"] == (Type.STRING, "plm")
    table = model.embed_tokens.weight.detach().float().numpy()
    np.testing.assert_array_equal(tensors["token_embd.weight"].data, table)
    assert model.embed_tokens.weight.dtype == torch.bfloat16


class Extra(nn.Module):
    """A head that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 3)


def test_further_heads_are_left_out_aloud(tmp_path: Path, caplog):
    model = build(compose(*BASE, "model=plm")["model"])
    model.heads["reader"] = Extra()
    with caplog.at_level(logging.WARNING, logger="plm"):
        gguf(model, None, tmp_path / "x.gguf", about=ABOUT)
    assert caplog.messages == ["model.heads: reader left out; files hold the output head only"]
    assert len(read(tmp_path / "x.gguf")[1]) == 20


REFUSED = {
    "untied plm": (
        ("model=plm", "model/embedding=untied"),
        "F16",
        "^model/embedding=untied: llama.cpp's plm always takes the embedding as head; train with "
        "model/embedding=tied, or export to Hugging Face's format$",
    ),
    "parts of two kinds": (
        ("model=plm", "model/mlp=swiglu"),
        "F16",
        r"^no file format holds these parts together: model.attention=MLA goes into plm; ",
    ),
    "biases and norms": (
        (*CASES["qwen2"], "model.attention.qk_norm=true"),
        "F16",
        "^model.attention=GQA goes into no file format: plm, llama, qwen2, qwen3 are known$",
    ),
    "qwen2's head": (
        (*CASES["qwen2"], "model.attention.head_dim=16"),
        "F16",
        r"^model.attention.head_dim=16: llama.cpp's qwen2 needs num_attention_heads · head_dim = "
        r"hidden_size, which are 2 and 64; export to Hugging Face's format$",
    ),
    "width of blocks": (
        ("model=plm", "scale.kv_lora_rank=48"),
        "Q8_0",
        r"^Q8_0 needs widths that are multiples of 32, but blk.0.attn_kv_b.weight has 48 columns; "
        r"F16 or BF16 fits all tensors$",
    ),
    "width of K-quants": (
        ("model=plm",),
        "Q4_K_M",
        r"^Q4_K_M needs widths that are multiples of 256, but token_embd.weight has 64 columns; "
        r"Q8_0, Q5_0 or Q4_0 fits all tensors$",
    ),
    "kind": (
        ("model=plm",),
        "Q4_K",
        r"^kind=Q4_K is no type of GGUF file; known: F32, F16, BF16, ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_in_one_line(name: str, tmp_path: Path):
    overrides, kind, line = REFUSED[name]
    model = build(compose(*BASE, *overrides)["model"])
    with pytest.raises(ConfigError, match=line) as refusal:
        gguf(model, None, tmp_path / "new" / "x.gguf", about=ABOUT, kind=kind)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_a_target_that_exists_or_has_another_name_is_refused(tmp_path: Path):
    target = tmp_path / "x.gguf"
    target.write_text("mine")
    with pytest.raises(ConfigError, match=r"x.gguf exists already; remove it, or give another out"):
        gguf(made("plm"), None, target, about=ABOUT)
    assert target.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ConfigError, match=r"x.bin: the name of a GGUF file must end in .gguf$"):
        gguf(made("plm"), None, tmp_path / "x.bin", about=ABOUT)


@pytest.mark.parametrize(
    ("value", "kind", "error", "line"),
    [
        (float("nan"), "F32", CheckpointError, r"^layers.1.mlp.down_proj.weight holds NaN or inf"),
        (float("inf"), "Q8_0", CheckpointError, r"^layers.1.mlp.down_proj.weight holds NaN or inf"),
        (-7e4, "F16", ConfigError, r"^blk.1.ffn_down.weight has weights too large for F16; take k"),
        (7e4, "F16", ConfigError, r"^blk.1.ffn_down.weight has weights too large for F16; take k"),
    ],
)
def test_a_failure_midway_leaves_nothing(value, kind, error, line, tmp_path: Path):
    model = build(compose(*BASE, "model=plm")["model"])
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight[3, 5] = value
    with pytest.raises(error, match=line):
        gguf(model, None, tmp_path / "x.gguf", about=ABOUT, kind=kind)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path):
    tokenizer = bpe.train(["some text of words"], vocab_size=600, special_tokens=["<|endoftext|>"])
    model = build(compose(*BASE, "model=plm", "scale.vocab_size=256")["model"])
    with pytest.raises(DataError, match=r"^the tokenizer has \d+ ids and the embedding 256 rows"):
        gguf(model, tokenizer, tmp_path / "x.gguf", about=ABOUT)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_and_a_missing_library_are_named(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(llama_cpp_types, "HOME", tmp_path / "none")
    model = build(compose(*BASE, "model=plm", *WIDE)["model"])
    with pytest.raises(ConfigError, match=r"^kind=Q4_K_M is made by llama.cpp: llama.cpp is not t"):
        gguf(model, None, tmp_path / "x.gguf", about=ABOUT, kind="Q4_K_M")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(
        ConfigError, match=r"^writing GGUF needs the package gguf: pip install gguf$"
    ):
        gguf(model, None, tmp_path / "x.gguf", about=ABOUT)
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def torch_logits(model: nn.Module, tokens: list[int]) -> Tensor:
    return logits_of(model, torch.tensor([tokens]))[0]


def torch_greedy(model: nn.Module, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(torch_logits(model, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def drawn(count: int) -> list[int]:
    return torch.randint(0, 512, (count,), generator=torch.Generator().manual_seed(5)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_computes_the_same(case: str, tmp_path: Path, llama_cpp):
    model, tokens = made(case), drawn(200)
    gguf(model, None, tmp_path / "x.gguf", about=ABOUT, kind="F32")
    model = deepcopy(model).double()
    expected = torch_logits(model, tokens)
    with LlamaCpp(tmp_path / "x.gguf", n_ctx=256) as peer:
        error = largest(torch.from_numpy(peer.logits(tokens)), expected)
        # Only fp32 against fp64; rotary rows in another order give 0.1 or more.
        assert error < 5e-5
        assert peer.greedy(tokens[:20], 128) == torch_greedy(model, tokens[:20], 128)


# Largest mean KL in nats from the F32 file's scores.
BOUNDS = {"F16": 1e-5, "BF16": 2e-4, "Q8_0": 2e-3, "Q6_K": 0.01, "Q5_K_M": 0.04}
BOUNDS |= {"Q4_K_M": 0.15, "Q4_0": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plm", "llama_untied", "qwen2", "qwen3"])
def test_llama_cpp_runs_every_kind(case: str, tmp_path: Path, llama_cpp):
    model, tokens = made(case, *WIDE), drawn(200)
    expected = torch_logits(model, tokens).log_softmax(-1)
    errors = {}
    gguf(model, None, tmp_path / "F32.gguf", about=ABOUT, kind="F32")
    plain_keys, plain_tensors = read(tmp_path / "F32.gguf")
    for kind in BOUNDS:
        target = tmp_path / f"{kind}.gguf"
        gguf(model, None, target, about=ABOUT, kind=kind)
        keys, tensors = read(target)
        assert set(keys) == set(plain_keys) and set(tensors) == set(plain_tensors)
        assert keys["general.file_type"][1] == package.LlamaFileType[f"MOSTLY_{kind}"]
        vectors = {name for name, tensor in tensors.items() if len(tensor.shape) == 1}
        assert {tensors[name].tensor_type for name in vectors} == {Kind.F32}
        most = tensors["blk.1.ffn_up.weight"].tensor_type
        assert most == Kind[kind.removesuffix("_M")]
        with LlamaCpp(target, n_ctx=256) as peer:
            found = torch.from_numpy(peer.logits(tokens)).log_softmax(-1)
        errors[kind] = float((expected.exp() * (expected - found)).sum(-1).mean())
    assert all(errors[kind] < bound for kind, bound in BOUNDS.items()), errors
    assert errors["F16"] < errors["Q8_0"] < errors["Q6_K"] < errors["Q5_K_M"] < errors["Q4_K_M"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        f"{kind}.gguf" for kind in ("F32", *BOUNDS)
    )
