"""llama.cpp, the real one, gives what torch gives; and what cannot work is refused in one line."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from plm.errors import CheckpointError, ConfigError, DataError
from plm.formats import llama_cpp_types
from plm.formats.llama_cpp import KINDS, LlamaCpp, check_widths, quantize
from plm.formats.llama_cpp_types import DEFAULTS, FUNCTIONS, check_interface, find_library
from tests.model.common import SIZES, TINY, compose, draw, logits_of, tiny

THETA, EPS, N_CTX = 100_000.0, 1e-6, 512
# Every column is a multiple of 256, which the K types need; 8 layers show their whole mixture.
WIDE = tuple(
    f"scale.{name}={value}"
    for name, value in {
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "kv_lora_rank": 256,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "intermediate_size": 256,
        "gated_intermediate_size": 256,
        "initializer_range": 0.05,
    }.items()
)
NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TEXTS = (
    "The cat sat on the mat.  Twice , in fact .\n\n\tdef f(x): return x**2  # 12345\n",
    "Grüße, 你好, e\u0301 and 🎉🎉; don't we'll I'M\r\n   trailing   ",
    "<|end|>a<|end|>",
)


def gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("layers."):
        return f"{NAMES[stem]}.weight"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{NAMES[part]}.weight"


def bpe() -> Tokenizer:
    """A byte-level BPE with GPT-2's splitter, trained here."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text("utf-8")], trainer)
    return tokenizer


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    control = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control[token != "<|end|>"] for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)


