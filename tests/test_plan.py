"""The plan of a run: exact figures, and estimates of memory against what torch really holds."""

from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from plm import plan_memory
from plm.config import build, plain, register_resolvers
from plm.data.recipe import load_recipe
from plm.errors import ConfigError
from plm.model.context import Context
from plm.phases import Plan
from plm.plan import (
    GPU_BYTES,
    draw_up,
    flops,
    gpu_name,
    parameters,
    phase_rows,
    run_time,
    state_sizes,
)
from plm.plan_memory import (
    Activations,
    Sizes,
    Step,
    largest_rows,
    precision_names,
    states,
    step_bytes,
)
from plm.plan_saved import optimizer_bytes, saved_bytes
from plm.plan_sources import MANY_EPOCHS, source_rows, source_sizes, source_totals
from plm.plan_text import as_text
from scripts.bench_common import allocated_peak

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@cache
def settings_of(*overrides: str) -> dict[str, Any]:
    register_resolvers()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return plain(hydra.compose("train", overrides=["+experiment=plm_pretrain", *overrides]))


@cache
def meta_model(*overrides: str) -> Any:
    with torch.device("meta"):
        return build(settings_of(*overrides)["model"])


def losses_of(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: build(node) for name, node in settings["losses"].items() if node}


def test_the_paper_s_model_to_the_last_parameter():
    counted = parameters(meta_model("scale=1_8b"))
    assert counted["total"] == 1_825_458_176
    assert counted["without_embedding"] == 1_514_293_248
    # 32 layers of q, kv_a, kv_b, o; of up and down; two norms and the latent's; and the last norm.
    assert counted["parts"] == {
        "embedding": 311_164_928,
        "attention": 32 * (6_291_456 + 1_179_648 + 2_097_152 + 4_194_304),
        "feed_forward": 32 * 33_554_432,
        "norm": 32 * 4_608 + 2048,
    }


def test_decoding_state_and_checkpoints_of_the_paper_s_model():
    sizes = state_sizes(meta_model("scale=1_8b"), optimizer=8 * 1_825_458_176)
    assert (sizes["kv_latent"], sizes["kv_expanded"]) == (36 * 1024, 320 * 1024)
    assert sizes["export_16_bit"] == 3_650_916_352
    assert sizes["checkpoint_weights"] == 4 * 1_825_458_176
    assert sizes["checkpoint_all"] == 12 * 1_825_458_176


def test_flops_of_latent_attention_and_how_far_off_six_n_is():
    counted = flops(meta_model("scale=1_8b"), 4096)
    # Two a weight of every product, norms left out; both products of causal attention.
    products = 2 * (1_825_458_176 - 149_504)
    attention = 32 * 16 * (192 + 128) * 4096
    assert counted["forward"] == products + attention
    assert counted["training"] == 3 * counted["forward"]
    assert counted["six_n"] == 6 * 1_825_458_176
    assert counted["six_n_off"] == pytest.approx(-0.155, abs=1e-3)


def test_phases_keep_the_paper_s_shares_in_whole_batches():
    plan = Plan.read(settings_of("scale=1_8b")["phases"])
    rows = phase_rows(plan)
    assert [round(100 * row["share"], 1) for row in rows] == [66.5, 22.2, 11.3]
    assert [row["asked"] for row in rows] == [1_649_200_000_000, 550_560_000_000, 280_240_000_000]
    for row in rows:
        assert row["tokens"] == row["steps"] * 4_194_304 == row["windows"] * 4096
        assert 0 <= row["tokens"] - row["asked"] < 4_194_304


def test_tokens_of_the_sources_add_up_and_epochs_go_on_over_phases():
    plan = Plan.read(settings_of("scale=1_8b")["phases"])
    rows = source_rows(plan, {"prose": 10**12})
    for phase in phase_rows(plan):
        assert phase["tokens"] == sum(
            row["tokens"] for row in rows if row["phase"] == phase["name"]
        )
    prose = [row for row in rows if row["source"] == "prose"]
    assert [row["epochs"] for row in prose] == [row["tokens"] / 10**12 for row in prose]
    assert prose[-1]["epochs_so_far"] == pytest.approx(sum(row["epochs"] for row in prose))
    assert {row["epochs"] for row in rows if row["source"] != "prose"} == {None}


