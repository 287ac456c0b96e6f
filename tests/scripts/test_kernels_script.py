"""The command that compiles the kernels: what it writes, what it complains about."""

import json

import pytest

pytest.importorskip("triton", reason="there is no Triton here")

from scripts import kernels

ROW = {
    "kernel": "k", "case": "1_8b", "arch": "sm_90", "tile": "M128 8w 2s", "registers": 200,
    "stack_bytes": 0, "spills": 0, "shared_bytes": 66560, "matrix": "wgmma", "load_bits": 128,
    "copies": "cp.async", "failed": "", "key": "a", "problems": [],
}  # fmt: skip
NAME = ("k", "1_8b", "sm_90", "M128 8w 2s")


def test_the_page_shows_every_line_and_its_problems():
    bad = {**ROW, "arch": "sm_89", "problems": ["8 bytes of stack"]}
    text = kernels.page([ROW, bad], "3.7.1")
    assert "triton 3.7.1" in text and "1 of 2 lines are clean" in text
    assert "| sm_90 | M128 8w 2s | 200 | 65.0 KiB | wgmma | cp.async | 128 bits |" in text
    assert "| sm_89 | M128 8w 2s **1_8b: 8 bytes of stack** |" in text


def test_a_line_of_the_page_is_the_worst_of_its_cases():
    other = {**ROW, "case": "135m", "registers": 210, "shared_bytes": 1024, "load_bits": 64}
    text = kernels.page([ROW, other], "3.7.1")
    assert "Cases: 1_8b, 135m; " in text
    assert "| sm_90 | M128 8w 2s | 210 | 65.0 KiB | wgmma | cp.async | 64 bits |" in text


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "RECORD", tmp_path / "kernels.json")
    monkeypatch.setattr(kernels, "PAGE", tmp_path / "kernels.md")
    bad = {**ROW, "case": "135m", "matrix": "", "problems": ["2 spills"]}
    kernels.write([ROW, bad])
    assert list(kernels.load(tmp_path / "kernels.json").values()) == [ROW, bad]
    assert "2 spills" in (tmp_path / "kernels.md").read_text()


@pytest.mark.parametrize(
    ("row", "record", "complaints"),
    [
        (ROW, {NAME: ROW}, []),
        (ROW, {}, ["changed since docs/kernels.json was written; make kernels"]),
        (ROW, {NAME: {**ROW, "key": "b"}}, ["changed since docs/kernels.json was written; "]),
        (ROW, {NAME: {**ROW, "registers": 99}}, ["registers 200, recorded 99"]),
        ({**ROW, "problems": ["2 spills"]}, {NAME: ROW}, ["2 spills"]),
    ],
)
def test_differences(row: dict, record: dict, complaints: list[str]):
    found = kernels.differences([row], record)
    assert len(found) == len(complaints)
    for line, complaint in zip(found, complaints, strict=True):
        assert line.startswith("k / 1_8b / sm_90 / M128 8w 2s: " + complaint)


def test_only_gated_architectures_fail():
    name = (*NAME[:2], "sm_89", NAME[3])
    row = {**ROW, "arch": "sm_89", "problems": ["2 spills"]}
    assert kernels.differences([row], {name: row}) == []


def test_a_record_of_another_triton_counts_as_none(tmp_path):
    import triton

    path = tmp_path / "kernels.json"
    assert kernels.load(path) == {}
    path.write_text(json.dumps({"triton": triton.__version__, "rows": [ROW]}))
    assert kernels.load(path) == {NAME: ROW}
    path.write_text(json.dumps({"triton": "3.0.0", "rows": [ROW]}))
    assert kernels.load(path) == {}


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("kernel=nosuch", "kernel=nosuch: none begins so; "),
        ("arch=sm_70", "arch=sm_70 is not one of: sm_80, "),
        ("jobs=0", "jobs=0 must be at least 1"),
        ("kernl=x", "unknown setting 'kernl=x'; did you mean kernel=…?"),
        ("check=maybe", "check=maybe must be true or false"),
    ],
)
def test_a_bad_argument(argument: str, complaint: str, capsys, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.main([argument]) == 2
    assert capsys.readouterr().err.startswith(complaint)
