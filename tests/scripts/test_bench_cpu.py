"""scripts/bench_cpu.py: equal models, a replay that is the step's work, its table, its errors."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from plm.errors import ConfigError
from scripts import bench_cpu, bench_cpu_models, bench_cpu_replay, bench_cpu_table

SMALL = ["scale.hidden_size=64", "scale.num_hidden_layers=2", "scale.num_attention_heads=2"]
SMALL += ["scale.kv_lora_rank=32", "scale.qk_nope_head_dim=16", "scale.qk_rope_head_dim=16"]
SMALL += ["scale.v_head_dim=32", "scale.intermediate_size=256"]


@pytest.fixture
def own():
    return bench_cpu.read_arguments(["tokens=64", "seq_len=32", "peers=nanogpt"])[0]


@pytest.fixture
def bench(own, tmp_path: Path):
    return bench_cpu.make_bench(own, SMALL, tmp_path, seq_len=32, vocab=96)


def test_peers_have_our_number_of_parameters(bench):
    ours = bench_cpu_models.ours(bench)
    target = bench_cpu_models.count(ours.model)
    tokens, labels = bench.batch()
    for name in ("llama", "nanogpt"):
        peer = bench_cpu_models.peer(name, bench, target)
        assert abs(bench_cpu_models.count(peer.model) / target - 1) <= bench_cpu_models.TOLERANCE
        loss = peer.loss(peer.model, tokens, labels)
        # Untrained, each spreads over the vocabulary: they have the same loss to minimise.
        assert loss.item() == pytest.approx(torch.tensor(96.0).log().item(), abs=0.1)


def test_parameters_that_no_size_meets_are_refused():
    with pytest.raises(ConfigError, match=r"no Linear of this width and depth has 1,000 param"):
        bench_cpu_models.matched(lambda size: torch.nn.Linear(100, size), 1000)
    made = bench_cpu_models.matched(lambda size: torch.nn.Linear(9, size), 640)
    assert made.out_features == 64 and made.training


def test_replay_makes_the_products_and_attention_of_the_step(bench, own):
    contender = bench_cpu_models.ours(bench)
    step = bench_cpu.stepper(bench, contender, own["precision"])
    replay = bench_cpu_replay.record(step)
    counted = 3 * contender.model.flops_per_token(bench.seq_len) * bench.rows * bench.seq_len
    # The first layer's backward passes its gradient on to the embedding: all three thirds.
    assert replay.flops == counted
    again = bench_cpu_replay.record(replay.run)
    assert again.flops == counted and len(again.calls) == len(replay.calls)


def test_replay_keeps_layouts_and_leaves_its_inputs():
    a, b = torch.randn(4, 6).t(), torch.randn(4, 3)
    into = torch.zeros(6, 3)
    replay = bench_cpu_replay.record(lambda: into.addmm_(a, b))
    assert replay.flops == 2 * 6 * 4 * 3
    written, strides = into.clone(), []

    class Strides(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            strides.append([tensor.stride() for tensor in args])
            return func(*args, **(kwargs or {}))

    with Strides():
        replay.run()
    assert strides == [[(3, 1), (1, 6), (3, 1)]]
    assert torch.equal(into, written)


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(bench_cpu_models, "find_spec", lambda name: None)
    assert bench_cpu_models.missing(("litgpt", "nanogpt")) == {
        "litgpt": "the package litgpt is not installed"
    }


def test_the_table_gives_every_figure_with_its_conditions(bench, own, tmp_path, capsys):
    spread = {"median": 1.1, "quartile_1": 1.0, "quartile_3": 1.25}
    ratio = {"cpu": spread, "wall": spread, "rounds": 7}
    step = {
        "step_over_replay": {"ours": ratio},
        "ours_over": {"llama": ratio},
        "seconds": {"ours": {"cpu_s": spread, "wall_s": spread}},
        "tokens_per_cpu_s": {"ours": 1862.0},
        "left_out": {"litgpt": "the package litgpt is not installed"},
    }
    found = {
        "command": "scripts/bench_cpu.py threads=2",
        "step": {"T=256 V=8192": step},
        "conditions": {
            "versions": {"torch": "2.13.0"}, "python": "3.11.7", "processor": "Some CPU",
            "cpu_capability": "AVX512", "cores": 2, "threads": 2, "dtype": "fp32",
            "products": "ours", "onednn_for_fp32": True, "omp_wait_policy": "PASSIVE",
            "load_average": [0.5, 0.4, 0.3],
        },
    }  # fmt: skip
    path = tmp_path / "found.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    assert bench_cpu.main([f"table={path}"]) == 0
    said = capsys.readouterr().out
    for part in (
        "`python scripts/bench_cpu.py threads=2`",
        "Some CPU (AVX512), 2 cores, 2 threads, fp32",
        "| T=256 V=8192: ours over llama | 1.100 (1.000 to 1.250) |",
        "1,862 tokens a CPU-second",
        "left out: the package litgpt is not installed",
    ):
        assert part in said
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds no JSON of bench_cpu\.py"):
        bench_cpu_table.read(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alternations=1"], "alternations=1 has no spread"),
        (["threads=0"], "threads=0 is not a whole number of at least 1"),
        (["seq_len=300"], "tokens=2048 is not a multiple of seq_len=300"),
        (["peers=gpt"], "peers=gpt is not one of llama, litgpt, nanogpt"),
        (["compile=maybe"], "compile=maybe is not one of both, false, true"),
        (["table=/nowhere.json"], "give a file with bench_cpu.py's JSON"),
    ],
)
def test_mistakes_are_one_line(arguments, said, capsys):
    assert bench_cpu.main(arguments) == 2
    assert said in capsys.readouterr().err