def test_sizes_are_those_told_else_prepared_else_published(tmp_path: Path):
    source = {"licence": "none", "revision": "1"}
    origin = {"_target_": "plm.data.sources.files.files", "path": "$path"}
    hub = {"_target_": "plm.data.sources.hub.hub", "dataset": "some/set", "revision": "main"}
    recipe = tmp_path / "mine.yaml"
    sources = {
        "own": {**source, "origin": origin},
        "big": {**source, "origin": {**hub, "max_bytes": 500}, "published_tokens": 10_000},
        "unknown": {**source, "origin": {**hub, "max_bytes": 500}},
    }
    recipe.write_text(yaml.safe_dump({"sources": sources}, sort_keys=False))
    text = tmp_path / "text.txt"
    text.write_text("words\n")
    data = {**settings_of("scale=test")["data"], "recipe": str(recipe), "path": str(text)}
    data["dir"] = str(tmp_path)
    found = source_sizes(data, {"own": 70, "elsewhere": 5})
    assert found["own"] == {"size": 70, "size_from": "told", "max_bytes": None}
    assert found["big"] == {"size": 10_000, "size_from": "published", "max_bytes": 500}
    assert found["unknown"] == {"size": None, "size_from": None, "max_bytes": 500}
    assert found["elsewhere"] == {"size": 5, "size_from": "told", "max_bytes": None}
    assert source_sizes(data, {"big": 9})["big"] == {
        "size": 9, "size_from": "told", "max_bytes": None,
    }  # fmt: skip


def test_totals_of_a_run_and_what_is_read_too_often():
    plan = Plan.read(settings_of("scale=test")["phases"])
    sizes = {
        "prose": {"size": 2000, "size_from": "told", "max_bytes": None},
        "code": {"size": 10**9, "size_from": "published", "max_bytes": 100},
    }
    totals = {entry["source"]: entry for entry in source_totals(plan, sizes)}
    rows = source_rows(plan, {})
    for name, entry in totals.items():
        assert entry["tokens"] == sum(row["tokens"] for row in rows if row["source"] == name)
    assert sum(entry["tokens"] for entry in totals.values()) == plan.total_tokens
    assert totals["prose"]["epochs"] == totals["prose"]["tokens"] / 2000 > MANY_EPOCHS
    assert totals["prose"]["epochs_at_least"] is None
    assert totals["code"]["epochs"] == totals["code"]["tokens"] / 10**9
    assert totals["code"]["epochs_at_least"] == totals["code"]["tokens"] / 100
    assert totals["math"]["epochs"] is totals["math"]["epochs_at_least"] is None


def test_the_text_warns_of_what_is_read_too_often(tmp_path: Path):
    settings = settings_of("scale=test")
    settings = {**settings, "data": {**settings["data"], "dir": str(tmp_path)}}
    enough = draw_up(settings, there={"prose": 10**6, "code": 10**6, "math": 10**6})
    assert "Warning" not in as_text(enough)
    scarce = as_text(draw_up(settings, there={"prose": 10**6, "code": 100, "math": 10**6}))
    read = next(e["tokens"] for e in enough["source_totals"] if e["source"] == "code") / 100
    said = " ".join(scarce.split())
    assert f"Warning: read past data.max_epochs: code {read:.1f} times (limit 4). Up to" in said
    assert "arXiv:2305.16264" in said
    for allowed in (None, {"code": 10**6}):
        data = {**settings["data"], "max_epochs": allowed}
        plan = draw_up({**settings, "data": data}, there={"prose": 10**6, "code": 100})
        assert "Warning" not in as_text(plan)


def test_the_hub_s_recipe_and_phases_fit_and_repeat_no_known_source_too_often():
    settings = settings_of("scale=1_8b", "data=plm_hub", "phases=plm_hub")
    plan, sources = Plan.read(settings["phases"]), load_recipe("plm_hub").sources
    assert set(plan.sources()) == set(sources)
    for planned in plan.phases:
        assert sum(planned.phase.mixture.values()) == pytest.approx(1)
    published = {n: {"size": s.published_tokens} for n, s in sources.items() if s.published_tokens}
    epochs = {e["source"]: e["epochs"] for e in source_totals(plan, published)}
    assert max(value for value in epochs.values() if value) <= MANY_EPOCHS
    assert [name for name, value in epochs.items() if value is None] == ["code", "chinese"]


