"""Seconds and memory of a GRPO step against TRL's GRPOTrainer, as JSON with ratio and spread.

    python scripts/bench_rlvr.py
    python scripts/bench_rlvr.py vocab=65536 alternations=5 peer=<python with trl>

alternations=<n>  rounds in which both run in turn, each in its own process, 3 by default
steps=<n>         that are measured, behind one that is not; 3 by default
threads=<n>       1 by default
prompts=<n>       a step, 8 by default; group=<n> answers each, 8; new=<n> tokens an answer, 64
question=<n>      tokens of a prompt, about, 64 by default; micro=<n> rollouts of one forward, 16
vocab=<n>         32768 by default; hidden=<n> and layers=<n> of the model, 128 and 4
peer=<python>     that has trl; .venv-peers/bin/python by default, which make test-peers sets up
form=<name>       ours or trl: one measurement, in this process

Both train one Llama from one Hugging Face folder, with random weights so that every answer is as
long as it may be, on the same prompts, with the same reward, loss (DAPO's, without a divergence),
updates, optimizer and precision (fp32). A step is sampling, rewards, forward, backward and update.
The peak is what a process holds above what it held when the first measured step began.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from scripts.arguments import read

DEFAULTS: dict[str, Any] = {
    "alternations": 3, "steps": 3, "threads": 1, "prompts": 8, "group": 8, "new": 64,
    "question": 64, "micro": 16, "vocab": 32_768, "hidden": 128, "layers": 4,
    "peer": ".venv-peers/bin/python", "form": "", "folder": "",
}  # fmt: skip
NUMBERS = [key for key, value in DEFAULTS.items() if isinstance(value, int)]
FORMS = ("ours", "trl")


def settings_of(arguments: list[str]) -> dict[str, Any]:
    """This script's settings.

    Raises:
        ConfigError: a key or a value that cannot be.
    """
    own = read(arguments, DEFAULTS, numbers=NUMBERS)
    for key in NUMBERS:
        if own[key] < 1:
            raise ConfigError(f"{key}={own[key]} is not a whole number of at least 1")
    if own["alternations"] < 2:
        raise ConfigError("alternations=1 has no spread; at least 2, better 5")
    if own["form"] not in ("", *FORMS):
        raise ConfigError(f"form={own['form']} is not one of {', '.join(FORMS)}")
    if not own["form"] and not Path(own["peer"]).exists():
        raise ConfigError(f"peer={own['peer']} is not there; make test-peers sets it up")
    if own["prompts"] * own["group"] % own["micro"]:
        raise ConfigError(f"micro={own['micro']} does not divide prompts * group")
    return own


def child(own: dict[str, Any], form: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    from scripts.bench_common import ROOT

    given = [f"{key}={own[key]}" for key in own if key not in ("form", "alternations", "peer")]
    python = own["peer"] if form == "trl" else sys.executable
    done = subprocess.run(
        [str(Path(python).absolute()), str(Path(__file__).resolve()), f"form={form}", *given],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(own["threads"]), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"form={form} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(own: dict[str, Any]) -> dict[str, Any]:
    """Both in turn, and what they have come to."""
    from scripts.bench_common import Took, alternate, conditions, ratio, seconds, spread
    from scripts.bench_rlvr_forms import prepare

    prepare(own)
    told: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}

    def once(form: str) -> Took:
        told[form].append(child(own, form))
        return Took(told[form][-1]["cpu_s"], told[form][-1]["wall_s"])

    took = alternate({form: lambda form=form: once(form) for form in FORMS}, own["alternations"])
    peaks = {form: [one["peak_bytes"] for one in of_form] for form, of_form in told.items()}
    return {
        "settings": {key: value for key, value in own.items() if key not in ("form", "folder")},
        "tokens_a_step": {form: of_form[0]["tokens"] for form, of_form in told.items()},
        "seconds_a_step": {form: seconds(took[form]) for form in FORMS},
        "trl_over_ours": ratio(took["trl"], took["ours"]),
        "peak_bytes": {form: spread(of_form) for form, of_form in peaks.items()},
        "peak_trl_over_ours": spread(
            [b / a for a, b in zip(peaks["ours"], peaks["trl"], strict=True)]
        ),
        "trl": told["trl"][0]["version"],
        "conditions": {**conditions(), "threads": own["threads"]},
    }


def main(arguments: list[str]) -> int:
    """Print the figures; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        own = settings_of(arguments)
        if own["form"]:
            from scripts.bench_rlvr_forms import FORMS as CALLS

            print(json.dumps(CALLS[own["form"]](own)))
            return 0
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            print(json.dumps(run({**own, "folder": folder}), indent=1))
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
