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