def forward(settings: dict[str, Any], model: Any, rows: int) -> torch.Tensor:
    seq_len = settings["scale"]["seq_len"]
    tokens = torch.randint(0, model.vocab_size, (rows, seq_len))
    context = Context(positions=tokens, doc_ids=torch.zeros_like(tokens))
    out = model(tokens, context=context, labels=tokens, losses=losses_of(settings))
    return out.losses["cross_entropy"].total


def measured_saved(settings: dict[str, Any], rows: int, precision: str) -> int:
    """Bytes that autograd keeps in a real forward, weights left out."""
    model = build(settings["model"])
    model.init_weights(0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed")
    with mixed, torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        forward(settings, model, rows)
    return sum(t.untyped_storage().nbytes() for key, t in held.items() if key not in weights)


@pytest.mark.parametrize(
    ("overrides", "precision"),
    [
        (("scale=test",), "fp32"),
        (("scale=nano",), "fp32"),
        (("scale=nano",), "mixed"),
        (("scale=nano", "model=llama"), "fp32"),
        (("scale=nano", "kernels=reference"), "fp32"),
    ],
)
def test_saved_bytes_are_those_of_a_real_forward(overrides: tuple[str, ...], precision: str):
    settings = settings_of(*overrides)
    seq_len = settings["scale"]["seq_len"]
    found = saved_bytes(
        settings["model"],
        losses_of(settings),
        rows=3,
        seq_len=seq_len,
        isolate=True,
        precision=precision,
    )
    estimate = sum(found.layers) + found.inputs + found.loss + found.outside
    assert estimate == pytest.approx(measured_saved(settings, 3, precision), rel=0.15)


def measured_peak(settings: dict[str, Any], rows: int) -> int:
    """Most bytes allocated in a forward and backward, weights and gradients left out."""
    model = build(settings["model"])
    model.init_weights(0)
    forward(settings, model, rows).backward()
    return allocated_peak(lambda: forward(settings, model, rows).backward())


def kept_of(settings: dict[str, Any], **choices: Any) -> Activations:
    shape = {"seq_len": settings["scale"]["seq_len"], "isolate": True, **choices}
    one, two = (
        saved_bytes(settings["model"], losses_of(settings), rows=rows, **shape) for rows in (1, 2)
    )
    return Activations(one, two, choices.get("precision", "fp32"))


def sizes_of(settings: dict[str, Any]) -> Sizes:
    model = build(settings["model"])
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.layers]
    total = model.parameters_of()
    return Sizes(
        total, total - sum(layers), max(layers), model.vocab_size, model.hidden_size, 8 * total
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ("scale=test",),
        ("scale=nano",),
        ("scale=nano", "model.checkpoint_activations=true"),
        ("scale=nano", "model=llama"),
        ("scale=nano", "kernels=reference"),
    ],
)
def test_peak_of_a_step_is_that_of_a_real_one(overrides: tuple[str, ...]):
    settings = settings_of(*overrides)
    step = Step(
        rows=4,
        seq_len=settings["scale"]["seq_len"],
        checkpointing=settings["model"]["checkpoint_activations"],
        gpu=False,
        reference=settings["kernels"] == "reference",
    )
    estimate = step_bytes(sizes_of(settings), kept_of(settings), step)
    assert sum(estimate.values()) == pytest.approx(measured_peak(settings, 4), rel=0.15)


