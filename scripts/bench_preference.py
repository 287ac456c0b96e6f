"""Memory and time of a preference step against all of it at once, as JSON with ratio and spread.

    python scripts/bench_preference.py
    python scripts/bench_preference.py scale=micro pairs=32 alternations=5

alternations=<n>  rounds in which both forms run in turn, each in its own process, 5 by default
threads=<n>       1 by default
pairs=<n>         16 by default; question=<n> and answer=<n> tokens at most, 64 and 128 by default
device=<name>     cpu or cuda; by default cuda where there is one
form=<name>       ours or at_once: one measurement, in this process; gradients=<file> keeps them
All else goes to the configuration, as with train.py; the scale is nano if none is given.

ours      the reference's log-probabilities first, then parts of pairs, a few windows at a time
at_once   policy and reference in memory, all sequences padded to the longest, one forward of each

A peak is what a process holds above what it held with the model's weights alone: activations,
gradients, the reference. Both forms take log-probabilities by one kernel, which never has the full
logits, and neither has an optimizer. The gradients of both are compared.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError

if TYPE_CHECKING:
    import torch

FORMS = ("ours", "at_once")
_OVERRIDES = (
    "+experiment=plm_preference", "scale=nano", "model=plm", "data.tokenizer=null",
    "data.path=pairs.jsonl",
)  # fmt: skip
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def read_arguments(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """This script's settings, and the rest for the configuration."""
    own: dict[str, Any] = {
        "alternations": 5, "threads": 1, "pairs": 16, "question": 64, "answer": 128, "device": "",
        "form": "", "gradients": "",
    }  # fmt: skip
    rest = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign or key not in own:
            rest.append(argument)
        elif key in ("device", "form", "gradients"):
            own[key] = value
        elif not value.isdigit() or int(value) < 1:
            raise ConfigError(f"{key}={value} is not a whole number of at least 1")
        else:
            own[key] = int(value)
    if own["alternations"] < 2:
        raise ConfigError("alternations=1 has no spread; at least 2, better 5")
    if own["device"] not in ("", "cpu", "cuda"):
        raise ConfigError(f"device={own['device']} is not one of cpu, cuda")
    if own["form"] not in ("", *FORMS):
        raise ConfigError(f"form={own['form']} is not one of {', '.join(FORMS)}")
    return own, rest


def chosen_device(name: str) -> "torch.device":
    """By its name; CUDA where there is one if that is empty.

    Raises:
        ConfigError: it is not there, or its memory cannot be read.
    """
    import torch

    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("device=cuda, but torch finds none here; use device=cpu")
    device = torch.device(name or ("cuda" if there else "cpu"))
    if device.type == "cpu" and not _CLEAR.exists():
        raise ConfigError(f"device=cpu needs {_CLEAR}, that is Linux, for a process's peak memory")
    return device


class Peak:
    """Most bytes held from here on above those held now.

    Of a process the kernel's own mark is read, which is what `ru_maxrss` tells too; but that one
    cannot be set back, and begins with what the process that started this one held.

    Args:
        device: whose memory.
    """

    def __init__(self, device: "torch.device") -> None:
        import torch

        self.device = device
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.begin = torch.cuda.memory_allocated(device)
        else:
            _give_back()
            _CLEAR.write_text("5", encoding="ascii")
            self.begin = _field("VmRSS")

    def bytes(self) -> int:
        """Until now."""
        import torch

        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.begin
        return _field("VmHWM") - self.begin


