"""The model code that goes out with the weights, against the model that was trained."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
)

import plm.formats
from plm.kernels.reference.rms_norm import rms_norm
from plm.rollout.generate import generate
from tests.model.common import (
    SIZES,
    draw,
    largest,
    logits_of,
    packed_context,
    tiny,
)

CODE = Path(plm.formats.__file__).parent / "plm_files"
FILES = ("configuration_plm.py", "modeling_plm.py")
HEADS, ROPE, LAYERS = 4, SIZES["qk_rope_head_dim"], SIZES["num_hidden_layers"]
OVERRIDES = (f"scale.num_key_value_heads={HEADS}", "scale.max_position_embeddings=256")
SETTINGS = {
    **{name: SIZES[name] for name in ("vocab_size", "hidden_size", "intermediate_size")},
    **{name: SIZES[name] for name in ("num_hidden_layers", "kv_lora_rank", "v_head_dim")},
    **{name: SIZES[name] for name in ("qk_nope_head_dim", "qk_rope_head_dim")},
    "architectures": ["PLMForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_plm.PLMConfig",
        "AutoModel": "modeling_plm.PLMModel",
        "AutoModelForCausalLM": "modeling_plm.PLMForCausalLM",
    },
    "hidden_act": "relu2",
    "max_position_embeddings": 256,
    "model_type": "plm",
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "q_lora_rank": None,
    "rms_norm_eps": 1e-6,
    "rope_interleave": True,
    "rope_scaling": None,
    "use_cache": True,
}


@dataclass
class Pair:
    """Our model in fp64 and the folder made of it."""

    tied: bool
    ours: nn.Module
    folder: Path

    def load(self, auto=AutoModelForCausalLM, **settings) -> nn.Module:
        settings = {"dtype": torch.float64, **settings}
        return auto.from_pretrained(self.folder, trust_remote_code=True, **settings).eval()


def _theirs(name: str) -> str:
    return "lm_head.weight" if name.endswith("lm_head.weight") else f"model.{name}"


def write(folder: Path, weights: dict[str, Tensor], **changes) -> Path:
    folder.mkdir()
    for name in FILES:
        shutil.copy(CODE / name, folder)
    (folder / "config.json").write_text(json.dumps({**SETTINGS, **changes}))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module", params=["tied", "untied"])
def pair(request, tmp_path_factory) -> Pair:
    ours = tiny(*OVERRIDES, f"model/embedding={request.param}", seed=2).eval()
    with torch.no_grad():
        # Else a tied model says its last token again and again.
        for layer in ours.layers:
            layer.self_attn.o_proj.weight *= 4
            layer.mlp.down_proj.weight *= 4
    changes = {
        "tie_word_embeddings": request.param == "tied",
        "rope_theta": float(ours.layers[0].self_attn.rope_theta),
    }
    weights = {_theirs(name): part for name, part in ours.state_dict().items()}
    folder = write(tmp_path_factory.mktemp("made") / request.param, weights, **changes)
    return Pair(request.param == "tied", ours, folder)


@pytest.fixture(scope="module")
def modeling(pair: Pair) -> ModuleType:
    return sys.modules[type(pair.load()).__module__]


def small(modeling: ModuleType, **changes) -> nn.Module:
    sizes = {name: value for name, value in SETTINGS.items() if name != "auto_map"}
    config = modeling.PLMConfig(**{**sizes, "initializer_range": 0.3, **changes})
    return modeling.PLMForCausalLM(config).double().eval()


@torch.no_grad()
def stepped(model: nn.Module, tokens: Tensor, chunks: tuple[int, ...], **given) -> Tensor:
    """Logits [B, T, V], the tokens given in chunks with a cache."""
    cache, found = DynamicCache(), []
    for chunk in tokens.split(chunks, dim=1):
        output = model(chunk, past_key_values=cache, use_cache=True, **given)
        found.append(output.logits)
    assert cache.get_seq_length() == tokens.shape[1]
    return torch.cat(found, dim=1)


def new_tokens(model: nn.Module, rows: Tensor, count: int, mask: Tensor | None = None, **settings):
    settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, **settings}
    mask = torch.ones_like(rows) if mask is None else mask
    found = model.generate(rows, attention_mask=mask, max_new_tokens=count, **settings)
    return found[:, rows.shape[1] :]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: part.grad for name, part in model.named_parameters()}


def our_gradients(ours: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    ours.zero_grad()
    logits = logits_of(ours, tokens)[:, :-1]
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return {_theirs(name): part.grad for name, part in ours.named_parameters()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_ours(pair: Pair, attention: str):
    tokens = draw(3, 40)
    model = pair.load(attn_implementation=attention)
    assert largest(model(tokens).logits, logits_of(pair.ours, tokens)) < 1e-10


def test_logits_in_narrower_types(pair: Pair):
    tokens = draw(3, 40)
    expected = logits_of(pair.ours, tokens)
    narrow = pair.load(dtype=torch.float32)
    assert largest(narrow(tokens).logits.double(), expected) < 1e-5
    loaded, moved = pair.load(dtype=torch.bfloat16), narrow.to(torch.bfloat16)
    found = loaded(tokens).logits
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, moved(tokens).logits)
    assert largest(found.double(), expected) < 0.05


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_ours(pair: Pair, checkpointing: bool):
    tokens = draw(3, 24)
    model = pair.load().train()
    if checkpointing:
        model.gradient_checkpointing_enable()
        assert model.model.layers[0].gradient_checkpointing
    output = model(tokens, labels=tokens)
    output.loss.backward()
    found, expected = gradients(model), our_gradients(pair.ours, tokens)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert largest(found[name], gradient) < 1e-5, name


def test_greedy_text_is_ours(pair: Pair):
    prompts = draw(3, 9)
    expected = generate(pair.ours, prompts, 128)
    assert min(len(set(row.tolist())) for row in expected) > 4
    model = pair.load()
    assert torch.equal(new_tokens(model, prompts, 128), expected)
    assert torch.equal(new_tokens(model, prompts, 128, use_cache=False), expected)
    static = new_tokens(model, prompts, 128, cache_implementation="static")
    assert torch.equal(static, expected)


def test_beams_are_the_same_with_a_cache(pair: Pair):
    prompts, model = draw(2, 5), pair.load()
    beams = {"num_beams": 4, "num_return_sequences": 2}
    expected = new_tokens(model, prompts, 12, use_cache=False, **beams)
    assert torch.equal(new_tokens(model, prompts, 12, **beams), expected)
    static = new_tokens(model, prompts, 12, cache_implementation="static", **beams)
    assert torch.equal(static, expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_chunks_with_a_cache_give_the_same_logits(pair: Pair, attention: str):
    tokens = draw(2, 20)
    model = pair.load(attn_implementation=attention)
    found = stepped(model, tokens, (7, 1, 1, 5, 1, 1, 4))
    assert largest(found, logits_of(pair.ours, tokens)) < 1e-10


def test_the_cache_keeps_latents_only(pair: Pair):
    cache = pair.load()(draw(2, 7), use_cache=True).past_key_values
    kept = sum(part.numel() for layer in cache.layers for part in (layer.keys, layer.values))
    assert kept == 2 * 7 * LAYERS * (SIZES["kv_lora_rank"] + ROPE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_left_padding_changes_nothing(pair: Pair, attention: str):
    model = pair.load(attn_implementation=attention)
    tokens, pads = draw(2, 12), 5
    rows = torch.stack((F.pad(tokens[0, pads:], (pads, 0)), tokens[1]))
    mask = torch.ones_like(rows)
    mask[0, :pads] = 0
    expected = logits_of(pair.ours, tokens[:1, pads:])[0]
    assert largest(model(rows, attention_mask=mask).logits[0, pads:], expected) < 1e-10
    found = new_tokens(model, rows, 20, mask)
    for row, alone in zip(found, (tokens[:1, pads:], tokens[1:]), strict=True):
        assert torch.equal(row, generate(pair.ours, alone, 20)[0])


def test_positions_that_start_again_keep_documents_apart(pair: Pair):
    context = packed_context(2)
    tokens = draw(*context.positions.shape)
    found = pair.load()(tokens, position_ids=context.positions, use_cache=False).logits
    assert largest(found, logits_of(pair.ours, tokens, context)) < 1e-10


def test_half_split_rotary_is_the_same_with_moved_rows(pair: Pair, tmp_path: Path):
    order = torch.cat((torch.arange(0, ROPE, 2), torch.arange(1, ROPE, 2)))
    weights = load_file(pair.folder / "model.safetensors")
    for name, weight in weights.items():
        if "q_proj" in name:
            heads = weight.unflatten(0, (HEADS, -1)).clone()
            heads[:, -ROPE:] = heads[:, -ROPE:][:, order]
            weights[name] = heads.flatten(0, 1)
        elif "kv_a_proj" in name:
            weights[name] = torch.cat((weight[:-ROPE], weight[-ROPE:][order]))
    settings = json.loads((pair.folder / "config.json").read_text())
    folder = write(tmp_path / "half", weights, **{**settings, "rope_interleave": False})
    tokens = draw(2, 30)
    found = Pair(pair.tied, pair.ours, folder).load()
    assert largest(found(tokens).logits, logits_of(pair.ours, tokens)) < 1e-10
    assert largest(stepped(found, tokens, (28, 1, 1)), logits_of(pair.ours, tokens)) < 1e-10


def test_a_saved_model_is_the_same_and_brings_its_code(pair: Pair, tmp_path: Path):
    model = pair.load()
    model.save_pretrained(tmp_path / "again")
    weights = load_file(tmp_path / "again" / "model.safetensors")
    assert ("lm_head.weight" in weights) is not pair.tied
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (CODE / name).read_bytes()
    again, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "again",
        trust_remote_code=True,
        dtype=torch.float64,
        output_loading_info=True,
    )
    assert not any(info.values())
    assert again.config.rope_theta == pair.ours.layers[0].self_attn.rope_theta
    assert again.config.tie_word_embeddings is pair.tied
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is pair.tied
    kept = again.state_dict()
    assert kept.keys() == model.state_dict().keys()
    assert all(torch.equal(kept[name], part) for name, part in model.state_dict().items())
    base = Pair(pair.tied, pair.ours, tmp_path / "again").load(AutoModel)
    tokens = draw(2, 9)
    found = base(tokens).last_hidden_state @ model.lm_head.weight.T
    assert largest(found, logits_of(pair.ours, tokens)) < 1e-10


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"model": "cpu", "lm_head": "cpu"}])
def test_device_maps(pair: Pair, device_map):
    tokens = draw(2, 9)
    model = pair.load(device_map=device_map)
    assert largest(model(tokens).logits, logits_of(pair.ours, tokens)) < 1e-10
    assert torch.equal(new_tokens(model, tokens, 8), generate(pair.ours, tokens, 8))


def test_what_can_be_asked_for_beside_logits(pair: Pair):
    model, tokens = pair.load(attn_implementation="eager"), draw(2, 11)
    output = model(tokens, output_attentions=True, output_hidden_states=True)
    assert len(output.attentions) == LAYERS and len(output.hidden_states) == LAYERS + 1
    vectors = model.get_input_embeddings()(tokens)
    assert torch.equal(output.hidden_states[0], vectors)
    assert torch.equal(model.lm_head(output.hidden_states[-1]), output.logits)
    for weights in output.attentions:
        assert weights.shape == (2, HEADS, 11, 11)
        assert torch.equal(weights, weights.tril())
        assert torch.allclose(weights.sum(-1), torch.ones(2, HEADS, 11).double())
    cache = model(tokens[:, :-1], use_cache=True).past_key_values
    last = model(tokens[:, -1:], past_key_values=cache, output_attentions=True)
    for found, weights in zip(last.attentions, output.attentions, strict=True):
        assert largest(found, weights[:, :, -1:]) < 1e-10
    assert torch.equal(model(inputs_embeds=vectors).logits, output.logits)
    assert largest(model(tokens, logits_to_keep=3).logits, output.logits[:, -3:]) < 1e-12
    chosen = torch.tensor([1, 4])
    assert largest(model(tokens, logits_to_keep=chosen).logits, output.logits[:, chosen]) < 1e-12
    assert torch.equal(model(tokens, return_dict=False, use_cache=False)[0], output.logits)


def test_the_loss_takes_ignored_labels_and_a_count(pair: Pair):
    model, tokens = pair.load(), draw(2, 11)
    labels = tokens.clone()
    labels[:, 5:] = -100
    kept = logits_of(pair.ours, tokens)[:, :4].flatten(0, 1)
    expected = F.cross_entropy(kept, tokens[:, 1:5].flatten())
    assert model(tokens, labels=labels).loss.item() == pytest.approx(expected.item(), rel=1e-6)
    counted = model(tokens, labels=labels, num_items_in_batch=16).loss.item()
    assert counted == pytest.approx(expected.item() / 2, rel=1e-6)


def test_text_while_training_with_checkpointing(pair: Pair):
    prompts, model = draw(2, 5), pair.load().train()
    model.gradient_checkpointing_enable()
    assert torch.equal(new_tokens(model, prompts, 20), generate(pair.ours, prompts, 20))


def test_a_kv_b_that_is_more_than_a_matrix_is_not_gone_round(modeling: ModuleType):
    model, tokens = small(modeling), draw(2, 8)
    plain = model(tokens).logits
    for layer in model.model.layers:
        layer.self_attn.kv_b_proj.register_forward_hook(lambda part, given, out: 1.5 * out)
    whole = model(tokens).logits
    assert largest(whole, plain) > 1e-3
    assert largest(stepped(model, tokens, (6, 1, 1)), whole) < 1e-10


def test_one_odd_number_in_the_cache(modeling: ModuleType):
    model, tokens = small(modeling, kv_lora_rank=9), draw(2, 8)
    assert largest(stepped(model, tokens, (6, 1, 1)), model(tokens).logits) < 1e-10


@pytest.mark.slow
def test_no_break_in_a_compiled_step(modeling: ModuleType):
    model, prompts = small(modeling), draw(1, 4)
    expected = new_tokens(model, prompts, 4)
    model.forward = torch.compile(model.forward, backend="eager", fullgraph=True, dynamic=False)
    assert torch.equal(new_tokens(model, prompts, 4, cache_implementation="static"), expected)


def test_attention_that_needs_one_head_size_is_refused(pair: Pair):
    with pytest.raises(ValueError, match=r"(?i)flex"):
        pair.load(attn_implementation="flex_attention")
    with pytest.raises(ValueError, match="attn_implementation='eager'"):
        pair.load(attn_implementation="sdpa")(draw(1, 3), output_attentions=True)


def test_inputs_twice_or_not_at_all(pair: Pair):
    with pytest.raises(ValueError, match="one of the two"):
        pair.load()()


def _saved(config, folder: Path):
    config.save_pretrained(folder)
    return type(config).from_pretrained(folder)


def test_rope_theta_by_every_name(modeling: ModuleType, pair: Pair, tmp_path: Path):
    make = modeling.PLMConfig
    default = {"rope_type": "default", "rope_theta": 3e5}
    for given in (
        {"rope_theta": 3e5},
        {"rope_parameters": default},
        {"rope_theta": 1e4, "rope_parameters": default},
        {"rope_theta": 3e5, "rope_scaling": {"type": "default"}},
    ):
        config = make(**given)
        assert config.rope_theta == 3e5
        assert config.rope_parameters == default
        assert _saved(config, tmp_path).rope_theta == 3e5
    assert json.loads((tmp_path / "config.json").read_text())["rope_theta"] == 3e5
    config.rope_theta = 7.0
    assert _saved(config, tmp_path).rope_theta == 7
    asked = {"trust_remote_code": True, "rope_theta": 9.0}
    assert AutoConfig.from_pretrained(pair.folder, **asked).rope_theta == 9


def test_settings_that_are_kept(modeling: ModuleType, tmp_path: Path):
    default = modeling.PLMConfig()
    assert default.tie_word_embeddings and default.use_cache and default.rope_interleave
    assert _saved(default, tmp_path).to_dict() == default.to_dict()
    given = {"tie_word_embeddings": False, "use_cache": False, "rope_interleave": False}
    given |= {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": [1, 2]}
    kept = _saved(modeling.PLMConfig(**given), tmp_path)
    assert {name: getattr(kept, name) for name in given} == given


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"num_key_value_heads": 8}, "num_key_value_heads=8 differs from num_attention_heads=16"),
        ({"q_lora_rank": 4}, "q_lora_rank=4"),
        ({"attention_bias": True}, "attention_bias"),
        ({"qk_rope_head_dim": 3}, "qk_rope_head_dim=3 is odd"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type='yarn'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type='linear'"),
    ],
)
def test_what_plm_does_not_have(modeling: ModuleType, setting, told: str):
    with pytest.raises(ValueError, match=told):
        modeling.PLMConfig(**setting)


@pytest.mark.slow
def test_without_our_package(pair: Pair, tmp_path: Path):
    """In a process of its own, with ten steps of transformers' trainer."""
    prompt = draw(1, 6, seed=3)
    asked = ["--prompt", ",".join(str(token) for token in prompt[0].tolist())]
    script = Path(__file__).parent / "outside.py"
    ran = subprocess.run(
        [sys.executable, script, pair.folder, tmp_path / "out", *asked],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    report = json.loads(ran.stdout.splitlines()[-1])
    assert all(report["checks"].values()) and len(report["checks"]) > 12
    narrow = tiny(*OVERRIDES, f"model/embedding={'tied' if pair.tied else 'untied'}")
    narrow.load_state_dict(pair.ours.state_dict())
    assert report["greedy"] == generate(narrow.float(), prompt, 32)[0].tolist()
    count = torch.arange(32)
    tokens = ((count * count * 7 + count + 3) % SIZES["vocab_size"]).view(2, 16)
    for name, gradient in our_gradients(pair.ours, tokens).items():
        expected = gradient.abs().max().item()
        assert report["largest_gradient"][name] == pytest.approx(expected, rel=1e-4), name


def test_the_norm_multiplies_its_weight_before_it_rounds(modeling: ModuleType):
    norm = modeling.PLMRMSNorm(64, 1e-6).to(torch.bfloat16)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * torch.randn(64))
    rows = torch.randn(50, 64).to(torch.bfloat16)
    assert torch.equal(norm(rows), rms_norm(rows, norm.weight, 1e-6))


def test_one_token_expands_no_latents(modeling: ModuleType, monkeypatch):
    model, tokens, expanded = small(modeling), draw(2, 8), []
    expand = modeling.PLMAttention._expand

    def counted(part: nn.Module, kept: Tensor):
        expanded.append(kept.shape[1])
        return expand(part, kept)

    monkeypatch.setattr(modeling.PLMAttention, "_expand", counted)
    stepped(model, tokens, (6, 1, 1))
    assert expanded == [6] * LAYERS
