"""The mean of weights is the mean, also after it went through a checkpoint."""

from pathlib import Path

import torch

from plm.callbacks.average import WeightAverage


def test_mean_and_round_trip(tmp_path: Path) -> None:
    average = WeightAverage(tmp_path)
    values = [torch.tensor([1.0, 4.0]), torch.tensor([3.0, 0.0]), torch.tensor([5.0, 2.0])]
    for value in values[:2]:
        average.take({"w": value})
    average.write(tmp_path)
    again = WeightAverage(tmp_path)
    again.read(tmp_path)
    again.take({"w": values[2]})
    assert again.count == 3
    torch.testing.assert_close(again.mean["w"], torch.tensor([3.0, 2.0]))
