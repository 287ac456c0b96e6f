import json

import pytest
import torch

from scripts import bench_sparsity as bench


@pytest.mark.parametrize("structure", ["elements", "neurons"])
@pytest.mark.parametrize("block", [7, 64])
def test_what_is_compared_is_equal(structure: str, block: int):
    r = bench.activation(100, 24, 0.8, structure)
    down, grad = torch.randn(8, 24), torch.randn(100, 8)
    y, slope, weight = bench.dense(r, down, grad)
    got = bench.skipping(r, down.t().contiguous(), grad, block)
    for a, b in zip((y, slope, weight.t()), got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    # Some tokens use no neuron at all.
    r[:3] = r[-1] = 0
    torch.testing.assert_close(bench.gather(r, down.t().contiguous()), (r * r) @ down.t())


def test_zeros_are_counted_by_tile():
    zeros = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1]], dtype=torch.bool)
    assert bench.zero_tiles(zeros, 1, 1) == 0.75
    # The last row fills no tile.
    assert bench.zero_tiles(zeros, 2, 2) == 0.5
    found = bench.of_layer(torch.ones(256, 64, dtype=torch.bool))
    assert found["sparsity"] == found["dead_neurons"] == 1.0
    assert {tile["as_they_lie"] for tile in found["tiles"].values()} == {1.0}


def test_chances():
    found = bench.chances()["16x16"]
    assert found["zero_tiles"]["0.99"] == pytest.approx(0.99**256)
    assert found["sparsity_for_half"] ** 256 == pytest.approx(0.5)


def test_it_prints_json(capsys: pytest.CaptureFixture):
    sizes = "tokens=64 hidden=16 intermediate=32 block=16 alternations=2".split()
    assert bench.main(["part=chance,products", *sizes]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["products"]) == 2 * len(bench.SPARSITIES)
    assert found["products"][0]["dense_over_skipping"]["rounds"] == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("part=speed", "part=speed is not one of chance, products, gather, model or all"),
        ("part=model", "part=model needs a run, for example run=runs/plm_pretrain"),
        ("alternations=1", "alternations=1 must be at least 2"),
        ("tokens=many", "tokens=many is not a whole number"),
    ],
)
def test_what_is_wrong_is_named(argument: str, message: str, capsys: pytest.CaptureFixture):
    assert bench.main([argument]) == 2
    assert message in capsys.readouterr().err
