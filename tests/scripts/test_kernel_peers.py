"""Liger-Kernel's kernels beside ours: what is compared, and what the table says."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytest.importorskip("triton", reason="there is no Triton here")

from scripts import kernel_peers
from scripts.roofline import SCALES
from scripts.roofline import scale as read_scale

ROOT = SCALES.parents[1]
ROW = {
    "job": "rope", "whose": "ours", "kernel": "rope", "case": "1_8b", "arch": "sm_90",
    "tile": "T32 H4 4w 1s", "registers": 48, "stack_bytes": 0, "spills": 0, "shared_bytes": 2048,
    "matrix": "", "load_bits": 128, "copies": "", "failed": "", "predicted_bytes": 75.5e6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("width", "arch", "loss", "expected"),
    [
        (640, "sm_90", False, (1024, 4)),
        (2048, "sm_90", False, (2048, 8)),
        (8192, "gfx942", False, (8192, 16)),
        (40000, "sm_80", False, (65536, 32)),
        (40000, "gfx942", False, (65536, 16)),
        (151936, "sm_90", True, (32768, 32)),
        (151936, "sm_100", True, (32768, 8)),
        (49152, "gfx942", True, (32768, 16)),
    ],
)
def test_block_and_warps_are_liger_s(width, arch, loss, expected):
    assert kernel_peers.settings(width, arch, loss) == expected


def test_ours_is_known_for_every_job_and_architecture():
    for scale in kernel_peers.SCALES:
        for job in kernel_peers.jobs_of(read_scale(scale)):
            for arch in ("sm_80", "sm_90", "sm_100", "gfx942"):
                found = kernel_peers.our_kernels(job, scale, arch)
                assert tuple(kernel.name for kernel, _, _ in found) == job.ours, job.name
                assert all(tile == kernel.tiles[arch][0] for kernel, _, tile in found)


def test_ours_is_left_out_where_it_is_not():
    job = kernel_peers.jobs_of(read_scale("1_8b"))[0]
    gone = kernel_peers.Job(**{**vars(job), "configs": "none_configs"})
    assert kernel_peers.our_kernels(gone, "1_8b", "sm_90") == []
    assert kernel_peers.our_kernels(job, "1_8b", "sm_70") == []


def test_bytes_of_both():
    scale = read_scale("1_8b")
    jobs = {job.name: job for job in kernel_peers.jobs_of(scale)}
    theirs, ours = kernel_peers.predicted_bytes(jobs["relu2 backward"], scale)
    assert theirs == ours[0] == 16384 * 8192 * 6
    theirs, ours = kernel_peers.predicted_bytes(jobs["cross_entropy"], scale)
    assert theirs == sum(ours) == 16384 * 151936 * 6


def test_the_table_shows_every_line_and_what_did_not_compile():
    failed = {**ROW, "whose": "Liger", "kernel": "liger rope", "failed": "out of luck"}
    text = kernel_peers.table([ROW, failed])
    assert (
        "| rope | sm_90 | ours: rope | T32 H4 4w 1s | 48 | 0 | 0 | 2.0 KiB | 128 bits | 76 MB |"
        in text
    )
    assert "| Liger: rope | T32 H4 4w 1s | does not compile: out of luck |" in text
    lines = text.splitlines()
    assert {line.count(" | ") for line in lines} == {9} and "predicted bytes" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "missing", "message"),
    [
        (["scale=micro"], "", "scale=micro is not one of: 1_8b, 135m"),
        (["archs=[sm_70]"], "", "archs: sm_70 is not one of: sm_80, sm_89, "),
        (["jobs=0"], "", "jobs=0 must be at least 1"),
        (["where=here"], "", "unknown setting 'where=here'; "),
        ([], "liger_kernel", "liger_kernel is not installed; pip install --no-deps liger-kernel"),
        ([], "none", "TRITON_INTERPRET is set; kernels are compiled without it"),
    ],
)
def test_one_line_and_exit_code_2(arguments, missing, message, monkeypatch, capsys):
    # As if everything but `missing` were installed.
    monkeypatch.setattr(kernel_peers, "find_spec", lambda name: None if name == missing else name)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernel_peers.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(message) and said.count("\n") == 1


def test_help(capsys):
    assert kernel_peers.main(["--help"]) == 0
    assert "archs=[<name>,…]" in capsys.readouterr().out


@pytest.mark.peers
@pytest.mark.skipif(find_spec("liger_kernel") is None, reason="Liger-Kernel is not installed")
# Past the command's own limit: where cores are shared, compiling takes minutes.
@pytest.mark.timeout(660)
def test_liger_s_kernels_compile_without_a_spill(tmp_path):
    path = tmp_path / "peers.json"
    command = [sys.executable, "scripts/kernel_peers.py", "archs=[sm_90]", f"json={path}"]
    env = {**os.environ, "TRITON_INTERPRET": "0"}
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=600)
    rows = json.loads(path.read_text("utf-8"))["rows"]
    theirs = [row for row in rows if row["whose"] == "Liger"]
    assert len(theirs) == len(kernel_peers.jobs_of(read_scale("1_8b")))
    assert not [row for row in theirs if row["failed"] or row["spills"] or row["stack_bytes"]]
