"""compile=true goes on without a compiler, and says so once."""

import os
import subprocess
import sys

import pytest

CODE = """
import logging, torch
from torch import nn
from plm.compiling import compile_layers
logging.basicConfig(format="%(message)s")
model = nn.Module()
model.layers = nn.ModuleList([nn.Linear(4, 4)])
print(compile_layers(model), model.layers[0](torch.ones(2, 4)).shape[0])
"""


@pytest.mark.parametrize(
    "how", ["no compiler", pytest.param("one that fails", marks=pytest.mark.slow)]
)
def test_without_a_compiler_the_layers_run_uncompiled(how, tmp_path):
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'x.h: error: lost' >&2; exit 1; }\n")
    broken.chmod(0o755)
    changed = {
        "no compiler": {"PATH": str(tmp_path / "nothing")},
        "one that fails": {"CXX": str(broken)},
    }[how]
    env = {name: value for name, value in os.environ.items() if name != "CXX"}
    env |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), **changed}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=env, timeout=250
    )
    assert done.stdout.splitlines()[-1] == "False 2", done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("compile=true: ")]
    assert len(said) == 1 and said[0].endswith("; the layers run uncompiled")
    assert "compiler" in said[0]
