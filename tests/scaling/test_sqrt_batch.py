from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plm.config import build
from plm.errors import ConfigError
from plm.scaling.sqrt_batch import sqrt_batch

CONFIG = Path(__file__).parents[2] / "configs/scaling/sqrt_batch.yaml"


@pytest.mark.parametrize(
    ("optimizer", "factor"), [("adamw", 2.0), ("muon", 2.0), ("sgd", 4.0), ("mine", 2.0)]
)
def test_four_times_the_batch(optimizer: str, factor: float):
    assert sqrt_batch(1000, 4000, optimizer, 192) == factor
    assert sqrt_batch(4000, 1000, optimizer, 192) == 1 / factor
    rule = build(OmegaConf.load(CONFIG))
    assert rule(1000, 4000, optimizer, 192) == factor


def test_errors():
    with pytest.raises(ConfigError, match="base batch 0 and batch 5 must be positive"):
        sqrt_batch(0, 5, "adamw", 192)
