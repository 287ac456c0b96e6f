from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from plm.kernels import tiles
from plm.kernels.tiles import Kernel, Tile, interpreting, launch, override, table_of
from tests.kernels.interpreter import guarded, poisoned

KERNEL = Kernel(
    name="double",
    source="tests.kernels.samples:double",
    arguments={"x": "*fp32", "out": "*fp32", "count": "i32"},
    cases={"any": {}},
    tiles={},
    trial=Tile({"BLOCK": 16}),
)


def doubled(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    launch(
        KERNEL,
        lambda c: (-(-x.numel() // c["BLOCK"]),),
        {"x": x, "out": out, "count": x.numel()},
        {},
    )
    return out


def test_a_tile_says_what_it_is():
    tile = Tile({"BLOCK_M": 128, "BLOCK_N": 64}, 8, 3, maxnreg=255)
    assert str(tile) == "M128 N64 8w 3s ≤255r"
    assert tile.options() == {"num_warps": 8, "num_stages": 3, "maxnreg": 255}
    assert "maxnreg" not in Tile({}).options()


def test_relatives_run_the_tiles_of_another():
    assert [table_of(a) for a in ("sm_90", "sm_86", "sm_121", "gfx90a", "sm_75")] == [
        "sm_90", "sm_89", "sm_120", None, None
    ]  # fmt: skip
    assert set(tiles._TABLE_OF.values()) <= set(tiles.SHARED_KIB)


@pytest.mark.parametrize("size", [0, 1, 63, 100])
def test_launch_takes_the_trial_tile_and_an_override(size: int, place: str):
    if place != "cpu":
        pytest.skip("this kernel has tiles for the interpreter only")
    x = guarded(torch.randn(size))
    with poisoned():
        assert torch.equal(doubled(x), 2 * x)
    with override(double=Tile({"BLOCK": 32})):
        assert torch.equal(doubled(x), 2 * x)
    assert tiles._overrides == {}


def test_interpreting_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert interpreting()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not interpreting()
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not interpreting()


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """A GPU of 8 multiprocessors that only writes down what is launched on it, tuned or not."""
    calls: list[tuple] = []

    class Function:
        def __getitem__(self, grid):
            return lambda **call: calls.append(("plain", grid, call))

    class Tuner:
        def __init__(self, **settings):
            self.settings = settings

        def __call__(self, function):
            return self

        def __getitem__(self, grid):
            return lambda **call: calls.append(("tuned", self.settings, call))

    import triton

    monkeypatch.setattr(tiles, "interpreting", lambda: False)
    monkeypatch.setattr(tiles, "architecture", lambda index: "gfx942")
    monkeypatch.setattr(tiles, "processors", lambda index: 8)
    monkeypatch.setattr(tiles, "_tuners", {})
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(Kernel, "function", lambda kernel: Function())
    monkeypatch.setattr(triton, "autotune", Tuner)
    monkeypatch.setattr(triton, "Config", lambda blocks, **options: (blocks, options))
    return calls


def started(calls: list[tuple], size: int) -> tuple:
    """Launch the kernel on a tensor of this size; what was called."""
    first = Tile({"BLOCK": 16}, 4, 1, maxnreg=64)
    kernel = replace(
        KERNEL, key=("count",), reset=("out",), cases={"any": {"D": 1}},
        tiles={"gfx942": (first, Tile({"BLOCK": 32}))},
    )  # fmt: skip
    x = torch.randn(size)
    calls.clear()
    launch(kernel, lambda c: (-(-size // c["BLOCK"]),), {"x": x, "count": size}, {"D": 1})
    return calls[0] if calls else ()


def test_only_a_launch_that_fills_the_gpu_chooses_a_tile(a_gpu, monkeypatch):
    assert started(a_gpu, 0) == ()
    kind, grid, call = started(a_gpu, 100)
    assert (kind, grid) == ("plain", (7,))
    # AMD's compiler knows no limit on registers.
    assert call["BLOCK"] == 16 and call["num_warps"] == 4 and "maxnreg" not in call
    kind, settings, call = started(a_gpu, 16 * 16)
    assert kind == "tuned" and "BLOCK" not in call
    assert settings["key"] == ["D", "count"] and settings["restore_value"] == ["out"]
    assert [blocks["BLOCK"] for blocks, _ in settings["configs"]] == [16, 32]
    assert all("maxnreg" not in options for _, options in settings["configs"])
    monkeypatch.setenv("PLM_AUTOTUNE", "0")
    assert started(a_gpu, 16 * 16)[0] == "plain"
    with override(double=Tile({"BLOCK": 64})):
        assert started(a_gpu, 16 * 16)[1] == (4,)
