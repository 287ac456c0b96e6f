"""What is read from compiled code; compilers run in processes without the interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plm.errors import ConfigError
from plm.kernels.aot import Compiled, _amd, _instructions, compile_one
from plm.kernels.tiles import Kernel, Tile

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = Kernel(
    name="product",
    source="tests.kernels.samples:product",
    arguments=dict.fromkeys("abc", "*bf16") | dict.fromkeys("MNK", "i32"),
    cases={"any": {}},
    tiles={},
    trial=Tile({"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16}),
)
GOOD = {"registers": 100, "shared_bytes": 65536, "load_bits": 128, "copies": "cp.async"}


def compiled(arch: str, **facts) -> Compiled:
    return Compiled("k", "c", arch, "t", **{**GOOD, **facts})


@pytest.mark.parametrize(
    ("made", "matrix", "problems"),
    [
        (compiled("sm_90", matrix="wgmma"), True, []),
        (compiled("sm_90", matrix="mma.sync"), True, ["mma.sync, not wgmma"]),
        (compiled("gfx942"), True, ["no matrix instruction, not mfma"]),
        (compiled("sm_80", matrix="mma.sync", copies=""), True, ["no cp.async"]),
        (compiled("sm_80", load_bits=64), False, ["loads of 64 bits at most"]),
        (compiled("sm_80", stack_bytes=8, spills=2), False, ["8 bytes of stack", "2 spills"]),
        (
            compiled("gfx942", matrix="mfma", shared_bytes=65537),
            True,
            ["65537 bytes of shared memory, above 65536"],
        ),
        (compiled("sm_80", failed="no"), True, ["does not compile: no"]),
    ],
)
def test_problems(made: Compiled, matrix: bool, problems: list[str]):
    assert made.problems(matrix) == problems


@pytest.mark.parametrize(
    ("code", "matrix", "bits", "copies"),
    [
        ("LDGSTS.E.BYPASS.128 [R1], [R2]\n HMMA.16816.F32.BF16 R4", "mma.sync", 128, "cp.async"),
        ("UTMALDG.2D [UR8]\n HGMMA.64x128x16.F32.BF16 R24", "wgmma", 128, "tma"),
        ("LDG.E.64 R2\n UTCHMMA gdesc[UR4]", "tcgen05", 64, ""),
        ("LDG.E R2\n FADD R1", "", 32, ""),
        ("global_load_dwordx4 v[0:3]\n v_mfma_f32_32x32x8_bf16_1k a[0:15]", "mfma", 128, ""),
        ("buffer_load_dword v1\n v_add_f32 v1", "", 32, ""),
    ],
)
def test_instructions(code: str, matrix: str, bits: int, copies: str):
    found = _instructions(code)
    assert found == {"matrix": matrix, "load_bits": bits, "copies": copies}


def test_amd_metadata():
    text = ".vgpr_count: 132\n.agpr_count: 4\n.vgpr_spill_count: 3\n"
    found = _amd({"amdgcn": text + ".private_segment_fixed_size: 16\n"})
    assert (found["registers"], found["spills"], found["stack_bytes"]) == (132, 3, 16)


def test_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ConfigError, match="TRITON_INTERPRET is set"):
        compile_one(PRODUCT, "any", "sm_80", PRODUCT.trial)


COMPILE = """
import json, sys
from plm.kernels.aot import compile_one
from plm.kernels.tiles import Tile
from tests.kernels.test_aot import PRODUCT
clean = Tile({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64}, 4, 2)
spills = Tile({"BLOCK_M": 256, "BLOCK_N": 256, "BLOCK_K": 64}, 4, 2)
for arch in ("sm_80", "sm_90", "sm_100", "gfx942"):
    for tile in (clean, spills):
        print(json.dumps(compile_one(PRODUCT, "any", arch, tile).problems(True)))
"""


def compiling(*command: str) -> subprocess.CompletedProcess:
    pytest.importorskip("triton", reason="there is no Triton here")
    env = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_compilers_tell_a_clean_tile_from_one_that_spills():
    done = compiling("-c", COMPILE)
    assert done.returncode == 0, done.stderr
    problems = [json.loads(line) for line in done.stdout.splitlines()]
    assert problems[::2] == [[], [], [], []]
    assert all(found for found in problems[1::2])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kernel_is_as_recorded():
    done = compiling("scripts/kernels.py", "check=true")
    assert done.returncode == 0, done.stdout + done.stderr
