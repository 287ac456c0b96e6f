"""scripts/bench_preference.py: the forms are the same step, and ours holds less meanwhile."""

import json
from pathlib import Path

import pytest
import torch

from plm.errors import ConfigError
from scripts import bench_preference
from scripts.bench_common import allocated_peak
from scripts.bench_preference_forms import FORMS, Case
from scripts.plan import compose

TINY = "pairs=8 question=8 answer=16 alternations=2 device=cpu scale=test".split()
linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="a process's peak is read from Linux's /proc"
)


def case(*given: str) -> Case:
    own, rest = bench_preference.read_arguments([*TINY, *given])
    settings = compose([*bench_preference._OVERRIDES, *rest])
    return Case(own, settings, torch.device("cpu"))


@pytest.mark.parametrize("choice", ["aries", "dpo"])
def test_both_forms_are_the_same_step(tmp_path, choice):
    losses, grads, peaks = [], [], []
    for name, form in FORMS.items():
        of = form(case(f"preference={choice}", "micro_batch_size=1"), tmp_path / name)
        of.begin()
        peaks.append(allocated_peak(lambda of=of: losses.append(of.step())))
        grads.append({name: weight.grad for name, weight in of.case.model.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # The policy has moved, so that the reference matters.
    assert abs(losses[1] - (0.69315 if choice == "dpo" else 0.53863)) > 1e-4
    for name, value in grads[1].items():
        # fp32, and both sum up in another order.
        assert (grads[0][name] - value).abs().max() < 1e-4 * value.abs().max()
    if choice == "aries":
        assert peaks[0] < peaks[1] / 2


@linux
def test_it_prints_ratios(capsys, monkeypatch):
    # Children would load everything anew.
    monkeypatch.setattr(bench_preference, "child", bench_preference.measure)
    assert bench_preference.main(TINY) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_difference_of_gradients"] < 1e-4
    assert found["shapes"]["ours"]["parts"] == 24 and found["shapes"]["at_once"]["sequences"] == 48
    assert set(found["peak_bytes"]["ours"]) == set(found["peak_at_once_over_ours"])
    assert found["at_once_over_ours"]["step"]["rounds"] == 2
    assert found["conditions"]["device"] == "cpu"


@linux
def test_a_peak_is_above_what_was_held_before():
    held = torch.ones(8_000_000)
    peak = bench_preference.Peak(torch.device("cpu"))
    more = torch.ones(16_000_000)
    del more
    assert held.nbytes < peak.bytes() < 3 * held.nbytes


def test_a_part_must_fit_into_a_window():
    with pytest.raises(ConfigError, match=r"phases\.pairs\.seq_len=\d+ is less than the \d+ tok"):
        case("answer=500")


def test_other_weights_are_no_comparison(tmp_path):
    from safetensors.torch import save_file

    for name in ("a", "b"):
        save_file({name: torch.ones(1)}, tmp_path / name)
    with pytest.raises(RuntimeError, match="gradients of different weights"):
        bench_preference.largest_difference(tmp_path / "a", tmp_path / "b")
    save_file({"a": torch.tensor([2.0])}, tmp_path / "c")
    assert bench_preference.largest_difference(tmp_path / "a", tmp_path / "c") == 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alternations=1"], "alternations=1 has no spread"),
        (["pairs=0"], "pairs=0 is not a whole number of at least 1"),
        (["form=fast"], "form=fast is not one of ours, at_once"),
        (["device=tpu"], "device=tpu is not one of cpu, cuda"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, capsys):
    assert bench_preference.main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    with pytest.raises(ConfigError, match="device=cuda, but torch finds none here"):
        bench_preference.chosen_device("cuda")