def _field(name: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(found) * 1024


def _give_back() -> None:
    """What was freed until now shall not be counted as held."""
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def measure(own: dict[str, Any], rest: list[str], folder: Path) -> dict[str, Any]:
    """One form, in this process."""
    # Before torch is imported.
    os.environ["OMP_NUM_THREADS"] = str(own["threads"])
    import torch
    from safetensors.torch import save_file

    from plm.memory import keep_freed_memory
    from scripts.bench_common import timed
    from scripts.bench_preference_forms import FORMS as CLASSES
    from scripts.bench_preference_forms import Case
    from scripts.plan import compose

    torch.set_num_threads(own["threads"])
    # As in a run.
    keep_freed_memory()
    device = chosen_device(own["device"])
    case = Case(own, compose([*_OVERRIDES, *rest]), device)
    form = CLASSES[own["form"]](case, folder)
    case.warm_up()
    peak, losses = Peak(device), []

    def wait(call: Callable[[], Any]) -> None:
        losses.append(call())
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    begun, step = timed(lambda: wait(form.begin)), timed(lambda: wait(form.step))
    held = peak.bytes()
    if own["gradients"]:
        grads = {name: p.grad.contiguous() for name, p in case.model.named_parameters()}
        save_file(grads, own["gradients"])
    return {
        "peak_bytes": held,
        "begin": vars(begun),
        "step": vars(step),
        "loss": losses[-1],
        "parameters": case.model.parameters_of(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "shapes": form.shapes,
    }


def child(own: dict[str, Any], rest: list[str], folder: Path) -> dict[str, Any]:
    """The same in a process of its own."""
    from scripts.bench_common import ROOT

    settings = [f"{key}={value}" for key, value in own.items() if value != ""]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *settings, *rest],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == ConfigError.exit_code:
        raise ConfigError(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"form={own['form']} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


def largest_difference(ours: Path, other: Path) -> float:
    """Of the gradients in two files, each as a share of its weight's largest."""
    from safetensors.torch import load_file

    both = load_file(ours), load_file(other)
    if both[0].keys() != both[1].keys():
        raise RuntimeError("the two forms have gradients of different weights")
    return max(
        float((value - both[0][name]).abs().max() / value.abs().max())
        for name, value in both[1].items()
    )


def run(own: dict[str, Any], rest: list[str], folder: Path) -> dict[str, Any]:
    """Both forms in turn, and what they have come to."""
    from scripts.bench_common import Took, alternate, conditions, ratio, seconds, spread

    told: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}

    def once(form: str) -> Took:
        settings = {**own, "form": form, "gradients": str(folder / f"{form}.safetensors")}
        told[form].append(child(settings, rest, folder / form))
        return Took(**told[form][-1]["step"])

    took = alternate({form: lambda form=form: once(form) for form in FORMS}, own["alternations"])
    peaks = {form: [one["peak_bytes"] for one in of_form] for form, of_form in told.items()}
    first = {form: of_form[0] for form, of_form in told.items()}
    begun = {form: [Took(**one["begin"]) for one in of_form] for form, of_form in told.items()}
    whole = {
        form: [
            Took(a.cpu_s + b.cpu_s, a.wall_s + b.wall_s)
            for a, b in zip(took[form], begun[form], strict=True)
        ]
        for form in FORMS
    }
    return {
        "settings": own,
        "overrides": rest,
        "parameters": first["ours"]["parameters"],
        "shapes": {form: one["shapes"] for form, one in first.items()},
        "peak_bytes": {form: spread(of_form) for form, of_form in peaks.items()},
        "peak_at_once_over_ours": spread(
            [b / a for a, b in zip(peaks["ours"], peaks["at_once"], strict=True)]
        ),
        "largest_difference_of_gradients": largest_difference(
            *(folder / f"{form}.safetensors" for form in FORMS)
        ),
        "loss": {form: one["loss"] for form, one in first.items()},
        "at_once_over_ours": {
            "step": ratio(took["at_once"], took["ours"]),
            # Ours with the reference's pass, which a run makes once for all its steps.
            "with_reference": ratio(whole["at_once"], whole["ours"]),
        },
        "seconds": {
            form: {"step": seconds(took[form]), "before": seconds(begun[form])} for form in FORMS
        },
        "conditions": {
            **conditions(), "device": first["ours"]["device"], "threads": own["threads"]
        },
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Print the figures; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        own, rest = read_arguments(arguments)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            call = measure if own["form"] else run
            print(json.dumps(call(own, rest, Path(folder)), indent=1))
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