def write(
    folder: Path, arch: str, *overrides: str, tokenizer: Tokenizer | None = None
) -> tuple[Path, torch.nn.Module]:
    """A GGUF in F32 of drawn weights, written without our exporter; and the model in float64."""
    model = tiny(f"model={arch}", *overrides, dtype=torch.float32)
    size = compose(*TINY, *overrides)["scale"]
    path = folder / f"{arch}.gguf"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(size["num_hidden_layers"])
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(size["hidden_size"])
    writer.add_head_count(size["num_attention_heads"])
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(THETA)
    writer.add_vocab_size(size["vocab_size"])
    if arch == "plm":
        writer.add_feed_forward_length(size["intermediate_size"])
        writer.add_head_count_kv(size["num_attention_heads"])
        writer.add_kv_lora_rank(size["kv_lora_rank"])
        writer.add_key_length(size["qk_nope_head_dim"] + size["qk_rope_head_dim"])
        writer.add_value_length(size["v_head_dim"])
        writer.add_rope_dimension_count(size["qk_rope_head_dim"])
    else:
        writer.add_feed_forward_length(size["gated_intermediate_size"])
        writer.add_head_count_kv(size["num_key_value_heads"])
        writer.add_rope_dimension_count(size["hidden_size"] // size["num_attention_heads"])
    if tokenizer:
        add_tokenizer(writer, tokenizer)
    else:
        writer.add_tokenizer_model("no_vocab")
    for name, value in model.state_dict().items():
        writer.add_tensor(gguf_name(name), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model.double()


@torch.no_grad()
def torch_logits(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    return logits_of(model, torch.tensor([tokens]))[0].numpy()


def torch_greedy(model: torch.nn.Module, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(torch_logits(model, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def divergence(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean KL in nats of two tables of logits."""
    ours, theirs = (torch.tensor(x, dtype=torch.float64).log_softmax(-1) for x in (expected, found))
    return float((ours.exp() * (ours - theirs)).sum(-1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["plm", "llama"])
def test_logits_steps_and_losses_are_torchs(arch: str, tmp_path: Path, llama_cpp):
    path, model = write(tmp_path, arch)
    tokens = draw(200).tolist()
    expected = torch_logits(model, tokens)
    with LlamaCpp(path, n_ctx=N_CTX) as peer:
        assert peer.n_vocab == SIZES["vocab_size"]
        found = peer.logits(tokens)
        assert found.dtype == np.float32 and found.shape == (200, SIZES["vocab_size"])
        # Only fp32 against fp64; a wrong pair of rotary columns or a wrong base gives 0.1 or more.
        assert relative(found, expected) < 1e-5
        # A second call starts from an empty cache.
        np.testing.assert_array_equal(peer.logits(tokens), found)
        prompt = tokens[:9]
        assert peer.greedy(prompt, 128) == torch_greedy(model, prompt, 128)
        rows = draw(3, 41, seed=1)
        total, count = peer.losses(rows.numpy())
        with torch.no_grad():
            logits = logits_of(model, rows[:, :-1])
        wanted = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
        assert count == 120 and total == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.slow
def test_a_sequence_longer_than_one_chunk_is_whole(tmp_path: Path, llama_cpp):
    path, model = write(tmp_path, "plm")
    tokens = draw(700).tolist()
    expected = torch_logits(model, tokens)
    with LlamaCpp(path, n_ctx=700) as peer:
        assert relative(peer.logits(tokens), expected) < 1e-5
        total, count = peer.losses(np.array([tokens]))
        assert peer.greedy(tokens[:690], 10) == torch_greedy(model, tokens[:690], 10)
    wanted = F.cross_entropy(
        torch.tensor(expected[:-1]), torch.tensor(tokens[1:]), reduction="sum"
    ).item()
    assert count == 699 and total == pytest.approx(wanted, rel=1e-6)


@pytest.mark.slow
def test_a_cache_in_f16_is_only_near(tmp_path: Path, llama_cpp):
    path, model = write(tmp_path, "plm")
    tokens = draw(200).tolist()
    with LlamaCpp(path, n_ctx=N_CTX, kv_type="f16") as peer:
        error = relative(peer.logits(tokens), torch_logits(model, tokens))
    # Eleven bits of a key are seen in the logits: this also shows that the tests above see bits.
    assert 1e-5 < error < 1e-2


@pytest.mark.slow
def test_its_tokens_are_those_of_tokenizers(tmp_path: Path, llama_cpp):
    tokenizer = bpe()
    size = tokenizer.get_vocab_size()
    path, _ = write(tmp_path, "plm", f"scale.vocab_size={size}", tokenizer=tokenizer)
    with LlamaCpp(path, n_ctx=16) as peer:
        for text in TEXTS:
            expected = tokenizer.encode(text, add_special_tokens=False).ids
            assert peer.tokenize(text, special=True) == expected
            assert peer.detokenize(expected) == text
        assert peer.tokenize("") == []
        assert 0 in peer.tokenize("<|end|>", special=True)
        assert 0 not in peer.tokenize("<|end|>")
        assert peer.detokenize([0, *peer.tokenize("a")], special=False) == "a"
        assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (0, 0, 0)
        assert peer.metadata("tokenizer.ggml.pre") == "gpt-2"
        assert peer.metadata("plm.attention.kv_lora_rank") == str(SIZES["kv_lora_rank"])
        assert peer.metadata("plm.nothing") is None
        assert peer.metadata("tokenizer.ggml.tokens") is None
        assert peer.describe().startswith("plm ")
        with pytest.raises(ConfigError, match=r"^n_ctx=16 is too small for 17 positions$"):
            peer.logits([1] * 17)
        with pytest.raises(ConfigError, match=r"^n_ctx=16 is too small for 17 positions$"):
            peer.greedy([1] * 16, 2)
        with pytest.raises(DataError, match=rf"^token {size} is outside .*plm.gguf's {size} ids$"):
            peer.logits([size])
        with pytest.raises(ConfigError, match="the prompt is empty"):
            peer.greedy([], 1)


@pytest.mark.slow
def test_speed_counts_tokens_a_second(tmp_path: Path, llama_cpp):
    path, _ = write(tmp_path, "llama")
    with LlamaCpp(path, n_ctx=64, threads=None) as peer:
        found = peer.speed(draw(32).tolist(), 8, repeats=2)
        assert peer.threads >= 1 and found["threads"] == peer.threads
    assert found["prefill_tokens_s"] > 0 and found["decode_tokens_s"] > 0
    assert (found["prompt"], found["n"], found["repeats"]) == (32, 8, 2)
    # Closed twice is closed, and a use of it is an exception rather than a crash.
    peer.close()
    with pytest.raises(AttributeError):
        peer.describe()


def types_of(path: Path) -> dict[str, Kind]:
    return {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["plm", "llama"])
def test_quantised_files_hold_what_was_asked_and_stay_near(arch, tmp_path: Path, llama_cpp):
    path, _ = write(tmp_path, arch, *WIDE)
    tokens = draw(200).tolist()
    with LlamaCpp(path, n_ctx=N_CTX) as peer:
        expected = peer.logits(tokens)
    sizes, errors = {}, {}
    for kind in ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"):
        target = tmp_path / f"{kind}.gguf"
        quantize(path, target, kind)
        types = types_of(target)
        norms = {name for name in types if name.endswith("norm.weight")}
        assert {types.pop(name) for name in norms} == {Kind.F32}
        # Its embedding is its head too, and is kept better than the rest.
        embedding = types.pop("token_embd.weight")
        stem = kind.removesuffix("_M")
        assert embedding == (Kind.Q6_K if stem[:2] in ("Q4", "Q5", "Q6") else Kind[stem])
        better = {name for name, found in types.items() if found != Kind[stem]}
        assert {types[name] for name in better} <= {Kind.Q6_K}
        values = ("attn_kv_b", "attn_v")
        assert {name.split(".")[2] for name in better} <= {"ffn_down", *values}
        # One layer in eight from either end, and each third between them: 0, 3, 6, 7 of 8.
        wanted = {"0", "3", "6", "7"} if kind.endswith("K_M") else set()
        assert {name.split(".")[1] for name in better if "ffn_down" in name} == wanted
        assert sum(name.split(".")[2] in values for name in better) == len(wanted)
        with LlamaCpp(target, n_ctx=N_CTX) as peer:
            assert kind[:2] in peer.describe()
            errors[kind] = divergence(peer.logits(tokens), expected)
        sizes[kind] = target.stat().st_size
    assert sorted(sizes, key=sizes.get, reverse=True)[2:] == list(sizes)[2:]
    bounds = {"F16": 1e-5, "BF16": 1e-4, "Q8_0": 1e-3, "Q6_K": 1e-2, "Q5_K_M": 2e-2}
    assert all(errors[kind] < bound for kind, bound in bounds.items()), errors
    assert errors["F16"] < errors["Q8_0"] < errors["Q4_0"] < 0.1, errors
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.slow
def test_a_file_that_cannot_be_made_leaves_nothing(tmp_path: Path, llama_cpp):
    path, _ = write(tmp_path, "plm", *WIDE)
    small, target = tmp_path / "small.gguf", tmp_path / "target.gguf"
    quantize(path, small, "Q8_0")
    with pytest.raises(CheckpointError, match=r"cannot make Q4_0 of it: .*requantizing from type"):
        quantize(small, target, "Q4_0")
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"torn.gguf is not a whole GGUF file"):
        quantize(torn, target, "Q8_0")
    with pytest.raises(CheckpointError, match=r"nothing.gguf does not exist"):
        quantize(tmp_path / "nothing.gguf", target, "Q8_0")
    with pytest.raises(ConfigError, match=r"small.gguf exists already"):
        quantize(path, small, "Q8_0")
    (tmp_path / "narrow").mkdir()
    narrow, _ = write(tmp_path / "narrow", "plm")
    with pytest.raises(
        ConfigError, match=r"^Q8_0 needs widths .* of 32, but token_embd.weight has"
    ):
        quantize(narrow, target, "Q8_0")
    assert not target.exists() and not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_what_llama_cpp_refuses_is_one_line(tmp_path: Path, llama_cpp, capfd):
    path, _ = write(tmp_path, "plm")
    with pytest.raises(ConfigError, match=r"^flash_attention=True aborts llama.cpp for arch"):
        LlamaCpp(path, n_ctx=N_CTX, flash_attention=True)
    with LlamaCpp(path, n_ctx=N_CTX) as peer, pytest.raises(CheckpointError, match="no tokenizer"):
        peer.tokenize("a")
    for name, content in {"torn": path.read_bytes()[:-999], "text": b"hello" * 99}.items():
        broken = tmp_path / f"{name}.gguf"
        broken.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"^.*{name}.gguf: llama.cpp cannot load it: \w"):
            LlamaCpp(broken, n_ctx=N_CTX)
    with pytest.raises(CheckpointError, match=r"nothing.gguf does not exist"):
        LlamaCpp(tmp_path / "nothing.gguf", n_ctx=N_CTX)
    # Nothing but what is raised: llama.cpp's own log is long.
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_llama_may_have_flash_attention(tmp_path: Path, llama_cpp):
    path, model = write(tmp_path, "llama")
    tokens = draw(200).tolist()
    with LlamaCpp(path, n_ctx=N_CTX, flash_attention=True) as peer:
        assert relative(peer.logits(tokens), torch_logits(model, tokens)) < 1e-2


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"n_ctx": 8, "kv_type": "q8_0"}, r"^kv_type=q8_0 is not one of f32, f16$"),
        ({"n_ctx": 0}, r"^n_ctx=0 must be at least 1$"),
        ({"n_ctx": 8, "threads": 0}, r"^threads=0 must be at least 1$"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, line: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=line):
        LlamaCpp(tmp_path / "x.gguf", **settings)


def test_widths_are_refused_by_name():
    shapes = {
        "blk.0.attn_q.weight": (64, 512),
        "blk.0.attn_kv_b.weight": (64, 96),
        "blk.0.attn_kv_a_norm.weight": (96,),
        "blk.0.attn_norm.weight": (1, 33),
    }
    for kind in ("Q8_0", "Q4_0", "F16", "BF16"):
        check_widths(shapes, kind)
    with pytest.raises(ConfigError) as refusal:
        check_widths(shapes, "Q4_K_M")
    assert str(refusal.value) == (
        "Q4_K_M needs widths that are multiples of 256, but blk.0.attn_kv_b.weight has 96 columns; "
        "Q8_0, Q5_0 or Q4_0 fits all tensors"
    )
    shapes["token_embd.weight"] = (1000, 100)
    with pytest.raises(
        ConfigError, match=r"of 32, but token_embd.weight has 100 .*; F16 or BF16 f"
    ):
        check_widths(shapes, "Q8_0")
    check_widths(shapes, "F16")
    with pytest.raises(ConfigError, match=r"^kind=Q4_K is not one of F16, BF16, Q8_0, "):
        check_widths(shapes, "Q4_K")


def test_the_kinds_are_those_of_gguf():
    for kind, (number, block) in KINDS.items():
        assert gguf.LlamaFileType[f"MOSTLY_{kind}"] == number
        stem = kind.removesuffix("_S").removesuffix("_M").removesuffix("_L")
        assert gguf.GGML_QUANT_SIZES[Kind[stem]][0] == block


def test_the_library_is_found_or_named(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("PLM_LLAMA_CPP", raising=False)
    monkeypatch.setattr(llama_cpp_types, "HOME", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"^llama.cpp is not there; `make llama-cpp` fetches it"):
        find_library()
    folder = tmp_path / "deep" / "bins"
    folder.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"^.*deep holds no libllama$"):
        find_library(tmp_path / "deep")
    for name in ("libllama-common.so", "libggml.so", "libllama.v0.5.0.so"):
        (folder / name).touch()
    found = folder / "libllama.v0.5.0.so"
    assert find_library(tmp_path / "deep") == found == find_library(str(found))
    (folder / "libllama.so").symlink_to("libllama.v0.5.0.so")
    monkeypatch.setenv("PLM_LLAMA_CPP", str(tmp_path / "deep"))
    assert find_library() == found
    (folder / "libllama.dylib").touch()
    with pytest.raises(
        ConfigError, match=r"holds several libllama; name one: .*libllama\.dylib or"
    ):
        find_library()
    monkeypatch.setenv("PLM_LLAMA_CPP", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"^PLM_LLAMA_CPP=.*nowhere does not exist"):
        find_library()
    with pytest.raises(ConfigError, match=r"libllama.dylib cannot be loaded: "):
        LlamaCpp(found_gguf(tmp_path), n_ctx=8, library=folder / "libllama.dylib")


def found_gguf(folder: Path) -> Path:
    path = folder / "some.gguf"
    path.touch()
    return path


def fake() -> SimpleNamespace:
    """What a libllama of the right version answers."""

    def answers(params: type[ctypes.Structure], special: dict):
        return lambda: params(**special)

    library = SimpleNamespace(**dict.fromkeys(FUNCTIONS))
    for name, (params, special) in DEFAULTS.items():
        setattr(library, name, answers(params, special))
    return library


def shifted(name: str, *, at: str, by: int):
    """The defaults of a version that has one more field, of `by` bytes, before `at`."""
    params, special = DEFAULTS[name]
    raw, place = bytes(params(**special)), getattr(params, at).offset
    return lambda: params.from_buffer_copy(raw[:place] + bytes(by) + raw[place : len(raw) - by])


def test_another_interface_is_refused():
    path = Path("libllama.so")
    check_interface(fake(), path)
    for name, at, by, line in (
        ("llama_context_default_params", "n_rs_seq", 4, r"n_outputs_max_per_seq is 0, not 1"),
        ("llama_context_default_params", "type_k", 4, r"type_k is 0, not 1"),
        ("llama_context_default_params", "embeddings", 1, r"offload_kqv is False, not True"),
        ("llama_model_default_params", "tensor_buft_overrides", 8, r"n_gpu_layers is 0, not -1"),
        ("llama_model_default_params", "vocab_only", 1, r"use_extra_bufts is False, not True"),
        ("llama_model_quantize_default_params", "imatrix", 8, r"max_buf_size is 0, not 8589934592"),
    ):
        library = fake()
        setattr(library, name, shifted(name, at=at, by=by))
        start = r"^libllama.so: this libllama has another interface than llama.cpp v0.5.0: "
        with pytest.raises(ConfigError, match=rf"{start}{name}\(\)\.{line}; `make llama-cpp`"):
            check_interface(library, path)
    library = fake()
    del library.llama_memory_clear
    with pytest.raises(ConfigError, match=r"v0.5.0: llama_memory_clear is missing; `make"):
        check_interface(library, path)


def test_the_lock_names_no_registry_and_pins_what_it_names():
    folder = llama_cpp_types.HOME.parent / "scripts" / "llama_cpp"
    lock = json.loads((folder / "package-lock.json").read_text("utf-8"))
    parts = {name: part for name, part in lock["packages"].items() if name}
    assert parts and all(part["integrity"].startswith("sha512-") for part in parts.values())
    assert not any("resolved" in part for part in parts.values())


def test_importing_it_loads_neither_torch_nor_the_library():
    code = "import sys, plm.formats.llama_cpp; assert not {'torch', 'gguf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
