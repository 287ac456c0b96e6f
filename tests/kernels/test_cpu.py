"""The kernels that a C++ compiler builds, against torch's operators, and what happens without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plm.errors import ConfigError
from plm.kernels.cpu import Kernels, build, problem, wanted
from plm.kernels.reference import rms_norm
from plm.rollout.sampling import Sampling, Stacked, draw

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(problem() is not None, reason=str(problem()))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(kernels: Kernels) -> None:
    kernels.program.ready()()


@needs_compiler
@pytest.mark.parametrize("rows", [1, 5, 7, 32])
@pytest.mark.parametrize(("size", "columns"), [(1, 1), (63, 100), (300, 65), (128, 64)])
def test_products(rows: int, size: int, columns: int):
    kernels, x = Kernels(), normal(rows, size)
    plain, square, gate = (normal(n, size, seed=n) for n in (columns, columns + 1, 2 * columns))
    # Between others' rows, which are to stay as they are.
    room = torch.full((rows, columns + 3), float("nan"))
    kernels.product(plain)(x, room[:, 1 : columns + 1])
    squares = kernels.product(square, "relu2")(x)
    gated = kernels.product(gate, "silu_gate")(x)
    run(kernels)
    # A sum of `size` products of numbers near 1, each rounded.
    near = {"rtol": 1e-5, "atol": 1e-6 * size}
    torch.testing.assert_close(room[:, 1 : columns + 1], x @ plain.t(), **near)
    assert room[:, [0, columns + 1, columns + 2]].isnan().all()
    torch.testing.assert_close(squares, (x @ square.t()).relu() ** 2, rtol=1e-4, atol=1e-5 * size)
    left, right = (x @ gate.t()).chunk(2, dim=1)
    torch.testing.assert_close(gated, F.silu(left) * right, rtol=1e-4, atol=1e-5 * size)


@needs_compiler
def test_a_row_of_a_product_knows_no_other():
    kernels, x, weight = Kernels(), normal(32, 130), normal(70, 130, seed=1)
    together = kernels.product(weight)(x)
    alone = [kernels.product(weight)(x[row : row + 1]) for row in range(len(x))]
    run(kernels)
    assert torch.equal(together, torch.cat(alone))


@needs_compiler
def test_what_is_no_number_stays_so():
    kernels, x = Kernels(), normal(6, 40)
    x[2, 3] = float("nan")
    found = [
        kernels.product(normal(40, 40), "relu2")(x),
        kernels.product(normal(80, 40), "silu_gate")(x),
        kernels.rms_norm(x, torch.ones(40), 1e-6, torch.empty(6, 40)),
    ]
    run(kernels)
    for one in found:
        assert one[2].isnan().all() and one[[0, 1, 3, 4, 5]].isfinite().all()
    logits = normal(6, 40)
    logits[2, 3] = float("nan")
    for heat in (0.0, 1.0):
        uniform = torch.rand(6, dtype=torch.float64)
        tokens, logps, _, finite = kernels.draw(logits, torch.full((6,), heat), uniform)
        assert not finite and logps[2].isnan() and logps[[0, 1, 3, 4, 5]].isfinite().all()
        assert ((tokens >= 0) & (tokens < 40)).all()


@needs_compiler
@pytest.mark.parametrize("size", [3, 63, 128])
def test_norm_and_sum(size: int):
    kernels, x, weight = Kernels(), normal(5, size), normal(size, seed=1)
    expected, total = rms_norm(x, weight, 1e-5), x + x.flip(0)
    normed = kernels.rms_norm(x, weight, 1e-5, torch.full_like(x, float("nan")))
    to = kernels.add(x.clone(), x.flip(0))
    run(kernels)
    torch.testing.assert_close(normed, expected)
    assert torch.equal(to, total)


@needs_compiler
@pytest.mark.parametrize("size", [5, 63, 64, 301, 4096])
@pytest.mark.parametrize("temperatures", [(0.0,), (1.0,), (0.0, 0.3, 2.5)])
def test_draws(size: int, temperatures: tuple[float, ...]):
    rows = 60
    logits, uniform = 4 * normal(rows, size), torch.rand(rows, dtype=torch.float64)
    logits[0, size // 2 :] = float("-inf")
    settings = Stacked.of(
        [Sampling(1, temperature=temperatures[i % len(temperatures)]) for i in range(rows)],
        torch.device("cpu"),
    )
    expected = draw(logits, settings, uniform)
    found = draw(logits, settings, uniform, kernels=Kernels())
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


@needs_compiler
def test_of_equals_the_first_is_the_likeliest():
    logits = torch.zeros(2, 200)
    logits[0, [70, 130]] = 1.0
    tokens, *_ = Kernels().draw(logits, torch.zeros(2), None)
    assert tokens.tolist() == [70, 0]


@needs_compiler
@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_a_draw_at_the_edge_has_a_share(uniform: float):
    logits = normal(1, 500)
    logits[0, :3] = logits[0, -90:] = float("-inf")
    place = torch.tensor([uniform], dtype=torch.float64)
    tokens, *_ = Kernels().draw(logits, torch.ones(1), place)
    assert tokens.tolist() == [3 if uniform == 0 else 409]


def without_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    build.library.cache_clear()


def test_no_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    without_compiler(monkeypatch, tmp_path)
    with pytest.raises(ConfigError) as caught:
        wanted(True)
    line = str(caught.value)
    assert "\n" not in line and line.startswith("compiled=true: there is no C++ compiler here")
    assert "install g++" in line and "compiled=false" in line
    assert wanted("auto") is False and wanted(False) is False
    monkeypatch.setenv("CXX", "nowhere++ -m64")
    with pytest.raises(ConfigError, match=r"CXX=nowhere\+\+ -m64, which is not there"):
        wanted("true")


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    bad = tmp_path / "bad++"
    bad.write_text("#!/bin/sh\necho 'x.h: fatal error: no such file' >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CXX", str(bad))
    build.library.cache_clear()
    with pytest.raises(ConfigError, match=r"failed: x.h: fatal error.*bad\+\+.*compiled=false"):
        wanted("auto")
    build.library.cache_clear()


@needs_compiler
def test_a_place_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    taken = tmp_path / "file"
    taken.write_text("")
    monkeypatch.setenv("PLM_CPU_KERNELS", str(taken))
    build.library.cache_clear()
    with pytest.raises(ConfigError, match=r"file/plm_cpu_\w+\.so cannot be made.*PLM_CPU_KERNELS"):
        wanted(True)
    build.library.cache_clear()


def test_another_word_is_refused():
    with pytest.raises(ConfigError, match="compiled=maybe is not true, false or auto"):
        wanted("maybe")


@needs_compiler
@pytest.mark.slow
def test_two_at_once_build_one(tmp_path: Path):
    code = "from plm.kernels.cpu import Kernels; print(Kernels().library._name)"
    settings = {**os.environ, "PLM_CPU_KERNELS": str(tmp_path / "kept")}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=settings, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    names = {process.communicate(timeout=280)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    kept = [path for path in (tmp_path / "kept").iterdir() if path.suffix != ".lock"]
    assert len(names) == 1 and [str(path) for path in kept] == [names.pop().strip()]
