"""The kernels' benchmark, tried without a GPU: jobs agree with each other, verdicts are kept."""

import json

import pytest
import torch

from plm.errors import ConfigError
from scripts import bench_kernels, bench_kernels_ops
from scripts.bench_kernels_time import Job, measure

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch):
    """A C++ compiler needs half a minute for each op."""
    monkeypatch.setattr(torch, "compile", lambda call: call)


@pytest.mark.parametrize("op", bench_kernels_ops.OPS)
def test_the_contenders_of_a_job_do_the_same_work(op: str):
    job = bench_kernels_ops.OPS[op](bench_kernels_ops.shape_of("test", 64), CPU)
    result = measure(job, CPU, 2)
    assert set(result["left_out"]) == set(job.missing)
    assert {"ours", "torch", "compiled"} <= set(result["forward"]["ms"])
    assert bool(result["both"]["ms"]) == job.backward
    outs = {name: job.contenders[name](**job.inputs) for name in ("ours", "torch")}
    pairs = zip(*(o if isinstance(o, tuple) else (o,) for o in outs.values()), strict=True)
    for ours, other in pairs:
        # bf16 products, summed in another order.
        tolerance = 3e-2 * float(other.detach().float().abs().max())
        torch.testing.assert_close(ours.float(), other.float(), rtol=0, atol=tolerance)


def test_a_contender_that_raises_is_named_and_left_out():
    def broken(x):
        raise RuntimeError("no such shape\nand more")

    job = Job({"x": torch.ones(3, requires_grad=True)}, {"ours": lambda x: 2 * x, "other": broken})
    result = measure(job, CPU, 3)
    assert result["left_out"] == {"other": "RuntimeError: no such shape"}
    assert list(result["both"]["ms"]) == ["ours"] and result["both"]["ours_over"] == {}


def test_an_op_is_off_only_where_the_lower_quartile_loses():
    def result(low: float) -> dict:
        return {"both": {"ours_over": {"compiled": {"quartile_1": low, "median": low + 0.1}}}}

    found = bench_kernels.verdicts(
        {"a": result(1.01), "b": result(0.99), "c": {"both": {"ours_over": {}}}}
    )
    assert {name: verdict["off"] for name, verdict in found.items()} == {"a": True, "b": False}


def test_the_record_keeps_what_is_there(tmp_path):
    path = tmp_path / "plm" / "kernels.json"
    bench_kernels.write_record(path, "Card", {"a": {"off": True}})
    bench_kernels.write_record(path, "Other", {"a": {"off": False}})
    bench_kernels.write_record(path, "Card", {"b": {"off": False}})
    assert json.loads(path.read_text()) == {
        "Card": {"a": {"off": True}, "b": {"off": False}}, "Other": {"a": {"off": False}}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["device=tpu"], "device=tpu is not one of: cuda, cpu"),
        (["device=cpu", "op=nosuch"], "op=nosuch is not one of: linear_cross_entropy, "),
        (["device=cpu", "scale=huge"], "scale=huge is not one of: 135m, "),
        (["device=cpu", "record=true"], "record=true with device=cpu: nothing was measured"),
        (["alternations=1"], "alternations must be at least 2"),
    ],
)
def test_a_bad_argument(arguments: list[str], complaint: str, capsys):
    assert bench_kernels.main(arguments) == 2
    assert capsys.readouterr().err.startswith(complaint)


def test_tokens_must_fill_windows():
    with pytest.raises(ConfigError, match="tokens=100 is no multiple of seq_len=64"):
        bench_kernels_ops.shape_of("test", 100)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(capsys):
    assert bench_kernels.main(["op=rope"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("no GPU that torch can use is here") and not said.out
