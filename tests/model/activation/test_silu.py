import math

import pytest
import torch

from plm.model.activation.silu import SiLU
from tests.model.common import plain_context


def test_by_hand():
    values = [-2.0, 0.0, 1.0]
    found = SiLU()(torch.tensor(values, dtype=torch.float64), plain_context(1, 1)).tolist()
    assert found == pytest.approx([x / (1 + math.exp(-x)) for x in values])
