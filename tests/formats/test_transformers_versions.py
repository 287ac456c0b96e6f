"""An exported folder in the oldest and the newest transformers, where `plm` cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plm.export.hf import hf
from plm.formats.common import About
from plm.rollout.generate import generate
from tests.model.common import tiny

ROOT = Path(__file__).resolve().parents[2]
ENDS = {"oldest": "5.0.0", "newest": "5.24.0"}


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["tied", "untied"])
@pytest.mark.parametrize("end", ENDS)
def test_a_folder_is_used_without_this_package(end: str, embedding: str, tmp_path: Path):
    place = ROOT / ".transformers" / end
    assert place.is_dir(), f"{place} is not there; make test-long sets it up"
    model = tiny(f"model/embedding={embedding}", "scale.max_position_embeddings=160",
                 dtype=torch.float32).eval()  # fmt: skip
    folder = hf(model, None, tmp_path / "model", about=About())
    ran = subprocess.run(
        [sys.executable, Path(__file__).parent / "outside.py", folder, tmp_path / "out",
         "--prompt", "5,9,1,30", "--new-tokens", "128"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    report = json.loads(ran.stdout.splitlines()[-1])
    assert report["versions"]["transformers"] == ENDS[end]
    assert report["greedy"] == generate(model, torch.tensor([[5, 9, 1, 30]]), 128)[0].tolist()
    assert all(report["checks"].values()) and len(report["losses"]) == 10
