"""The script that a user runs: our figures beside transformers' and llama.cpp's."""

import json
import platform
import sys
from pathlib import Path

import pytest

from scripts import check_export

LLAMA = "model=llama"
UNTIED = "model/embedding=untied"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"),
        reason="llama.cpp comes ready-made for Linux on x86-64 only",
    ),
]


@pytest.mark.parametrize("scale", ["test", "nano"])
@pytest.mark.parametrize("model", [(), (UNTIED,), (LLAMA,), (LLAMA, UNTIED)], ids=" ".join)
def test_files_compute_what_the_model_computes(scale: str, model: tuple, tmp_path: Path, capsys):
    file = tmp_path / "found.json"
    assert check_export.main([f"scale={scale}", *model, f"json={file}"]) == 0
    shown, found = capsys.readouterr().out, json.loads(file.read_text())
    clients = [a["client"].split()[0].rstrip(",") for a in found["agreements"]]
    if model == (UNTIED,):
        assert clients == ["transformers"] and "always takes the embedding as head" in shown
    else:
        assert clients == ["transformers", "llama.cpp"]
    for agreement in found["agreements"]:
        # fp32 on both sides, in another order of sums; the goal is 1e-3.
        assert agreement["logit_error"] < 1e-5, agreement
        assert agreement["greedy"] == 128 and all(agreement["texts"].values())
        assert len(agreement["texts"]) == 2