def test_activations_of_a_gpu_hold_no_pattern_but_narrow_copies_of_the_weights():
    settings = settings_of("scale=nano", "scale.num_attention_heads=12")
    on_cpu, on_gpu = kept_of(settings), kept_of(settings, gpu=True)
    pattern = 12 * 128 * 128 * 4
    assert on_cpu.one.layers[0] - on_gpu.one.layers[0] > pattern / 2
    mixed = kept_of(settings, gpu=True, precision="mixed")
    layer = sum(p.numel() for p in build(settings["model"]).layers[0].parameters() if p.dim() == 2)
    assert 2 * mixed.one.layers[0] - mixed.two.layers[0] == 2 * layer
    assert mixed.kept(16, False) < on_gpu.kept(16, False)
    assert max(mixed.kept(16, True)) < mixed.kept(16, False)[0] / 2


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimizer_bytes_are_those_of_a_real_step(optimizer: str):
    from plm.optimizer.common import NamedParameter

    settings = settings_of("scale=test", f"optimizer={optimizer}")
    model = build(settings["model"])
    roles = model.roles()
    named = [NamedParameter(n, p, roles[n]) for n, p in model.named_parameters()]
    made = build(settings["optimizer"])(named, lr=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    held = sum(
        value.numel() * value.element_size()
        for state in made.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    assert optimizer_bytes(settings["model"], settings["optimizer"]) == held


BIG = Sizes(1_000_000, 200_000, 50_000, 4096, 256, 8_000_000)


def test_states_of_each_strategy():
    single = states(BIG, "single", 8, "mixed")
    assert single == {"weights": 4e6, "gradients": 4e6, "optimizer": 8e6}
    assert states(BIG, "ddp", 8, "mixed") == single
    assert states(BIG, "fsdp", 8, "mixed") == {
        "weights": 500_000,
        "gradients": 500_000,
        "optimizer": 1e6,
        "gathered": 4 * 300_000 + 4 * 250_000,
    }
    assert states(BIG, "fsdp", 1, "mixed") == {**single, "gathered": 0}
    # bf16 weights whole; a fp32 copy beside Adam's two, shared out.
    assert states(BIG, "zero2", 8, "bf16") == {
        "weights": 2e6,
        "gradients": 250_000,
        "optimizer": 1_500_000,
        "bucket": 2e6,
    }


def test_the_largest_micro_batch_is_the_last_one_that_fits():
    settings = settings_of("scale=nano")
    sizes, kept = sizes_of(settings), kept_of(settings, gpu=True, precision="mixed")

    def total(rows: int) -> int:
        return 10**8 + sum(step_bytes(sizes, kept, Step(rows, 256, False, True)).values())

    step = Step(1, 256, False, True)
    most = largest_rows(total(37), 10**8, sizes, kept, step)
    assert total(most) <= total(37) < total(most + 1)
    assert most >= 37
    assert largest_rows(10**8, 10**8, sizes, kept, step) == 0


def test_hours_and_cost_by_hand():
    model = meta_model("scale=test")
    plan = Plan.read(settings_of("scale=test")["phases"])
    forward_flops = model.flops_per_token(64)
    found = run_time(model, plan, peak=1e12, mfu=0.5, gpus=4, price=3.0)
    assert found["gpu_hours"] == pytest.approx(3 * forward_flops * plan.total_tokens / 5e11 / 3600)
    assert found["hours"] == found["gpu_hours"] / 4
    assert found["cost"] == pytest.approx(3 * found["gpu_hours"])
    assert found["tokens_per_s"] == pytest.approx(4 * 5e11 / (3 * forward_flops))
    assert run_time(model, plan, peak=1e12, mfu=0.5, gpus=4, price=None)["cost"] is None


@pytest.mark.slow
def test_the_paper_s_scale_is_planned_without_its_memory():
    with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as seen:
        plan = draw_up(settings_of("scale=1_8b"), gpu="h200", gpus=8, price=2.5)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert max((event.nbytes() for event in events), default=0) < 2**24
    assert plan["parameters"]["total"] == 1_825_458_176
    setups = {(s["strategy"], s["checkpoint_activations"]): s for s in plan["memory"]["setups"]}
    assert len(setups) == 2 * len(plan_memory.STRATEGIES)
    assert setups["fsdp", True]["total"] < setups["ddp", True]["total"]
    assert plan["memory"]["logits_chunked"] < plan["memory"]["logits_full"] / 5
    assert plan["time"]["cost"] == pytest.approx(2.5 * plan["time"]["gpu_hours"])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: gpu_name("H10"), "gpu=H10 is not in the table of GPUs; nearest: H100"),
        (lambda: gpu_name("abacus"), "gpu=abacus is not in the table of GPUs; "),
        (lambda: precision_names("int8"), "precision=int8 is not auto, fp32, bf16 or fp16"),
        (
            lambda: draw_up(settings_of("scale=test"), mfu=40.0),
            "gpus=1 mfu=40.0 price=None: at least 1, in (0, 1], and 0 or more are needed",
        ),
    ],
)
def test_what_cannot_work_is_named(call: Any, text: str):
    with pytest.raises(ConfigError) as caught:
        call()
    assert text in str(caught.value)


def test_gpu_names_are_those_of_the_peak_figures():
    from plm.metrics import PEAK_FLOPS

    assert set(GPU_BYTES) == set(PEAK_FLOPS)
    assert gpu_name("rtx_4090") == "RTX 4090"
